"""Projects: nothing of one is seen from another. Keys are scoped to them."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from runner.errors import UsageError
from runner.records.tables import Project

MAX_NAME_CHARACTERS = 200


async def create_project(session: AsyncSession, name: str) -> Project:
    """Make a project, and return it. It begins empty; built-in personalities it has.

    Raises:
        UsageError: The name is empty, too long, or another project's.
    """
    project = Project(name=await _free_name(session, name))
    session.add(project)
    await session.flush()
    return project


async def rename_project(session: AsyncSession, project: Project, name: str) -> None:
    """Give a project another name.

    Raises:
        UsageError: The name is empty, too long, or another project's.
    """
    if name.strip() != project.name:
        project.name = await _free_name(session, name)


async def _free_name(session: AsyncSession, name: str) -> str:
    name = name.strip()
    if not 0 < len(name) <= MAX_NAME_CHARACTERS:
        raise UsageError(f"project: needs a name of up to {MAX_NAME_CHARACTERS} characters")
    same = await session.scalar(select(Project.id).where(Project.name == name).limit(1))
    if same is not None:
        raise UsageError(f"project: {same} has this name already")
    return name


async def list_projects(session: AsyncSession) -> Sequence[Project]:
    """Return every project, oldest first."""
    return (await session.scalars(select(Project).order_by(Project.id))).all()
