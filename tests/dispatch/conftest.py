"""A record with the queue's tables beside it, on both kinds of database."""

from collections.abc import AsyncIterator

import pytest

from runner.dispatch.dbos_queue import DbosQueue, migrate_queue
from runner.records.database import Database
from runner.records.tables import Project, ResultRow
from tests.records.conftest import database_url, postgres_template, sqlite_template

__all__ = ["database_url", "postgres_template", "sqlite_template"]


@pytest.fixture
async def database(database_url: str, anyio_backend: str) -> AsyncIterator[Database]:
    """A record with two results: 1 in rooms that are given, 2 in sessions that are started."""
    database = Database(database_url)
    await migrate_queue(database.url)
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


@pytest.fixture
async def queue(database: Database) -> AsyncIterator[DbosQueue]:
    queue = DbosQueue(database.url)
    yield queue
    await queue.close()
