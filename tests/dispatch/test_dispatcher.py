"""Polls: every run is one worker's at a time, what happens reaches it at once, and nothing is lost of who is gone."""

import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from loguru import logger
from sqlalchemy import select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

import runner.rooms.allowed
from bots.timeline import EndedReason
from runner.dispatch import dispatcher as dispatching
from runner.dispatch.dispatcher import Dispatcher, RecordAway, WorkerGone
from runner.protocol.messages import Answer, Gone, Job, Kept, Order, Poll, Problem, RunNow, WorkerInfo
from runner.protocol.states import WorkerState
from runner.records import leases
from runner.records.changes import work_changed
from runner.records.database import Database
from runner.records.runs import MAX_LOST, end_run, request_cancel
from runner.records.secrets import Vault
from runner.records.tables import RunRow, WorkerRow, utc_now
from runner.settings import ServerSettings, Settings
from tests.records.outcomes import SCRIPT

pytestmark = pytest.mark.anyio

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

    looks = 0

    async def _look(self) -> None:
        await super()._look()
        self.looks += 1


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
            before = self.dispatcher.looks
            for worker in polling:
                await worker.polls()
            self.dispatcher.wake()
            with anyio.fail_after(10):
                while self.dispatcher.looks == before:
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


async def until(wanted: Callable[[], Any]) -> None:
    with anyio.fail_after(10):
        while not wanted():
            await anyio.sleep(0.002)


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
        patch.setattr(scene.dispatcher, "_look_interval_s", 0.01)
        yield


# What reaches a worker.


async def test_a_waiting_run_goes_to_a_worker_with_all_it_needs(scene: Scene) -> None:
    token = VAULT.seal('{"token": "t"}')
    first, second, third = [await scene.run(room_token=token, session_data={"a": 1}) for _ in range(3)]
    worker = Worker(scene)
    answer = await worker.waits()
    assert [(job.run_id, job.attempt) for job in answer.jobs] == [(first, 1), (second, 1)]
    assert answer.lease_s == LEASE_S and answer.orders == ()
    [job, _] = answer.jobs
    assert (job.room_url, job.session, job.session_data) == (ROOM, None, {"a": 1, "cekura_run_id": first})
    assert job.token is not None and job.token.get_secret_value() == "t"
    row = await scene.row(first)
    # It has begun once the worker tells of it.
    assert (row.status, row.executor) == ("pending", "w")
    worker.has(first)
    assert (await worker.polls()).orders == (Order(run_id=first, attempt=1, counts=True),)
    assert [row.status for row in await scene.rows(first, second, third)] == ["running", "pending", "pending"]
    assert (await scene.row(third)).executor is None


async def test_a_launch_reaches_a_poll_that_is_held_at_once(prompt: Scene, elsewhere: Database) -> None:
    async with asking(prompt, Worker(prompt)) as asked:
        run_id = await prompt.run(database=elsewhere)
        assert [job.run_id for job in (await asked.at_once()).jobs] == [run_id]


