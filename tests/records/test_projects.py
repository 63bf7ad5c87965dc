"""Projects."""

import pytest

from runner.errors import UsageError
from runner.records.database import Database
from runner.records.projects import create_project, list_projects

pytestmark = pytest.mark.anyio


async def test_projects_are_made_and_listed(seeded: Database) -> None:
    async with seeded.session() as session:
        made = await create_project(session, "  Billing ")
    assert (made.id, made.name) == (2, "Billing")
    async with seeded.reading() as session:
        assert [(project.id, project.name) for project in await list_projects(session)] == [
            (1, "default"),
            (2, "Billing"),
        ]


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "default"])
async def test_a_name_that_is_none_or_taken_is_refused(seeded: Database, name: str) -> None:
    with pytest.raises(UsageError, match=r"^project: "):
        async with seeded.session() as session:
            await create_project(session, name)
    async with seeded.reading() as session:
        assert len(await list_projects(session)) == 1
