"""An API on a record of its own, without sockets."""

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from runner.api.app import create_app
from runner.api.services import Services
from runner.api.webhook_bodies import WebhookBodies
from runner.dispatch.delivering import Delivering
from runner.dispatch.dispatcher import Dispatcher
from runner.dispatch.durable import Durable
from runner.records.database import Database, database_url
from runner.records.keys import KeyKind, create_key
from runner.records.record import Record
from runner.records.secrets import open_vault
from runner.records.seed import seed
from runner.records.store import open_store
from runner.records.tables import Project
from runner.settings import ServerSettings, Settings
from tests.postgres import PostgresServer

BASE_URL = "http://testserver"
Client = httpx.AsyncClient


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record with its tables and seeds, to copy: making them takes longer than a test."""
    folder = tmp_path_factory.mktemp("record")
    anyio.run(_make, database_url(ServerSettings(data_dir=folder)))
    return folder


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: PostgresServer) -> str:
    """The name of a PostgreSQL database with the same."""
    name = postgres_server.create()
    anyio.run(_make, postgres_server.url(name))
    return name


async def _make(url: str) -> None:
    database = Database(url)
    await database.migrate()
    async with database.session() as session:
        await seed(session)
    await database.close()


on_every_database = pytest.mark.parametrize("database_kind", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def database_kind(request: pytest.FixtureRequest) -> str:
    """Where the record is: in SQLite, unless a test is marked ``on_every_database``."""
    return getattr(request, "param", "sqlite")


@pytest.fixture
def server_settings(request: pytest.FixtureRequest, database_kind: str, tmp_path: Path) -> Iterator[ServerSettings]:
    """Override to set something else."""
    settings = ServerSettings(
        data_dir=tmp_path / "data", allow_loopback=True, requests_per_minute=100_000, duplicate_window_s=0
    )
    if database_kind == "sqlite":
        yield settings
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create(request.getfixturevalue("migrated_postgres"))
    yield settings.model_copy(update={"database_url": SecretStr(server.url(name))})
    server.drop(name)


@pytest.fixture
def record(request: pytest.FixtureRequest, server_settings: ServerSettings) -> None:
    """Put a record where the settings say. No coroutine: what it copies is made in an event loop of its own."""
    if server_settings.database_url is None:
        shutil.copytree(request.getfixturevalue("migrated"), server_settings.data_dir, dirs_exist_ok=True)


def services_on(server: ServerSettings) -> Services:
    """Return what routes work with, on the record that the settings name. Its dispatcher does not run."""
    settings, vault, store = Settings(server=server), open_vault(server), open_store(server)
    database = Database(database_url(server))
    delivering = Delivering(Record(settings, database, vault, store), WebhookBodies(BASE_URL).make)
    return Services(
        settings=settings,
        database=database,
        vault=vault,
        store=store,
        dispatcher=Dispatcher(database, vault, settings),
        durable=Durable(database, store, settings, delivering),
        delivering=delivering,
    )


@pytest.fixture
async def services(record: None, server_settings: ServerSettings, anyio_backend: str) -> AsyncIterator[Services]:
    """What the routes work with. Its dispatcher does not run (see ``dispatching``)."""
    services = services_on(server_settings)
    yield services
    await services.durable.close()
    await services.database.close()


@pytest.fixture
async def dispatching(services: Services) -> AsyncIterator[Dispatcher]:
    """The dispatcher, which runs."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(services.dispatcher.run)
        yield services.dispatcher
        tasks.cancel_scope.cancel()


@pytest.fixture
def woken(services: Services) -> list[int]:
    """Grows whenever something is committed that workers have to hear of. Not beside ``dispatching``."""
    woken: list[int] = []
    services.database.work_changed = lambda: woken.append(1)
    return woken


@pytest.fixture
def app(services: Services) -> FastAPI:
    return create_app(services)


async def new_key(services: Services, kind: KeyKind = KeyKind.USER, project_id: int | None = 1) -> str:
    """Return a new key."""
    async with services.database.session() as session:
        return await create_key(
            session, kind, project_id=project_id if kind is KeyKind.USER else None, name="a test's"
        )


async def other_project(services: Services) -> tuple[int, str]:
    """Return another project, and a key of it."""
    async with services.database.session() as session:
        project = Project(name="another")
        session.add(project)
        await session.flush()
        project_id = project.id
    return project_id, await new_key(services, project_id=project_id)


def client_of(app: FastAPI, key: str | None = None) -> Client:
    """Return a client of an application, without sockets."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app),
        base_url=BASE_URL,
        headers={"X-CEKURA-API-KEY": key} if key else {},
        follow_redirects=False,
    )


@pytest.fixture
async def user_key(services: Services) -> str:
    return await new_key(services)


@pytest.fixture
async def worker_key(services: Services) -> str:
    return await new_key(services, KeyKind.WORKER)


@pytest.fixture
async def client(app: FastAPI, user_key: str) -> AsyncIterator[Client]:
    """A client with a user's key of project 1."""
    async with client_of(app, user_key) as client:
        yield client


@pytest.fixture
async def anonymous(app: FastAPI) -> AsyncIterator[Client]:
    """A client without a key."""
    async with client_of(app) as client:
        yield client


@pytest.fixture
async def worker(app: FastAPI, worker_key: str) -> AsyncIterator[Client]:
    """A client with a worker's key."""
    async with client_of(app, worker_key) as client:
        yield client
