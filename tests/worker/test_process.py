"""A process that makes calls: what it says of itself, how it drains, and how it goes on when it was given up."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
import sqlalchemy as sa
from loguru import logger
from pydantic import SecretStr

from bots.timeline import AgentStartedSpeaking, CallerUnderrun
from runner.dispatch.dbos_queue import DbosQueue, migrate_queue
from runner.dispatch.errors import QueueError
from runner.dispatch.lease import Beat, Registration
from runner.dispatch.queue import RunHandler
from runner.dispatch.states import WorkerState
from runner.records.assignments import Assignment
from runner.records.database import Database
from runner.records.tables import WorkerRow
from runner.settings import ServerSettings, Settings, WorkerSettings
from runner.worker import outbox as outboxes
from runner.worker import process as processes
from runner.worker import worker as workers
from runner.worker.outbox import Outbox, Report
from runner.worker.process import WorkerProcess
from runner.worker.watch import LoadWatch
from tests.worker.calls_double import StubCalls
from tests.worker.conftest import add_key, until
from tests.worker.record_double import KEY, RecordDouble, job

pytestmark = pytest.mark.anyio

STOPPED = "its worker was stopped"


class FakeQueue:
    """The queue's side of a worker."""

    def __init__(self, engine: "FakeEngine", executor: str):
        self.executor = executor
        self.engine = engine
        self.scopes: list[anyio.CancelScope] = []
        self.stopped_after_s: float | None = None
        self.handler: RunHandler | None = None
        self.patience = anyio.CancelScope()
        self.idle = anyio.Event()

    async def start(self, handler: RunHandler) -> None:
        if self.engine.is_away:
            raise QueueError("the queue's worker can't start: no database")
        self.handler = handler
        self.engine.happened.append("queue started")

    async def hand_over(self, run_id: int, attempt: int = 1) -> None:
        assert self.handler is not None
        scope = anyio.CancelScope()
        self.scopes.append(scope)
        with scope:
            await self.handler(run_id, attempt)
        self.scopes.remove(scope)
        if not self.scopes:
            self.idle.set()

    async def stop(self, *, timeout_s: float) -> None:
        self.stopped_after_s = timeout_s
        with anyio.CancelScope(shield=True):
            self.patience.deadline = anyio.current_time() + timeout_s
            with self.patience:
                await self._idle()
            for scope in self.scopes:
                scope.cancel()
            await self._idle()
        self.engine.happened.append("queue stopped")

    async def _idle(self) -> None:
        while self.scopes:
            await self.idle.wait()
            self.idle = anyio.Event()

    def hurry(self) -> None:
        self.patience.cancel()


class FakeLease:
    """A sign of life."""

    def __init__(self, engine: "FakeEngine", registration: Registration, callbacks: dict[str, Any]):
        self.engine = engine
        self.registration = registration
        self.beat: Callable[[], Beat] = callbacks["beat"]
        self.lost: Callable[[str], None] = callbacks["lost"]
        self.heard_s: Callable[[], float] = callbacks["heard_s"]
        self.last: Beat | None = None
        self.nudges = 0

    def start(self) -> None:
        self.beat()
        self.engine.happened.append("lease started")

    def nudge(self) -> None:
        self.nudges += 1

    def stop(self) -> None:
        self.last = self.beat()
        self.engine.happened.append("lease stopped")


