"""How sure a number is that comes from a few runs. Intervals of 95 %; needs no statistics library."""

import math
import statistics
from collections.abc import Callable, Sequence

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

    Of each side it takes how many runs passed, and of how many.
    """
    rate, base_rate = current[0] / current[1], base[0] / base[1]
    low, high = wilson(*current)
    base_low, base_high = wilson(*base)
    down = math.hypot(rate - low, base_high - base_rate)
    up = math.hypot(high - rate, base_rate - base_low)
    return rate - base_rate - down, rate - base_rate + up


def first_that(holds: Callable[[int], bool], fails: int, most: int) -> int | None:
    """Return from how many on something holds, if it fails for ``fails``; None if it fails for ``most`` still.

    Looked for by doubling, then by halving: what holds for a number is taken to hold for all above.
    """
    low, high = fails, 2 * fails
    while not holds(high):
        low, high = high, 2 * high
        if high > most:
            return None
    return first_between(holds, low, high)


def first_between(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return from how many on something holds that fails for ``low`` and holds for ``high``, by halving."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


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
