"""Compares two sets of runs: the rule that says whether an agent changed.

The call is the unit. All tests are two-sided; their levels (:mod:`runner.comparison.levels`) add up to 0.05 for a
comparison of suites. Needs scipy (the extra ``compare``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from runner.comparison import levels
from runner.comparison.changes import Change, Comparison, LatencyChange, RateChange, ScenarioChange
from runner.comparison.circumstances import other_circumstances
from runner.comparison.facts import RunFacts, RunSet
from runner.comparison.latencies import calls_needed, holm
from runner.comparison.rates import (
    attainable_p,
    difference_interval,
    fisher_p,
    runs_needed,
    smallest_drop_points,
    tarone_limit,
)
from runner.comparison.sides import Pair, Side, doubt_of
from runner.comparison.whole import Whole, direction, latency_change, reaches
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
    pairs = [Pair(Side(by_name[0][name]), Side(by_name[1][name]), name, by_session) for name in names]
    sides = (
        Side([run for pair in pairs for run in pair.base.runs]),
        Side([r for p in pairs for r in p.current.runs]),
    )
    doubt = doubt_of(*sides)
    suite = Whole(pairs, by_session, trusted=doubt is None)
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
    suite: Whole

    @classmethod
    def of(cls, pairs: Sequence[Pair], suite: Whole) -> "_Found":
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


def _rate_change(pair: Pair, limit: float, level: float) -> RateChange:
    counts = pair.table._asdict()
    if not pair.has_rates:
        return RateChange(**counts)
    table = pair.table
    low, high = difference_interval(table)
    points = 100 * table.difference
    p = fisher_p(table) if pair.is_rate_tested else None
    is_large = reaches(points, levels.SCENARIO_MIN_POINTS)
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


def _scenario_latency(pair: Pair, significant: bool, level: float) -> LatencyChange | None:
    counts = [len(values) for values in pair.values]
    if not any(counts):
        return None
    return latency_change(pair.difference, counts, level, significant, levels.SCENARIO_MIN_MS)


def _scenario(pair: Pair, found: _Found) -> ScenarioChange:
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


def _change(pair: Pair, rate: RateChange, latency: LatencyChange | None, suite: Whole) -> tuple[Change, str | None]:
    if pair.doubt is not None:
        return Change.TOO_FEW, pair.doubt
    slower = None if latency is None else latency.difference_ms
    moved = {
        direction(slower=points < 0)
        for points in [rate.difference_points]
        if points and (rate.significant or _goes_with(-points, _p_of(pair), _suite_drop(suite)))
    }
    moved |= {
        direction(slower=slower > 0)
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


def _suite_drop(suite: Whole) -> float | None:
    """Return by how much the suite's pass rate fell, if it changed."""
    return -(suite.pass_rate.difference_points or 0.0) if suite.pass_rate.significant else None


def _suite_slowdown(suite: Whole) -> float | None:
    """Return by how much the suite's latency grew, if it changed."""
    return suite.latency.difference_ms if suite.latency is not None and suite.latency.significant else None


def _p_of(pair: Pair) -> float | None:
    """Return the p of the pass rate, also of fewer runs than are tested on their own."""
    return fisher_p(pair.table) if pair.has_rates else None


def _why_too_few(pair: Pair, rate: RateChange, latency: LatencyChange | None) -> str | None:
    if not pair.is_rate_tested:
        fewest = min(pair.table.base_runs, pair.table.current_runs)
        return f"{fewest} decided runs on a side, fewer than {levels.MIN_RATE_RUNS}"
    if reaches(rate.difference_points or 0.0, levels.SCENARIO_MIN_POINTS):
        return "the difference of the pass rate may be chance"
    if latency is None:
        return None
    if latency.difference_ms is None:
        return (
            f"fewer than {levels.MIN_LATENCY_RUNS} calls with a latency on a side"
            if not pair.by_session
            else (f"latencies in fewer than {levels.MIN_SESSIONS} sessions")
        )
    if reaches(latency.difference_ms, levels.SCENARIO_MIN_MS):
        return "the difference of the latency may be chance"
    return None


def _needed(
    pair: Pair, rate: RateChange, latency: LatencyChange | None, shared: _Levels
) -> tuple[int | None, int | None]:
    """Return how many runs of each side it takes to find what was seen; and how many current ones with this base."""
    if not pair.has_rates:
        return levels.MIN_RATE_RUNS, None
    table = pair.table
    if reaches(rate.difference_points or 0.0, levels.SCENARIO_MIN_POINTS):
        rates = table.base_passed / table.base_runs, table.current_passed / table.current_runs
        return runs_needed(*rates, shared.rate), runs_needed(*rates, shared.rate, table.base_runs)
    if pair.is_rate_tested:
        # How many sessions it takes, or calls with a latency, is no number of runs.
        if pair.by_session or pair.difference is None:
            return None, None
        base, current = map(len, pair.calls)
        return calls_needed(pair.difference, base, current, shared.latency), None
    return levels.MIN_RATE_RUNS, levels.MIN_RATE_RUNS if table.base_runs >= levels.MIN_RATE_RUNS else None
