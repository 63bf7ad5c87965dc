"""Two results, compared: whether the agent changed between them, by the rule that gates and schedules go by."""

from collections.abc import Sequence

import anyio.to_thread
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from runner.api.errors import NotFound
from runner.comparison.changes import Comparison
from runner.comparison.facts import RunFacts
from runner.errors import UsageError
from runner.records.conclusions import run_facts
from runner.records.results import find_result
from runner.records.statuses import FINAL_RESULT, ResultStatus
from runner.records.tables import ResultRow
from runner.reports.html.comparison_page import comparison_page
from runner.reports.html.shown import words
from runner.web.lists import number_of
from runner.web.visits import Visit
from runner.web.words import day_and_time

CHOICES = 100
"""So many results of the same agent can be chosen from."""


async def show_comparison(visit: Visit) -> Response:
    """Show two results side by side; or what to compare one with. The older one is the base."""
    asked = [number_of(text) for text in visit.request.query_params.getlist("result")][:2]
    ids = sorted({number for number in asked if number is not None})
    async with visit.services.database.reading() as session:
        rows = [await _find(session, visit.project, number) for number in ids]
        if len(rows) < 2:
            choices = await _choices(session, visit.project, rows)
            return visit.show("compare_with.html", row=next(iter(rows), None), choices=choices, problem="")
        base, current = rows
        choices = await _choices(session, visit.project, [current])
    before, after = await visit.services.database.browse(
        lambda session: (run_facts(session, [base.id]), run_facts(session, [current.id]))
    )
    comparison, problem = await anyio.to_thread.run_sync(_compared, before, after)
    if comparison is None:
        return visit.show("compare_with.html", row=current, choices=choices, problem=problem)
    return visit.show(
        "compare.html",
        page=comparison_page(comparison, _told(base), _told(current)),
        base=base,
        current=current,
        is_open=any(ResultStatus(row.status) not in FINAL_RESULT for row in rows),
    )


def _told(row: ResultRow) -> str:
    return f"{words(row.name or f'Result {row.id}', 100)}, {day_and_time(row.created_at)}"


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


async def _choices(session: AsyncSession, project: int, rows: Sequence[ResultRow]) -> Sequence[ResultRow]:
    """Return the latest results of the same agent, without those that are chosen."""
    found = select(ResultRow).where(ResultRow.project_id == project).order_by(ResultRow.id.desc())
    for row in rows:
        found = found.where(ResultRow.id != row.id, ResultRow.agent_id.is_not_distinct_from(row.agent_id))
    return (await session.scalars(found.limit(CHOICES))).all()
