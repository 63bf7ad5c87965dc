"""The runs of both sides: of a scenario, and of all together, with whether the suite changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from runner.comparison import levels
from runner.comparison.changes import Change, LatencyChange, RateChange, ScenarioChange
from runner.comparison.facts import RunFacts
from runner.comparison.latencies import Difference, Values, call_values, pooled_difference, stratified_difference
from runner.comparison.rates import Table, best_suite_p, fisher_p, mean_difference_interval, stratified_tails


@dataclass(frozen=True)
class Side:
    """The runs of a side, of one scenario or of all."""

    runs: Sequence[RunFacts]

    @cached_property
    def decided(self) -> list[RunFacts]:
        return [run for run in self.runs if run.success is not None]

    @cached_property
    def passed(self) -> int:
        return sum(run.success is True for run in self.runs)

    @property
    def inconclusive(self) -> int:
        return len(self.runs) - len(self.decided)

    @property
    def is_mixed(self) -> bool:
        return 0 < self.passed < len(self.decided)

    @property
    def sessions(self) -> set[str]:
        return {run.session for run in self.runs}


def doubt_of(base: Side, current: Side) -> str | None:
    """Return why inconclusive runs leave nothing to be said; None if they do not."""
    for name, side in (("base", base), ("current", current)):
        if side.inconclusive > levels.MAX_INCONCLUSIVE_SHARE * len(side.runs):
            return f"{side.inconclusive} of {len(side.runs)} runs of the {name} side are inconclusive"
    if not base.inconclusive and not current.inconclusive:
        return None
    table = Table(base.inconclusive, len(base.runs), current.inconclusive, len(current.runs))
    if fisher_p(table) <= levels.UNEQUAL_LEVEL:
        return f"the sides differ in inconclusive runs ({base.inconclusive} and {current.inconclusive})"
    return None


@dataclass(frozen=True)
class Pair:
    """A scenario on both sides."""

    base: Side
    current: Side
    name: str
    by_session: bool

    @cached_property
    def table(self) -> Table:
        return Table(self.base.passed, len(self.base.decided), self.current.passed, len(self.current.decided))

    @property
    def has_rates(self) -> bool:
        return bool(self.table.base_runs and self.table.current_runs)

    @property
    def is_rate_tested(self) -> bool:
        return min(self.table.base_runs, self.table.current_runs) >= levels.MIN_RATE_RUNS

    @cached_property
    def doubt(self) -> str | None:
        return doubt_of(self.base, self.current)

    @cached_property
    def value_of(self) -> dict[str, float]:
        return call_values(self.base.decided, self.current.decided)

    @cached_property
    def values(self) -> tuple[Values, Values]:
        """What is tested: a value for each call, or for each session its mean."""
        return session_means([self]) if self.by_session else self.calls

    @cached_property
    def calls(self) -> tuple[Values, Values]:
        return self._calls(self.base), self._calls(self.current)

    def _calls(self, side: Side) -> Values:
        return np.array([self.value_of[run.id] for run in side.decided if run.id in self.value_of])

    @cached_property
    def difference(self) -> Difference | None:
        """The difference of latency; None where there are too few calls, or sessions, to test it."""
        base, current = self.values
        if min(map(len, self.calls)) < levels.MIN_LATENCY_RUNS:
            return None
        if self.by_session and len(base) < levels.MIN_SESSIONS:
            return None
        return pooled_difference(base, current)

    @property
    def was_edited(self) -> bool | None:
        """Whether something else was played on the other side; None where nothing tells."""
        base, current = (_hashes(side) for side in (self.base, self.current))
        kinds = base.keys() & current.keys()
        if not kinds or None in base or None in current:
            return None
        return any(base[kind] != current[kind] for kind in kinds)


def _hashes(side: Side) -> dict[str | None, set[str]]:
    """Return the digests of what was played, by their kind; that of an unknown one is None."""
    found: dict[str | None, set[str]] = {}
    for run in side.runs:
        kind = None if run.scenario_hash is None else run.scenario_hash.rpartition(":")[0]
        found.setdefault(kind, set()).add(run.scenario_hash or "")
    return found


def session_means(pairs: Sequence[Pair]) -> tuple[Values, Values]:
    """Return for each session of both sides the mean over scenarios of its calls' mean."""

    def of_side(sides: Sequence[Side]) -> Values:
        means: dict[str, list[float]] = {}
        for pair, side in zip(pairs, sides, strict=True):
            of_session: dict[str, list[float]] = {}
            for run in side.decided:
                if run.id in pair.value_of:
                    of_session.setdefault(run.session, []).append(pair.value_of[run.id])
            for session, values in of_session.items():
                means.setdefault(session, []).append(sum(values) / len(values))
        return np.array([sum(values) / len(values) for values in means.values()])

    return of_side([pair.base for pair in pairs]), of_side([pair.current for pair in pairs])


