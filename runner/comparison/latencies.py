"""Latencies: one value a call, tests of means, and percentiles with intervals.

Needs scipy (the extra ``compare``).
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from runner.comparison.facts import RunFacts
from runner.comparison.levels import CONFIDENCE, POWER

Values = NDArray[np.float64]

MIN_VARIANCE = 1.0
"""In ms²: no latency is measured more exactly than to a millisecond, and equal values are no certainty."""

_RESAMPLES = 1_000
_AT_ONCE = 50
MAX_CALLS_NEEDED = 500


@dataclass(frozen=True)
class Difference:
    """A difference of means, current minus base, with its standard error and degrees of freedom."""

    ms: float
    se_ms: float
    df: float

    @property
    def p(self) -> float:
        """Two-sided."""
        return float(2 * stdtr(self.df, -abs(self.ms) / self.se_ms))

    @property
    def interval_ms(self) -> tuple[float, float]:
        half = float(stdtrit(self.df, (1 + CONFIDENCE) / 2)) * self.se_ms
        return self.ms - half, self.ms + half

    def shows_ms(self, level: float) -> float:
        """Return the smallest difference that would have shown at a level with 80 % power."""
        return float(stdtrit(self.df, 1 - level / 2) + stdtrit(self.df, POWER)) * self.se_ms


def call_values(base: Sequence[RunFacts], current: Sequence[RunFacts]) -> dict[str, float]:
    """Return one value for each call of a scenario that has latencies, by the run's id, in milliseconds.

    It is the median over the call's turns of how much slower each was than the same turn usually is. Without taking
    that off, an agent that fails early would seem faster or slower only because of which turns it got to.
    """
    runs = [run for run in (*base, *current) if any(latency is not None for latency in run.latencies_ms)]
    by_turn = zip_longest(*(run.latencies_ms for run in runs))
    known_ms = ([ms for ms in turn if ms is not None] for turn in by_turn)
    usual_ms = [median(known) if known else 0.0 for known in known_ms]
    return {
        run.id: median(
            latency - usual for latency, usual in zip(run.latencies_ms, usual_ms, strict=False) if latency is not None
        )
        for run in runs
    }


def matrix(latencies_ms: Iterable[Sequence[float | None]]) -> Values:
    """Return latencies as a table, a row for each call, with NaN where there is none."""
    rows = [[math.nan if latency is None else latency for latency in row] for row in latencies_ms]
    width = max(map(len, rows), default=0)
    return np.array([row + [math.nan] * (width - len(row)) for row in rows], dtype=float).reshape(len(rows), width)


def pooled_difference(base: Values, current: Values) -> Difference:
    """Return Student's t test. One side may be a single value if the other has two or more."""
    df = len(base) + len(current) - 2
    squares = sum(float(((side - side.mean()) ** 2).sum()) for side in (base, current))
    variance = max(squares / df, MIN_VARIANCE)
    se_ms = math.sqrt(variance * (1 / len(base) + 1 / len(current)))
    return Difference(float(current.mean() - base.mean()), se_ms, df)


def stratified_difference(strata: Sequence[tuple[Values, Values]]) -> Difference:
    """Return Welch's t test of the mean difference over scenarios, of two or more values on each side of each."""
    parts = [
        (max(float(side.var(ddof=1)), MIN_VARIANCE) / len(side), len(side) - 1) for pair in strata for side in pair
    ]
    variance = sum(part for part, _ in parts)
    df = variance**2 / sum(part**2 / own_df for part, own_df in parts)
    difference = sum(float(current.mean() - base.mean()) for base, current in strata) / len(strata)
    return Difference(difference, math.sqrt(variance) / len(strata), df)


def holm(p: Sequence[float], level: float) -> list[bool]:
    """Return which p are significant among each other, after Holm (1979)."""
    significant = [False] * len(p)
    for place, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[index] > level / (len(p) - place):
            break
        significant[index] = True
    return significant


def calls_needed(difference: Difference, base_runs: int, current_runs: int, level: float) -> int | None:
    """Return how many calls of each side it takes to find a difference as large as this one; None if very many."""
    per_call = difference.se_ms**2 / (1 / base_runs + 1 / current_runs)

    def is_enough(calls: int) -> bool:
        return Difference(0.0, math.sqrt(2 * per_call / calls), 2 * calls - 2).shows_ms(level) <= abs(difference.ms)

    calls = bisect_left(range(MAX_CALLS_NEEDED + 1), True, lo=2, key=is_enough)
    return calls if calls <= MAX_CALLS_NEEDED else None


def percentile_ms(latencies_ms: Values, percent: float) -> tuple[float, float, float]:
    """Return a percentile of all turns, and its interval by a bootstrap of whole calls: to look at, never to gate on.

    It takes a row for each call, with NaN where a turn has no latency; at least one has.
    """
    rng = np.random.default_rng(0)
    calls = len(latencies_ms)
    drawn: list[Values] = []
    for _ in range(_RESAMPLES // _AT_ONCE):
        chosen = latencies_ms[rng.integers(0, calls, (_AT_ONCE, calls))].reshape(_AT_ONCE, -1)
        drawn.append(_percentile_of_rows(chosen, percent))
    low, high = np.percentile(np.concatenate(drawn), [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(np.nanpercentile(latencies_ms, percent)), float(low), float(high)


def _percentile_of_rows(table: Values, percent: float) -> Values:
    """Return the percentile of each row, of what is not NaN: numpy's own takes a hundred times as long."""
    in_order = np.sort(table, axis=1)
    place = ((~np.isnan(table)).sum(axis=1, keepdims=True) - 1) * percent / 100
    below = np.floor(place).astype(int)
    at, after = (np.take_along_axis(in_order, index, axis=1) for index in (below, np.ceil(place).astype(int)))
    return (at + (after - at) * (place - below))[:, 0]


def design_effect(by_scenario: Mapping[str, Values]) -> float:
    """Return by how much the turns of a call being alike makes them worth fewer: 1 if not at all.

    After the intraclass correlation of the logarithms, each less what its turn usually is (one-way analysis of
    variance). Where that can't be known, a call counts as one turn. It takes tables as :func:`matrix` makes them.
    """
    calls: list[Values] = []
    for latencies_ms in by_scenario.values():
        logs = np.log(np.maximum(latencies_ms, 1.0))
        usual = np.array([np.nanmedian(turn) if not np.isnan(turn).all() else 0.0 for turn in logs.T])
        calls += [row[~np.isnan(row)] for row in logs - usual]
    calls = [call for call in calls if len(call)]
    sizes = np.array([len(call) for call in calls], dtype=float)
    turns = float(sizes.sum())
    mean_size = float((sizes**2).sum()) / turns
    if len(calls) < 2 or turns == len(calls):
        return mean_size
    return 1 + (mean_size - 1) * _intraclass_correlation(calls, sizes)


def _intraclass_correlation(calls: Sequence[Values], sizes: Values) -> float:
    turns, groups = float(sizes.sum()), len(calls)
    grand = float(np.concatenate(calls).mean())
    between = sum(len(call) * (float(call.mean()) - grand) ** 2 for call in calls) / (groups - 1)
    within = sum(float(((call - call.mean()) ** 2).sum()) for call in calls) / (turns - groups)
    size = (turns - float((sizes**2).sum()) / turns) / (groups - 1)
    total: Any = between + (size - 1) * within
    return min(1.0, max(0.0, (between - within) / total)) if total > 0 else 1.0
