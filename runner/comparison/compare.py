"""Compares two sets of runs: the rule that says whether an agent changed.

The call is the unit. All tests are two-sided; their levels (:mod:`runner.comparison.levels`) add up to 0.05 for a
comparison of suites. Needs scipy and statsmodels (the extra ``compare``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from runner.comparison import levels
from runner.comparison.changes import Change, Comparison, LatencyChange, RateChange, ScenarioChange
from runner.comparison.circumstances import other_circumstances
from runner.comparison.facts import RunFacts, RunSet
from runner.comparison.latencies import (
    Difference,
    Values,
    call_values,
    calls_needed,
    holm,
    pooled_difference,
    stratified_difference,
)
from runner.comparison.rates import (
    Table,
    attainable_p,
    best_suite_p,
    difference_interval,
    fisher_p,
    mean_difference_interval,
    runs_needed,
    smallest_drop_points,
    stratified_tails,
    tarone_limit,
)
from runner.errors import UsageError

DRIFT = (
    "base and current were made in different sessions: another load, network or service would show as a change of "
    f"the agent; interleave the two, or take the base over {levels.MIN_SESSIONS} sessions or more"
)


def compare_sets(base: RunSet, current: RunSet) -> Comparison:
    """Compare two sets of runs, and say in what circumstances they differ as well.

    Raises:
        UsageError: They have no scenario in common, or hold the same runs.
    """
    comparison = compare(base.runs, current.runs)
    warnings = [*comparison.warnings, *other_circumstances(base.sessions, current.sessions)]
    return comparison.model_copy(update={"warnings": warnings})


def compare(base: Sequence[RunFacts], current: Sequence[RunFacts]) -> Comparison:
    """Compare two sets of runs.

    Args:
        base: What is compared with.
        current: What may have changed.

    Raises:
        UsageError: They have no scenario in common, or hold the same runs.
    """
    if shared := {run.id for run in base} & {run.id for run in current}:
        raise UsageError(f"base and current are the same runs, or share some (such as {min(shared)})")
    by_name = _by_scenario(base), _by_scenario(current)
    names = [name for name in by_name[0] if name in by_name[1]]
    if not names:
        raise UsageError("base and current have no scenario in common")
    by_session, interleaved = _ways(base, current)
    pairs = [_Pair(_Side(by_name[0][name]), _Side(by_name[1][name]), name, by_session) for name in names]
    sides = (
        _Side([run for pair in pairs for run in pair.base.runs]),
        _Side([r for p in pairs for r in p.current.runs]),
    )
    doubt = _doubt(*sides)
    suite = _Suite(pairs, by_session, trusted=doubt is None)
    found = _Found.of(pairs, suite)
    scenarios = [_scenario(pair, found) for pair in pairs]
    change, why = suite.change(scenarios, doubt)
    warnings = [] if interleaved or by_session else [DRIFT]
    if edited := [scenario.scenario for scenario in scenarios if scenario.was_edited]:
        warnings.append(f"not the same on both sides, so a change may be the scenario's own: {', '.join(edited)}")
    return Comparison(
        change=change,
        pass_rate=suite.pass_rate,
        latency=suite.latency,
        scenarios=scenarios,
        only_in_base=[name for name in by_name[0] if name not in by_name[1]],
        only_in_current=[name for name in by_name[1] if name not in by_name[0]],
        base_sessions=len(sides[0].sessions),
        current_sessions=len(sides[1].sessions),
        interleaved=interleaved,
        by_session=by_session,
        base_inconclusive=sides[0].inconclusive,
        current_inconclusive=sides[1].inconclusive,
        why_too_few=why,
        warnings=warnings,
    )


def _by_scenario(runs: Sequence[RunFacts]) -> dict[str, list[RunFacts]]:
    found: dict[str, list[RunFacts]] = {}
    for run in runs:
        found.setdefault(run.scenario, []).append(run)
    return found


def _ways(base: Sequence[RunFacts], current: Sequence[RunFacts]) -> tuple[bool, bool]:
    """Return whether means of sessions are to be tested, and whether the sides were made in the same sessions."""
    sessions = {run.session for run in base}, {run.session for run in current}
    interleaved = sessions[0] == sessions[1]
    return not interleaved and len(sessions[0]) >= levels.MIN_SESSIONS, interleaved


@dataclass(frozen=True)
class _Side:
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


def _doubt(base: _Side, current: _Side) -> str | None:
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
class _Pair:
    """A scenario on both sides."""

    base: _Side
    current: _Side
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
        return _doubt(self.base, self.current)

    @cached_property
    def value_of(self) -> dict[str, float]:
        return call_values(self.base.decided, self.current.decided)

    @cached_property
    def values(self) -> tuple[Values, Values]:
        """What is tested: a value for each call, or for each session its mean."""
        if not self.by_session:
            return self.calls
        return _session_means([self], base=True), _session_means([self], base=False)

    @cached_property
    def calls(self) -> tuple[Values, Values]:
        value_of = self.value_of
        base, current = (
            np.array([value_of[run.id] for run in side.decided if run.id in value_of])
            for side in (self.base, self.current)
        )
        return base, current

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
        hashes = [{run.scenario_hash for run in side.runs} for side in (self.base, self.current)]
        return None if None in hashes[0] | hashes[1] else hashes[0] != hashes[1]


def _session_means(pairs: Sequence[_Pair], *, base: bool) -> Values:
    """Return for each session of a side the mean over scenarios of its calls' mean."""
    means: dict[str, list[float]] = {}
    for pair in pairs:
        of_session: dict[str, list[float]] = {}
        for run in (pair.base if base else pair.current).decided:
            if run.id in pair.value_of:
                of_session.setdefault(run.session, []).append(pair.value_of[run.id])
        for session, values in of_session.items():
            means.setdefault(session, []).append(sum(values) / len(values))
    return np.array([sum(values) / len(values) for values in means.values()])


