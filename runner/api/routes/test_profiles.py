"""Test profiles: ``/test_framework/v1/test-profiles``."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from runner.api.auth import AppServices, ProjectId
from runner.api.errors import BadRequest, missing, refusals
from runner.api.paging import Page, PageAsked
from runner.api.resources import Resource, agent_names
from runner.api.routing import CompatRouter
from runner.api.schemas import test_profiles as schemas
from runner.api.schemas.common import of_row
from runner.api.schemas.query import PathId, QueryId, Search
from runner.api.services import Services
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
    listed = _PROFILES.listed(project, search=search, agent_id=agent_id, project_id=project_id)
    return await _PROFILES.page(services, paging, listed)


@router.post("/", status_code=201, responses=refusals())
async def create_test_profile(
    services: AppServices, project: ProjectId, body: schemas.ProfileBody
) -> schemas.TestProfile:
    """Create a test profile."""
    return await _PROFILES.create(services, TestProfile(project_id=project), body)


@router.get("/{id}/", responses=refusals(404))
async def get_test_profile(services: AppServices, project: ProjectId, id: PathId) -> schemas.TestProfile:
    """Show a test profile."""
    return await _PROFILES.get(services, project, id)


@router.patch("/{id}/", responses=refusals(404))
async def update_test_profile(
    services: AppServices, project: ProjectId, id: PathId, body: schemas.ProfilePatch
) -> schemas.TestProfile:
    """Change what is given of a test profile."""
    return await _PROFILES.change(services, project, id, body, whole=False)


@router.put("/{id}/", responses=refusals(404))
async def replace_test_profile(
    services: AppServices, project: ProjectId, id: PathId, body: schemas.ProfileBody
) -> schemas.TestProfile:
    """Replace a test profile."""
    return await _PROFILES.change(services, project, id, body, whole=True)


@router.delete("/{id}/", status_code=204, responses=refusals(404))
async def delete_test_profile(services: AppServices, project: ProjectId, id: PathId) -> None:
    """Delete a test profile."""
    await _PROFILES.delete(services, project, id)


async def _fill(session: AsyncSession, row: TestProfile, body: _Body, services: Services, *, whole: bool) -> None:
    if body.project not in (None, row.project_id):
        raise BadRequest({"project": [missing(body.project)]})
    if whole or body.given("name"):
        row.name = body.name
    if whole or body.given("agent"):
        if body.agent is not None:
            agent = await session.get(Agent, body.agent)
            if agent is None or agent.project_id != row.project_id:
                raise BadRequest({"agent": [missing(body.agent)]})
        row.agent_id = body.agent
    if whole or body.given("information"):
        try:
            row.information = schemas.information_of(body.information).model_dump(mode="json")
        except ValueError as error:
            raise BadRequest({"information": [str(error)]}) from None


async def _show(session: AsyncSession, rows: Sequence[TestProfile]) -> list[schemas.TestProfile]:
    names = await agent_names(session, rows)
    return [
        schemas.TestProfile(
            **of_row(row, "id", "name", "created_at", "updated_at"),
            agent=row.agent_id,
            agent_name=names.get(row.agent_id or 0),
            project=row.project_id,
            information=schemas.information_of(row.information),
        )
        for row in rows
    ]


_PROFILES = Resource(TestProfile, _fill, _show)
