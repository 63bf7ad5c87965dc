"""A dispatcher with workers that poll it, on a clock that goes on when a test says so."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from bots.timeline import EndedReason
from runner.dispatch import dispatcher as dispatching
from runner.dispatch.dispatcher import Dispatcher, RecordAway, WorkerGone
from runner.protocol.messages import Answer, Job, Kept, Poll, Problem, RunNow, WorkerInfo, WorkerState
from runner.records import leases
from runner.records.changes import work_changed
from runner.records.database import Database
from runner.records.secrets import Vault
from runner.records.tables import RunRow, WorkerRow, utc_now
from runner.settings import ServerSettings, Settings
from tests.patience import until
from tests.records.outcomes import SCRIPT

LEASE_S = 8.0
"""It looks once a second; who is silent for ten is lost; and who looks begins to judge after ten."""

LOST_S = 10
VAULT = Vault(b"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
OTHER_VAULT = Vault(b"MTEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
ROOM = "http://localhost:7860/api/offer"
DRAINING, PAUSED, STOPPED = WorkerState.DRAINING, WorkerState.PAUSED, WorkerState.STOPPED
CAUSE = Problem(cause="agent", reason=EndedReason.AGENT_FROZE.value)


class Clock:
    """Goes on when a test says so: for dispatchers and for the record."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self._begun_at = utc_now()

    def monotonic(self) -> float:
        return 1_000.0 + self.ahead_s

    def of_record(self, session: Session) -> datetime:
        return self._begun_at + timedelta(seconds=self.ahead_s)


class Watched(Dispatcher):
    """A dispatcher whose looks can be waited for."""

    begun_looks = 0
    looks = 0
    """The number of the last look that was finished."""

    async def _look(self) -> None:
        self.begun_looks += 1
        number = self.begun_looks
        await super()._look()
        self.looks = number


class Scene:
    """A record, one dispatcher or several, and workers that poll when a test says so."""

    def __init__(self, database: Database, clock: Clock):
        self.database = database
        self.clock = clock
        self.dispatcher = self.new_dispatcher()
        self._ids = itertools.count(1)

    def new_dispatcher(self, database: Database | None = None, lease_s: float = LEASE_S) -> Watched:
        settings = Settings(server=ServerSettings(allow_loopback=True, lease_s=lease_s))
        return Watched(database or self.database, VAULT, settings)

    async def run(self, result_id: int = 1, *, database: Database | None = None, **values: Any) -> int:
        """Launch a run."""
        run_id = next(self._ids)
        common = {"project_id": 1, "scenario_name": "s", "snapshot": {"script": SCRIPT.model_dump(mode="json")}}
        row = RunRow(**{"id": run_id, "result_id": result_id, "room_url": ROOM, **common, **values})
        async with (database or self.database).session() as session:
            session.add(row)
            work_changed(session.sync_session)
        return run_id

    async def begun(self, worker: "Worker", result_id: int = 1, **values: Any) -> int:
        """Return a run that a worker has begun."""
        run_id = await self.run(result_id, status="running", executor=worker.executor, started_at=utc_now(), **values)
        worker.has(run_id, values.get("attempt", 1))
        return run_id

    async def look(self, times: int = 1, *polling: "Worker") -> None:
        """Let seconds pass, in each of which some workers poll and the dispatcher looks."""
        for _ in range(times):
            self.clock.ahead_s += 1.01
            # A look that is under way saw what was before.
            before = self.dispatcher.begun_looks
            for worker in polling:
                await worker.polls()
            self.dispatcher.wake()
            with anyio.fail_after(10):
                while self.dispatcher.looks <= before:
                    await anyio.sleep(0.001)

    async def judging(self, *polling: "Worker") -> None:
        """Let so much time pass that the dispatcher judges who is silent."""
        await self.look(LOST_S + 2, *polling)

    async def row(self, run_id: int) -> RunRow:
        async with self.database.reading() as session:
            return await session.get_one(RunRow, run_id)

    async def rows(self, *run_ids: int) -> list[RunRow]:
        return [await self.row(run_id) for run_id in run_ids]

    async def state(self, executor: str) -> str | None:
        async with self.database.reading() as session:
            return await session.scalar(select(WorkerRow.state).where(WorkerRow.executor == executor))

    async def set_worker(self, executor: str, **values: Any) -> None:
        async with self.database.session() as session:
            await session.execute(update(WorkerRow).where(WorkerRow.executor == executor).values(**values))


