"""Compares two sets of runs: the rule that says whether an agent changed.

The call is the unit. All tests are two-sided; their levels (:mod:`runner.comparison.levels`) add up to 0.05 for a
comparison of suites. Needs scipy (the extra ``compare``).
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from runner.comparison import levels
from runner.comparison.changes import Change, Comparison, LatencyChange, RateChange, ScenarioChange
from runner.comparison.facts import RunFacts, RunSet, SessionFacts
from runner.comparison.latencies import calls_needed, holm
from runner.comparison.rates import (
    attainable_p,
    difference_interval,
    fisher_p,
    runs_needed,
    smallest_drop_points,
    tarone_limit,
)
from runner.comparison.sides import Pair, Side, Whole, direction, doubt_of, latency_change, rate_change, reaches
from runner.errors import UsageError

MAX_NAMED = 3
"""How many values of each side are named of a circumstance."""

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
    warnings = [*comparison.warnings, *_other_circumstances(base.sessions, current.sessions)]
    return comparison.model_copy(update={"warnings": warnings})


def compare(base: Sequence[RunFacts], current: Sequence[RunFacts]) -> Comparison:
    """Compare two sets of runs.

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
    found = _found(pairs)
    scenarios = [_scenario(pair, found, suite) for pair in pairs]
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


class _Found(NamedTuple):
    """What the tests of all scenarios found, by scenario, and the levels of a single one's pass rate and latency."""

    rates: dict[str, RateChange]
    latencies: dict[str, LatencyChange | None]
    rate_level: float
    latency_level: float


def _found(pairs: Sequence[Pair]) -> _Found:
    attainable = [attainable_p(pair.table) for pair in pairs if pair.is_rate_tested]
    limit = tarone_limit(attainable, levels.SCENARIO_RATE_LEVEL)
    tested = [pair for pair in pairs if pair.difference is not None]
    rejected = holm([pair.difference.p for pair in tested if pair.difference], levels.SCENARIO_LATENCY_LEVEL)
    significant = {pair.name for pair, is_significant in zip(tested, rejected, strict=True) if is_significant}
    rate_level = levels.SCENARIO_RATE_LEVEL / len(pairs)
    latency_level = levels.SCENARIO_LATENCY_LEVEL / max(len(tested), 1)
    return _Found(
        {pair.name: _rate_change(pair, limit, rate_level) for pair in pairs},
        {pair.name: _scenario_latency(pair, pair.name in significant, latency_level) for pair in pairs},
        rate_level,
        latency_level,
    )


def _rate_change(pair: Pair, limit: float, level: float) -> RateChange:
    table = pair.table
    if not pair.has_rates:
        return RateChange(**table._asdict())
    p = fisher_p(table) if pair.is_rate_tested else None
    change = rate_change(table, table.difference, difference_interval(table), p, limit, levels.SCENARIO_MIN_POINTS)
    base_rate = table.base_passed / table.base_runs
    shows = smallest_drop_points(base_rate, table.base_runs, table.current_runs, level)
    return change.model_copy(update={"shows_points": shows})


def _scenario_latency(pair: Pair, significant: bool, level: float) -> LatencyChange | None:
    counts = [len(values) for values in pair.values]
    if not any(counts):
        return None
    return latency_change(pair.difference, counts, level, significant, levels.SCENARIO_MIN_MS)


