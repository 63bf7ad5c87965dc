"""What a server deletes now and then, for as long as it runs."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import anyio
from loguru import logger

from runner.dispatch.queue import Queue
from runner.records.database import Database
from runner.records.retention import purge
from runner.records.store import ArtefactStore
from runner.records.tables import utc_now

QUEUE_MEMORY = timedelta(minutes=5)
"""How long the queue remembers runs that have ended: every worker looks through it, several times a second."""

PRUNING_INTERVAL_S = 60.0
PURGING_INTERVAL_S = 3_600.0


async def keep_pruning(queue: Queue) -> None:
    """Remove what the queue remembers of runs that ended some minutes ago, until cancelled."""
    await _keep(lambda: queue.prune(older_than=utc_now() - QUEUE_MEMORY), PRUNING_INTERVAL_S)


async def keep_purging(database: Database, store: ArtefactStore, days: float) -> None:
    """Delete the artefacts of runs that ended so many days ago, until cancelled."""

    async def delete() -> None:
        purged = await purge(database, store, older_than=utc_now() - timedelta(days=days))
        logger.info("the artefacts of {} runs were deleted", purged)

    await _keep(delete, PURGING_INTERVAL_S)


async def _keep(delete: Callable[[], Awaitable[object]], interval_s: float) -> None:
    """Delete what is old, again and again. What goes wrong is logged, and tried again."""
    is_failing = False
    while True:
        try:
            await delete()
            is_failing = False
        except Exception as error:
            # Once with all there is of it: while the database is away this comes every time.
            said = logger.opt(exception=not is_failing)
            said.warning("what is old could not be deleted ({})", type(error).__name__)
            is_failing = True
        await anyio.sleep(interval_s)
