"""What is deleted when it is old enough."""

from datetime import datetime

from loguru import logger
from sqlalchemy import select, update

from runner.records.database import Database
from runner.records.store import ArtefactStore
from runner.records.tables import RunRow

BATCH = 100


async def purge(database: Database, store: ArtefactStore, *, older_than: datetime) -> int:
    """Delete the artefacts of runs that ended before a time, of all attempts; return how many runs that were.

    What the record says of the runs stays. A run whose artefacts can't be deleted keeps them until the next time.
    """
    purged = 0
    last = 0
    while True:
        async with database.reading() as session:
            due = (
                select(RunRow.id)
                .where(RunRow.ended_at < older_than, RunRow.artefacts != {}, RunRow.id > last)
                .order_by(RunRow.id)
                .limit(BATCH)
            )
            ids = (await session.scalars(due)).all()
        if not ids:
            return purged
        last = ids[-1]
        deleted = [run_id for run_id in ids if await _delete(store, run_id)]
        # Afterwards: should this process end in between, the next purge finds them again.
        async with database.session() as session:
            await session.execute(
                update(RunRow).where(RunRow.id.in_(deleted)).values(artefacts={}, updated_at=RunRow.updated_at)
            )
        purged += len(deleted)


async def _delete(store: ArtefactStore, run_id: int) -> bool:
    try:
        await store.delete_run(run_id)
    except Exception as error:
        logger.warning("run {}: its artefacts can't be deleted ({})", run_id, type(error).__name__)
        return False
    return True