async def test_who_asks_just_as_a_run_is_found_is_given_it_at_once(
    prompt: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, enough = threading.Event(), threading.Event()
    anything_waits = dispatching._anything_waits

    def slowly(session: Session) -> bool:
        looking.set()
        enough.wait(10)
        return anything_waits(session)

    monkeypatch.setattr(dispatching, "_anything_waits", slowly)
    run_id = await prompt.run()
    await anyio.to_thread.run_sync(looking.wait)
    async with asking(prompt, Worker(prompt), is_held=False) as asked:
        await anyio.lowlevel.checkpoint()
        enough.set()
        assert [job.run_id for job in (await asked.at_once()).jobs] == [run_id]


async def test_a_place_that_becomes_free_is_taken_at_once(prompt: Scene, elsewhere: Database) -> None:
    worker = Worker(prompt, calls=1)
    over = await prompt.begun(worker)
    next_one = await prompt.run()
    async with asking(prompt, worker) as asked:
        await elsewhere.run(lambda session: end_run(session, over, 1, CAUSE, executor="w"))
        answer = await asked.at_once()
    assert [job.run_id for job in answer.jobs] == [next_one]
    assert answer.orders == (Order(run_id=over, attempt=1, counts=False),)


async def test_a_cancelled_run_is_told_of_at_once_and_once(prompt: Scene, elsewhere: Database) -> None:
    worker = Worker(prompt)
    run_id = await prompt.begun(worker)
    async with asking(prompt, worker) as asked:
        await elsewhere.run(lambda session: request_cancel(session, [run_id]))
        assert (await asked.at_once()).orders == (Order(run_id=run_id, attempt=1, counts=True, is_cancelled=True),)
    worker.has(run_id, is_ending=True)
    async with asking(prompt, worker) as asked:
        await anyio.sleep(0.05)
        assert not asked.answered.is_set()


async def test_beginning_and_ceasing_to_watch_are_told_at_once(prompt: Scene) -> None:
    worker = Worker(prompt)
    run_id = await prompt.begun(worker)
    async with asking(prompt, worker) as asked:
        prompt.dispatcher.is_watched = lambda run: run == run_id
        prompt.dispatcher.wake()
        assert (await asked.at_once()).orders == (Order(run_id=run_id, attempt=1, counts=True, is_watched=True),)
    worker.has(run_id, is_watched=True)
    async with asking(prompt, worker) as asked:
        prompt.dispatcher.is_watched = lambda run: False
        prompt.dispatcher.wake()
        assert (await asked.at_once()).orders == (Order(run_id=run_id, attempt=1, counts=True),)


async def test_beginning_and_ceasing_to_listen_are_told_at_once(prompt: Scene) -> None:
    worker = Worker(prompt)
    run_id = await prompt.begun(worker)
    worker.has(run_id, is_listened_to=False)
    async with asking(prompt, worker) as asked:
        prompt.dispatcher.is_listened_to = lambda run: run == run_id
        prompt.dispatcher.wake()
        told = (await asked.at_once()).orders
        assert told == (Order(run_id=run_id, attempt=1, counts=True, is_listened_to=True),)
    # A worker of a release that can't pass on sound is not told so again and again.
    worker.has(run_id)
    async with asking(prompt, worker) as asked:
        await anyio.sleep(0.05)
        assert not asked.answered.is_set()
    worker.has(run_id, is_listened_to=True)
    async with asking(prompt, worker) as asked:
        prompt.dispatcher.is_listened_to = lambda run: False
        prompt.dispatcher.wake()
        assert (await asked.at_once()).orders == (Order(run_id=run_id, attempt=1, counts=True),)


async def test_a_run_that_was_taken_away_is_told_of_at_once(prompt: Scene, elsewhere: Database) -> None:
    worker = Worker(prompt)
    run_id = await prompt.begun(worker)
    async with asking(prompt, worker) as asked:
        await elsewhere.run(
            lambda session: dispatching.release(session, run_id, 1, detail="x", safe_to_retry=True, was_lost=False)
        )
        assert (await asked.at_once()).orders == (Order(run_id=run_id, attempt=1, counts=False),)


async def test_nothing_to_tell_is_told_when_its_time_is_over(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "hold_s", lambda lease_s, has_runs: 0.8)
    idle, busy = Worker(scene, "idle"), Worker(scene, "busy")
    run_id = await scene.begun(busy)
    async with asking(scene, idle) as first, asking(scene, busy) as second:
        for asked in (first, second):
            await asked.answered.wait()
    assert first.answer == Answer(lease_s=LEASE_S)
    assert second.answer == Answer(lease_s=LEASE_S, orders=(Order(run_id=run_id, attempt=1, counts=True),))
    assert scene.dispatcher._held == {}


async def test_news_are_answered_while_another_poll_waits(prompt: Scene) -> None:
    worker = Worker(prompt)
    async with asking(prompt, worker) as asked:
        run_id = await prompt.begun(worker)
        assert [order.counts for order in (await worker.polls()).orders] == [True]
        assert not asked.answered.is_set()
        await prompt.database.run(lambda session: request_cancel(session, [run_id]))
        assert [order.is_cancelled for order in (await asked.at_once()).orders] == [True]


async def test_of_two_polls_that_wait_the_later_one_is_held(prompt: Scene) -> None:
    worker = Worker(prompt)
    async with asking(prompt, worker) as first, asking(prompt, worker) as second:
        prompt.dispatcher.wake()
        assert await first.at_once() == Answer(lease_s=240.0)
        run_id = await prompt.run()
        assert [job.run_id for job in (await second.at_once()).jobs] == [run_id]


async def test_a_poll_that_comes_late_is_answered_and_given_nothing(prompt: Scene) -> None:
    worker = Worker(prompt)
    late = worker.says(waits=True)
    async with asking(prompt, worker) as asked, anyio.create_task_group() as tasks:
        overtaken = Asking()
        tasks.start_soon(overtaken.ask, prompt.dispatcher.poll(late))
        await anyio.lowlevel.checkpoint()
        prompt.dispatcher.wake()
        assert await overtaken.at_once() == Answer(lease_s=240.0)
        assert not asked.answered.is_set()
        await prompt.run()
        assert len((await asked.at_once()).jobs) == 1


# Given once, and again until it is known.


async def test_a_job_whose_answer_was_lost_comes_again(scene: Scene) -> None:
    run_id = await scene.run()
    worker = Worker(scene)
    for _ in range(3):
        assert [(job.run_id, job.attempt) for job in (await worker.waits()).jobs] == [(run_id, 1)]
    # Also with an answer to news.
    assert [job.run_id for job in (await worker.polls()).jobs] == [run_id]
    worker.has(run_id)
    assert (await worker.polls()).jobs == ()
    assert (await scene.row(run_id)).attempt == 1


async def test_who_hangs_up_frees_its_poll_and_is_given_nothing(prompt: Scene) -> None:
    async with asking(prompt, Worker(prompt)) as asked:
        asked.scope.cancel()
        await asked.answered.wait()
    assert prompt.dispatcher._held == {} and prompt.dispatcher._arrived == []
    run_id = await prompt.run()
    assert [job.run_id for job in (await Worker(prompt, "other").waits()).jobs] == [run_id]


async def test_who_hangs_up_during_its_poll_is_not_held_for(prompt: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, enough = threading.Event(), threading.Event()
    renew = leases.renew

    def slowly(session: Session, polls: Sequence[Poll]) -> Any:
        entered.set()
        enough.wait(10)
        return renew(session, polls)

    monkeypatch.setattr(dispatching, "renew", slowly)
    worker = Worker(prompt)
    await prompt.run()
    async with asking(prompt, worker, is_held=False) as asked:
        await anyio.to_thread.run_sync(entered.wait)
        asked.scope.cancel()
        await asked.answered.wait()
    enough.set()
    await worker.polls()
    assert prompt.dispatcher._held == {}
    assert (await prompt.row(1)).executor is None


async def test_every_run_is_one_workers_whoever_asks_whichever_process(scene: Scene, database_url: str) -> None:
    other = Database(database_url)
    second = scene.new_dispatcher(other)
    run_ids = [await scene.run() for _ in range(24)]
    begun: list[tuple[int, str]] = []

    async def work(worker: Worker) -> None:
        while len(begun) < len(run_ids):
            for job in await worker.takes():
                begun.append((job.run_id, worker.executor))
                assert (await scene.row(job.run_id)).executor == worker.executor
                await other.run(lambda session, job=job: end_run(session, job.run_id, 1, CAUSE))
                del worker.runs[job.run_id, job.attempt]
        working.cancel_scope.cancel()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(second.run)
            async with anyio.create_task_group() as working:
                for number in range(6):
                    dispatcher = (scene.dispatcher, second)[number % 2]
                    working.start_soon(work, Worker(scene, f"w{number}", dispatcher=dispatcher))
            tasks.cancel_scope.cancel()
    await other.close()
    assert sorted(run_id for run_id, _ in begun) == run_ids


async def test_of_many_polls_at_once_each_is_answered(scene: Scene) -> None:
    run_ids = [await scene.run() for _ in range(40)]
    given: list[int] = []

    async def ask(worker: Worker) -> None:
        given.extend(job.run_id for job in (await worker.waits()).jobs)

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(ask, Worker(scene, f"w{number}"))
    assert sorted(given) == run_ids


# Who takes none.


async def test_a_paused_worker_is_given_no_more_but_what_it_was_given(scene: Scene) -> None:
    worker = Worker(scene)
    run_id = await scene.run(executor="w")
    waits = await scene.run()
    worker.state = PAUSED
    assert [job.run_id for job in (await worker.waits(why="its disk is full")).jobs] == [run_id]
    async with scene.database.reading() as session:
        assert (await session.get_one(WorkerRow, "w")).why == "its disk is full"
    worker.has(run_id)
    async with asking(scene, worker):
        await scene.look()
        assert (await scene.row(waits)).executor is None


async def test_a_draining_worker_keeps_begun_runs_and_the_rest_go_on(scene: Scene) -> None:
    worker = Worker(scene)
    begun, given = await scene.begun(worker), await scene.run(executor="w")
    waits = await scene.run()
    worker.state = DRAINING
    assert (await worker.polls()).jobs == ()
    async with asking(scene, worker):
        await scene.look(2)
        rows = await scene.rows(begun, given, waits)
    assert [(row.status, row.executor, row.attempt, row.lost) for row in rows] == [
        ("running", "w", 1, 0),
        ("pending", None, 2, 0),
        ("pending", None, 1, 0),
    ]
    other = Worker(scene, "other")
    assert {job.run_id for job in (await other.waits()).jobs} == {given, waits}


async def test_what_a_worker_told_another_process_last_holds_here_too(prompt: Scene) -> None:
    worker = Worker(prompt)
    async with asking(prompt, worker):
        # What the poll that is held here says is out of date.
        await prompt.database.run(lambda session: leases.renew(session, [worker.says(state=PAUSED)]))
        run_id = await prompt.run()
        await Worker(prompt, "another").polls()
        assert (await prompt.row(run_id)).executor is None


async def test_a_stopped_workers_runs_go_on_at_once_without_a_mark(prompt: Scene) -> None:
    worker = Worker(prompt)
    safe_to_retry, session = await prompt.begun(worker), await prompt.begun(worker, 2, said_at=utc_now())
    said, given = await prompt.begun(worker, said_at=utc_now()), await prompt.run(executor="w")
    await worker.polls()
    worker.state = STOPPED
    async with asking(prompt, Worker(prompt, "other", calls=9)) as asked:
        await worker.polls()
        taken = {(job.run_id, job.attempt) for job in (await asked.at_once()).jobs}
    assert taken <= {(safe_to_retry, 2), (session, 2), (given, 2)} and taken
    await Worker(prompt, "other", calls=9).polls(number=9)
    rows = await prompt.rows(safe_to_retry, session, given)
    assert [(row.status, row.attempt, row.lost) for row in rows] == [("pending", 2, 0)] * 3
    row = await prompt.row(said)
    assert (row.status, row.error_message) == ("failed", "its worker was stopped")
    assert await prompt.state("w") == "stopped"


# Whoever is gone.


async def test_a_silent_worker_is_lost_by_the_databases_clock(scene: Scene) -> None:
    lost, there = Worker(scene, "lost", calls=9), Worker(scene, "there")
    await scene.judging(lost, there)
    said, safe_to_retry = await scene.begun(lost, said_at=utc_now()), await scene.begun(lost)
    session = await scene.begun(lost, 2, said_at=utc_now())
    given = await scene.run(executor="lost", room_token=VAULT.seal("{}"))
    await lost.polls()
    await scene.look(LOST_S - 1, there)
    assert await scene.state("lost") == "taking"
    await scene.look(2, there)
    assert (await scene.state("lost"), await scene.state("there")) == ("lost", "taking")
    # What was said in a room is not said again there, and nobody knows what the worker said since it polled last.
    for row in await scene.rows(said, safe_to_retry):
        assert (row.status, row.cause, row.error_message) == ("failed", "harness", "worker lost")
    rows = await scene.rows(session, given)
    assert [(row.status, row.attempt, row.lost) for row in rows] == [("pending", 2, 1), ("pending", 2, 0)]
    # It comes back, and says how its call went.
    with pytest.raises(WorkerGone):
        await lost.polls()
    with pytest.raises(WorkerGone):
        await lost.waits()
    receipt = await scene.database.run(lambda record: end_run(record, session, 1, CAUSE, executor="lost"))
    assert not receipt.accepted and (await scene.row(session)).status == "pending"


async def test_a_new_dispatcher_judges_nobody_for_a_whole_lease(scene: Scene) -> None:
    worker = Worker(scene)
    run_id = await scene.begun(worker)
    await worker.polls()
    await scene.set_worker("w", seen_at=utc_now() - timedelta(hours=1))
    unknown = await scene.run(status="running", executor="of another time")
    await scene.look(LOST_S - 1)
    assert [row.status for row in await scene.rows(run_id, unknown)] == ["running", "running"]
    await scene.look(2)
    assert [row.status for row in await scene.rows(run_id, unknown)] == ["failed", "failed"]
    assert await scene.state("w") == "lost"


@pytest.mark.parametrize("away_s", [3.0, 30.0, 3_600.0])
async def test_a_halted_dispatcher_judges_nobody_for_a_whole_lease(scene: Scene, away_s: float) -> None:
    worker = Worker(scene)
    run_id = await scene.begun(worker)
    await scene.judging(worker)
    scene.clock.ahead_s += away_s
    await scene.look(LOST_S - 1)
    assert await scene.state("w") == "taking"
    assert (await worker.polls()).orders[0].counts
    await scene.look(LOST_S - 1)
    assert (await scene.row(run_id)).status == "running"
    await scene.look(2)
    assert await scene.state("w") == "lost"


async def test_a_halted_database_says_nothing_of_who_is_silent(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(scene)
    await scene.judging(worker)
    silent_workers = leases.silent_workers

    def slowly(session: Session, *, longer_than_s: float) -> list[str]:
        scene.clock.ahead_s += 30
        return silent_workers(session, longer_than_s=longer_than_s)

    with monkeypatch.context() as patch:
        patch.setattr(dispatching, "silent_workers", slowly)
        await scene.look()
    await scene.look(LOST_S - 1)
    assert await scene.state("w") == "taking"


async def test_while_its_database_was_away_nobody_is_late(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(scene)
    run_id = await scene.begun(worker)
    await scene.judging(worker)
    with away(monkeypatch, scene):
        for _ in range(3):
            scene.clock.ahead_s += 9
            with pytest.raises(RecordAway):
                await worker.polls()
    await scene.look(LOST_S - 1)
    assert (await scene.row(run_id)).status == "running"
    assert (await worker.polls()).orders[0].counts


async def test_a_sign_of_life_in_the_last_moment_counts(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(scene)
    await scene.judging(worker)
    # It polls between the look that finds it silent and what follows from that.
    monkeypatch.setattr(dispatching, "silent_workers", lambda session, longer_than_s: ["w"])
    await scene.look()
    assert await scene.state("w") == "taking"


async def test_a_worker_whose_parent_calls_it_dead_is_gone_at_once(prompt: Scene) -> None:
    dead = Worker(prompt, "dead", calls=9)
    said, safe_to_retry = await prompt.begun(dead, said_at=utc_now()), await prompt.begun(dead)
    session = await prompt.begun(dead, 2, said_at=utc_now())
    given = await prompt.run(executor="dead")
    await dead.polls()
    async with asking(prompt, Worker(prompt, "other", calls=9)) as asked:
        await prompt.dispatcher.report_gone(Gone(executor="dead"))
        assert (await asked.at_once()).jobs
    await Worker(prompt, "other", calls=9).polls(number=9)
    rows = await prompt.rows(safe_to_retry, session, given)
    assert [(row.executor, row.attempt, row.lost) for row in rows] == [
        ("other", 2, 1),
        ("other", 2, 1),
        ("other", 2, 0),
    ]
    row = await prompt.row(said)
    assert (row.status, row.error_message) == ("failed", "worker lost")
    await prompt.dispatcher.report_gone(Gone(executor="dead"))
    await prompt.dispatcher.report_gone(Gone(executor="never-there"))
    with pytest.raises(WorkerGone):
        await dead.polls()


async def test_a_dead_worker_is_given_nothing_though_its_poll_is_held(prompt: Scene) -> None:
    async with asking(prompt, Worker(prompt, "dead")):
        await prompt.dispatcher.report_gone(Gone(executor="dead"))
        run_id = await prompt.run()
        await Worker(prompt, "another").polls()
        row = await prompt.row(run_id)
    assert (row.executor, row.attempt) == (None, 1)


async def test_what_a_dead_worker_out_of_touch_said_is_unknown(scene: Scene) -> None:
    worker = Worker(scene)
    room, session = await scene.begun(worker), await scene.begun(worker, 2)
    await worker.polls()
    scene.clock.ahead_s += LEASE_S / 2 + 0.1
    await scene.dispatcher.report_gone(Gone(executor="w"))
    await scene.look()
    assert [row.status for row in await scene.rows(room, session)] == ["failed", "pending"]


async def test_a_run_that_workers_are_lost_of_again_and_again_ends(scene: Scene) -> None:
    run_id = await scene.run(result_id=2, status="running", executor="w0", started_at=utc_now())
    for number in range(MAX_LOST + 1):
        worker = Worker(scene, f"w{number}")
        worker.has(run_id, number + 1)
        async with scene.database.session() as session:
            values = {"status": "running", "executor": worker.executor}
            await session.execute(update(RunRow).values(**values))
        await worker.polls()
        await scene.dispatcher.report_gone(Gone(executor=worker.executor))
        await scene.look()
    row = await scene.row(run_id)
    assert (row.status, row.error_message, row.lost) == ("failed", "worker lost", MAX_LOST)


async def test_cancelling_goes_before_trying_again(scene: Scene) -> None:
    worker = Worker(scene)
    run_id = await scene.begun(worker, 2, cancel_requested=True)
    await worker.polls()
    await scene.dispatcher.report_gone(Gone(executor="w"))
    await scene.look()
    assert (await scene.row(run_id)).status == "cancelled"


async def test_a_run_its_worker_forgot_is_taken_from_it_at_once(scene: Scene) -> None:
    worker = Worker(scene)
    known, room = await scene.begun(worker), await scene.begun(worker)
    session, given = await scene.begun(worker, 2), await scene.run(executor="w")
    overtaken = worker.says(runs=())
    await worker.polls()
    for run_id in (room, session):
        del worker.runs[run_id, 1]
    # What comes late says nothing of now.
    await scene.dispatcher.poll(overtaken)
    assert [row.status for row in await scene.rows(known, room, session)] == ["running"] * 3
    worker.state = PAUSED
    answer = await worker.polls()
    assert [(order.run_id, order.counts) for order in answer.orders] == [(known, True)]
    rows = await scene.rows(known, room, session, given)
    assert [(row.status, row.executor, row.attempt) for row in rows] == [
        ("running", "w", 1),
        ("failed", "w", 1),
        ("pending", None, 2),
        ("pending", "w", 1),
    ]
    assert rows[1].error_message == "worker lost: it does not know of this run"


async def test_an_outcome_on_a_workers_disk_is_having_its_run(scene: Scene) -> None:
    worker = Worker(scene)
    run_id = await scene.begun(worker)
    await worker.polls()
    worker.runs.clear()
    worker.kept = (Kept(run_id=run_id, attempt=1, may_end=True),)
    await worker.polls()
    assert (await scene.row(run_id)).executor == "w" and (await scene.row(run_id)).status == "running"


@pytest.mark.parametrize("says", ["the worker", "its parent"])
async def test_an_outcome_on_a_lost_disk_is_waited_for_but_not_forever(scene: Scene, says: str) -> None:
    worker = Worker(scene)
    ended, broken_off = await scene.begun(worker, said_at=utc_now()), await scene.begun(worker, said_at=utc_now())
    unbegun = await scene.run(executor="w")
    await worker.polls()
    worker.runs.clear()
    worker.kept = (
        Kept(run_id=ended, attempt=1, may_end=True),
        Kept(run_id=broken_off, attempt=1, may_end=False),
        Kept(run_id=unbegun, attempt=1, may_end=True),
    )
    if says == "the worker":
        await worker.polls(state=STOPPED)
    else:
        await scene.dispatcher.report_gone(Gone(executor="w", kept=worker.kept))
    await scene.look()
    rows = await scene.rows(ended, broken_off, unbegun)
    assert [(row.status, row.attempt) for row in rows] == [("running", 1), ("failed", 1), ("pending", 2)]
    await scene.set_worker("w", gone_at=utc_now() - leases.KEPT_LIMIT - timedelta(minutes=1))
    await scene.look()
    assert (await scene.row(ended)).status == "failed"


async def test_a_found_outcome_is_waited_for_only_in_its_attempt(
    scene: Scene,
) -> None:
    dead, finder = Worker(scene, "dead"), Worker(scene, "finder")
    found = await scene.begun(dead, said_at=utc_now())
    other = await scene.begun(dead, attempt=2, said_at=utc_now())
    await dead.polls()
    finder.kept = tuple(Kept(run_id=run_id, attempt=1, may_end=True) for run_id in (found, other))
    await finder.polls()
    await scene.dispatcher.report_gone(Gone(executor="dead"))
    await scene.look()
    assert [row.status for row in await scene.rows(found, other)] == ["running", "failed"]


async def test_lost_workers_are_forgotten_after_a_while(scene: Scene) -> None:
    for executor in ("stopped", "lately"):
        await Worker(scene, executor).polls(state=STOPPED)
    await Worker(scene, "there").polls()
    await scene.set_worker("stopped", gone_at=utc_now() - leases.REMEMBERED - timedelta(minutes=1))
    await scene.look()
    assert await scene.state("stopped") is None
    assert (await scene.state("lately"), await scene.state("there")) == ("stopped", "taking")


# What can go wrong.


async def test_a_poll_that_was_not_taken_is_not_answered(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(scene)
    with away(monkeypatch, scene):
        for waits in (False, True):
            with pytest.raises(RecordAway):
                await worker.polls(waits=waits)
    assert await scene.state("w") is None
    await worker.polls()
    assert await scene.state("w") == "taking"


async def test_a_poll_taken_too_slowly_is_not_answered(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    enough = threading.Event()
    monkeypatch.setattr(dispatching, "hold_s", lambda lease_s, has_runs: 0.1)
    monkeypatch.setattr(dispatching, "renew", lambda session, polls: enough.wait(10))
    with pytest.raises(RecordAway):
        await Worker(scene).polls()
    enough.set()


async def test_it_goes_on_after_what_went_wrong_and_says_so_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    sink = logger.add(lambda message: said.append(message.record["message"]), level="INFO")
    try:
        with away(monkeypatch, scene):
            for _ in range(4):
                with pytest.raises(RecordAway):
                    await Worker(scene).polls()
        await Worker(scene).polls()
    finally:
        logger.remove(sink)
    told = [line for line in said if "given to workers" in line]
    assert told == ["no runs are given to workers: OperationalError", "runs are given to workers again"]


async def test_whoever_polls_while_the_server_stops_asks_somebody_else(database: Database, clock: Clock) -> None:
    scene = Scene(database, clock)
    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as dispatching_tasks:
            dispatching_tasks.start_soon(scene.dispatcher.run)
            asked = Asking()
            tasks.start_soon(asked.ask, Worker(scene).waits())
            await until(lambda: scene.dispatcher._held)
            dispatching_tasks.cancel_scope.cancel()
        with anyio.fail_after(1.5):
            await asked.answered.wait()
    assert isinstance(asked.error, RecordAway)


async def test_what_no_worker_can_do_ends_and_blocks_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = await scene.run(room_token=OTHER_VAULT.seal("{}"))
    unreadable = await scene.run(snapshot={})
    refused = await scene.run(room_url="http://moved.test/api/offer")
    good = await scene.run()
    check_room = runner.rooms.allowed.RoomGuard.check_room

    async def check(guard: Any, url: str) -> Any:
        if "moved" in url:
            raise runner.rooms.allowed.RoomRefused("leads elsewhere now")
        return await check_room(guard, url)

    monkeypatch.setattr(runner.rooms.allowed.RoomGuard, "check_room", check)
    answer = await Worker(scene, calls=4).waits()
    assert [job.run_id for job in answer.jobs] == [good]
    rows = await scene.rows(sealed, unreadable, refused)
    assert [(row.status, row.cause, row.started_at) for row in rows] == [
        ("failed", "harness", None),
        ("failed", "harness", None),
        ("failed", "room", None),
    ]
    assert rows[1].error_message == "what the record holds of it can't be read (KeyError)"
    assert rows[2].error_message == "leads elsewhere now"


async def test_the_names_of_several_rooms_are_looked_up_at_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ids = [await scene.run(room_url=f"http://bot-{number % 2}.test/api/offer") for number in range(4)]
    asked: list[str] = []
    all_asked = anyio.Event()

    async def resolve(host: str) -> list[str]:
        asked.append(host)
        if len(asked) == 2:
            all_asked.set()
        await all_asked.wait()
        return ["127.0.0.1"]

    monkeypatch.setattr(runner.rooms.allowed, "resolve", resolve)
    monkeypatch.setattr(scene.dispatcher._settings.server, "allowed_rooms", ["*.test"])
    with anyio.fail_after(10):
        answer = await Worker(scene, calls=4).waits()
    assert [job.run_id for job in answer.jobs] == run_ids
    assert sorted(asked) == ["bot-0.test", "bot-1.test"]


async def test_runs_with_slow_name_lookups_reach_their_worker(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(host: str) -> list[str]:
        await anyio.sleep(0.6)
        return ["127.0.0.1"]

    monkeypatch.setattr(runner.rooms.allowed, "resolve", resolve)
    monkeypatch.setattr(scene.dispatcher._settings.server, "allowed_rooms", ["*.test"])
    monkeypatch.setattr(dispatching, "hold_s", lambda lease_s, has_runs: 0.4)
    await scene.run(room_url="http://slow.test/api/offer")
    assert len((await Worker(scene).waits()).jobs) == 1


async def test_a_short_lease_is_looked_after_as_often_as_it_needs(database: Database) -> None:
    scene = Scene(database, Clock())
    scene.dispatcher = scene.new_dispatcher(lease_s=1.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scene.dispatcher.run)
        idle = Worker(scene)
        await idle.polls()
        # It is held for less than a second, and its sign of life is in the record by then.
        for _ in range(2):
            assert await idle.waits() == Answer(lease_s=1.0)
        tasks.cancel_scope.cancel()
