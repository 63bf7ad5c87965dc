"""The record on both kinds of database."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from runner.records.database import Database
from runner.records.seed import seed
from tests.postgres import PostgresServer

KINDS = ("sqlite", "postgresql")


def empty_url(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """Return the address of a database that holds nothing yet."""
    if kind == "postgresql":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{folder}/record.sqlite"


@pytest.fixture(params=KINDS)
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database that holds nothing yet, one of each kind."""
    return empty_url(request.param, request, tmp_path)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with every table and no row."""
    path = tmp_path_factory.mktemp("template") / "record.sqlite"
    anyio.run(_migrate, f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """The name of a database with every table and no row."""
    name = postgres_server.create()
    anyio.run(_migrate, postgres_server.url(name))
    return name


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a database with every table and no row, one of each kind."""
    if request.param == "sqlite":
        path = tmp_path / "record.sqlite"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create(request.getfixturevalue("postgres_template"))
    yield server.url(name)
    server.drop(name)


@pytest.fixture
async def database(database_url: str, anyio_backend: str) -> AsyncIterator[Database]:
    """A record without a row, on each kind of database."""
    database = Database(database_url)
    yield database
    await database.close()


@pytest.fixture
async def seeded(database: Database) -> Database:
    """A record as it is when a server is started for the first time."""
    async with database.session() as session:
        await seed(session)
    return database


async def _migrate(url: str) -> None:
    database = Database(url)
    await database.migrate()
    await database.close()


@pytest.fixture(scope="module")
def record(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[asyncio.Runner, Database]]:
    """A record that a module's generated cases share, and the loop they all run on."""
    path = tmp_path_factory.mktemp("record") / "record.sqlite"
    shutil.copy(sqlite_template, path)
    with asyncio.Runner() as loop:
        database = Database(f"sqlite:///{path}")
        yield loop, database
        loop.run(database.close())
