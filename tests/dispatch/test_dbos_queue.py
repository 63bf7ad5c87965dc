"""The queue on DBOS: what is queued is handed out as it should be, and nothing gets lost."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from runner.dispatch.dbos_queue import DbosQueue, migrate_queue
from runner.dispatch.errors import QueueError
from runner.dispatch.executors import ExecutorLocks
from runner.dispatch.queue import QueuedRun
from runner.records.database import Database

pytestmark = pytest.mark.anyio


on_both = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
async def database(request: pytest.FixtureRequest, tmp_path: Path, anyio_backend: str) -> AsyncIterator[Database]:
    on_postgres = getattr(request, "param", "sqlite") == "postgresql"
    url = request.getfixturevalue("postgres_url") if on_postgres else f"sqlite:///{tmp_path}/record.sqlite"
    database = Database(url)
    await database.migrate()
    await migrate_queue(database.url)
    yield database
    await database.close()


@pytest.fixture
async def queue(database: Database, tmp_path: Path) -> AsyncIterator[DbosQueue]:
    queue = DbosQueue(database.url, lock_dir=tmp_path / "executors")
    yield queue
    await queue.close()


class Runs:
    """A handler that takes notes."""

    def __init__(self, lasting_s: float = 0.0):
        self.lasting_s = lasting_s
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.cancelled: list[int] = []
        self.most_at_once = 0
        self._now: set[int] = set()
        self.together: set[frozenset[int]] = set()

    async def __call__(self, run_id: int) -> None:
        self.begun.append(run_id)
        self._now.add(run_id)
        self.most_at_once = max(self.most_at_once, len(self._now))
        self.together |= {frozenset((run_id, other)) for other in self._now}
        try:
            await anyio.sleep(self.lasting_s)
        except anyio.get_cancelled_exc_class():
            self.cancelled.append(run_id)
            raise
        finally:
            self._now.discard(run_id)
        self.ended.append(run_id)

    async def until(self, count: int) -> None:
        with anyio.fail_after(10):
            while len(self.ended) < count:
                await anyio.sleep(0.02)


async def queue_up(database: Database, queue: DbosQueue, runs: Sequence[QueuedRun]) -> None:
    async with database.session() as session:
        await queue.enqueue(await session.connection(), runs)


@asynccontextmanager
async def working(queue: DbosQueue, runs: Runs, *, concurrency: int = 4) -> AsyncIterator[None]:
    await queue.start_worker(runs, concurrency=concurrency)
    yield
    await queue.stop_worker(timeout_s=5)


async def test_runs_go_in_order_of_priority_then_of_arrival_each_once_and_whatever_becomes_of_one(
    database: Database, queue: DbosQueue
) -> None:
    await queue_up(database, queue, [QueuedRun(1), QueuedRun(2), QueuedRun(3), QueuedRun(4, priority=1)])
    runs = Runs()

    async def handler(run_id: int) -> None:
        await runs(run_id)
        if run_id == 1:
            raise RuntimeError("on purpose")

    await queue.start_worker(handler, concurrency=1)
    with pytest.raises(QueueError, match="already"):
        await queue.start_worker(handler, concurrency=1)
    await runs.until(4)
    await queue.stop_worker(timeout_s=5)
    assert runs.begun == [4, 1, 2, 3]
    assert await queue.ended([1, 2, 3, 4]) == {1: "ERROR", 2: "SUCCESS", 3: "SUCCESS", 4: "SUCCESS"}
    assert await queue.prune(older_than=datetime.now(UTC) - timedelta(minutes=1)) == 0
    assert await queue.prune(older_than=datetime.now(UTC) + timedelta(minutes=1)) == 4
    assert await queue.ended([1]) == {1: "gone"}


@on_both
async def test_a_launch_that_is_rolled_back_queues_nothing(database: Database, queue: DbosQueue) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        async with database.session() as session:
            await queue.enqueue(await session.connection(), [QueuedRun(1)])
            raise RuntimeError("on purpose")
    await queue_up(database, queue, [QueuedRun(2)])
    assert await queue.ended([1, 2]) == {1: "gone"}


@on_both
async def test_the_limit_holds_for_all_runs_and_a_room_for_its_own(database: Database, queue: DbosQueue) -> None:
    alone = [QueuedRun(i) for i in range(1, 7)]
    shared = [QueuedRun(i, room="https://acme.daily.co/one") for i in range(7, 10)]
    await queue_up(database, queue, [*alone, *shared])
    runs = Runs(lasting_s=0.1)
    async with working(queue, runs, concurrency=3):
        await runs.until(9)
    assert sorted(runs.ended) == list(range(1, 10))
    assert runs.most_at_once == 3
    assert not runs.together & {frozenset(pair) for pair in ((7, 8), (7, 9), (8, 9))}


async def test_a_run_starts_at_once_a_delayed_one_later_and_a_forgotten_one_never(
    database: Database, queue: DbosQueue
) -> None:
    runs = Runs(lasting_s=0.6)
    async with working(queue, runs, concurrency=1):
        began_s = anyio.current_time()
        await queue_up(database, queue, [QueuedRun(1), QueuedRun(2), QueuedRun(3, delay_s=1.0)])
        while not runs.begun:
            await anyio.sleep(0.02)
        assert anyio.current_time() - began_s < 1.0
        await queue.forget([1, 2])
        await runs.until(2)
        assert anyio.current_time() - began_s >= 1.6
    assert runs.begun == runs.ended == [1, 3]
    assert await queue.ended([1, 2, 3]) == {1: "SUCCESS", 2: "CANCELLED", 3: "SUCCESS"}


async def test_a_worker_that_stops_or_hurries_cancels_what_outlasts_its_limit_and_hands_back_what_it_had_not_begun(
    database: Database, queue: DbosQueue, tmp_path: Path
) -> None:
    # Each queue hands over as many as the worker may make, so one of these two waits inside of it.
    await queue_up(database, queue, [QueuedRun(1), QueuedRun(2, room="a")])
    runs = Runs(lasting_s=30)
    await queue.start_worker(runs, concurrency=1)
    await anyio.sleep(0.8)
    await queue.stop_worker(timeout_s=0.2)
    assert len(runs.begun) == 1
    assert runs.cancelled == runs.begun
    assert await asyncio.to_thread(str, "still usable") == "still usable"
    other = DbosQueue(database.url, lock_dir=tmp_path / "executors")
    assert await other.dead_workers() == []
    later = Runs(lasting_s=30)
    await other.start_worker(later, concurrency=1)
    with anyio.fail_after(10):
        while not later.begun:
            await anyio.sleep(0.02)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: other.stop_worker(timeout_s=60))
            await anyio.sleep(0.1)
            other.hurry()
    assert later.cancelled == later.begun
    await other.close()
    assert sorted([*runs.begun, *later.begun]) == [1, 2]


async def test_a_worker_needs_its_tables(tmp_path: Path) -> None:
    queue = DbosQueue(f"sqlite:///{tmp_path}/none.sqlite", lock_dir=tmp_path / "executors")
    with pytest.raises(QueueError, match="can't start"):
        await queue.start_worker(Runs(), concurrency=1)
    await queue.close()


def test_a_worker_is_alive_for_as_long_as_it_holds_its_lock(tmp_path: Path) -> None:
    mine, others = ExecutorLocks(tmp_path), ExecutorLocks(tmp_path)
    mine.hold("me")
    assert others.take_dead() == []
    mine.let_go("me")
    assert others.take_dead() == ["me"]
    assert mine.take_dead() == []
    others.bury("me")
    assert mine.take_dead() == []
    assert list(tmp_path.iterdir()) == []