@dataclass
class FakeEngine:
    """Makes both."""

    is_away: bool = False
    queues: list[FakeQueue] = field(default_factory=list[FakeQueue])
    leases: list[FakeLease] = field(default_factory=list[FakeLease])
    happened: list[str] = field(default_factory=list[str])

    def queue(self, database_url: str, *, executor: str) -> FakeQueue:
        self.queues.append(FakeQueue(self, executor))
        return self.queues[-1]

    def lease(self, database_url: str, registration: Registration, **callbacks: Any) -> FakeLease:
        self.leases.append(FakeLease(self, registration, callbacks))
        return self.leases[-1]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    monkeypatch.setattr(processes, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(processes, "load", lambda: None)
    # What is there now would never be collected by later tests; and to look through all of it takes long.
    monkeypatch.setattr(processes.gc, "freeze", lambda: None)
    monkeypatch.setattr(processes.gc, "collect", lambda: 0)
    return FakeEngine()


@dataclass
class Started:
    process: WorkerProcess
    engine: FakeEngine
    hand_over: Callable[[int], None]

    @property
    def queue(self) -> FakeQueue:
        return self.engine.queues[-1]

    @property
    def lease(self) -> FakeLease:
        return self.engine.leases[-1]


@pytest.fixture
def start(record: RecordDouble, engine: FakeEngine, database_url: str, tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def starting(calls: StubCalls, *, drain_limit_s: float = 5.0, waits: bool = True) -> AsyncIterator[Started]:
        settings = Settings(
            server=ServerSettings(data_dir=tmp_path / "data"), worker=WorkerSettings(drain_limit_s=drain_limit_s)
        )
        async with record.http() as http:
            process = WorkerProcess(
                settings,
                http,
                SecretStr(KEY),
                database_url,
                "w-1",
                make_queue=engine.queue,
                make_lease=engine.lease,
                make_call=calls,
            )
            async with anyio.create_task_group() as handing, anyio.create_task_group() as tasks:
                tasks.start_soon(process.run)
                if waits:
                    await process.ready.wait()
                yield Started(process, engine, lambda run_id: handing.start_soon(engine.queues[-1].hand_over, run_id))
                process.stop()

    return starting


def left(folder: Path) -> list[str]:
    outbox = folder / "data" / "outbox"
    return [path.name for path in outbox.iterdir()] if outbox.exists() else []


async def test_it_registers_last_and_signs_off_last(start: Callable[..., Any], tmp_path: Path) -> None:
    async with start(StubCalls()) as started:
        registration = started.lease.registration
        assert registration.executor == started.queue.executor and registration.name == "w-1"
        assert set(registration.rooms) == {"daily", "smallwebrtc"} and registration.calls == 4
        assert started.lease.beat() == Beat(load=started.lease.beat().load)
        assert started.process.status.state == "taking"
    assert started.engine.happened == ["queue started", "lease started", "queue stopped", "lease stopped"]
    assert left(tmp_path) == []


async def test_what_it_works_on_is_in_its_signs_of_life(start: Callable[..., Any], record: RecordDouble) -> None:
    calls = StubCalls(lasts_s=1.0)
    async with start(calls) as started:
        before = started.lease.nudges
        started.hand_over(7)
        await until(lambda: calls.made)
        assert started.lease.beat().live == (7,) and started.lease.nudges == before
        record.is_down = True
        await until(lambda: started.lease.beat().held == (7,))
        assert started.lease.nudges == before
        assert started.process.status.held == 1
        record.is_down = False
        await until(lambda: started.lease.beat().held == () == started.lease.beat().live)
        assert started.process.status.calls_made == 1
        assert started.lease.heard_s() > time.monotonic() - 5


async def test_a_dead_worker_s_outcome_that_was_found_is_said_at_once(
    start: Callable[..., Any], record: RecordDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "SWEEP_INTERVAL_S", 0.02)
    async with start(StubCalls()) as started:
        record.is_down = True
        dead = Outbox(tmp_path / "data" / "outbox", record.client())
        shelf = dead.open("dead")
        before = started.lease.nudges
        # By being cut off as well there is something to say.
        monkeypatch.setattr(processes, "SILENCE_LIMIT_S", 60.0)
        await shelf.put(Report(run_id=7, attempt=1, run={"id": "7"}))
        dead.close()
        await until(lambda: started.lease.nudges > before)
        assert started.lease.beat().held == (7,)
        record.is_down, record.given_to = False, "dead"
        await until(lambda: started.lease.beat().held == ())
        assert started.lease.nudges == before + 1
    assert [outcome["run"] for outcome in record.outcomes] == [{"id": "7"}]


async def test_while_the_record_does_not_answer_it_takes_nothing_and_says_so(
    start: Callable[..., Any], record: RecordDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "SILENCE_LIMIT_S", 0.1)
    monkeypatch.setattr(processes, "LISTENING_INTERVAL_S", 0.02)
    monkeypatch.setattr(LoadWatch, "sample", lambda *_: False)
    calls = StubCalls(lasts_s=60)
    async with start(calls) as started:
        started.hand_over(7)
        await until(lambda: calls.made)
        assert started.lease.beat().state is WorkerState.TAKING
        record.is_down = True
        await until(lambda: started.lease.beat().state is WorkerState.CUT_OFF)
        await until(lambda: started.process.status.state == "cut-off")
        assert started.lease.beat().live == (7,)
        record.is_down = False
        await until(lambda: started.process.status.state == "taking")
        record.cancelled.add(7)


async def test_one_that_has_nothing_to_do_knows_that_the_record_can_t_be_used(
    start: Callable[..., Any], record: RecordDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "SILENCE_LIMIT_S", 0.1)
    monkeypatch.setattr(processes, "LISTENING_INTERVAL_S", 0.02)
    monkeypatch.setattr(processes, "KNOCK_AFTER_S", 0.05)
    async with start(StubCalls()) as started:
        record.refusals = {"progress": [503] * 10_000}
        await until(lambda: started.lease.beat().state is WorkerState.CUT_OFF)
        record.refusals.clear()
        await until(lambda: started.lease.beat().state is WorkerState.TAKING)


async def test_one_whose_event_loop_hangs_does_not_say_that_it_takes_runs(start: Callable[..., Any]) -> None:
    async with start(StubCalls()) as started:
        assert started.lease.beat().state is WorkerState.TAKING
        # As it is when nothing has been asked for so long.
        started.process._record.heard_s -= processes.DEAF_AFTER_S
        assert started.lease.beat().state is WorkerState.CUT_OFF
        await until(lambda: started.lease.beat().state is WorkerState.TAKING)


async def test_where_the_record_does_not_answer_or_refuses_the_key_it_is_no_worker_yet_and_says_why(
    start: Callable[..., Any], record: RecordDouble
) -> None:
    said: list[str] = []
    sink = logger.add(lambda message: said.append(message.record["message"]), level="WARNING")
    record.is_down = True
    async with start(StubCalls(), waits=False) as started:
        await until(lambda: said)
        record.refusals = {"progress": [401] * 10_000}
        record.is_down = False
        await until(lambda: len(said) > 1)
        assert started.engine.leases == [] and started.process.status.state == "starting"
        record.refusals.clear()
        with anyio.fail_after(20):
            await started.process.ready.wait()
        assert started.process.status.state == "taking"
    logger.remove(sink)
    away, refused = said
    assert "the record does not answer" in away and "HTTP 401" in refused


async def test_told_to_stop_it_sees_its_calls_through(start: Callable[..., Any], record: RecordDouble) -> None:
    async with start(StubCalls(lasts_s=0.4)) as started:
        started.hand_over(7)
        await until(lambda: record.moves)
        started.process.stop()
        assert started.lease.beat().state is WorkerState.DRAINING
        assert started.process.status.state == "draining"
    assert record.outcomes[0]["run"]["status"] == "completed" and record.released == []
    assert started.engine.happened[-2:] == ["queue stopped", "lease stopped"]


async def test_what_is_left_when_the_limit_has_passed_is_given_back(
    start: Callable[..., Any], record: RecordDouble, tmp_path: Path
) -> None:
    record.waits_again.add(7)
    async with start(StubCalls(lasts_s=60), drain_limit_s=0.1) as started:
        started.hand_over(7)
        await until(lambda: record.moves)
    assert [told["detail"] for told in record.released] == [STOPPED] and left(tmp_path) == []


async def test_a_hurry_gives_everything_back_at_once(start: Callable[..., Any], record: RecordDouble) -> None:
    with anyio.fail_after(20):
        async with start(StubCalls(lasts_s=60), drain_limit_s=60) as started:
            started.hand_over(7)
            await until(lambda: record.moves)
            started.process.stop()
            await anyio.sleep(0.05)
            assert record.released == []
            started.process.hurry()
    assert len(record.released) == 1


async def test_one_whose_key_is_refused_takes_nothing_more_until_it_is_taken_again(
    start: Callable[..., Any], record: RecordDouble, tmp_path: Path
) -> None:
    record.jobs[8] = job(8)
    calls = StubCalls(lasts_s=2.0)
    async with start(calls) as started:
        first = started.lease
        started.hand_over(7)
        await until(lambda: record.moves)
        record.refusals = {"claim": [401], "progress": [401] * 1_000}
        started.hand_over(8)
        await until(lambda: first.beat().state is WorkerState.DRAINING)
        # The run goes to others, for it is in no sign of life any more; the call that is on goes on.
        await until(lambda: first.beat().live == (7,))
        await until(lambda: started.process.status.state == "starting")
        assert first.last is not None and first.last.live == first.last.held == ()
        await anyio.sleep(0.1)
        assert len(started.engine.leases) == 1
        record.refusals.clear()
        await until(lambda: started.process.status.state == "taking")
        assert started.lease.registration.executor != first.registration.executor
    assert [outcome["run"]["id"] for outcome in record.outcomes] == ["7"]
    assert record.released == [] and left(tmp_path) == []


async def test_one_that_is_given_up_hangs_up_and_becomes_another(
    start: Callable[..., Any], record: RecordDouble, tmp_path: Path
) -> None:
    record.jobs[8] = job(8)
    calls = StubCalls(lasts_s=60)
    async with start(calls) as started:
        first = started.lease
        started.hand_over(7)
        await until(lambda: record.moves)
        # Somebody else has the run by now.
        record.attempts[7] = 2
        await anyio.to_thread.run_sync(first.lost, "the worker was given up for lost")
        await until(lambda: len(started.engine.leases) == 2 and started.process.status.state == "taking")
        assert calls.left == ["7"] and first.last is not None and first.last.live == ()
        assert started.lease.registration.executor != first.registration.executor
        calls.lasts_s = 0.05
        started.hand_over(8)
        await until(lambda: record.outcomes)
    assert [outcome["run"]["id"] for outcome in record.outcomes] == ["8"]
    assert record.released == [] and left(tmp_path) == []


async def test_one_that_is_given_up_while_it_drains_hangs_up(start: Callable[..., Any], record: RecordDouble) -> None:
    calls = StubCalls(lasts_s=60)
    with anyio.fail_after(20):
        async with start(calls, drain_limit_s=60) as started:
            started.hand_over(7)
            await until(lambda: record.moves)
            started.process.stop()
            await anyio.sleep(0.05)
            started.lease.lost("the worker stood still for 9 s")
    assert calls.left == ["7"] and len(started.engine.leases) == 1


async def test_it_waits_for_a_database_that_is_away_and_says_so_once(
    start: Callable[..., Any], engine: FakeEngine, tmp_path: Path
) -> None:
    said: list[str] = []
    sink = logger.add(lambda message: said.append(message.record["message"]), level="INFO")
    engine.is_away = True
    async with start(StubCalls(), waits=False) as started:
        await until(lambda: len(engine.queues) > 2)
        assert started.process.status.state == "starting" and not started.process.ready.is_set()
        engine.is_away = False
        await started.process.ready.wait()
    logger.remove(sink)
    mine = [line for line in said if line.startswith("worker w-1")]
    assert mine == [
        "worker w-1: can't take runs: the queue's worker can't start: no database",
        "worker w-1: taking",
        "worker w-1: draining",
    ]
    assert left(tmp_path) == []


async def test_it_can_be_stopped_while_it_waits(start: Callable[..., Any], engine: FakeEngine) -> None:
    engine.is_away = True
    with anyio.fail_after(20):
        async with start(StubCalls(), waits=False):
            await until(lambda: engine.queues)


async def test_a_call_without_audio_to_send_is_said_and_so_is_that_it_is_well_again(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.worker.watch.WINDOW_S", 0.5)
    calls = StubCalls(lasts_s=0.1)
    calls.facts = [CallerUnderrun(at_ns=3, turn=0, duration_ms=40)]
    async with start(calls) as started:
        started.hand_over(7)
        await until(lambda: started.lease.beat().state is WorkerState.OVERLOADED)
        assert started.lease.beat().load.underruns == 1
        await until(lambda: started.lease.beat().state is WorkerState.TAKING)


async def test_a_late_event_loop_is_said_while_calls_are_on(record: RecordDouble, start: Callable[..., Any]) -> None:
    async with start(StubCalls(lasts_s=60)) as started:
        await anyio.sleep(0.15)
        time.sleep(1.2)  # noqa: ASYNC251 - that is the point
        await anyio.sleep(0.15)
        # One call it can always try.
        assert started.lease.beat().load.loop_lag_ms > 1_000
        assert started.lease.beat().state is WorkerState.TAKING
        started.hand_over(7)
        await until(lambda: record.moves)
        for _ in range(3):
            time.sleep(0.25)  # noqa: ASYNC251 - that is the point
            await anyio.sleep(0.12)
        await until(lambda: started.lease.beat().state is WorkerState.OVERLOADED)
        record.cancelled.add(7)
        await until(lambda: started.lease.beat().state is WorkerState.TAKING)


async def test_what_its_own_beginning_takes_is_no_overload(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes.gc, "collect", lambda: time.sleep(1.2))
    async with start(StubCalls()) as started:
        await anyio.sleep(0.3)
        assert started.process.status.state == "taking"


async def test_a_process_that_is_cut_off_gives_its_runs_back(
    record: RecordDouble, start: Callable[..., Any], tmp_path: Path
) -> None:
    record.waits_again.add(7)
    with pytest.raises(BaseExceptionGroup):
        async with start(StubCalls(lasts_s=60)) as started:
            started.hand_over(7)
            await until(lambda: record.moves)
            raise RuntimeError("something else broke")
    assert len(record.released) == 1 and left(tmp_path) == []


async def test_on_the_real_queue_it_makes_what_is_handed_to_it_also_in_a_later_life(
    record: RecordDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "load", lambda: None)
    monkeypatch.setattr(processes.gc, "freeze", lambda: None)
    monkeypatch.setattr(workers, "STOPPED_REPORT_LIMIT_S", 1.0)
    record.jobs[8] = job(8)
    calls = StubCalls(lasts_s=60)
    calls.facts = [AgentStartedSpeaking(at_ns=3)]
    database = Database(f"sqlite:///{tmp_path}/record.sqlite")
    await database.migrate()
    await migrate_queue(database.url)
    add_key(database.url)
    queue = DbosQueue(database.url)

    async def executor(state: str) -> str | None:
        async with database.reading() as session:
            return await session.scalar(sa.select(WorkerRow.executor).where(WorkerRow.state == state))

    async def hand_over(run_id: int) -> None:
        mine = await executor("taking")
        assert mine is not None
        async with database.session() as session:
            await (await session.connection()).run_sync(queue.hand_over, [Assignment(run_id, 1, mine)])

    settings = Settings(server=ServerSettings(data_dir=tmp_path / "data"))
    async with record.http() as http, anyio.create_task_group() as tasks:
        process = WorkerProcess(settings, http, SecretStr(KEY), database.url, "w-1", make_call=calls)
        tasks.start_soon(process.run)
        await process.ready.wait()
        await hand_over(7)
        await until(lambda: record.moves)
        async with database.session() as session:
            lost = sa.update(WorkerRow).values(state="lost", gone_at=sa.func.current_timestamp())
            await session.execute(lost)
        await until(lambda: calls.left == ["7"], 10)
        with anyio.fail_after(15):
            while await executor("taking") is None:
                await anyio.sleep(0.05)
        calls.lasts_s = 0.05
        await hand_over(8)
        await until(lambda: record.outcomes and record.released, 10)
        process.stop()
    assert [told["detail"] for told in record.released] == ["worker lost: the worker was given up for lost"]
    assert [outcome["run"]["id"] for outcome in record.outcomes] == ["8"]
    assert await executor("stopped") is not None
    assert left(tmp_path) == []
    await queue.close()
    await database.close()