@dataclass
class _Suite:
    """All scenarios together."""

    pairs: Sequence[_Pair]
    by_session: bool
    trusted: bool
    tables: list[Table] = field(init=False)
    pass_rate: RateChange = field(init=False)
    latency: LatencyChange | None = field(init=False)

    def __post_init__(self) -> None:
        self.tables = [pair.table for pair in self.pairs if pair.has_rates]
        self.pass_rate = self._pass_rate()
        self.latency = self._latency()

    def _pass_rate(self) -> RateChange:
        counts = dict(
            zip(Table._fields, map(sum, zip(*(pair.table for pair in self.pairs), strict=True)), strict=True)
        )
        if not self.tables:
            return RateChange(**counts)
        points = 100 * sum(table.difference for table in self.tables) / len(self.tables)
        low, high = mean_difference_interval(self.tables)
        p = stratified_tails(self.tables).doubled_mid_p
        is_large = _reaches(points, levels.SUITE_MIN_POINTS)
        return RateChange(
            **counts,
            difference_points=round(points, 1),
            low_points=round(100 * low, 1),
            high_points=round(100 * high, 1),
            p=p,
            significant=self.trusted and p <= levels.SUITE_RATE_LEVEL and is_large,
        )

    def _difference(self) -> Difference | None:
        if self.by_session:
            base, current = (_session_means(self.pairs, base=side) for side in (True, False))
            enough = len(base) >= levels.MIN_SESSIONS and len(current) >= 1
            return pooled_difference(base, current) if enough else None
        strata = [pair.calls for pair in self.pairs if min(map(len, pair.calls)) >= 2]
        return stratified_difference(strata) if strata else None

    def _latency(self) -> LatencyChange | None:
        if self.by_session:
            counts = [len(_session_means(self.pairs, base=side)) for side in (True, False)]
        else:
            counts = [sum(len(pair.calls[side]) for pair in self.pairs) for side in (0, 1)]
        if not any(counts):
            return None
        level = levels.SUITE_LATENCY_LEVEL
        difference = self._difference()
        significant = difference is not None and difference.p <= level
        return _latency_change(difference, counts, level, self.trusted and significant, levels.SUITE_MIN_MS)

    def change(self, scenarios: Sequence[ScenarioChange], doubt: str | None) -> tuple[Change, str | None]:
        """Return what became of the whole; and why too few runs leave it open, if they do."""
        changes = {scenario.change for scenario in scenarios} | {
            _direction(slower=metric_is_worse) for metric_is_worse in self._significant()
        }
        if Change.REGRESSED in changes:
            return Change.REGRESSED, None
        if (why := doubt or self._why_open()) is not None:
            return Change.TOO_FEW, why
        return (Change.IMPROVED if Change.IMPROVED in changes else Change.UNCHANGED), None

    def _significant(self) -> list[bool]:
        """Return whether each measure of the suite that changed became worse."""
        rate = [(self.pass_rate.difference_points or 0) < 0] if self.pass_rate.significant else []
        latency = self.latency
        return rate + ([(latency.difference_ms or 0) > 0] if latency is not None and latency.significant else [])

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
        if _reaches(-points, levels.SUITE_MIN_POINTS, one_sided=True) and not self.pass_rate.significant:
            return f"the pass rate is {-points:.0f} points lower, which so few runs can't tell from chance"
        latency = self.latency
        if latency is None:
            return None
        if latency.difference_ms is None:
            return "too few calls with a latency to compare them"
        if _reaches(latency.difference_ms, levels.SUITE_MIN_MS, one_sided=True) and not latency.significant:
            return f"latencies are {latency.difference_ms:.0f} ms longer, which so few calls can't tell from chance"
        return None