def _scenario(pair: Pair, found: _Found, suite: Whole) -> ScenarioChange:
    rate, latency = found.rates[pair.name], found.latencies[pair.name]
    change, why = _change(pair, rate, latency, suite)
    needed: tuple[int | None, int | None] = (None, None)
    if change is Change.TOO_FEW and pair.doubt is None:
        needed = _needed(pair, rate, found)
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
    moved: set[Change] = set()
    # The p of the pass rate counts here also with fewer runs than are tested on their own.
    rate_p = fisher_p(pair.table) if pair.has_rates else None
    suite_latency = suite.latency
    for worse_by, significant, p, of_suite in (
        (
            -(rate.difference_points or 0.0),
            rate.significant,
            rate_p,
            -(suite.pass_rate.difference_points or 0.0) if suite.pass_rate.significant else None,
        ),
        (
            0.0 if latency is None else latency.difference_ms or 0.0,
            latency is not None and latency.significant,
            None if latency is None else latency.p,
            suite_latency.difference_ms if suite_latency is not None and suite_latency.significant else None,
        ),
    ):
        # A scenario that moved as its suite did, which has changed, needs no level of its own.
        goes_along = of_suite is not None and worse_by * of_suite > 0 and p is not None and p <= levels.NAMED_LEVEL
        if worse_by and (significant or goes_along):
            moved.add(direction(slower=worse_by > 0))
    if moved:
        return (Change.REGRESSED if Change.REGRESSED in moved else Change.IMPROVED), None
    if pair.base.is_mixed and pair.current.is_mixed:
        return Change.FLAKY, None
    why = _why_too_few(pair, rate, latency)
    return (Change.UNCHANGED, None) if why is None else (Change.TOO_FEW, why)


def _why_too_few(pair: Pair, rate: RateChange, latency: LatencyChange | None) -> str | None:
    if not pair.is_rate_tested:
        fewest = min(pair.table.base_runs, pair.table.current_runs)
        return f"{fewest} decided runs on a side, fewer than {levels.MIN_RATE_RUNS}"
    if reaches(rate.difference_points or 0.0, levels.SCENARIO_MIN_POINTS):
        return "the difference of the pass rate may be chance"
    if latency is None:
        return None
    if latency.difference_ms is None:
        if pair.by_session:
            return f"latencies in fewer than {levels.MIN_SESSIONS} sessions"
        return f"fewer than {levels.MIN_LATENCY_RUNS} calls with a latency on a side"
    if reaches(latency.difference_ms, levels.SCENARIO_MIN_MS):
        return "the difference of the latency may be chance"
    return None


def _needed(pair: Pair, rate: RateChange, found: _Found) -> tuple[int | None, int | None]:
    """Return how many runs of each side it takes to find what was seen; and how many current ones with this base."""
    if not pair.has_rates:
        return levels.MIN_RATE_RUNS, None
    table = pair.table
    if reaches(rate.difference_points or 0.0, levels.SCENARIO_MIN_POINTS):
        rates = table.base_passed / table.base_runs, table.current_passed / table.current_runs
        return runs_needed(*rates, found.rate_level), runs_needed(*rates, found.rate_level, table.base_runs)
    if pair.is_rate_tested:
        # How many sessions it takes, or calls with a latency, is no number of runs.
        if pair.by_session or pair.difference is None:
            return None, None
        base, current = map(len, pair.calls)
        return calls_needed(pair.difference, base, current, found.latency_level), None
    return levels.MIN_RATE_RUNS, levels.MIN_RATE_RUNS if table.base_runs >= levels.MIN_RATE_RUNS else None


def _other_circumstances(base: Sequence[SessionFacts], current: Sequence[SessionFacts]) -> list[str]:
    """Return a sentence for each circumstance that differs, besides the agent, which is what is compared."""
    sentences: list[str] = []
    for name, values in _circumstances([*base, *current]).items():
        before, after = (list(dict.fromkeys(values(session) for session in side)) for side in (base, current))
        if set(before) != set(after) and None not in (*before, *after):
            sentences.append(f"{name} differs: {_named(before)} in the base, {_named(after)} now")
    return sentences


def _circumstances(sessions: Iterable[SessionFacts]) -> dict[str, Any]:
    """Return how each circumstance is read of a session."""
    found: dict[str, Any] = {
        "host": lambda s: s.host,
        "transport": lambda s: s.transport,
        "concurrency": lambda s: s.concurrency,
    }
    for session in sessions:
        found |= {f"version of {name}": _item("versions", name) for name in session.versions if name != "agent"}
        found |= {f"setting {name}": _item("settings", name) for name in session.settings}
    return found


def _item(attribute: str, name: str) -> Any:
    return lambda session: known.get(name, "none") if (known := getattr(session, attribute)) else None


def _named(values: Sequence[Any]) -> str:
    named = ", ".join(str(value) for value in values[:MAX_NAMED])
    return named + (", …" if len(values) > MAX_NAMED else "")
