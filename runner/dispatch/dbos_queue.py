"""The queue on DBOS: its tables stand in the record's database, so what the record decides and hands over is one.

Each worker has a queue of its own, ``worker-<executor>``, in which a DBOS workflow ``run-<id>-<attempt>`` stands for
every run that was given to it. So nothing here has to limit, order, or choose: that is decided before. A workflow has
no steps: a worker's id is never used again, so none of its workflows is ever taken up where it was left.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer, EnqueueOptions
from sqlalchemy.exc import SQLAlchemyError

from runner.dispatch.engines import plain_url, sqlite_engine
from runner.dispatch.errors import QueueError
from runner.dispatch.lease import new_executor_id
from runner.dispatch.queue import RunHandler
from runner.records.assignments import Assignment
from runner.records.database import driver_says

APPLICATION = "scenario-runner"
APPLICATION_VERSION = "2"
"""Of what a workflow does, not of the package: a worker takes runs of its own version only."""

WORKFLOW = "run"

POLL_INTERVAL_S = 0.3
CANCEL_LIMIT_S = 20.0
"""How long runs may take to end once they are cancelled: to leave the room, and to be given back."""

SETTLING_LIMIT_S = 2.0
SETTLING_INTERVAL_S = 0.05
"""How long, and how often, a worker that stops waits for its last runs to be written down as over."""

CHUNK = 500

_OPEN = ["ENQUEUED", "DELAYED", "PENDING"]
_OVER = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]

_T = TypeVar("_T")

# DBOS brings a console handler of its own where there is none; what it says goes where everything else does.
logging.getLogger("dbos").addHandler(logging.NullHandler())


async def migrate_queue(database_url: str) -> None:
    """Bring the queue's tables up to date. Safe if two processes do it at once.

    Raises:
        QueueError: The database can't be reached, or refuses.
    """
    try:
        # With DBOS's own engine: its migration begins a transaction itself, which ours has begun already.
        await anyio.to_thread.run_sync(DBOS.migrate, plain_url(database_url))
    except Exception as error:
        raise QueueError(f"the queue's tables can't be made: {type(error).__name__}") from error


class DbosQueue:
    """The queue, as the record sees it (see :class:`runner.dispatch.queue.Queue`).

    Args:
        database_url: The record's database: ``sqlite:///path`` or ``postgresql://…``.
    """

    def __init__(self, database_url: str):
        self._connection = _Connection(database_url)
        self._client = self._connection.client

    def hand_over(self, connection: sa.Connection, assignments: Sequence[Assignment]) -> None:
        """Hand runs to their workers within the transaction of a connection. Blocks."""
        for run in assignments:
            self._client.enqueue_in_transaction(connection, _options(run), run.run_id, run.attempt)

    async def retire(self, executor: str) -> None:
        """Forget a worker that is gone, and what was handed to it."""
        client, queue = self._client, _queue_name(executor)
        while left := await self._workflows(queue_name=queue, status=_OPEN):
            await _in_thread(client.cancel_workflows, left)
        await _in_thread(client.delete_queue, queue)

    async def prune(self, *, older_than: datetime) -> int:
        """Remove what is remembered of runs that were handed over and ended before a time; return of how many."""
        removed = 0
        while old := await self._workflows(status=_OVER, name=WORKFLOW, completed_before=older_than.isoformat()):
            await _in_thread(self._client.delete_workflows, old)
            removed += len(old)
        return removed

    async def close(self) -> None:
        """Let go of everything."""
        await self._connection.close()

    async def _workflows(self, **wanted: Any) -> list[str]:
        """Return the ids of some workflows: not of all, if there are many."""
        found = await _in_thread(
            partial(self._client.list_workflows, limit=CHUNK, load_input=False, load_output=False, **wanted)
        )
        return [workflow.workflow_id for workflow in found]


class DbosWorker:
    """The queue, as a worker sees it (see :class:`runner.dispatch.queue.WorkerQueue`). Is started once.

    DBOS is one for the whole process: there is one worker at a time.

    Args:
        database_url: The record's database.
        executor: The id of the worker; without it a new one.
    """

    def __init__(self, database_url: str, *, executor: str | None = None):
        self._url = plain_url(database_url)
        self._connection = _Connection(database_url)
        self._taken: _TakenRuns | None = None
        self.executor = executor or new_executor_id()
        """The id of the worker."""

    async def start(self, handler: RunHandler) -> None:
        """Take what is handed to this worker, on this event loop.

        Raises:
            QueueError: The queue can't be used: its tables are not there, or this process has a worker already.
        """
        if self._taken is not None:
            raise QueueError("this process takes runs already")
        taken = _TakenRuns(handler)
        queue = _queue_name(self.executor)
        try:
            # Before the launch: queues that are there are looked at right away, others up to a second later.
            await _in_thread(
                partial(self._connection.client.register_queue, queue, polling_interval_sec=POLL_INTERVAL_S)
            )
            _declare(taken)
            DBOS(config=self._config())
            DBOS.listen_queues([queue])
            DBOS.launch()
        except Exception as error:
            DBOS.destroy(destroy_registry=True)
            await self._connection.close()
            raise QueueError(f"the queue's worker can't start: {driver_says(self._url, error)}") from error
        self._taken = taken

    async def stop(self, *, timeout_s: float) -> None:
        """Take no more, and let what is under way finish for so long; then it is cancelled.

        What was handed over and not taken stays where it is, for whoever retires this worker.
        """
        taken = self._taken
        if taken is None or taken.stopping:
            return
        with anyio.CancelScope(shield=True):
            taken.begin_nothing_more()
            # Takes no more from now on; looks only every second whether what it had is over.
            limit_s = 0 if taken.is_idle else math.ceil(timeout_s + CANCEL_LIMIT_S)
            if taken.is_idle:
                await self._settle()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_in_thread, _destroy, limit_s)
                await taken.finish(timeout_s)
            # DBOS had made its pool the loop's own, which is shut down now.
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))
            await self._connection.close()

    def hurry(self) -> None:
        """Cancel at once what :meth:`stop` waits for."""
        if self._taken is not None:
            self._taken.hurry()

    async def _settle(self) -> None:
        """Wait until the last runs are written down as over: where DBOS is destroyed at once they might not be."""
        # While the database is away nothing is written down, and what is not makes no difference to the record.
        with anyio.move_on_after(SETTLING_LIMIT_S), suppress(SQLAlchemyError):
            while await _in_thread(  # noqa: ASYNC110 - a table tells nobody
                partial(
                    self._connection.client.list_workflows,
                    status="PENDING",
                    queue_name=_queue_name(self.executor),
                    limit=1,
                    load_input=False,
                    load_output=False,
                )
            ):
                await anyio.sleep(SETTLING_INTERVAL_S)

    def _config(self) -> DBOSConfig:
        config: DBOSConfig = {
            "name": APPLICATION,
            "application_version": APPLICATION_VERSION,
            "executor_id": self.executor,
            "system_database_url": self._url,
            "serializer": self._connection.serializer,
            "run_migrations": False,
            "scheduler_polling_interval_sec": 5.0,
            "log_level": "WARNING",
        }
        engine = self._connection.engine()
        if engine is not None:
            config["system_database_engine"] = engine
        else:
            # The connection that was used last first: it and its process in the server have everything at hand. Asked
            # before each of many small transactions whether it lives, it would have a quarter more to do; where it
            # does not, DBOS tries again.
            config["db_engine_kwargs"] = {"pool_use_lifo": True, "pool_pre_ping": False}
        return config


class _Connection:
    """DBOS's client and the engines it uses."""

    def __init__(self, database_url: str):
        self._url = plain_url(database_url)
        self._engines: list[sa.Engine] = []
        self.serializer = DBOSPortableJSONSerializer()
        self.client = DBOSClient(
            system_database_url=self._url,
            system_database_engine=self.engine(),
            application_name=APPLICATION,
            serializer=self.serializer,
            # Connects when it has to, and never to hand over: whoever does may hold the only write lock there is.
            lazy=True,
            # Whoever uses this tries again, and can be stopped; in there it would be tried for as long as it takes.
            retry_connection_errors=False,
        )

    def engine(self) -> sa.Engine | None:
        """Return an engine for DBOS to use; None where its own is right."""
        if not self._url.startswith("sqlite"):
            return None
        engine = sqlite_engine(self._url)
        self._engines.append(engine)
        return engine

    async def close(self) -> None:
        """Close everything."""
        await _in_thread(self.client.destroy)
        for engine in self._engines:
            await _in_thread(engine.dispose)
        self._engines.clear()


