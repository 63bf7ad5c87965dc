"""The queue on DBOS: what is handed over in a transaction reaches its worker, and nobody else."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from sqlalchemy.exc import OperationalError

from runner.dispatch import dbos_queue
from runner.dispatch.dbos_queue import DbosQueue, DbosWorker
from runner.dispatch.errors import QueueError
from runner.records.assignments import Assignment
from runner.records.database import Database

pytestmark = pytest.mark.anyio


class Runs:
    """A handler that takes notes."""

    def __init__(self, lasting_s: float = 0.0):
        self.lasting_s = lasting_s
        self.begun: list[tuple[int, int]] = []
        self.ended: list[int] = []
        self.cancelled: list[int] = []

    async def __call__(self, run_id: int, attempt: int) -> None:
        self.begun.append((run_id, attempt))
        try:
            await anyio.sleep(self.lasting_s)
        except anyio.get_cancelled_exc_class():
            self.cancelled.append(run_id)
            raise
        self.ended.append(run_id)
        if run_id == 13:
            raise RuntimeError("on purpose")

    async def until(self, *, begun: int = 0, ended: int = 0) -> None:
        with anyio.fail_after(10):
            while len(self.begun) < begun or len(self.ended) < ended:
                await anyio.sleep(0.02)


async def hand_over(database: Database, queue: DbosQueue, runs: Sequence[Assignment]) -> None:
    async with database.session() as session:
        await (await session.connection()).run_sync(queue.hand_over, runs)


@asynccontextmanager
async def working(database: Database, runs: Runs, executor: str = "me") -> AsyncIterator[DbosWorker]:
    worker = DbosWorker(database.url, executor=executor)
    await worker.start(runs)
    yield worker
    await worker.stop(timeout_s=5)


async def test_runs_reach_the_worker_they_were_given_to_once_for_each_attempt(
    database: Database, queue: DbosQueue
) -> None:
    await hand_over(database, queue, [Assignment(1, 1, "me"), Assignment(13, 1, "me"), Assignment(2, 1, "other")])
    runs = Runs()
    async with working(database, runs):
        await runs.until(ended=2)
        await hand_over(database, queue, [Assignment(1, 2, "me"), Assignment(3, 1, "me")])
        await runs.until(ended=4)
    assert sorted(runs.begun) == [(1, 1), (1, 2), (3, 1), (13, 1)]
    assert await queue.prune(older_than=datetime.now(UTC) - timedelta(minutes=1)) == 0
    assert await queue.prune(older_than=datetime.now(UTC) + timedelta(minutes=1)) == 4


async def test_what_is_rolled_back_reaches_nobody(database: Database, queue: DbosQueue) -> None:
    runs = Runs()
    async with working(database, runs):
        with pytest.raises(RuntimeError, match="on purpose"):
            async with database.session() as session:
                await (await session.connection()).run_sync(queue.hand_over, [Assignment(1, 1, "me")])
                raise RuntimeError("on purpose")
        await hand_over(database, queue, [Assignment(2, 1, "me")])
        await runs.until(ended=1)
    assert runs.begun == [(2, 1)]


async def test_a_retired_worker_has_nothing_and_gets_nothing(database: Database, queue: DbosQueue) -> None:
    await hand_over(database, queue, [Assignment(1, 1, "me"), Assignment(2, 1, "other")])
    await queue.retire("me")
    await queue.retire("me")
    runs, others = Runs(), Runs()
    async with working(database, runs):
        await anyio.sleep(0.6)
    async with working(database, others, "other"):
        await others.until(ended=1)
    assert runs.begun == [] and others.begun == [(2, 1)]


async def test_nothing_is_waited_for_while_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def no_wait(seconds: float) -> None:
        waits.append(seconds)
        raise RuntimeError("it waits")

    monkeypatch.setattr(time, "sleep", no_wait)
    queue = DbosQueue("postgresql://nobody@127.0.0.1:1/nothing")
    for work in (queue.retire("me"), queue.prune(older_than=datetime.now(UTC))):
        with pytest.raises(OperationalError):
            await work
    assert waits == []
    await queue.close()


async def test_a_worker_that_stops_lets_runs_finish_and_begins_no_more(
    database: Database, queue: DbosQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    destroy = dbos_queue._destroy

    def slowly(timeout_s: int) -> None:
        time.sleep(0.6)
        destroy(timeout_s)

    # DBOS takes what comes until it is told to stop.
    monkeypatch.setattr(dbos_queue, "_destroy", slowly)
    await hand_over(database, queue, [Assignment(1, 1, "me")])
    runs = Runs(lasting_s=1.0)
    worker = DbosWorker(database.url, executor="me")
    await worker.start(runs)
    await runs.until(begun=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: worker.stop(timeout_s=20))
        await anyio.sleep(0.1)
        await hand_over(database, queue, [Assignment(2, 1, "me")])
    assert runs.ended == [1] and runs.begun == [(1, 1)]
    # DBOS had taken the loop's own threads, and ended them.
    assert await asyncio.to_thread(str, "still usable") == "still usable"


@pytest.mark.parametrize("hurried", [False, True])
async def test_what_outlasts_the_limit_or_a_second_signal_is_cancelled(
    database: Database, queue: DbosQueue, hurried: bool
) -> None:
    await hand_over(database, queue, [Assignment(1, 1, "me")])
    runs = Runs(lasting_s=30)
    worker = DbosWorker(database.url, executor="me")
    await worker.start(runs)
    await runs.until(begun=1)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: worker.stop(timeout_s=60 if hurried else 0.2))
            await anyio.sleep(0.1)
            if hurried:
                worker.hurry()
    assert runs.cancelled == [1] and runs.ended == []


async def test_a_worker_starts_once_and_needs_its_tables(database: Database, tmp_path: Path) -> None:
    async with working(database, Runs()) as worker:
        with pytest.raises(QueueError, match="already"):
            await worker.start(Runs())
    with pytest.raises(QueueError, match="can't start"):
        await DbosWorker(f"sqlite:///{tmp_path}/none.sqlite").start(Runs())
