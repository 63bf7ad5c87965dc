"""Schedules: what is due when, what came of it, and running or pausing one by hand."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import RedirectResponse, Response

from runner.api.errors import BadRequest, NotFound
from runner.api.routes.cron_jobs import update_cron_job
from runner.api.schemas.cron_jobs import CronJobPatch
from runner.records.firings import FiringState, Trigger, history, latest_firings, run_now
from runner.records.launches import LaunchRefused
from runner.records.tables import Agent, CronJob, Firing, utc_now
from runner.reports.html.shown import words
from runner.web import lists
from runner.web.answers import HEADERS
from runner.web.visits import Visit

SHOWN = 500
"""So many schedules are listed."""

FIRINGS = 100
"""So many of a schedule's firings are shown."""

_KINDS = {
    FiringState.PASSED: "pass",
    FiringState.FAILED: "fail",
    FiringState.INCONCLUSIVE: "unsure",
}
_TRIGGERS = {
    Trigger.CLOCK: "by the clock",
    Trigger.CATCH_UP: "made up for a time when no server was up",
    Trigger.MANUAL: "by hand",
}


async def list_schedules(visit: Visit, *, problems: Sequence[str] = ()) -> Response:
    """Show the schedules of the project."""
    async with visit.services.database.reading() as session:
        found = _listed(visit.project).limit(SHOWN)
        rows = [(row[0], row[1]) for row in await session.execute(found)]
        latest = await latest_firings(session, [job.id for job, _ in rows])
    schedules = [
        {**_job(job, agent), "latest": _firing(latest[job.id]) if job.id in latest else None} for job, agent in rows
    ]
    return visit.show(
        "schedules.html", 409 if problems else 200, schedules=schedules, problems=problems, now=utc_now()
    )


async def show_schedule(visit: Visit, *, problems: Sequence[str] = ()) -> Response:
    """Show a schedule with its history."""
    async with visit.services.database.reading() as session:
        job, agent = await _find(session, visit)
        firings = (await session.scalars(history(job.id).limit(FIRINGS))).all()
    return visit.show(
        "schedule.html",
        409 if problems else 200,
        job=_job(job, agent),
        firings=[_firing(firing) for firing in firings],
        problems=problems,
    )


async def run_schedule(visit: Visit) -> Response:
    """Launch a schedule by hand."""
    digest = visit.digest(await visit.form(), f"page run_now {visit.number}")
    async with visit.services.database.reading() as session:
        await _find(session, visit)
    try:
        firing = await run_now(visit.services, visit.number, key_id=visit.owner.id, digest=digest)
    except LaunchRefused as error:
        return await show_schedule(visit, problems=lists.problems_of(error.errors))
    if firing is None:
        raise NotFound
    where = f"/schedules/{visit.number}" if firing.result_id is None else f"/results/{firing.result_id}"
    return RedirectResponse(where, 303, headers=HEADERS)


async def switch_schedule(visit: Visit) -> Response:
    """Pause a schedule, or let it fire again."""
    form = await visit.form()
    change = CronJobPatch(is_active=form.get("active") == "yes")
    try:
        await update_cron_job(visit.services, visit.project, visit.number, change)
    except BadRequest as error:
        return await show_schedule(visit, problems=lists.problems_of(error.body))
    return RedirectResponse(f"/schedules/{visit.number}", 303, headers=HEADERS)


def _listed(project: int) -> Select[CronJob, str]:
    return (
        select(CronJob, Agent.name)
        .outerjoin(Agent, Agent.id == CronJob.agent_id)
        .where(CronJob.project_id == project)
        .order_by(CronJob.name, CronJob.id)
    )


async def _find(session: AsyncSession, visit: Visit) -> tuple[CronJob, str | None]:
    found = (await session.execute(_listed(visit.project).where(CronJob.id == visit.number))).first()
    if found is None:
        raise NotFound
    return found[0], found[1]


def _job(job: CronJob, agent: str | None) -> dict[str, Any]:
    return {
        "id": job.id,
        "name": words(job.name or f"Schedule {job.id}", 200),
        "agent": words(agent or "–", 200),
        "when": words(job.crontab_expression, 100),
        "zone": words(job.timezone, 60),
        "is_active": job.is_active,
        "next": job.next_due_at if job.is_active else None,
    }


def _firing(firing: Firing) -> dict[str, Any]:
    state = FiringState(firing.state)
    return {
        "kind": _KINDS.get(state, "none"),
        "state": state.value,
        "trigger": _TRIGGERS[Trigger(firing.trigger)],
        "reason": words(firing.reason, 500),
        "due_at": firing.due_at,
        "result_id": firing.result_id,
        "missed": firing.missed,
    }
