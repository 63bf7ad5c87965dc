"""The page on a real port, with a worker that makes no calls but tells of some: for browsers."""

import json
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
from sqlalchemy import update

from runner.api.app import create_app
from runner.api.live_sound import live_sounds
from runner.api.services import Services
from runner.api.webhook_bodies import WebhookBodies
from runner.dispatch.delivering import Delivering
from runner.dispatch.dispatcher import Dispatcher
from runner.dispatch.durable import Durable
from runner.records.database import Database, database_url
from runner.records.keys import KeyKind
from runner.records.record import Record
from runner.records.secrets import open_vault
from runner.records.seed import seed
from runner.records.store import artefact_key, open_store
from runner.records.tables import CronJob, RunRow
from runner.serving import WebServer, listening
from runner.settings import ServerSettings, Settings
from runner.web.app import add_pages
from tests.api.conftest import BASE_URL, client_of, new_key
from tests.api.telling import claimed, run_launched
from tests.api.test_events import told
from tests.api.test_results import ended

_T = TypeVar("_T")


class PageServer:
    """A server that runs in a thread of its own.

    Args:
        folder: Where its record is.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._ready = threading.Event()
        self.url = ""
        self.key = ""

    def do(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do something within the server's event loop."""

        async def wait() -> _T:
            return await work

        return anyio.from_thread.run(wait, token=self._token)

    async def finished(self, *runs: Any) -> tuple[int, list[int]]:
        """Launch a run for each outcome, and report it; return the result and its runs."""
        return await ended(self.client, self.worker, *runs)

    async def begun(self) -> int:
        """Launch a run, and let it begin; return it."""
        (run_id,) = await run_launched(self.client)
        await claimed(self.worker, run_id)
        return run_id

    async def tell(self, run_id: int, *events: dict[str, Any]) -> None:
        """Let events happen in a call."""
        await told(self.worker, run_id, *events)

    def heard(self, run_id: int, pcm: bytes) -> None:
        """Let something be heard in a call that somebody listens to."""
        self.until(lambda: self.services.dispatcher.is_listened_to(run_id))

        async def hear() -> None:
            live_sounds(self.app).post(run_id, pcm)

        self.do(hear())

    @staticmethod
    def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
        """Wait for a condition."""
        begun_s = time.monotonic()
        while not condition():
            assert time.monotonic() - begun_s < within_s
            time.sleep(0.01)

    async def scheduled(self) -> None:
        """Keep a schedule."""
        job = CronJob(project_id=1, agent_id=1, name="night", crontab_expression="0 2 * * *", scenario_ids=[1])
        async with self.services.database.session() as session:
            session.add(job)

    async def keep(self, run_id: int, folder: Path) -> None:
        """Keep recording and timeline of a run."""
        sizes: dict[str, int] = {}
        for name in ("recording.wav", "timeline.jsonl"):
            content = (folder / name).read_bytes()
            sizes[name] = len(content)
            await self.services.store.put(artefact_key(run_id, name, 1), content, max_bytes=10**9)
        async with self.services.database.session() as session:
            await session.execute(update(RunRow).where(RunRow.id == run_id).values(artefacts=sizes))

    async def serve(self) -> None:
        """Serve until it is told to stop."""
        server = ServerSettings(data_dir=self._folder, allow_loopback=True, requests_per_minute=100_000)
        settings = Settings(server=server.model_copy(update={"duplicate_window_s": 0}))
        database, vault = Database(database_url(server)), open_vault(server)
        store = open_store(server)
        await database.migrate()
        async with database.session() as session:
            await seed(session)
        delivering = Delivering(Record(settings, database, vault, store), WebhookBodies(BASE_URL).make)
        self.services = Services(
            settings=settings,
            database=database,
            vault=vault,
            store=store,
            dispatcher=Dispatcher(database, vault, settings),
            durable=Durable(database, store, settings, delivering),
            delivering=delivering,
        )
        self.app = app = create_app(self.services)
        add_pages(app)
        self.key = await new_key(self.services)
        self.client = client_of(app, self.key)
        self.worker = client_of(app, await new_key(self.services, KeyKind.WORKER))
        self._token = anyio.lowlevel.current_token()
        with listening("127.0.0.1", 0, options="--") as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            self.web = WebServer(app, connections_limit_s=1)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.web.serve, [listener])
                await self.web.ready.wait()
                self._ready.set()
        await database.close()

    @contextmanager
    def running(self) -> Generator["PageServer"]:
        """Run it within this context."""
        thread = threading.Thread(target=anyio.run, args=(self.serve,), daemon=True)
        thread.start()
        assert self._ready.wait(60)
        try:
            yield self
        finally:
            self.web.should_exit = True
            thread.join(30)


def timeline_of(folder: Path) -> list[dict[str, Any]]:
    """Return the events of a call that is kept."""
    return [json.loads(line) for line in (folder / "timeline.jsonl").read_text().splitlines()]
