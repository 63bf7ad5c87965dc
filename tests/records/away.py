"""A PostgreSQL server that goes away, and is there again."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from sqlalchemy import text

from runner.records.database import Database
from tests.postgres import PostgresServer


@dataclass
class Away:
    """A record on a server of which every connection but one can be cut."""

    database: Database
    name: str

    async def cut(self, at_least: int = 1) -> None:
        async with self.database.session() as session:
            others = "FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid()"
            cut = await session.execute(text(f"SELECT pg_terminate_backend(pid) {others}"), {"name": self.name})
            assert len(cut.all()) >= at_least


@pytest.fixture
async def away(postgres_server: PostgresServer, postgres_template: str, anyio_backend: str) -> AsyncIterator[Away]:
    name = postgres_server.create(postgres_template)
    database = Database(postgres_server.url(name))
    yield Away(database, name)
    await database.close()
    postgres_server.drop(name)