def _reaches(difference: float, least: float, *, one_sided: bool = False) -> bool:
    """Whether a difference is as large as it must be, but for what rounding does to floats."""
    return (difference if one_sided else abs(difference)) >= least - 1e-9


def _direction(*, slower: bool) -> Change:
    return Change.REGRESSED if slower else Change.IMPROVED


def _latency_change(
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
        significant=significant and _reaches(difference.ms, least_ms),
        shows_ms=round(difference.shows_ms(level), 1),
    )


class _Levels(NamedTuple):
    """The p from which on a single scenario's pass rate and latency are significant."""

    rate: float
    latency: float


@dataclass(frozen=True)
class _Found:
    """What the tests of all scenarios found, one by one."""

    rates: dict[str, RateChange]
    latencies: dict[str, LatencyChange | None]
    levels: _Levels
    suite: _Suite

    @classmethod
    def of(cls, pairs: Sequence[_Pair], suite: _Suite) -> "_Found":
        attainable = [attainable_p(pair.table) for pair in pairs if pair.is_rate_tested]
        rate_limit = tarone_limit(attainable, levels.SCENARIO_RATE_LEVEL)
        tested = [pair for pair in pairs if pair.difference is not None]
        rejected = holm([pair.difference.p for pair in tested if pair.difference], levels.SCENARIO_LATENCY_LEVEL)
        significant = {pair.name for pair, is_significant in zip(tested, rejected, strict=True) if is_significant}
        shared = _Levels(levels.SCENARIO_RATE_LEVEL / len(pairs), levels.SCENARIO_LATENCY_LEVEL / max(len(tested), 1))
        return cls(
            {pair.name: _rate_change(pair, rate_limit, shared.rate) for pair in pairs},
            {pair.name: _scenario_latency(pair, pair.name in significant, shared.latency) for pair in pairs},
            shared,
            suite,
        )


def _rate_change(pair: _Pair, limit: float, level: float) -> RateChange:
    counts = pair.table._asdict()
    if not pair.has_rates:
        return RateChange(**counts)
    table = pair.table
    low, high = difference_interval(table)
    points = 100 * table.difference
    p = fisher_p(table) if pair.is_rate_tested else None
    is_large = _reaches(points, levels.SCENARIO_MIN_POINTS)
    return RateChange(
        **counts,
        difference_points=round(points, 1),
        low_points=round(100 * low, 1),
        high_points=round(100 * high, 1),
        p=p,
        significant=p is not None and p <= limit and is_large,
        shows_points=smallest_drop_points(
            table.base_passed / table.base_runs, table.base_runs, table.current_runs, level
        ),
    )


def _scenario_latency(pair: _Pair, significant: bool, level: float) -> LatencyChange | None:
    counts = [len(values) for values in pair.values]
    if not any(counts):
        return None
    return _latency_change(pair.difference, counts, level, significant, levels.SCENARIO_MIN_MS)


