"""Test profiles: ``/test_framework/v1/test-profiles``."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from runner.api.auth import AppServices, ProjectId
from runner.api.errors import refusals
from runner.api.paging import Page, PageAsked
from runner.api.resources import Errors, Resource, agent_names
from runner.api.routing import CompatRouter
from runner.api.schemas import test_profiles as schemas
from runner.api.schemas.common import QueryId, Search, of_kept, of_row
from runner.records.record import Record
from runner.records.tables import TestProfile

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


def _new(project: int) -> TestProfile:
    return TestProfile(project_id=project)


async def _fill(
    session: AsyncSession, row: TestProfile, body: _Body, record: Record, errors: Errors, whole: bool
) -> None:
    if whole or body.given("information"):
        try:
            row.information = schemas.information_of(body.information).model_dump(mode="json")
        except ValueError as error:
            errors["information"] = [str(error)]


async def _show(session: AsyncSession, rows: Sequence[TestProfile]) -> list[schemas.TestProfile]:
    names = await agent_names(session, rows)
    return [
        schemas.TestProfile(
            **of_row(row, "id", "name", "created_at", "updated_at"),
            **of_kept(row, schemas.ProfileFields),
            agent_name=names.get(row.agent_id or 0),
            project=row.project_id,
            information=schemas.information_of(row.information),
        )
        for row in rows
    ]


_PROFILES = Resource(TestProfile, _new, _show, _fill)
_PROFILES.add_routes(router, "a test profile", schemas.TestProfile, schemas.ProfileBody, schemas.ProfilePatch)
