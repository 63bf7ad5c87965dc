"""Projects: ``/user/v1/projects``. A key sees the one it is of; one of the first project makes others."""

from typing import Any

from sqlalchemy import select

from runner.api.auth import AppServices, ProjectId
from runner.api.errors import BadRequest, Forbidden, NotFound, refusals
from runner.api.paging import Page, PageAsked
from runner.api.routes.webhooks import check_addresses, fill_webhooks
from runner.api.routing import CompatRouter
from runner.api.schemas import projects as schemas
from runner.api.schemas.common import PathId, of_row
from runner.api.schemas.webhooks import configuration_of
from runner.errors import UsageError
from runner.records import projects
from runner.records.fields import TOGGLES
from runner.records.seed import DEFAULT_PROJECT
from runner.records.tables import Project
from runner.records.webhooks import toggles_of

router = CompatRouter("/user/v1/projects", "/user/v1/projects-external", tags=["projects"])


@router.get("/", responses=refusals(404))
async def list_projects(services: AppServices, project: ProjectId, paging: PageAsked) -> Page[schemas.Project]:
    """List the projects the key is of: one."""
    async with services.database.reading() as session:
        rows, count = await paging.rows(session, select(Project).where(Project.id == project).order_by(Project.id))
    return paging.page_of([_shown(row) for row in rows], count)


@router.post("/", status_code=201, responses=refusals())
async def create_project(services: AppServices, project: ProjectId, body: schemas.ProjectBody) -> schemas.Project:
    """Make a project, with a key of project 1: no other key reaches beyond its own.

    Nobody sees it without a key of its own, which `scenario-runner keys create --project ID` makes.
    """
    if project != DEFAULT_PROJECT:
        raise Forbidden(f"Only a key of project {DEFAULT_PROJECT} makes projects.")
    try:
        async with services.database.session() as session:
            return _shown(await projects.create_project(session, body.name))
    except UsageError as error:
        raise BadRequest({"name": [str(error)]}) from None


@router.patch("/{id}/", responses=refusals(404))
async def update_project(
    services: AppServices, project: ProjectId, id: PathId, body: schemas.ProjectPatch
) -> schemas.Project:
    """Change what is given of a project: its name, where its webhooks go, and which events are told."""
    await check_addresses(services, body)
    async with services.database.session() as session:
        row = await session.get(Project, id, with_for_update=True) if id == project else None
        if row is None:
            raise NotFound
        if body.given("name"):
            try:
                await projects.rename_project(session, row, body.name)
            except UsageError as error:
                raise BadRequest({"name": [str(error)]}) from None
        fill_webhooks(
            row, {**body.webhooks(whole=False), **body.model_dump(include=set(TOGGLES), exclude_unset=True)}, services
        )
        return _shown(row)


@router.get("/{id}/", responses=refusals(404))
async def get_project(services: AppServices, project: ProjectId, id: PathId) -> schemas.Project:
    """Show a project."""
    async with services.database.reading() as session:
        row = await session.get(Project, id) if id == project else None
    if row is None:
        raise NotFound
    return _shown(row)


def _shown(row: Project) -> schemas.Project:
    shown: dict[str, Any] = {**configuration_of(row), **toggles_of(row.webhooks)}
    return schemas.Project(**of_row(row, "id", "name", "created_at"), **shown)