def _scenario(pair: _Pair, found: _Found) -> ScenarioChange:
    rate, latency = found.rates[pair.name], found.latencies[pair.name]
    change, why = _change(pair, rate, latency, found.suite)
    needed: tuple[int | None, int | None] = (None, None)
    if change is Change.TOO_FEW and pair.doubt is None:
        needed = _needed(pair, rate, latency, found.levels)
    return ScenarioChange(
        scenario=pair.name,
        change=change,
        pass_rate=rate,
        latency=latency,
        base_inconclusive=pair.base.inconclusive,
        current_inconclusive=pair.current.inconclusive,
        runs_needed=needed[0],
        current_runs_needed=needed[1],
        why_too_few=why,
        was_edited=pair.was_edited,
    )


def _change(pair: _Pair, rate: RateChange, latency: LatencyChange | None, suite: _Suite) -> tuple[Change, str | None]:
    if pair.doubt is not None:
        return Change.TOO_FEW, pair.doubt
    slower = None if latency is None else latency.difference_ms
    moved = {
        _direction(slower=points < 0)
        for points in [rate.difference_points]
        if points and (rate.significant or _goes_with(-points, _p_of(pair), _suite_drop(suite)))
    }
    moved |= {
        _direction(slower=slower > 0)
        for longer in [latency]
        if longer and slower and (longer.significant or _goes_with(slower, longer.p, _suite_slowdown(suite)))
    }
    if moved:
        return (Change.REGRESSED if Change.REGRESSED in moved else Change.IMPROVED), None
    if pair.base.is_mixed and pair.current.is_mixed:
        return Change.FLAKY, None
    why = _why_too_few(pair, rate, latency)
    return (Change.UNCHANGED, None) if why is None else (Change.TOO_FEW, why)


def _goes_with(worse_by: float, p: float | None, suite_worse_by: float | None) -> bool:
    """Whether a scenario moved as its suite did, which has changed."""
    return suite_worse_by is not None and worse_by * suite_worse_by > 0 and p is not None and p <= levels.NAMED_LEVEL


def _suite_drop(suite: _Suite) -> float | None:
    """Return by how much the suite's pass rate fell, if it changed."""
    return -(suite.pass_rate.difference_points or 0.0) if suite.pass_rate.significant else None


def _suite_slowdown(suite: _Suite) -> float | None:
    """Return by how much the suite's latency grew, if it changed."""
    return suite.latency.difference_ms if suite.latency is not None and suite.latency.significant else None


def _p_of(pair: _Pair) -> float | None:
    """Return the p of the pass rate, also of fewer runs than are tested on their own."""
    return fisher_p(pair.table) if pair.has_rates else None


def _why_too_few(pair: _Pair, rate: RateChange, latency: LatencyChange | None) -> str | None:
    if not pair.is_rate_tested:
        fewest = min(pair.table.base_runs, pair.table.current_runs)
        return f"{fewest} decided runs on a side, fewer than {levels.MIN_RATE_RUNS}"
    if _reaches(rate.difference_points or 0.0, levels.SCENARIO_MIN_POINTS):
        return "the difference of the pass rate may be chance"
    if latency is None:
        return None
    if latency.difference_ms is None:
        return (
            f"fewer than {levels.MIN_LATENCY_RUNS} calls with a latency on a side"
            if not pair.by_session
            else (f"latencies in fewer than {levels.MIN_SESSIONS} sessions")
        )
    if _reaches(latency.difference_ms, levels.SCENARIO_MIN_MS):
        return "the difference of the latency may be chance"
    return None


def _needed(
    pair: _Pair, rate: RateChange, latency: LatencyChange | None, shared: _Levels
) -> tuple[int | None, int | None]:
    """Return how many runs of each side it takes to find what was seen; and how many current ones with this base."""
    if not pair.has_rates:
        return levels.MIN_RATE_RUNS, None
    table = pair.table
    if _reaches(rate.difference_points or 0.0, levels.SCENARIO_MIN_POINTS):
        rates = table.base_passed / table.base_runs, table.current_passed / table.current_runs
        return runs_needed(*rates, shared.rate), runs_needed(*rates, shared.rate, table.base_runs)
    if pair.is_rate_tested and pair.difference is not None and latency is not None:
        # Means of sessions are few: how many sessions it takes is no number of runs.
        if pair.by_session:
            return None, None
        return calls_needed(pair.difference, *map(len, pair.calls), shared.latency), None
    return levels.MIN_RATE_RUNS, levels.MIN_RATE_RUNS if table.base_runs >= levels.MIN_RATE_RUNS else None
