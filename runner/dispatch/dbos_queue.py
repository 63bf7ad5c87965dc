"""The queue on DBOS: its tables stand in the record's database, so a launch and what it queues commit as one.

A run is a DBOS workflow ``run-<id>`` of one step. Runs that share nothing wait in one queue, first come first served;
those that need a room for themselves in another, which DBOS divides by room. DBOS counts each queue's runs by itself,
so a worker's limit for both together is kept here: a run that was handed over and finds no slot waits for one, and
goes back when the worker stops.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer, EnqueueOptions, WorkflowStatus
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection

from runner.dispatch.errors import QueueError
from runner.dispatch.executors import ExecutorLocks, new_executor_id
from runner.dispatch.queue import QueuedRun, RunHandler

APPLICATION = "scenario-runner"
APPLICATION_VERSION = "1"
"""Of what a workflow does, not of the package: a worker takes runs of its own version only."""

RUNS_QUEUE = "runs"
ROOMS_QUEUE = "rooms"
WORKFLOW = "run"

POLL_INTERVAL_S = 0.2
CANCEL_LIMIT_S = 20.0
"""How long runs may take to end once they are cancelled: to leave the room, upload, and report."""

SETTLING_LIMIT_S = 2.0
SETTLING_INTERVAL_S = 0.05
"""How long, and how often, a worker that stops waits for its last runs to be written down as over."""

MAX_HANDOVERS = 10
CHUNK = 500

_WAITING = ["ENQUEUED", "DELAYED"]
_TAKEN = ["PENDING"]
_OVER = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]

_T = TypeVar("_T")

# DBOS brings a console handler of its own where there is none; what it says goes where everything else does.
logging.getLogger("dbos").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class DeadWorker:
    """A worker whose process has ended.

    Attributes:
        executor: Its id.
        run_ids: The runs it left behind.
    """

    executor: str
    run_ids: tuple[int, ...]


async def migrate_queue(database_url: str) -> None:
    """Bring the queue's tables up to date. Safe if two processes do it at once.

    Raises:
        QueueError: The database can't be reached, or refuses.
    """
    try:
        # With DBOS's own engine: its migration begins a transaction itself, which ours has begun already.
        await anyio.to_thread.run_sync(DBOS.migrate, _plain_url(database_url))
    except Exception as error:
        raise QueueError(f"the queue's tables can't be made: {type(error).__name__}") from error


class DbosQueue:
    """The queue (see :class:`runner.dispatch.queue.Queue`).

    Args:
        database_url: The record's database: ``sqlite:///path`` or ``postgresql://…``.
        lock_dir: Where the workers of this machine show that they are alive.
    """

    def __init__(self, database_url: str, *, lock_dir: Path):
        self._url = _plain_url(database_url)
        self._locks = ExecutorLocks(lock_dir)
        self._serializer = DBOSPortableJSONSerializer()
        self._engines: list[sa.Engine] = []
        self._client = DBOSClient(
            system_database_url=self._url,
            system_database_engine=self._engine(),
            application_name=APPLICATION,
            serializer=self._serializer,
            # Connects when it has to, and never to enqueue: whoever launches may hold the only write lock there is.
            lazy=True,
        )
        self._worker: _TakenRuns | None = None
        self._stopping: _TakenRuns | None = None
        self.executor = new_executor_id()
        """The id of this process's worker."""

    async def enqueue(self, connection: AsyncConnection, runs: Sequence[QueuedRun]) -> None:
        """Queue runs within the transaction of a connection: they are queued if, and only if, it commits."""
        client = self._client

        def enqueue_all(sync_connection: sa.Connection) -> None:
            for run in runs:
                client.enqueue_in_transaction(sync_connection, _options(run), run.run_id)

        await connection.run_sync(enqueue_all)

    async def forget(self, run_ids: Sequence[int]) -> None:
        """Take runs off the queue that no worker has taken yet; those that one has are left to it."""
        client = self._client
        waiting = await self._workflows(run_ids, status=_WAITING)
        if waiting:
            # One that is taken between these two is stopped in its tracks: the record refuses its claim.
            await _in_thread(client.cancel_workflows, [workflow.workflow_id for workflow in waiting])

    async def start_worker(self, handler: RunHandler, *, concurrency: int) -> None:
        """Begin to take runs in this process, so many at a time. They run on the event loop this is called on.

        Raises:
            QueueError: This process takes runs already, or the queue's tables are not there.
        """
        if self._worker is not None:
            raise QueueError("this process takes runs already")
        client = self._client
        worker = _TakenRuns(handler, concurrency)
        try:
            # Before the launch: queues that are there are looked at right away, others up to a second later.
            await _in_thread(partial(_register_queues, client, concurrency))
            await _in_thread(self._locks.hold, self.executor)
            _declare(worker)
            DBOS(config=self._config())
            DBOS.launch()
        except Exception as error:
            DBOS.destroy(destroy_registry=True)
            self._locks.bury(self.executor)
            raise QueueError(f"the queue's worker can't start: {self._without_password(error)}") from error
        self._worker = worker

    async def stop_worker(self, *, timeout_s: float) -> None:
        """Take no more runs, and let those under way finish for so long; then they are cancelled."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        self._stopping = worker
        with anyio.CancelScope(shield=True):
            worker.begin_nothing_more()
            if worker.is_idle:
                with anyio.move_on_after(SETTLING_LIMIT_S):
                    while await self._taken(self.executor):  # noqa: ASYNC110 - a table tells nobody
                        await anyio.sleep(SETTLING_INTERVAL_S)
                await _in_thread(_destroy, 0)
            else:
                # Takes no more from now on; looks only every second whether what it had is over.
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_in_thread, _destroy, math.ceil(timeout_s + CANCEL_LIMIT_S))
                    await worker.finish(timeout_s)
            # DBOS had made its pool the loop's own, which is shut down now.
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))
            if worker.is_idle:
                # Taken and not begun; or ended and not yet written down, which the record refuses to begin again.
                await self.requeue([_run_id(workflow) for workflow in await self._taken(self.executor)])
                self._locks.bury(self.executor)
            else:
                self._locks.let_go(self.executor)

    def hurry(self) -> None:
        """Cancel at once what :meth:`stop_worker` waits for."""
        if self._stopping is not None:
            self._stopping.hurry()

    async def close(self) -> None:
        """Let go of everything."""
        await self.stop_worker(timeout_s=0)
        await _in_thread(self._client.destroy)
        for engine in self._engines:
            await _in_thread(engine.dispose)
        self._engines.clear()

    # For the reconciler.

    async def requeue(self, run_ids: Sequence[int]) -> None:
        """Queue runs again that a worker had taken and nobody has begun."""
        client = self._client
        for workflow in await self._workflows(run_ids, status=_TAKEN):
            queue = workflow.queue_name or RUNS_QUEUE
            await _in_thread(partial(client.resume_workflow, workflow.workflow_id, queue_name=queue))

    async def drop(self, run_ids: Sequence[int]) -> None:
        """Take runs off the queue, those included that a worker has taken: their rooms are free again."""
        client = self._client
        found = await self._workflows(run_ids, status=[*_WAITING, *_TAKEN])
        if found:
            await _in_thread(client.cancel_workflows, [workflow.workflow_id for workflow in found])

    async def dead_workers(self) -> list[DeadWorker]:
        """Return the workers of this machine that are dead, until they are buried; nobody else gets to see them."""
        executors = await _in_thread(self._locks.take_dead)
        try:
            left = {executor: await self._taken(executor) for executor in executors}
        except BaseException:
            for executor in executors:
                self._locks.let_go(executor)
            raise
        return [DeadWorker(executor, tuple(map(_run_id, workflows))) for executor, workflows in left.items()]

    def bury(self, worker: DeadWorker) -> None:
        """Forget a dead worker: what it left behind is seen to."""
        self._locks.bury(worker.executor)

    def leave(self, worker: DeadWorker) -> None:
        """Leave a dead worker to be found again: what it left behind could not be seen to."""
        self._locks.let_go(worker.executor)

    async def ended(self, run_ids: Sequence[int]) -> dict[int, str]:
        """Return those of some runs that the queue has nothing more to do with, and how that came."""
        found = {_run_id(workflow): workflow.status for workflow in await self._workflows(run_ids)}
        return {
            run_id: found.get(run_id, "gone") for run_id in run_ids if run_id not in found or found[run_id] in _OVER
        }

    async def prune(self, *, older_than: datetime) -> int:
        """Remove what the queue remembers of runs that ended before a time; return of how many."""
        client = self._client
        removed = 0
        while True:
            old = await _in_thread(
                partial(
                    client.list_workflows,
                    status=_OVER,
                    name=WORKFLOW,
                    completed_before=older_than.isoformat(),
                    limit=CHUNK,
                    load_input=False,
                    load_output=False,
                )
            )
            if not old:
                return removed
            await _in_thread(client.delete_workflows, [workflow.workflow_id for workflow in old])
            removed += len(old)

    # Inside.

    async def _taken(self, executor: str) -> list[WorkflowStatus]:
        """Return what a worker has taken and not ended."""
        return await _in_thread(
            partial(
                self._client.list_workflows,
                status=_TAKEN,
                name=WORKFLOW,
                executor_id=executor,
                load_input=False,
                load_output=False,
            )
        )

    async def _workflows(
        self, run_ids: Sequence[int], *, status: Sequence[str] | None = None
    ) -> list[WorkflowStatus]:
        client = self._client
        found: list[WorkflowStatus] = []
        for start in range(0, len(run_ids), CHUNK):
            found += await _in_thread(
                partial(
                    client.list_workflows,
                    workflow_ids=[_workflow_id(run_id) for run_id in run_ids[start : start + CHUNK]],
                    status=None if status is None else list(status),
                    load_input=False,
                    load_output=False,
                )
            )
        return found

    def _without_password(self, error: Exception) -> str:
        """Return what an error says, in one line."""
        said = " ".join(f"{type(error).__name__}: {error}".split())
        password = sa.make_url(self._url).password
        return said.replace(str(password), "***") if password else said

    def _config(self) -> DBOSConfig:
        config: DBOSConfig = {
            "name": APPLICATION,
            "application_version": APPLICATION_VERSION,
            "executor_id": self.executor,
            "system_database_url": self._url,
            "serializer": self._serializer,
            "run_migrations": False,
            "scheduler_polling_interval_sec": 5.0,
            "log_level": "WARNING",
        }
        engine = self._engine()
        if engine is not None:
            config["system_database_engine"] = engine
        return config

    def _engine(self) -> sa.Engine | None:
        """Return an engine for DBOS to use; None where its own is right."""
        if not self._url.startswith("sqlite"):
            return None
        engine = sa.create_engine(self._url, connect_args={"timeout": 30})
        event.listen(engine, "connect", _prepare_sqlite)
        # DBOS counts the runs under way before its first write: outside of a transaction two workers count the same.
        event.listen(engine, "begin", _begin_immediate)
        self._engines.append(engine)
        return engine


class _TakenRuns:
    """The runs that DBOS has handed to this process."""

    def __init__(self, handler: RunHandler, concurrency: int):
        self._handler = handler
        self._slots = anyio.CapacityLimiter(concurrency)
        self._waiting: set[anyio.CancelScope] = set()
        self._under_way: set[anyio.CancelScope] = set()
        self._stopping = False
        self._patience = anyio.CancelScope()
        self._changed = anyio.Event()

    @property
    def is_idle(self) -> bool:
        """Whether no run is under way."""
        return not self._under_way and not self._waiting

    async def see_through(self, run_id: int) -> None:
        """See a run through, as soon as there is a slot for it."""
        scope = anyio.CancelScope()
        self._waiting.add(scope)
        begun = False
        try:
            with scope:
                if self._stopping:
                    scope.cancel()
                async with self._slots:
                    begun = True
                    self._waiting.discard(scope)
                    self._under_way.add(scope)
                    await self._handler(run_id)
        finally:
            self._waiting.discard(scope)
            self._under_way.discard(scope)
            changed, self._changed = self._changed, anyio.Event()
            changed.set()
        if not begun:
            # The one way out of a workflow that writes no outcome: it stays as it is until it is queued again.
            raise asyncio.CancelledError

    def begin_nothing_more(self) -> None:
        """Hand back what waits, and what comes from now on."""
        self._stopping = True
        for scope in list(self._waiting):
            scope.cancel()

    async def finish(self, timeout_s: float) -> None:
        """Wait for what is under way; cancel it after so long, and wait for its end."""
        self._patience.deadline = anyio.current_time() + timeout_s
        with self._patience:
            await self._idle()
        for scope in list(self._under_way):
            scope.cancel()
        with anyio.move_on_after(CANCEL_LIMIT_S):
            await self._idle()

    def hurry(self) -> None:
        """Let :meth:`finish` wait no longer."""
        self._patience.cancel()

    async def _idle(self) -> None:
        while not self.is_idle:
            await self._changed.wait()


def _destroy(timeout_s: int) -> None:
    DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=timeout_s)


def _declare(worker: _TakenRuns) -> None:
    """Tell DBOS what a run is. It keeps that for the whole process, until it is destroyed."""

    @DBOS.step(name="see_through", preemptible=True)
    async def see_through(run_id: int) -> None:
        await worker.see_through(run_id)

    @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=MAX_HANDOVERS)
    async def run(run_id: int) -> None:  # pyright: ignore[reportUnusedFunction] - DBOS knows it by its name
        await see_through(run_id)


def _register_queues(client: DBOSClient, concurrency: int) -> None:
    client.register_queue(RUNS_QUEUE, worker_concurrency=concurrency, polling_interval_sec=POLL_INTERVAL_S)
    client.register_queue(
        ROOMS_QUEUE, worker_concurrency=concurrency, partition_concurrency=1, polling_interval_sec=POLL_INTERVAL_S
    )


def _options(run: QueuedRun) -> EnqueueOptions:
    options: EnqueueOptions = {
        "workflow_name": WORKFLOW,
        "queue_name": RUNS_QUEUE if run.room is None else ROOMS_QUEUE,
        "workflow_id": _workflow_id(run.run_id),
        "priority": run.priority,
        "app_version": APPLICATION_VERSION,
    }
    if run.room is not None:
        options["queue_partition_key"] = run.room
    if run.delay_s > 0:
        options["delay_seconds"] = run.delay_s
    return options


def _workflow_id(run_id: int) -> str:
    return f"run-{run_id}"


def _run_id(workflow: WorkflowStatus) -> int:
    return int(workflow.workflow_id.removeprefix("run-"))


async def _in_thread(function: Callable[..., _T], *arguments: Any) -> _T:
    """Call what blocks, in a thread of anyio's: not in the loop's pool, which DBOS takes over and shuts down."""
    return await anyio.to_thread.run_sync(function, *arguments)


def _plain_url(url: str) -> str:
    """Return an address without the name of a driver: DBOS chooses its own."""
    scheme, separator, rest = url.partition("://")
    return scheme.partition("+")[0] + separator + rest


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("busy_timeout=30000", "foreign_keys=ON", "journal_mode=WAL", "synchronous=NORMAL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
