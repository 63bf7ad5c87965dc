"""The API and its record in one process, and a worker beside it, from start to shutdown."""

import gc
import ipaddress
import signal
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
from pydantic import SecretStr

from runner.api.app import create_app
from runner.api.configured import apply_schedules, read_schedules
from runner.api.relay import Relay
from runner.api.services import Services
from runner.api.webhook_bodies import WebhookBodies
from runner.dispatch.delivering import Delivering
from runner.dispatch.dispatcher import Dispatcher
from runner.dispatch.durable import Durable
from runner.dispatch.schedules import Schedules
from runner.errors import UsageError
from runner.files import private_folder
from runner.records.database import Database, database_url
from runner.records.key_check import check_secret_key
from runner.records.keys import KeyKind, create_key, find_key, list_keys
from runner.records.record import Record
from runner.records.secrets import open_vault
from runner.records.seed import DEFAULT_PROJECT, seed
from runner.records.store import open_store
from runner.serving import WebServer, listening
from runner.settings import Settings
from runner.web.app import add_pages
from runner.worker.parent import supervise

DRAIN_LIMIT_S = 20.0
"""How long calls that are on may last once the server is told to stop; a second signal ends that."""

CONNECTIONS_LIMIT_S = 3
"""How long open connections may last after that."""

SERVING_THRESHOLDS = (50_000, 20, 20)
"""A search for garbage for every 50,000 objects more, not for every 700."""

WORKER_KEY_FILE = "worker.key"


async def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    with_worker: bool,
    announce: Callable[[str], None],
    announce_key: Callable[[SecretStr], None],
    config: Path | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; then take nothing new, let calls that are on finish for a while, and return.

    Args:
        settings: The settings. A loopback ``host`` allows rooms on this machine.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        with_worker: Whether to start a worker as well: processes of their own, like those of any other worker.
        announce: Is called once with the server's address, when requests are answered and runs taken.
        announce_key: Is called before that with a new key for the API, if there was none; before any request is
            answered.
        config: The settings file that the command was told to read, if it was: its worker reads it too.

    Raises:
        UsageError: Something in the settings is wrong, or the port is taken.
        RunnerError: The database can't be used.
    """
    if _is_loopback(host):
        server = settings.server.model_copy(update={"allow_loopback": True})
        settings = settings.model_copy(update={"server": server})
    with (
        listening(host, port, options="--") as listener,
        # From beginning to end: a signal outside of it would end the process at once.
        anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals,
    ):
        url = _url(host, listener)
        database = Database(database_url(settings.server))
        async with _opened(settings, database, url) as services:
            if (first_key := await _first_key(database)) is not None:
                announce_key(first_key)
            worker_key = await _worker_key(database, settings) if with_worker else None
            app = create_app(services)
            add_pages(app)
            web = WebServer(app, connections_limit_s=CONNECTIONS_LIMIT_S)
            async with anyio.create_task_group() as tasks:
                background = anyio.CancelScope()
                tasks.start_soon(_in_background, services, background, Relay(app))
                tasks.start_soon(web.serve, [listener])
                await web.ready.wait()
                # What is loaded by now stays, and what requests make are trees of values, which go without a search
                # for garbage: looking through them took a third of the time.
                gc.collect()
                gc.freeze()
                gc.set_threshold(*SERVING_THRESHOLDS)
                if worker_key is None:
                    announce(url)
                    await anext(signals)
                else:
                    of_worker = _worker_settings(settings, url, worker_key)
                    await supervise(of_worker, config, signals, ready=lambda: announce(url))
                # Whoever polls is answered at once, and asks somebody else.
                background.cancel()
                web.should_exit = True


async def _in_background(services: Services, scope: anyio.CancelScope, relay: Relay) -> None:
    """Do what is done besides answering, until the scope is cancelled."""
    with scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(services.dispatcher.run)
            tasks.start_soon(services.durable.run)
            tasks.start_soon(relay.run)
            tasks.start_soon(Schedules(services).run)


def _worker_settings(settings: Settings, url: str, key: SecretStr) -> Settings:
    """Return the settings of the worker beside the API."""
    worker = settings.worker.model_copy(
        update={
            "record_url": url,
            "key": key,
            "data_dir": settings.server.data_dir,
            "drain_limit_s": min(settings.worker.drain_limit_s, DRAIN_LIMIT_S),
        }
    )
    return settings.model_copy(update={"worker": worker})


@asynccontextmanager
async def _opened(settings: Settings, database: Database, url: str) -> AsyncGenerator[Services]:
    """Open everything, with its tables up to date. It is reached at ``url``, unless the settings know better."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        # First what the settings may have wrong: then there is no record yet that nobody meant.
        vault, store = open_vault(settings.server), open_store(settings.server)
        file = settings.server.schedules_file
        schedules = [] if file is None else read_schedules(file)
        await database.migrate()
        await check_secret_key(database, vault)
        async with database.session() as session:
            await seed(session)
        bodies = WebhookBodies(settings.server.public_url or url)
        delivering = Delivering(Record(settings, database, vault, store), bodies.make)
        durable = Durable(database, store, settings, delivering)
        stack.push_async_callback(durable.close)
        await durable.prepare()
        services = Services(
            settings=settings,
            database=database,
            vault=vault,
            store=store,
            dispatcher=Dispatcher(database, vault, settings),
            durable=durable,
            delivering=delivering,
        )
        await apply_schedules(services, schedules)
        yield services


async def _first_key(database: Database) -> SecretStr | None:
    """Return a new key for the API if it has none yet."""
    async with database.session() as session:
        if any(key.kind == KeyKind.USER for key in await list_keys(session)):
            return None
        return SecretStr(await create_key(session, KeyKind.USER, project_id=DEFAULT_PROJECT, name="first key"))


async def _worker_key(database: Database, settings: Settings) -> SecretStr:
    """Return the key of workers beside the API, kept in a file for this user alone; made if there is none that holds.

    Raises:
        UsageError: The file can't be read or written.
    """
    path = private_folder(settings.server.data_dir) / WORKER_KEY_FILE
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


def _url(host: str, listener: socket.socket) -> str:
    port: int = listener.getsockname()[1]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104 - compared with, not listened on
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
