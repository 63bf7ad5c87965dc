"""API, record and worker in one process, from start to shutdown."""

import ipaddress
import signal
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import httpx
from fastapi import FastAPI
from loguru import logger
from pydantic import SecretStr

from runner.api.app import create_app
from runner.api.services import Services
from runner.dispatch.dbos_queue import DbosQueue, migrate_queue
from runner.dispatch.dispatcher import Dispatcher
from runner.errors import UsageError
from runner.housekeeping import keep_pruning, keep_purging
from runner.records.assignments import Limits
from runner.records.data_dir import data_dir
from runner.records.database import Database, database_url
from runner.records.keys import KeyKind, create_key, find_key, list_keys
from runner.records.secrets import open_vault
from runner.records.seed import DEFAULT_PROJECT, seed
from runner.records.store import open_store
from runner.settings import Settings
from runner.web import WebServer, listening

if TYPE_CHECKING:
    from runner.worker.process import WorkerProcess

DRAIN_LIMIT_S = 20.0
"""How long calls that are on may last once the server is told to stop; a second signal ends that."""

CONNECTIONS_LIMIT_S = 3
"""How long open connections may last after that."""

WORKER_KEY_FILE = "worker.key"
IN_PROCESS_URL = "http://record.invalid"


@dataclass(frozen=True)
class Announcement:
    """What to tell whoever started the server.

    Attributes:
        url: Where it is reached.
        key: A new key for the API, if there was none before.
    """

    url: str
    key: SecretStr | None


async def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    with_worker: bool,
    announce: Callable[[Announcement], None],
) -> None:
    """Serve until SIGTERM or SIGINT; then take nothing new, let calls that are on finish for a while, and return.

    Args:
        settings: The settings. A loopback ``host`` allows rooms on this machine.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        with_worker: Whether to make calls as well.
        announce: Is called once, when requests are answered and runs taken.

    Raises:
        UsageError: Something in the settings is wrong, or the port is taken.
        RunnerError: The database or the queue can't be used.
    """
    if _is_loopback(host):
        server = settings.server.model_copy(update={"allow_loopback": True})
        settings = settings.model_copy(update={"server": server})
    with (
        listening(host, port, options="--") as listener,
        # From beginning to end: a signal outside of it would end the process at once.
        anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals,
    ):
        database = Database(database_url(settings.server))
        queue = DbosQueue(database.url)
        server = settings.server
        dispatcher = Dispatcher(database, queue, Limits(server.max_calls, server.max_calls_per_agent))
        async with _opened(settings, database, queue, dispatcher) as services:
            key = await _first_key(database)
            app = create_app(services)
            worker_key = await _worker_key(database, settings) if with_worker else None
            async with anyio.create_task_group() as background:
                background.start_soon(dispatcher.run)
                background.start_soon(keep_pruning, queue)
                if server.retention_days is not None:
                    background.start_soon(keep_purging, database, services.store, server.retention_days)
                async with (
                    _working(services, app, worker_key) if worker_key is not None else nullcontext() as worker,
                    anyio.create_task_group() as serving,
                ):
                    web = WebServer(app, connections_limit_s=CONNECTIONS_LIMIT_S)
                    serving.start_soon(web.serve, [listener])
                    await web.ready.wait()
                    announce(Announcement(_url(host, listener), key))
                    await _until_told(signals, worker)
                    web.should_exit = True
                background.cancel_scope.cancel()


@asynccontextmanager
async def _opened(
    settings: Settings, database: Database, queue: DbosQueue, dispatcher: Dispatcher
) -> AsyncGenerator[Services]:
    """Open everything, with its tables up to date."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        # First what the settings may have wrong: then there is no record yet that nobody meant.
        vault, store = open_vault(settings.server), open_store(settings.server)
        await database.migrate()
        await migrate_queue(database.url)
        async with database.session() as session:
            await seed(session)
        stack.push_async_callback(queue.close)
        yield Services(
            settings=settings,
            database=database,
            vault=vault,
            store=store,
            wake=dispatcher.wake,
            dispatching=lambda: dispatcher.is_looking,
        )


async def _first_key(database: Database) -> SecretStr | None:
    """Return a new key for the API if it has none yet."""
    async with database.session() as session:
        if any(key.kind is KeyKind.USER for key in await list_keys(session)):
            return None
        return SecretStr(await create_key(session, KeyKind.USER, project_id=DEFAULT_PROJECT, name="first key"))


@asynccontextmanager
async def _working(services: Services, app: FastAPI, key: SecretStr) -> AsyncGenerator["WorkerProcess"]:
    """Take runs for as long as the context is open."""
    from runner.worker.process import WorkerProcess

    settings = services.settings
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    name = settings.worker.name or socket.gethostname()
    async with (
        httpx.AsyncClient(transport=transport, base_url=IN_PROCESS_URL) as http,
        anyio.create_task_group() as tasks,
    ):
        worker = WorkerProcess(settings, http, key, services.database.url, name)
        tasks.start_soon(worker.run)
        try:
            await worker.ready.wait()
            yield worker
        finally:
            # Where something went wrong; otherwise it is stopped by now.
            worker.stop(limit_s=0)


async def _worker_key(database: Database, settings: Settings) -> SecretStr:
    """Return the key of workers beside the API, kept in a file for this user alone; made if there is none that holds.

    Raises:
        UsageError: The file can't be read or written.
    """
    path = data_dir(settings.server) / WORKER_KEY_FILE
    try:
        kept = _kept(path)
        async with database.session() as session:
            found = await find_key(session, kept) if kept else None
            if found is not None and found.kind is KeyKind.WORKER:
                return SecretStr(kept)
            key = await create_key(session, KeyKind.WORKER, project_id=None, name="worker beside the API")
        _keep(path, key)
    except OSError as error:
        raise UsageError(f"{path}: can't be read or written ({error.strerror})") from None
    return SecretStr(key)


def _kept(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def _keep(path: Path, key: str) -> None:
    path.touch(mode=0o600)
    path.write_text(key + "\n")


async def _until_told(signals: AsyncIterator[signal.Signals], worker: "WorkerProcess | None") -> None:
    """Wait for a signal, and then for the calls that are on: until they end, a second signal, or the limit."""
    number = await anext(signals)
    logger.info("stopping: {}", signal.Signals(number).name)
    if worker is None:
        return
    async with anyio.create_task_group() as tasks:

        async def drain() -> None:
            worker.stop(limit_s=DRAIN_LIMIT_S)
            await worker.ended.wait()
            tasks.cancel_scope.cancel()

        tasks.start_soon(drain)
        await anext(signals)
        worker.hurry()


def _url(host: str, listener: socket.socket) -> str:
    port: int = listener.getsockname()[1]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104 - compared with, not listened on
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
