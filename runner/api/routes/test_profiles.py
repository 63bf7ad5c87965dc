"""Test profiles: ``/test_framework/v1/test-profiles``."""

from collections.abc import Sequence

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from runner.api.auth import AppServices, ProjectId
from runner.api.errors import BadRequest, NotFound, missing, refusals
from runner.api.paging import Page, PageAsked
from runner.api.routing import CompatRouter
from runner.api.schemas import test_profiles as schemas
from runner.api.schemas.common import of_row
from runner.api.schemas.query import PathId, QueryId, Search
from runner.records.tables import Agent, TestProfile

router = CompatRouter(
    "/test_framework/v1/test-profiles", "/test_framework/v1/test-profiles-external", tags=["test-profiles"]
)

_Body = schemas.ProfileBody | schemas.ProfilePatch


@router.get("/", responses=refusals(404))
async def list_test_profiles(
    services: AppServices,
    project: ProjectId,
    paging: PageAsked,
    agent_id: QueryId = None,
    project_id: QueryId = None,
    search: Search = None,
) -> Page[schemas.TestProfile]:
    """List the test profiles of the key's project."""
    statement = _mine(project).order_by(TestProfile.id.desc())
    if agent_id is not None:
        statement = statement.where(TestProfile.agent_id == agent_id)
    if project_id is not None:
        statement = statement.where(TestProfile.project_id == project_id)
    if search:
        statement = statement.where(TestProfile.name.icontains(search, autoescape=True))
    async with services.database.reading() as session:
        rows, count = await paging.rows(session, statement)
        names = await _agent_names(session, rows)
    return paging.page_of([_shown(row, names) for row in rows], count)


@router.post("/", status_code=201, responses=refusals())
async def create_test_profile(
    services: AppServices, project: ProjectId, body: schemas.ProfileBody
) -> schemas.TestProfile:
    """Create a test profile."""
    row = TestProfile(project_id=project)
    async with services.database.session() as session:
        await _fill(session, row, body, project, whole=True)
        session.add(row)
        await session.flush()
        names = await _agent_names(session, [row])
    return _shown(row, names)


@router.get("/{id}/", responses=refusals(404))
async def get_test_profile(services: AppServices, project: ProjectId, id: PathId) -> schemas.TestProfile:
    """Show a test profile."""
    async with services.database.reading() as session:
        row = await _find(session, project, id)
        return _shown(row, await _agent_names(session, [row]))


@router.patch("/{id}/", responses=refusals(404))
async def update_test_profile(
    services: AppServices, project: ProjectId, id: PathId, body: schemas.ProfilePatch
) -> schemas.TestProfile:
    """Change what is given of a test profile."""
    return await _change(services, project, id, body, whole=False)


@router.put("/{id}/", responses=refusals(404))
async def replace_test_profile(
    services: AppServices, project: ProjectId, id: PathId, body: schemas.ProfileBody
) -> schemas.TestProfile:
    """Replace a test profile."""
    return await _change(services, project, id, body, whole=True)


@router.delete("/{id}/", status_code=204, responses=refusals(404))
async def delete_test_profile(services: AppServices, project: ProjectId, id: PathId) -> None:
    """Delete a test profile."""
    async with services.database.session() as session:
        await session.delete(await _find(session, project, id))


def _mine(project: int) -> Select[TestProfile]:
    return select(TestProfile).where(TestProfile.project_id == project)


async def _find(session: AsyncSession, project: int, profile_id: int) -> TestProfile:
    row = await session.scalar(_mine(project).where(TestProfile.id == profile_id))
    if row is None:
        raise NotFound
    return row


async def _change(
    services: AppServices, project: int, profile_id: int, body: _Body, *, whole: bool
) -> schemas.TestProfile:
    async with services.database.session() as session:
        row = await _find(session, project, profile_id)
        await _fill(session, row, body, project, whole=whole)
        await session.flush()
        await session.refresh(row)
        names = await _agent_names(session, [row])
    return _shown(row, names)


async def _fill(session: AsyncSession, row: TestProfile, body: _Body, project: int, *, whole: bool) -> None:
    if body.project is not None and body.project != project:
        raise BadRequest({"project": [missing(body.project)]})
    if whole or body.given("name"):
        row.name = body.name
    if whole or body.given("agent"):
        if body.agent is not None:
            agent = await session.get(Agent, body.agent)
            if agent is None or agent.project_id != project:
                raise BadRequest({"agent": [missing(body.agent)]})
        row.agent_id = body.agent
    if whole or body.given("information"):
        try:
            row.information = schemas.information_of(body.information).model_dump(mode="json")
        except ValueError as error:
            raise BadRequest({"information": [str(error)]}) from None


async def _agent_names(session: AsyncSession, rows: Sequence[TestProfile]) -> dict[int, str]:
    ids = {row.agent_id for row in rows if row.agent_id is not None}
    if not ids:
        return {}
    found = await session.execute(select(Agent.id, Agent.name).where(Agent.id.in_(ids)))
    return {agent_id: name for agent_id, name in found}


def _shown(row: TestProfile, agent_names: dict[int, str]) -> schemas.TestProfile:
    return schemas.TestProfile(
        **of_row(row, "id", "name", "created_at", "updated_at"),
        agent=row.agent_id,
        agent_name=None if row.agent_id is None else agent_names.get(row.agent_id),
        project=row.project_id,
        information=schemas.information_of(row.information),
    )
