"""A record on both kinds of database, with results whose runs workers make."""

from collections.abc import AsyncIterator

import pytest

from runner.records.database import Database
from runner.records.tables import Project, ResultRow
from tests.dispatch.scene import clock, elsewhere, prompt, scene
from tests.records.conftest import database_url, postgres_template, sqlite_template

__all__ = ["clock", "database_url", "elsewhere", "postgres_template", "prompt", "scene", "sqlite_template"]


@pytest.fixture
async def database(database_url: str, anyio_backend: str) -> AsyncIterator[Database]:
    """A record with two results: 1 in rooms that are given, 2 in sessions that are started."""
    database = Database(database_url)
    async with database.session() as session:
        session.add(Project(id=1, name="p"))
        await session.flush()
        session.add_all(
            [
                ResultRow(id=1, project_id=1, run_type="pipecat"),
                ResultRow(id=2, project_id=1, run_type="pipecat_v2"),
            ]
        )
    yield database
    await database.close()
