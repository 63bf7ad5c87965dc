"""Results: the list, and one with its matrix of scenarios and runs."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse, Response

from bots.caller.script import AGENT_SPEAKS
from runner.api.errors import BadRequest, NotFound
from runner.api.paging import absolute_url
from runner.api.routes.launch import launched
from runner.records.filters import chunks
from runner.records.launch_request import LaunchRefused
from runner.records.launches import again
from runner.records.results import find_result, run_ids_of, runs_to_repeat, share
from runner.records.runs import request_cancel
from runner.records.statuses import FINAL_RESULT, FINAL_RUN, ResultStatus, RunStatus
from runner.records.tables import ResultRow, RunRow
from runner.reports.html.run_page import Link, Surroundings
from runner.reports.html.shown import words
from runner.reports.html.suite_page import About, RunFacts, ScenarioRuns, suite_page
from runner.text import count
from runner.web import lists
from runner.web.answers import HEADERS
from runner.web.visits import Visit
from runner.web.words import day_and_time

MAX_SHOWN = 10_000
"""So many runs of a result are shown."""

_RUNS = (
    select(
        RunRow.id,
        RunRow.scenario_id,
        RunRow.scenario_name,
        RunRow.status,
        RunRow.success,
        RunRow.cause,
        RunRow.error_message,
        RunRow.ended_reason,
        RunRow.outcome["detail"].as_string().label("detail"),
        RunRow.outcome["failure"].label("failure"),
        RunRow.outcome["turns"].label("turns"),
    )
    .order_by(RunRow.id)
    .limit(MAX_SHOWN)
)


async def list_results(visit: Visit) -> Response:
    """Show the results of the project, the latest first."""
    return await lists.show(visit, "results.html", lists.results)


async def show_result(visit: Visit, *, link: str = "", problems: Sequence[str] = ()) -> Response:
    """Show a result: what did not pass, by reason, and every run of every scenario."""
    reading, number = visit.reading, visit.number
    if not reading.sees(number):
        raise NotFound
    row, scenarios, under_way = await visit.services.database.browse(
        partial(_read, project=reading.project_id, result_id=number)
    )
    status = ResultStatus(row.status)
    runs = [run for scenario in scenarios for run in scenario.runs]
    ended = [run for run in runs if not run.state]
    has_failed = any(run.success is False for run in ended)
    is_unsure = any(run.success is None for run in ended)
    about = About(
        name=row.name or f"Result {row.id}",
        success=False if has_failed else (None if is_unsure or not scenarios else True),
        started=day_and_time(row.created_at),
        around=Surroundings(crumbs=(Link("Results", "/"), Link(row.name or f"Result {row.id}"))),
    )
    page = suite_page(about, scenarios)
    if status not in FINAL_RESULT:
        title = f"Under way: {len(ended)} of {count(len(runs), 'run')} ended."
        page = replace(page, icon="fail" if has_failed else "none", title=title)
    return visit.show(
        "result.html",
        409 if problems else 200,
        page=page,
        result=row,
        agent=words(row.agent_name, 200),
        is_open=status not in FINAL_RESULT,
        under_way=under_way,
        link=link,
        problems=problems,
    )


async def share_result(visit: Visit) -> Response:
    """Make a link that lets whoever has it read a result."""
    await visit.form()
    async with visit.services.database.session() as session:
        await _find(session, visit)
        token = await share(session, visit.number, None)
    link = f"{absolute_url(visit.request, f'/test_framework/v1/results/{visit.number}/')}#{token}"
    return await show_result(visit, link=link)


async def end_calls(visit: Visit) -> Response:
    """End the calls of a result."""
    await visit.form()
    async with visit.services.database.session() as session:
        await _find(session, visit)
        await session.run_sync(request_cancel, await run_ids_of(session, visit.number))
    return RedirectResponse(f"/results/{visit.number}", 303, headers=HEADERS)


async def run_again(visit: Visit) -> Response:
    """Launch a result anew, with its scenarios as they are now."""
    digest = visit.digest(await visit.form(), f"page rerun {visit.number}")
    services = visit.services
    async with services.database.reading() as session:
        result = await _find(session, visit)
        runs = await runs_to_repeat(session, await run_ids_of(session, visit.number))
    try:
        launch = again(services, result, runs, key_id=visit.owner.id, name=result.name, digest=digest, anew={})
        made = await launched(services, launch)
    except LaunchRefused as error:
        return await show_result(visit, problems=lists.problems_of(error.errors))
    except BadRequest as error:
        return await show_result(visit, problems=lists.problems_of(error.body))
    return RedirectResponse(f"/results/{made.id}", 303, headers=HEADERS)


async def _find(session: Any, visit: Visit) -> ResultRow:
    row = await find_result(session, visit.project, visit.number)
    if row is None:
        raise NotFound
    return row


def _read(session: Session, *, project: int, result_id: int) -> tuple[ResultRow, list[ScenarioRuns], list[Link]]:
    """Return a result, its runs by scenario, and those that are under way."""
    row = session.scalar(select(ResultRow).where(ResultRow.id == result_id, ResultRow.project_id == project))
    if row is None:
        raise NotFound
    grouped: dict[tuple[int | None, str], list[RunFacts]] = {}
    first: dict[tuple[int | None, str], int] = {}
    under_way: list[Link] = []
    for run in session.execute(_RUNS.where(RunRow.result_id == result_id)):
        key = (run.scenario_id, run.scenario_name)
        first.setdefault(key, run.id)
        facts = grouped.setdefault(key, [])
        facts.append(_facts(run, len(facts) + 1))
        if run.status in (RunStatus.RUNNING.value, RunStatus.EVALUATING.value):
            under_way.append(Link(f"{words(run.scenario_name, 100)}, run {len(facts)}", f"/runs/{run.id}"))
    limits = _limits_ms(session, list(first.values()))
    scenarios = [ScenarioRuns(key[1], tuple(runs), limit_ms=limits.get(first[key])) for key, runs in grouped.items()]
    return row, scenarios, under_way[:20]


def _facts(run: Any, number: int) -> RunFacts:
    href = f"/runs/{run.id}"
    status = RunStatus(run.status)
    if status not in FINAL_RUN:
        return RunFacts(number, state="not made" if status is RunStatus.PENDING else "under way", href=href)
    reason, group = "", ""
    if not run.success:
        reason = lists.why(run.failure, run.detail, run.error_message, run.ended_reason)
        failure = run.failure
        group = f"{failure.get('kind')} {failure.get('turn')}" if failure else f"{run.ended_reason} {reason}"
    times = [turn.get("response_latency_ms") for turn in run.turns or ()]
    return RunFacts(
        number, run.success, reason, group, href, latencies_ms=tuple(ms for ms in times if ms is not None)
    )


def _limits_ms(session: Session, run_ids: Sequence[int]) -> dict[int, float]:
    """Return within how long the agent is to answer, by run, of scripts that say so for every turn alike."""
    limits: dict[int, float] = {}
    for some in chunks(run_ids):
        scripts = select(RunRow.id, RunRow.snapshot["script"]).where(RunRow.id.in_(some))
        for run_id, script in session.execute(scripts):
            turns = (script or {}).get("turns") or []
            found = {
                expected.get("budget_ms")
                for turn in turns
                for expected in turn.get("expect") or ()
                if expected.get("event") == AGENT_SPEAKS
            } - {None}
            if len(found) == 1:
                limits[run_id] = float(found.pop())
    return limits
