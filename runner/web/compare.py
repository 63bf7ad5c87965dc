"""Two results, compared: whether the agent changed between them, by the rule that gates and schedules go by."""

from collections.abc import Sequence
from typing import Any

import anyio.to_thread
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from runner.api.errors import NotFound
from runner.comparison.changes import Change, Comparison, LatencyChange, RateChange, ScenarioChange
from runner.comparison.facts import RunFacts
from runner.errors import UsageError
from runner.records.conclusions import run_facts
from runner.records.results import find_result
from runner.records.statuses import FINAL_RESULT, ResultStatus
from runner.records.tables import ResultRow
from runner.reports.html.shown import words
from runner.web.lists import number_of
from runner.web.visits import Visit

CHOICES = 100
"""So many results of the same agent can be chosen from."""

GROUPS = (
    (Change.REGRESSED, "▼", "Worse", "bad"),
    (Change.IMPROVED, "▲", "Better", ""),
    (Change.FLAKY, "≈", "Passes and fails on both sides", ""),
    (Change.TOO_FEW, "?", "Too few runs to say", ""),
    (Change.UNCHANGED, "=", "No difference shown", ""),
)
_TITLES = {
    Change.REGRESSED: "Worse than before.",
    Change.IMPROVED: "Better than before.",
    Change.UNCHANGED: "No difference shown.",
    Change.FLAKY: "No difference shown; some scenarios pass and fail on both sides.",
    Change.TOO_FEW: "Too few runs to say.",
}
_ICONS = {Change.REGRESSED: "fail", Change.IMPROVED: "pass", Change.UNCHANGED: "pass"}


async def show_comparison(visit: Visit) -> Response:
    """Show two results side by side; or what to compare one with."""
    asked = [number_of(text) for text in visit.request.query_params.getlist("result")][:2]
    ids = sorted({number for number in asked if number is not None})
    services = visit.services
    async with services.database.reading() as session:
        rows = [await _find(session, visit.project, number) for number in ids]
        if len(rows) < 2:
            return visit.show(
                "compare_with.html", row=next(iter(rows), None), choices=await _choices(session, visit, rows)
            )
        base, current = rows
        before, after = [await run_facts(session, [row.id]) for row in rows]
    comparison, problem = await anyio.to_thread.run_sync(_compared, before, after)
    is_open = any(ResultStatus(row.status) not in FINAL_RESULT for row in rows)
    return visit.show(
        "compare.html",
        base=base,
        current=current,
        names=[words(row.name or f"Result {row.id}", 200) for row in rows],
        comparison=comparison,
        problem=problem,
        is_open=is_open,
        title=_TITLES[comparison.change] if comparison else "Not compared.",
        icon_kind=_ICONS.get(comparison.change, "unsure") if comparison else "unsure",
        groups=_groups(comparison) if comparison else [],
        span=_span(comparison) if comparison else 1.0,
    )


def _compared(base: Sequence[RunFacts], current: Sequence[RunFacts]) -> tuple[Comparison | None, str]:
    """Return what a comparison comes to, or why there is none. Loads the statistics."""
    from runner.comparison.compare import compare

    if not base or not current:
        return None, "One of the two has no run that has ended."
    try:
        return compare(base, current), ""
    except UsageError as error:
        return None, words(str(error), 500)


async def _find(session: AsyncSession, project: int, number: int) -> ResultRow:
    row = await find_result(session, project, number)
    if row is None:
        raise NotFound
    return row


async def _choices(session: AsyncSession, visit: Visit, rows: Sequence[ResultRow]) -> Sequence[ResultRow]:
    found = select(ResultRow).where(ResultRow.project_id == visit.project).order_by(ResultRow.id.desc())
    for row in rows:
        found = found.where(ResultRow.id != row.id, ResultRow.agent_id == row.agent_id)
    return (await session.scalars(found.limit(CHOICES))).all()


def _groups(comparison: Comparison) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = []
    for change, mark, name, kind in GROUPS:
        found = [scenario for scenario in comparison.scenarios if scenario.change is change]
        if found:
            groups.append({"mark": mark, "name": name, "kind": kind, "scenarios": [_line(s) for s in found]})
    return groups


def _line(scenario: ScenarioChange) -> dict[str, Any]:
    return {
        "name": words(scenario.scenario, 200),
        "rate": rate_text(scenario.pass_rate),
        "latency": latency_text(scenario.latency),
        "bar": scenario.latency if scenario.latency is not None and scenario.latency.low_ms is not None else None,
        "note": words(scenario.why_too_few or "", 300),
        "needed": scenario.runs_needed,
        "edited": scenario.was_edited is True,
        "inconclusive": scenario.base_inconclusive + scenario.current_inconclusive,
    }


def rate_text(rate: RateChange) -> str:
    """Return pass rates of both sides in words, with the interval of their difference."""
    text = f"passed {rate.current_passed} of {rate.current_runs}, was {rate.base_passed} of {rate.base_runs}"
    if rate.difference_points is None or rate.low_points is None or rate.high_points is None:
        return text
    between = f"between {rate.low_points:+.0f} and {rate.high_points:+.0f}"
    return f"{text}: {rate.difference_points:+.0f} points, {between}"


def latency_text(latency: LatencyChange | None) -> str:
    """Return by how much answers are slower or faster, with its interval; empty where that is not known."""
    if latency is None or latency.difference_ms is None or latency.low_ms is None or latency.high_ms is None:
        return ""
    return (
        f"answers {latency.difference_ms / 1000:+.2f} s, between {latency.low_ms / 1000:+.2f} "
        f"and {latency.high_ms / 1000:+.2f}"
    )


def _span(comparison: Comparison) -> float:
    """Return how far the axis of latency differences reaches on each side, in milliseconds."""
    latencies = [s.latency for s in comparison.scenarios]
    ends = [abs(end) for one in latencies if one is not None for end in (one.low_ms, one.high_ms) if end is not None]
    return max([*ends, 100.0]) * 1.1
