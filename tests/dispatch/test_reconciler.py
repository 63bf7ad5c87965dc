"""Record and queue compared: a run that nobody sees to ends, and everything else is left alone."""

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from sqlalchemy import insert, select, update

from runner.dispatch import reconciler as reconciling
from runner.dispatch.dbos_queue import DbosQueue, DeadWorker, migrate_queue
from runner.dispatch.queue import QueuedRun
from runner.dispatch.reconciler import Reconciler
from runner.records.database import Database
from runner.records.statuses import RunStatus
from runner.records.tables import Project, ResultRow, RunRow

pytestmark = pytest.mark.anyio

DIES = """
import sys
from pathlib import Path
import anyio
from runner.dispatch.dbos_queue import DbosQueue

async def main():
    async def handler(run_id):
        print(run_id, flush=True)
        await anyio.sleep_forever()

    await DbosQueue(sys.argv[1], lock_dir=Path(sys.argv[2])).start_worker(handler, concurrency=1)
    await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/record.sqlite")
    await database.migrate()
    async with database.session() as session:
        session.add(Project(id=1, name="p"))
        await session.flush()
        session.add(ResultRow(id=1, project_id=1, run_type="pipecat"))
    yield database
    await database.close()


async def add_runs(database: Database, statuses: Sequence[RunStatus]) -> None:
    rows = [
        {"result_id": 1, "project_id": 1, "scenario_name": "s", "snapshot": {}, "status": status.value}
        for status in statuses
    ]
    async with database.session() as session:
        await session.execute(insert(RunRow), rows)


async def statuses(database: Database) -> dict[int, str]:
    async with database.reading() as session:
        return {row.id: row.status for row in await session.execute(select(RunRow.id, RunRow.status))}


def start_worker_process(url: str, lock_dir: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", DIES, url, str(lock_dir)], stdout=subprocess.PIPE, text=True)


class QueueDouble:
    """A queue that holds what a test says."""

    def __init__(self, *, ended: dict[int, str] | None = None, dead: Sequence[DeadWorker] = ()):
        self._ended = ended or {}
        self._dead = list(dead)
        self.asked: list[list[int]] = []
        self.done: list[tuple[str, object]] = []

    async def dead_workers(self) -> list[DeadWorker]:
        return list(self._dead)

    def bury(self, worker: DeadWorker) -> None:
        self._dead.remove(worker)
        self.done.append(("bury", worker.executor))

    def leave(self, worker: DeadWorker) -> None:
        self.done.append(("leave", worker.executor))

    async def requeue(self, run_ids: Sequence[int]) -> None:
        self.done.append(("requeue", list(run_ids)))

    async def drop(self, run_ids: Sequence[int]) -> None:
        self.done.append(("drop", list(run_ids)))

    async def ended(self, run_ids: Sequence[int]) -> dict[int, str]:
        self.asked.append(list(run_ids))
        return {run_id: how for run_id, how in self._ended.items() if run_id in run_ids}


async def test_runs_whose_job_ended_without_them_fail_as_the_harness_s_fault(database: Database) -> None:
    await add_runs(
        database, [RunStatus.PENDING, RunStatus.RUNNING, RunStatus.EVALUATING, RunStatus.COMPLETED, RunStatus.RUNNING]
    )
    queue = QueueDouble(ended={1: "gone", 2: "ERROR", 3: "CANCELLED", 4: "SUCCESS"})
    assert sorted(await Reconciler(database, queue).reconcile()) == [1, 2, 3]
    assert await statuses(database) == {1: "failed", 2: "failed", 3: "failed", 4: "completed", 5: "running"}
    async with database.reading() as session:
        run = await session.get_one(RunRow, 2)
        assert (run.cause, run.error_message) == ("harness", "worker lost (its job: error)")
    # It has not ended, and the queue still has it.
    assert (await Reconciler(database, queue).reconcile()) == []
    assert queue.asked[-1] == [5]


async def test_many_waiting_runs_are_looked_at_in_turns(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciling, "BATCH", 2)
    await add_runs(database, [RunStatus.PENDING] * 3)
    queue = QueueDouble()
    reconciler = Reconciler(database, queue)
    for _ in range(3):
        await reconciler.reconcile()
    assert queue.asked == [[1, 2], [3], [1, 2]]


async def test_what_could_not_be_seen_to_is_left_to_be_found_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_runs(database, [RunStatus.PENDING])
    queue = QueueDouble(dead=[DeadWorker("without", ()), DeadWorker("other", (1,)), DeadWorker("last", ())])

    async def fail(run_ids: Sequence[int]) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(queue, "requeue", fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        await Reconciler(database, queue).reconcile()
    assert queue.done == [("bury", "without"), ("leave", "other"), ("leave", "last")]


async def test_after_a_kill_runs_that_were_on_fail_and_those_that_were_not_start_again(
    database: Database, tmp_path: Path
) -> None:
    await migrate_queue(database.url)
    queue = DbosQueue(database.url, lock_dir=tmp_path / "executors")
    # One of the first two is begun and the other handed over; the third waits in its queue, with the second's room.
    await add_runs(database, [RunStatus.PENDING] * 3)
    async with database.session() as session:
        queued = [QueuedRun(1), QueuedRun(2, room="room"), QueuedRun(3, room="room")]
        await queue.enqueue(await session.connection(), queued)
    with start_worker_process(database.url, tmp_path / "executors") as process:
        assert process.stdout is not None
        begun = int(await anyio.to_thread.run_sync(process.stdout.readline))
        await anyio.sleep(0.5)
        assert await queue.dead_workers() == []
        process.kill()
    async with database.session() as session:
        await session.execute(update(RunRow).where(RunRow.id == begun).values(status=RunStatus.RUNNING.value))
    assert await Reconciler(database, queue).reconcile() == [begun]
    assert await queue.dead_workers() == []

    taken: list[int] = []

    async def handler(run_id: int) -> None:
        taken.append(run_id)

    await queue.start_worker(handler, concurrency=4)
    with anyio.fail_after(10):
        while len(taken) < 2:
            await anyio.sleep(0.05)
    await queue.close()
    assert sorted([begun, *taken]) == [1, 2, 3]
    assert (await statuses(database))[begun] == "failed"
