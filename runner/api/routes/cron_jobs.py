"""Schedules: ``/schedules/v1/cron-jobs``."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Header, Request
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from runner.api.auth import AppServices, ProjectId, UserKey
from runner.api.errors import BadRequest, NotFound, missing, refusals
from runner.api.paging import Page, PageAsked
from runner.api.resources import Resource, unknown_ids
from runner.api.routes.launch import body_digest
from runner.api.routing import CompatRouter
from runner.api.schemas import cron_jobs as schemas
from runner.api.schemas.common import PathId, QueryId, of_kept, of_row
from runner.api.services import Services
from runner.records.crontab import next_due
from runner.records.fields import RoomEntry
from runner.records.firings import Trigger, history, latest_firings, refusal, run_now
from runner.records.launch_request import Errors, LaunchRefused
from runner.records.launches import mistakes
from runner.records.record import Record
from runner.records.schedules import FixedRoom, launch_of, seal_rooms
from runner.records.statuses import FiringState
from runner.records.tables import CronJob, Firing, Personality, ScenarioRow, utc_now
from runner.records.webhooks import tells_anybody
from runner.text import public_url

router = CompatRouter("/schedules/v1/cron-jobs", "/schedules/v1/cron-jobs-external", tags=["cron-jobs"])

NOBODY_TOLD = "Nobody would be told: give the agent or the project a webhook_url first, or send never."
CONFIGURED = "This schedule comes from the server's file of schedules; change it there."

_Body = schemas.CronJobBody | schemas.CronJobPatch
_CREATED_VIA = frozenset({"user", "api", "mcp", "cli", "sdk"})

ClientSource = Annotated[str | None, Header(alias="X-Client-Source", description="``sdk`` or ``cli``.")]


@router.get("/", responses=refusals())
async def list_cron_jobs(
    services: AppServices,
    project: ProjectId,
    agent_id: QueryId = None,
    project_id: QueryId = None,
    organization_id: QueryId = None,
) -> list[schemas.CronJob]:
    """List the schedules of the key's project: all of them, in a plain list."""
    listed = CRON_JOBS.listed(project, agent_id=agent_id, project_id=project_id)
    async with services.database.reading() as session:
        return await _show(session, (await session.scalars(listed)).all())


@router.post("/", status_code=201, responses=refusals())
async def create_cron_job(
    services: AppServices, project: ProjectId, body: schemas.CronJobBody, source: ClientSource = None
) -> schemas.CronJob:
    """Create a schedule. It fires from then on, unless it is paused."""
    row = _new(project)
    row.data = {"created_via": source if source in _CREATED_VIA else "api"}
    return await CRON_JOBS.create(services, project, body, row)


@router.post("/{id}/run_now/", responses=refusals(404))
async def run_now_cron_job(
    request: Request, services: AppServices, project: ProjectId, key: UserKey, id: PathId
) -> schemas.Firing:
    """Ours: launch a schedule by hand: also one that is paused, and beside whatever else of it is on.

    The same request from the same key within a short while is the same firing.
    """
    async with services.database.reading() as session:
        row = await CRON_JOBS.find(session, project, id)
    digest = await body_digest(request, key, f"run_now {id}")
    try:
        firing = await run_now(services, id, key_id=key.id, digest=digest)
    except LaunchRefused as error:
        raise BadRequest(_as_fields(row, error.errors)) from None
    if firing is None:
        raise NotFound
    return _firing(firing)


@router.get("/{id}/history/", responses=refusals(404))
async def list_cron_job_history(
    services: AppServices, project: ProjectId, paging: PageAsked, id: PathId
) -> Page[schemas.Firing]:
    """Ours: list what a schedule's firings came to, the latest first. The last thousand are remembered."""
    async with services.database.reading() as session:
        await CRON_JOBS.find(session, project, id)
        rows, count = await paging.rows(session, history(id))
        return paging.page_of([_firing(row) for row in rows], count)


def _new(project: int) -> CronJob:
    return CronJob(project_id=project, scenario_ids=[], data={})


