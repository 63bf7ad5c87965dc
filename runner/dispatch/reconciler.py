"""Closes runs that nobody sees to any more, and queues again what a dead worker had not begun."""

from collections.abc import Sequence
from typing import Protocol

import anyio
from loguru import logger
from sqlalchemy import select

from bots.timeline import EndedReason
from runner.dispatch.dbos_queue import DeadWorker
from runner.evaluation.outcome import Cause
from runner.records.database import Database
from runner.records.runs import fail
from runner.records.statuses import RunStatus
from runner.records.tables import RunRow

INTERVAL_S = 4.0
BATCH = 500
"""How many waiting runs are looked at each time; the next ones the next time."""

_LIVE = [RunStatus.RUNNING.value, RunStatus.EVALUATING.value]


class QueueInside(Protocol):
    """What the reconciler needs to know of the queue (see :class:`runner.dispatch.dbos_queue.DbosQueue`)."""

    async def dead_workers(self) -> list[DeadWorker]:
        """Return the workers that are dead."""
        ...

    def bury(self, worker: DeadWorker) -> None:
        """Forget one."""
        ...

    def leave(self, worker: DeadWorker) -> None:
        """Leave one to be found again."""
        ...

    async def requeue(self, run_ids: Sequence[int]) -> None:
        """Queue runs again that were taken and not begun."""
        ...

    async def drop(self, run_ids: Sequence[int]) -> None:
        """Take runs off the queue, those taken included."""
        ...

    async def ended(self, run_ids: Sequence[int]) -> dict[int, str]:
        """Return those of some runs that the queue is done with, and how that came."""
        ...


class Reconciler:
    """Compares the record with the queue, every few seconds.

    Args:
        database: The record.
        queue: The queue.
    """

    def __init__(self, database: Database, queue: QueueInside):
        self._database = database
        self._queue = queue
        self._looked_at = 0

    async def run(self) -> None:
        """Reconcile until cancelled. What goes wrong is logged, and tried again."""
        while True:
            await anyio.sleep(INTERVAL_S)
            try:
                await self.reconcile()
            except Exception as error:
                logger.opt(exception=True).warning(
                    "record and queue could not be compared ({})", type(error).__name__
                )

    async def reconcile(self) -> list[int]:
        """Compare once; return the runs that were closed."""
        closed: list[int] = []
        dead = await self._queue.dead_workers()
        try:
            while dead:
                closed += await self._see_to(dead[0])
                self._queue.bury(dead.pop(0))
        finally:
            for worker in dead:
                self._queue.leave(worker)
        # The record first: what has ended since then does not change any more.
        run_ids = await self._open()
        for run_id, how in (await self._queue.ended(run_ids)).items():
            if await self._close(run_id, f"worker lost (its job: {how.lower()})"):
                closed.append(run_id)
        return closed

    async def _see_to(self, worker: DeadWorker) -> list[int]:
        if not worker.run_ids:
            return []
        pending, begun = await self._sorted(worker.run_ids)
        logger.warning(
            "worker {} is gone: {} runs it had begun are closed, {} others queued again",
            worker.executor,
            len(begun),
            len(pending),
        )
        closed = [run_id for run_id in begun if await self._close(run_id, "worker lost")]
        await self._queue.requeue(pending)
        await self._queue.drop([run_id for run_id in worker.run_ids if run_id not in pending])
        return closed

    async def _sorted(self, run_ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return which runs nobody has begun, and which somebody has and nobody ended."""
        async with self._database.reading() as session:
            rows = (await session.execute(select(RunRow.id, RunRow.status).where(RunRow.id.in_(run_ids)))).all()
        pending = [row.id for row in rows if row.status == RunStatus.PENDING.value]
        return pending, [row.id for row in rows if row.status in _LIVE]

    async def _open(self) -> list[int]:
        """Return the runs under way, and some of those that wait."""
        async with self._database.reading() as session:
            live = (await session.scalars(select(RunRow.id).where(RunRow.status.in_(_LIVE)))).all()
            waiting = (
                await session.scalars(
                    select(RunRow.id)
                    .where(RunRow.status == RunStatus.PENDING.value, RunRow.id > self._looked_at)
                    .order_by(RunRow.id)
                    .limit(BATCH)
                )
            ).all()
        self._looked_at = waiting[-1] if len(waiting) == BATCH else 0
        return [*live, *waiting]

    async def _close(self, run_id: int, detail: str) -> bool:
        async with self._database.session() as session:
            return await fail(session, run_id, cause=Cause.HARNESS, reason=EndedReason.RUNNER_ERROR, detail=detail)
