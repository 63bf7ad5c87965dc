"""Projects: ``/user/v1/projects``. A key sees the one it is of."""

from sqlalchemy import select

from runner.api.auth import AppServices, ProjectId
from runner.api.errors import NotFound, refusals
from runner.api.paging import Page, PageAsked
from runner.api.routing import CompatRouter
from runner.api.schemas.common import of_row
from runner.api.schemas.projects import Project as Shown
from runner.api.schemas.query import PathId
from runner.records.tables import Project

router = CompatRouter("/user/v1/projects", "/user/v1/projects-external", tags=["projects"])


@router.get("/", responses=refusals(404))
async def list_projects(services: AppServices, project: ProjectId, paging: PageAsked) -> Page[Shown]:
    """List the projects the key is of: one."""
    async with services.database.reading() as session:
        rows, count = await paging.rows(session, select(Project).where(Project.id == project).order_by(Project.id))
    return paging.page_of([_shown(row) for row in rows], count)


@router.get("/{id}/", responses=refusals(404))
async def get_project(services: AppServices, project: ProjectId, id: PathId) -> Shown:
    """Show a project."""
    async with services.database.reading() as session:
        row = await session.get(Project, id) if id == project else None
    if row is None:
        raise NotFound
    return _shown(row)


def _shown(row: Project) -> Shown:
    return Shown(**of_row(row, "id", "name", "created_at"))