async def _fill(
    session: AsyncSession, row: CronJob, body: _Body, record: Record, errors: Errors, whole: bool
) -> None:
    if unknown := await unknown_ids(session, ScenarioRow, row.project_id, [one.scenario for one in body.rooms or ()]):
        errors["rooms"] = [missing(number) for number in unknown[:100]]
    if whole or body.given("execution_mode"):
        # What an older version kept of it.
        row.data = {name: value for name, value in row.data.items() if name != "execution_mode"}
    if whole or body.given("rooms"):
        _set_rooms(row, body.rooms or (), body.scenarios or [], record)
    if not errors:
        errors |= _contradictions(row, body)
    if errors:
        return
    if row.agent_id is None and row.scenario_ids:
        first = await session.get(ScenarioRow, row.scenario_ids[0])
        row.agent_id = None if first is None else first.agent_id
    if row.agent_id is None and not row.scenario_ids:
        errors["agent"] = ["Tags need the agent whose scenarios they are of."]
        return
    wants_to_tell = row.data.get("notify_on", "never") != "never" and (body.given("notify_on") or row.is_active)
    if wants_to_tell and not await session.run_sync(tells_anybody, row.project_id, row.agent_id):
        errors["notify_on"] = [NOBODY_TOLD]
        return
    if not row.is_active:
        row.next_due_at = None
    elif row.next_due_at is None or any(whole or body.given(name) for name in ("crontab_expression", "timezone")):
        row.next_due_at = next_due(row.crontab_expression, row.timezone, utc_now())


def _set_rooms(row: CronJob, rooms: Sequence[RoomEntry], scenarios: list[int], services: Record) -> None:
    """Put rooms into a row, and their scenarios; ``scenarios`` are given beside them."""
    row.rooms = seal_rooms(
        services.vault,
        [
            FixedRoom(
                scenario=room.scenario,
                url=SecretStr(room.pipecat_room_url),
                token=room.token,
                data_message=room.publish_data_message,
                participant_name=room.participant_name,
            )
            for room in rooms
        ],
    )
    if rooms or row.data.get("rooms"):
        row.scenario_ids = list(dict.fromkeys(room.scenario for room in rooms)) or scenarios
    shown = [
        schemas.RoomData(
            scenario=room.scenario,
            pipecat_room_url=public_url(room.pipecat_room_url),
            has_token=room.token is not None,
            has_data_message=room.publish_data_message is not None,
            participant_name=room.participant_name,
        ).model_dump()
        for room in rooms
    ]
    row.data = {**row.data, "rooms": shown}


def _contradictions(row: CronJob, body: _Body) -> dict[str, list[str]]:
    """Return what of a row, as a body leaves it, does not go together, or has no effect here."""
    rooms, tags = row.data.get("rooms") or [], row.data.get("tags") or []
    mode = body.execution_mode
    if rooms and (tags or body.scenarios):
        return {"rooms": ["Give scenarios, tags or rooms, not two of them: each room names its scenario."]}
    if row.scenario_ids and tags:
        return {"tags": ["Give scenarios or tags, not both."]}
    if not row.scenario_ids and not tags:
        return {"scenarios": ["Give scenarios, or tags of an agent's scenarios."]}
    if mode == "pipecat" and not rooms:
        return {"execution_mode": ["Give rooms, or send pipecat_v2: then a session is started for each run."]}
    if mode == "pipecat_v2" and rooms:
        return {"execution_mode": ["Runs take place in the rooms that are given; send pipecat, or give no rooms."]}
    was_kept = row.data.get("run_as_text") or row.data.get("execution_mode", "pipecat_v2") != "pipecat_v2"
    if row.is_active and was_kept:
        return {"execution_mode": ["An older version kept it for other runs than Pipecat calls; replace it (PUT)."]}
    return {}