@dataclass
class Whole:
    """All scenarios together."""

    pairs: Sequence[Pair]
    by_session: bool
    trusted: bool

    @cached_property
    def tables(self) -> list[Table]:
        return [pair.table for pair in self.pairs if pair.has_rates]

    @cached_property
    def pass_rate(self) -> RateChange:
        counts = Table(*map(sum, zip(*(pair.table for pair in self.pairs), strict=True)))
        if not self.tables:
            return RateChange(**counts._asdict())
        difference = sum(table.difference for table in self.tables) / len(self.tables)
        p = stratified_tails(self.tables).doubled_mid_p
        limit = levels.SUITE_RATE_LEVEL if self.trusted else -1.0
        return rate_change(
            counts, difference, mean_difference_interval(self.tables), p, limit, levels.SUITE_MIN_POINTS
        )

    def _difference(self) -> Difference | None:
        if self.by_session:
            base, current = session_means(self.pairs)
            enough = len(base) >= levels.MIN_SESSIONS and len(current) >= 1
            return pooled_difference(base, current) if enough else None
        strata = [pair.calls for pair in self.pairs if min(map(len, pair.calls)) >= 2]
        return stratified_difference(strata) if strata else None

    @cached_property
    def latency(self) -> LatencyChange | None:
        if self.by_session:
            counts = [len(means) for means in session_means(self.pairs)]
        else:
            counts = [sum(len(pair.calls[side]) for pair in self.pairs) for side in (0, 1)]
        if not any(counts):
            return None
        level = levels.SUITE_LATENCY_LEVEL
        difference = self._difference()
        significant = difference is not None and difference.p <= level
        return latency_change(difference, counts, level, self.trusted and significant, levels.SUITE_MIN_MS)

    def change(self, scenarios: Sequence[ScenarioChange], doubt: str | None) -> tuple[Change, str | None]:
        """Return what became of the whole; and why too few runs leave it open, if they do."""
        rate, latency = self.pass_rate, self.latency
        changes = {scenario.change for scenario in scenarios}
        if rate.significant:
            changes.add(direction(slower=(rate.difference_points or 0) < 0))
        if latency is not None and latency.significant:
            changes.add(direction(slower=(latency.difference_ms or 0) > 0))
        if Change.REGRESSED in changes:
            return Change.REGRESSED, None
        if (why := doubt or self._why_open()) is not None:
            return Change.TOO_FEW, why
        return (Change.IMPROVED if Change.IMPROVED in changes else Change.UNCHANGED), None

    def _why_open(self) -> str | None:
        """Return why runs that show no regression do not show that there is none either."""
        if not self.tables:
            return "a side has no decided runs"
        fewest = min(self.pass_rate.base_runs, self.pass_rate.current_runs)
        if fewest < levels.MIN_RATE_RUNS:
            return f"{fewest} decided runs on a side, fewer than {levels.MIN_RATE_RUNS}"
        if best_suite_p(self.tables) > levels.SUITE_RATE_LEVEL:
            return "with so few runs no drop of the pass rate could have shown"
        points = self.pass_rate.difference_points or 0.0
        if reaches(-points, levels.SUITE_MIN_POINTS, one_sided=True) and not self.pass_rate.significant:
            return f"the pass rate is {-points:.0f} points lower, which so few runs can't tell from chance"
        latency = self.latency
        if latency is None:
            return None
        if latency.difference_ms is None:
            return "too few calls with a latency to compare them"
        if reaches(latency.difference_ms, levels.SUITE_MIN_MS, one_sided=True) and not latency.significant:
            return f"latencies are {latency.difference_ms:.0f} ms longer, which so few calls can't tell from chance"
        return None


def reaches(difference: float, least: float, *, one_sided: bool = False) -> bool:
    """Whether a difference is as large as it must be, but for what rounding does to floats."""
    return (difference if one_sided else abs(difference)) >= least - 1e-9


def direction(*, slower: bool) -> Change:
    return Change.REGRESSED if slower else Change.IMPROVED


def rate_change(
    counts: Table, difference: float, interval: tuple[float, float], p: float | None, limit: float, least: float
) -> RateChange:
    """Return a difference of pass rates (a share), significant up to the p ``limit`` and from ``least`` points on."""
    low, high = interval
    return RateChange(
        **counts._asdict(),
        difference_points=round(100 * difference, 1),
        low_points=round(100 * low, 1),
        high_points=round(100 * high, 1),
        p=p,
        significant=p is not None and p <= limit and reaches(100 * difference, least),
    )


def latency_change(
    difference: Difference | None, counts: Sequence[int], level: float, significant: bool, least_ms: float
) -> LatencyChange:
    base_calls, current_calls = counts
    if difference is None:
        return LatencyChange(base_calls=base_calls, current_calls=current_calls)
    low, high = difference.interval_ms
    return LatencyChange(
        base_calls=base_calls,
        current_calls=current_calls,
        difference_ms=round(difference.ms, 1),
        low_ms=round(low, 1),
        high_ms=round(high, 1),
        p=difference.p,
        significant=significant and reaches(difference.ms, least_ms),
        shows_ms=round(difference.shows_ms(level), 1),
    )
