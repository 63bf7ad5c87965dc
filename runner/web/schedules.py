"""Schedules: what is due when and what came of it; making, changing, pausing, running and deleting one."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import RedirectResponse, Response

from runner.api.errors import BadRequest, NotFound
from runner.api.routes.cron_jobs import CONFIGURED, CRON_JOBS, create_cron_job
from runner.api.schemas.cron_jobs import CronJobPatch
from runner.records.crontab import zones
from runner.records.firings import Trigger, history, latest_firings, run_now
from runner.records.launch_request import LaunchRefused
from runner.records.schedules import baseline_results
from runner.records.statuses import FiringState
from runner.records.tables import Agent, CronJob, Firing, utc_now
from runner.reports.html.shown import words
from runner.text import count
from runner.web import lists, schedule_forms
from runner.web.answers import HEADERS
from runner.web.visits import Visit

SHOWN = 500
"""So many schedules are listed."""

MADE_BY = "user"
"""What ``created_via`` is of schedules that are made here."""

FIRINGS = 100
"""So many of a schedule's firings are shown."""

_KINDS = {
    FiringState.PASSED: "pass",
    FiringState.FAILED: "fail",
    FiringState.INCONCLUSIVE: "unsure",
}
_TRIGGERS = {
    Trigger.CLOCK: "by the clock",
    Trigger.CATCH_UP: "late",
    Trigger.MANUAL: "by hand",
}


async def list_schedules(visit: Visit) -> Response:
    """Show the schedules of the project."""
    async with visit.services.database.reading() as session:
        found = _listed(visit.project).limit(SHOWN)
        rows = [(row[0], row[1]) for row in await session.execute(found)]
        latest = await latest_firings(session, [job.id for job, _ in rows])
    schedules = [
        {**_job(job, agent), "latest": _firing(latest[job.id]) if job.id in latest else None} for job, agent in rows
    ]
    return visit.show("schedules.html", schedules=schedules, now=utc_now())


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


async def new_schedule(visit: Visit) -> Response:
    """Show the form of a new schedule."""
    return await _form(visit, None, schedule_forms.NEW)


async def make_schedule(visit: Visit) -> Response:
    """Make a schedule of a form."""
    form = await visit.form()
    try:
        made = await create_cron_job(visit.services, visit.project, schedule_forms.new_schedule(form), MADE_BY)
    except BadRequest as error:
        return await _form(visit, None, schedule_forms.given(form), wrong=error.body)
    return RedirectResponse(f"/schedules/{made.id}", 303, headers=HEADERS)


async def edit_schedule(visit: Visit) -> Response:
    """Show the form of a schedule."""
    job = await _found(visit)
    return await _form(visit, job, schedule_forms.shown(job))


async def save_schedule(visit: Visit) -> Response:
    """Save what a form changes of a schedule."""
    form = await visit.form()
    job = await _found(visit)
    try:
        change = schedule_forms.changed_schedule(form, job)
        await CRON_JOBS.change(visit.services, visit.project, visit.number, change, whole=False)
    except BadRequest as error:
        return await _form(visit, job, schedule_forms.given(form), wrong=error.body)
    return RedirectResponse(f"/schedules/{visit.number}", 303, headers=HEADERS)


async def delete_schedule(visit: Visit) -> Response:
    """Delete a schedule with its history."""
    await visit.form()
    await CRON_JOBS.delete(visit.services, visit.project, visit.number)
    return RedirectResponse("/schedules", 303, headers=HEADERS)


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
        await CRON_JOBS.change(visit.services, visit.project, visit.number, change, whole=False)
    except BadRequest as error:
        return await show_schedule(visit, problems=lists.problems_of(error.body))
    return RedirectResponse(f"/schedules/{visit.number}", 303, headers=HEADERS)


async def _form(
    visit: Visit, job: CronJob | None, values: Mapping[str, Any], *, wrong: Mapping[str, object] | None = None
) -> Response:
    """Show the form of a schedule, with what is wrong beside the fields."""
    async with visit.services.database.reading() as session:
        agents = await session.run_sync(lists.agents, visit.project)
        ticked = values.get("scenarios", ())
        choices = await session.run_sync(lists.scenarios, visit.project, ticked)
    # Each once: a room that is wrong is so for every scenario that is played in it.
    problems = {name: list(dict.fromkeys(lists.problems_of(said))) for name, said in (wrong or {}).items()}
    return visit.show(
        "schedule_form.html",
        400 if problems else 200,
        job=None if job is None else _job(job, None),
        values=values,
        problems={name: said for name, said in problems.items() if name in schedule_forms.FIELDS},
        others=[problem for name, said in problems.items() if name not in schedule_forms.FIELDS for problem in said],
        agents=agents,
        names=dict(agents),
        scenarios=choices,
        zones=sorted(zones()),
        choices=schedule_forms,
    )


async def _found(visit: Visit) -> CronJob:
    async with visit.services.database.reading() as session:
        job, _ = await _find(session, visit)
    return job


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
    data = job.data
    tags, rooms = data.get("tags") or [], data.get("rooms") or []
    results = baseline_results(data.get("baseline"))
    is_gone = bool(data.get("is_gone_from_file"))
    return {
        "id": job.id,
        "name": words(job.name or f"Schedule {job.id}", 200),
        "agent": words(agent or "–", 200),
        "when": words(job.crontab_expression, 100),
        "zone": words(job.timezone, 60),
        "is_active": job.is_active,
        "next": job.next_due_at if job.is_active else None,
        "plays": words(f"tagged {', '.join(tags)}", 300) if tags else count(len(job.scenario_ids), "scenario"),
        "rooms": [words(str(room["pipecat_room_url"]), 200) for room in rooms],
        "frequency": data.get("frequency", 1),
        "baseline": ", ".join(f"result {number}" for number in results) or data.get("baseline") or "",
        "note": CONFIGURED if job.configured_as is not None and not is_gone else "",
        "may_be_changed": job.configured_as is None or is_gone,
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
