"""Schedules: ``/schedules/v1/cron-jobs``."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Header
from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from runner.api.auth import AppServices, ProjectId
from runner.api.errors import BadRequest, missing, refusals
from runner.api.resources import Resource
from runner.api.routing import CompatRouter
from runner.api.schemas import cron_jobs as schemas
from runner.api.schemas.common import of_row
from runner.api.schemas.query import PathId, QueryId
from runner.api.services import Services
from runner.records.tables import Agent, CronJob, Personality, ScenarioRow, TestProfile

router = CompatRouter("/schedules/v1/cron-jobs", "/schedules/v1/cron-jobs-external", tags=["cron-jobs"])

NOTHING_FIRES = (
    "Nothing fires schedules here yet: save it with is_active false, and let a scheduler of your own (cron, CI) post "
    "to run_scenarios_pipecat_v2."
)

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
    listed = _CRON_JOBS.listed(project, agent_id=agent_id, project_id=project_id)
    async with services.database.reading() as session:
        return await _show(session, (await session.scalars(listed)).all())


@router.post("/", status_code=201, responses=refusals())
async def create_cron_job(
    services: AppServices, project: ProjectId, body: schemas.CronJobBody, source: ClientSource = None
) -> schemas.CronJob:
    """Create a schedule."""
    via = source if source in _CREATED_VIA else "api"
    row = CronJob(project_id=project, scenario_ids=[], data={"created_via": via})
    return await _CRON_JOBS.create(services, row, body)


@router.get("/{id}/", responses=refusals(404))
async def get_cron_job(services: AppServices, project: ProjectId, id: PathId) -> schemas.CronJob:
    """Show a schedule."""
    return await _CRON_JOBS.get(services, project, id)


@router.patch("/{id}/", responses=refusals(404))
async def update_cron_job(
    services: AppServices, project: ProjectId, id: PathId, body: schemas.CronJobPatch
) -> schemas.CronJob:
    """Change what is given of a schedule."""
    return await _CRON_JOBS.change(services, project, id, body, whole=False)


@router.put("/{id}/", responses=refusals(404))
async def replace_cron_job(
    services: AppServices, project: ProjectId, id: PathId, body: schemas.CronJobBody
) -> schemas.CronJob:
    """Replace a schedule."""
    return await _CRON_JOBS.change(services, project, id, body, whole=True)


@router.delete("/{id}/", status_code=204, responses=refusals(404))
async def delete_cron_job(services: AppServices, project: ProjectId, id: PathId) -> None:
    """Delete a schedule. The results it made stay."""
    await _CRON_JOBS.delete(services, project, id)


async def _fill(session: AsyncSession, row: CronJob, body: _Body, services: Services, *, whole: bool) -> None:
    errors = await _missing(session, body, row.project_id)
    if (whole or body.given("is_active")) and body.is_active:
        errors["is_active"] = [NOTHING_FIRES]
    if whole or body.given("name"):
        row.name = body.name or ""
    for name in ("crontab_expression", "timezone", "is_active"):
        if whole or body.given(name):
            setattr(row, name, getattr(body, name))
    if whole or body.given("scenarios"):
        row.scenario_ids = list(dict.fromkeys(body.scenarios or ()))
    if whole or body.given("agent"):
        row.agent_id = body.agent
    given = {name for name in schemas.IN_DATA if whole or body.given(name)}
    row.data = {**row.data, **body.model_dump(mode="json", include=given)}
    if not errors and not row.scenario_ids and not row.data.get("tags"):
        errors["scenarios"] = ["Give scenarios, or tags of an agent's scenarios."]
    if errors:
        raise BadRequest(errors)
    if row.agent_id is None and row.scenario_ids:
        first = await session.get(ScenarioRow, row.scenario_ids[0])
        row.agent_id = None if first is None else first.agent_id
    if row.agent_id is None and not row.scenario_ids:
        raise BadRequest({"agent": ["Tags need the agent whose scenarios they are of."]})


async def _missing(session: AsyncSession, body: _Body, project: int) -> dict[str, list[str]]:
    """Return what is wrong with the ids a body names: those of which there is nothing in the project."""
    errors: dict[str, list[str]] = {}
    named = {
        "agent": ([body.agent] if body.agent is not None else [], Agent.id, Agent.project_id == project),
        "scenarios": (body.scenarios or [], ScenarioRow.id, ScenarioRow.project_id == project),
        "test_profiles": (body.test_profiles or [], TestProfile.id, TestProfile.project_id == project),
        "personality": (
            [body.personality] if body.personality is not None else [],
            Personality.id,
            or_(Personality.project_id.is_(None), Personality.project_id == project),
        ),
        "personalities": (
            body.personalities or [],
            Personality.id,
            or_(Personality.project_id.is_(None), Personality.project_id == project),
        ),
    }
    for name, (ids, column, condition) in named.items():
        if not ids:
            continue
        found = set((await session.scalars(select(column).where(column.in_(ids), condition))).all())
        if unknown := [missing(number) for number in dict.fromkeys(ids) if number not in found]:
            errors[name] = unknown[:100]
    return errors


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
    return [_shown(row, scenarios) for row in rows]


def _shown(row: CronJob, scenarios: dict[int, schemas.ScenarioData]) -> schemas.CronJob:
    data = row.data
    return schemas.CronJob(
        **of_row(
            row,
            "id",
            "name",
            "crontab_expression",
            "timezone",
            "scenario_ids",
            "is_active",
            "created_at",
            "updated_at",
        ),
        agent=row.agent_id,
        scenarios_data=[scenarios[number] for number in row.scenario_ids if number in scenarios],
        personality=data.get("personality"),
        personalities=data.get("personalities") or [],
        test_profiles=data.get("test_profiles") or [],
        tags=data.get("tags") or [],
        frequency=data.get("frequency", 1),
        run_as_text=data.get("run_as_text", False),
        execution_mode=data.get("execution_mode", "pipecat_v2"),
        notify_on=data.get("notify_on", "never"),
        created_by=None,
        created_via=data.get("created_via", "api"),
    )


_CRON_JOBS = Resource(CronJob, _fill, _show, newest_first=False)