class Worker:
    """Says what a test lets it say."""

    def __init__(self, scene: Scene, executor: str = "w", *, calls: int = 2, dispatcher: Dispatcher | None = None):
        self.scene = scene
        self.executor = executor
        self.info = WorkerInfo(executor=executor, name=executor, version="1", rooms=("smallwebrtc",), calls=calls)
        self.dispatcher = dispatcher
        self.number = 0
        self.state = WorkerState.TAKING
        self.runs: dict[tuple[int, int], RunNow] = {}
        self.kept: tuple[Kept, ...] = ()

    def has(self, run_id: int, attempt: int = 1, **now: Any) -> None:
        self.runs[run_id, attempt] = RunNow(run_id=run_id, attempt=attempt, **now)

    def says(self, *, waits: bool = False, number: int | None = None, **said: Any) -> Poll:
        self.number += number is None
        given: dict[str, Any] = {"state": self.state, "runs": tuple(self.runs.values()), "kept": self.kept, **said}
        number = self.number if number is None else number
        return Poll(protocol=3, worker=self.info, number=number, waits=waits, **given)

    async def polls(self, **said: Any) -> Answer:
        return await (self.dispatcher or self.scene.dispatcher).poll(self.says(**said))

    async def waits(self, **said: Any) -> Answer:
        return await self.polls(waits=True, **said)

    async def takes(self) -> list[Job]:
        """Wait for runs, and tell that it has them."""
        answer = await self.waits()
        for job in answer.jobs:
            self.has(job.run_id, job.attempt)
        await self.polls()
        return list(answer.jobs)


class Asking:
    """A poll that a worker waits for in the background."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self.answered = anyio.Event()
        self.scope = anyio.CancelScope()

    async def ask(self, poll: Awaitable[Answer]) -> None:
        with self.scope:
            try:
                self.answer = await poll
            except (RecordAway, WorkerGone) as error:
                self.error = error
        self.answered.set()

    async def at_once(self) -> Answer:
        """Return the answer, that must not wait for a look or for the end of the poll's time."""
        with anyio.fail_after(1.5):
            await self.answered.wait()
        assert self.answer is not None, self.error
        return self.answer


@asynccontextmanager
async def asking(scene: Scene, worker: Worker, *, is_held: bool = True) -> AsyncIterator[Asking]:
    asked = Asking()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(asked.ask, worker.waits())
        if is_held:
            # Of those who have nothing it is taken in with what comes next.
            await anyio.lowlevel.checkpoint()
            scene.dispatcher.wake()
            await until(lambda: worker.executor in scene.dispatcher._held)
        yield asked
        tasks.cancel_scope.cancel()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(dispatching, "time", clock)
    monkeypatch.setattr(leases, "clock", clock.of_record)
    monkeypatch.setattr(dispatching, "GATHERING_S", 0.0)
    return clock


@pytest.fixture
async def scene(database: Database, clock: Clock) -> AsyncIterator[Scene]:
    scene = Scene(database, clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scene.dispatcher.run)
        yield scene
        tasks.cancel_scope.cancel()


@pytest.fixture
async def prompt(database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    """A scene in which nobody looks now and then: everything is told at once, or not at all."""
    monkeypatch.setattr(dispatching, "LOOK_INTERVAL_S", 60.0)
    scene = Scene(database, clock)
    scene.dispatcher = scene.new_dispatcher(lease_s=240.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scene.dispatcher.run)
        await until(lambda: scene.dispatcher.looks)
        yield scene
        tasks.cancel_scope.cancel()


@pytest.fixture(params=["this process", "another one"])
async def elsewhere(request: pytest.FixtureRequest, prompt: Scene, database_url: str) -> AsyncIterator[Database]:
    """The database as this process has it, and as another one has that this one hears of."""
    if request.param == "this process":
        yield prompt.database
        return
    if database_url.startswith("sqlite"):
        pytest.skip("SQLite tells nobody")
    # Until it listens nothing is heard.
    other = Database(database_url)
    with anyio.fail_after(10):
        while not await other.look(lambda session: session.execute(_LISTENERS).first()):
            await anyio.sleep(0.01)
    yield other
    await other.close()


_LISTENERS = text("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'")


@contextmanager
def away(monkeypatch: pytest.MonkeyPatch, scene: Scene) -> Iterator[None]:
    """Let the database be away."""

    async def fail(work: Any) -> Any:
        raise OperationalError("SELECT", {}, Exception("it is away"))

    with monkeypatch.context() as patch:
        patch.setattr(scene.database, "run", fail)
        patch.setattr(scene.database, "look", fail)
        # Otherwise it is tried again after a second.
        patch.setattr(scene.dispatcher, "look_interval_s", 0.01)
        yield