async def _check(services: Services, project: int, body: _Body, number: int | None, whole: bool) -> None:
    """See that a schedule could be launched as a body leaves it, unless it is paused.

    Not within the transaction that writes it: names of hosts are looked up.
    """
    async with services.database.reading() as session:
        row = _new(project)
        if number is not None:
            row = await CRON_JOBS.find_own(session, project, number)
            session.expunge(row)
        await CRON_JOBS.write(session, row, body, services, whole=whole)
        if row.is_active:
            await see_that_it_can_fire(services, session, row)


async def see_that_it_can_fire(services: Record, session: AsyncSession, row: CronJob) -> None:
    """See that a schedule could be launched now. That no scenario has its tags yet is no mistake.

    Raises:
        BadRequest: It could not.
    """
    try:
        asked = await launch_of(session, services.vault, row)
    except LaunchRefused:
        asked = None
    if asked is not None and (errors := await mistakes(services, asked)):
        raise BadRequest(_as_fields(row, errors))


def _as_fields(row: CronJob, errors: Errors) -> Errors:
    """Return what is wrong with the launch of a schedule, by the schedule's fields that it comes from."""
    entries = "rooms" if row.rooms is not None else "tags" if row.data.get("tags") else "scenarios"
    names = {"personality_ids": "personalities", "test_profile_ids": "test_profiles", "scenarios": entries}
    named: Errors = {}
    for launched, said in errors.items():
        name = names.get(launched, launched)
        named[name] = said if all(isinstance(one, str) for one in said) else [refusal({name: said})]
    return named


def _refusal(row: CronJob) -> str | None:
    return CONFIGURED if row.configured_as is not None and not row.data.get("is_gone_from_file") else None


async def _scenarios(session: AsyncSession, rows: Sequence[CronJob]) -> dict[int, schemas.ScenarioData]:
    ids = {scenario_id for row in rows for scenario_id in row.scenario_ids}
    statement = (
        select(ScenarioRow, Personality.name)
        .outerjoin(Personality, Personality.id == ScenarioRow.personality_id)
        .where(ScenarioRow.id.in_(ids))
    )
    return {
        scenario.id: schemas.ScenarioData(
            id=scenario.id,
            agent=scenario.agent_id,
            name=scenario.name,
            personality=scenario.personality_id,
            personality_name=personality_name,
        )
        for scenario, personality_name in await session.execute(statement)
    }


async def _show(session: AsyncSession, rows: Sequence[CronJob]) -> list[schemas.CronJob]:
    scenarios = await _scenarios(session, rows)
    last = await latest_firings(session, [row.id for row in rows])
    return [_shown(row, scenarios, last.get(row.id)) for row in rows]


def _shown(row: CronJob, scenarios: dict[int, schemas.ScenarioData], last: Firing | None) -> schemas.CronJob:
    data = row.data
    return schemas.CronJob(
        **of_row(row, "id", "crontab_expression", "scenario_ids", "next_due_at", "created_at", "updated_at"),
        **of_kept(row, schemas.CronJobFields),
        scenarios_data=[scenarios[number] for number in row.scenario_ids if number in scenarios],
        execution_mode="pipecat" if row.rooms is not None else data.get("execution_mode", "pipecat_v2"),
        rooms_data=[schemas.RoomData(**room) for room in data.get("rooms") or ()],
        configured=row.configured_as is not None,
        last_firing=None if last is None else _firing(last),
        created_by=None,
        created_via=data.get("created_via", "api"),
    )


def _firing(row: Firing) -> schemas.Firing:
    shared: dict[str, Any] = of_row(row, "id", "due_at", "fired_at", "missed", "reason", "comparison", "ended_at")
    return schemas.Firing(
        **shared,
        cron_job=row.job_id,
        trigger=Trigger(row.trigger),
        state=FiringState(row.state),
        result=row.result_id,
    )


CRON_JOBS = Resource(CronJob, _new, _show, _fill, _check, newest_first=False, refusal=_refusal)
CRON_JOBS.add_routes(
    router,
    "a schedule",
    schemas.CronJob,
    schemas.CronJobBody,
    schemas.CronJobPatch,
    {"delete": "Its history goes with it; the results it made stay."},
    noun="cron_job",
    creates=False,
)
