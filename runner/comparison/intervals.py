"""How sure a number is that comes from a few runs. Intervals of 95 %; needs no statistics library."""

import math
from collections.abc import Sequence

_Z = 1.959964


def wilson(passed: float, runs: float) -> tuple[float, float]:
    """Return the interval of a pass rate, from 0 to 1 (Wilson, 1927).

    Neither has to be whole: a design effect leaves fractions.
    """
    if runs == 0:
        return 0.0, 1.0
    rate = passed / runs
    centre = rate + _Z**2 / (2 * runs)
    half = _Z * math.sqrt(rate * (1 - rate) / runs + _Z**2 / (4 * runs**2))
    # At the ends rounding would leave a little less than all, or a little more than nothing.
    low = 0.0 if passed == 0 else max((centre - half) / (1 + _Z**2 / runs), 0.0)
    return low, 1.0 if passed == runs else min((centre + half) / (1 + _Z**2 / runs), 1.0)


def newcombe(base: tuple[int, int], current: tuple[int, int]) -> tuple[float, float]:
    """Return the interval of the difference between two pass rates, current minus base (Newcombe, 1998, method 10).

    Args:
        base: How many runs passed, and of how many.
        current: The same of the other side.
    """
    rate, base_rate = current[0] / current[1], base[0] / base[1]
    low, high = wilson(*current)
    base_low, base_high = wilson(*base)
    down = math.hypot(rate - low, base_high - base_rate)
    up = math.hypot(high - rate, base_rate - base_low)
    return rate - base_rate - down, rate - base_rate + up


def median(values: Sequence[float]) -> float:
    """Return the median of at least one value."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the interval of a median, between two of the values; None where there are too few of them.

    By the binomial distribution (order statistics): nothing is assumed of how the values are spread.
    """
    ordered, number = sorted(values), len(values)
    below, rank = 0.0, -1
    for k in range(number // 2):
        below += math.comb(number, k) * 0.5**number if number < 1_000 else 0.0
        if below > 0.025:
            break
        rank = k
    if number >= 1_000:
        rank = math.floor(number / 2 - _Z * math.sqrt(number) / 2)
    return None if rank < 0 else (ordered[rank], ordered[number - 1 - rank])