class _TakenRuns:
    """The runs that DBOS has handed to this process."""

    def __init__(self, handler: RunHandler):
        self._handler = handler
        self._under_way: set[anyio.CancelScope] = set()
        self._patience = anyio.CancelScope()
        self._changed = anyio.Event()
        self.stopping = False
        """Whether nothing more is begun."""

    @property
    def is_idle(self) -> bool:
        """Whether no run is under way."""
        return not self._under_way

    async def see_through(self, run_id: int, attempt: int) -> None:
        """See a run through."""
        if self.stopping:
            # The one way out of a workflow that writes no outcome.
            raise asyncio.CancelledError
        scope = anyio.CancelScope()
        self._under_way.add(scope)
        try:
            with scope:
                await self._handler(run_id, attempt)
        finally:
            self._under_way.discard(scope)
            changed, self._changed = self._changed, anyio.Event()
            changed.set()

    def begin_nothing_more(self) -> None:
        """Leave what comes from now on to others."""
        self.stopping = True

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


def _declare(taken: _TakenRuns) -> None:
    """Tell DBOS what a run is. It keeps that for the whole process, until it is destroyed."""

    @DBOS.workflow(name=WORKFLOW)
    async def run(run_id: int, attempt: int) -> None:  # pyright: ignore[reportUnusedFunction] - known by its name
        await taken.see_through(run_id, attempt)


def _options(run: Assignment) -> EnqueueOptions:
    return {
        "workflow_name": WORKFLOW,
        "queue_name": _queue_name(run.executor),
        "workflow_id": f"run-{run.run_id}-{run.attempt}",
        "app_version": APPLICATION_VERSION,
    }


def _queue_name(executor: str) -> str:
    return f"worker-{executor}"


async def _in_thread(function: Callable[..., _T], *arguments: Any) -> _T:
    """Call what blocks, in a thread of anyio's: not in the loop's pool, which DBOS takes over and shuts down."""
    return await anyio.to_thread.run_sync(function, *arguments)
