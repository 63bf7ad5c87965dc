"""Pass rates: intervals, exact tests, and how many runs it takes.

Needs scipy (the extra ``compare``).
"""

from collections.abc import Sequence
from functools import lru_cache
from math import comb, prod
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binom, hypergeom

from runner.comparison.intervals import first_between, first_that, newcombe
from runner.comparison.levels import MIN_RATE_RUNS, POWER

MAX_RUNS_NEEDED = 500
"""Beyond that it is not said how many runs it takes."""

_UNLIKELY = 1e-7
_KEPT = 20_000


class Table(NamedTuple):
    """How many runs passed of those decided, on both sides."""

    base_passed: int
    base_runs: int
    current_passed: int
    current_runs: int

    @property
    def difference(self) -> float:
        """Current pass rate minus that of the base, as a share."""
        return self.current_passed / self.current_runs - self.base_passed / self.base_runs


class Tails(NamedTuple):
    """How likely fewer passes are than those of the current side, as many, and more."""

    below: float
    at: float
    above: float

    @property
    def doubled_mid_p(self) -> float:
        """Two-sided: twice the smaller tail, with half of what is observed itself."""
        return min(1.0, 2 * (self.at / 2 + min(self.below, self.above)))


@lru_cache(_KEPT)
def difference_interval(table: Table) -> tuple[float, float]:
    """Return Newcombe's interval of the difference between two pass rates, current minus base, as shares."""
    return newcombe((table.base_passed, table.base_runs), (table.current_passed, table.current_runs))


def mean_difference_interval(tables: Sequence[Table]) -> tuple[float, float]:
    """Return the interval of the mean difference over scenarios: Newcombe's distances, added up as squares."""
    differences = np.array([table.difference for table in tables])
    bounds = np.array([difference_interval(table) for table in tables])
    mean, below, above = differences.mean(), differences - bounds[:, 0], bounds[:, 1] - differences
    low, high = (np.sqrt((distance**2).sum()) / len(tables) for distance in (below, above))
    return max(-1.0, float(mean - low)), min(1.0, float(mean + high))


def pass_hat_k(counts: Sequence[tuple[int, int]], k: int) -> float:
    """Return pass^k: the chance that k runs of a scenario all pass, as the mean over scenarios.

    Unbiased, after τ-bench (Yao et al., 2024). ``counts`` are how many runs of a scenario passed, of at least k.
    """
    return sum(comb(passed, k) / comb(runs, k) for passed, runs in counts) / len(counts)


@lru_cache(_KEPT)
def _passes(base_runs: int, current_runs: int, passed: int) -> tuple[int, Any]:
    """Return how many of all passes are on the current side if the sides are alike: the least, and probabilities."""
    low, high = max(0, passed - base_runs), min(current_runs, passed)
    return low, hypergeom.pmf(np.arange(low, high + 1), base_runs + current_runs, passed, current_runs)


@lru_cache(_KEPT)
def fisher_p(table: Table) -> float:
    """Return twice the smaller tail of Fisher's exact test."""
    low, chances = _passes(table.base_runs, table.current_runs, table.base_passed + table.current_passed)
    at = table.current_passed - low
    return min(1.0, 2 * float(min(chances[: at + 1].sum(), chances[at:].sum())))


@lru_cache(_KEPT)
def attainable_p(table: Table) -> float:
    """Return the smallest p that Fisher's test could have given with so many passes altogether."""
    _, chances = _passes(table.base_runs, table.current_runs, table.base_passed + table.current_passed)
    return min(1.0, 2 * float(min(chances[0], chances[-1])))


def tarone_limit(attainable: Sequence[float], level: float) -> float:
    """Return the p from which on a scenario is significant among others, after Tarone (1990).

    Scenarios that can't be significant whatever becomes of them cost the others nothing.
    """
    shares = 1
    while sum(p <= level / shares for p in attainable) > shares:
        shares += 1
    return level / shares


def stratified_tails(tables: Sequence[Table]) -> Tails:
    """Return the exact conditional test of all scenarios together, on the passes of the current side."""
    low, chances = 0, np.ones(1)
    for table in tables:
        own_low, own = _passes(table.base_runs, table.current_runs, table.base_passed + table.current_passed)
        low, chances = low + own_low, np.convolve(chances, own)
    at = sum(table.current_passed for table in tables) - low
    return Tails(float(chances[:at].sum()), float(chances[at]), float(chances[at + 1 :].sum()))


def best_suite_p(tables: Sequence[Table]) -> float:
    """Return the smallest p that all scenarios together could have given with so many runs."""
    return prod(1 / comb(table.base_runs + table.current_runs, table.current_runs) for table in tables)


@lru_cache(_KEPT)
def power(base_rate: float, current_rate: float, base_runs: int, current_runs: int, level: float) -> float:
    """Return how often Fisher's test finds a difference between two pass rates."""
    base, current = (
        (passed, chances)
        for runs, rate in ((base_runs, base_rate), (current_runs, current_rate))
        for chances in [binom.pmf(np.arange(runs + 1), runs, rate)]
        for passed in [np.flatnonzero(chances > _UNLIKELY)]
    )
    a, b = np.meshgrid(base[0], current[0], indexing="ij")
    runs = base_runs + current_runs
    found = hypergeom.cdf(b, runs, a + b, current_runs) <= level / 2
    found |= hypergeom.sf(b - 1, runs, a + b, current_runs) <= level / 2
    return float(base[1][base[0]] @ found @ current[1][current[0]])


@lru_cache(_KEPT)
def runs_needed(base_rate: float, current_rate: float, level: float, base_runs: int | None = None) -> int | None:
    """Return how many runs it takes to find a difference between two pass rates with 80 % power.

    Rates are shares. ``base_runs`` is how many runs the base has; None: as many as the current side.

    Returns:
        Runs of the current side; None if more than :data:`MAX_RUNS_NEEDED`, or if no number is enough.
    """

    def finds(runs: int) -> bool:
        return power(base_rate, current_rate, base_runs or runs, runs, level) >= POWER

    if finds(MIN_RATE_RUNS):
        return MIN_RATE_RUNS
    runs = first_that(finds, MIN_RATE_RUNS, 2 * MAX_RUNS_NEEDED)
    return None if runs is None or runs > MAX_RUNS_NEEDED else runs


@lru_cache(_KEPT)
def smallest_drop_points(base_rate: float, base_runs: int, current_runs: int, level: float) -> int | None:
    """Return the smallest drop of a pass rate that would have shown with 80 % power; None if none would."""
    most = int(base_rate * 100)
    if not most or power(base_rate, 0.0, base_runs, current_runs, level) < POWER:
        return None

    def shows(points: int) -> bool:
        return power(base_rate, base_rate - points / 100, base_runs, current_runs, level) >= POWER

    return first_between(shows, 0, most)
