"""Runs that were given to a worker, as the dispatcher gives them, and workers to give them to."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import update

from runner.dispatch.lease import PROTOCOL
from runner.records.database import Database
from runner.records.tables import RunRow, WorkerRow, utc_now

WORKER = "host-1-0000"
ROOMS = ("daily", "smallwebrtc")


async def give(database: Database, *run_ids: int, executor: str = WORKER) -> None:
    """Give runs that wait to a worker."""
    async with database.session() as session:
        await session.execute(
            update(RunRow).where(RunRow.id.in_(run_ids), RunRow.executor.is_(None)).values(executor=executor)
        )


def worker(executor: str = WORKER, **more: Any) -> WorkerRow:
    """Return the row of a worker that has just shown a sign of life."""
    now = utc_now()
    values: dict[str, Any] = {
        "executor": executor,
        "name": executor.rpartition("-")[0] or executor,
        "version": "0.1.0",
        "protocol": PROTOCOL,
        "rooms": list(ROOMS),
        "calls": 4,
        "state": "taking",
        "beat": 1,
        "beat_at": now,
        "started_at": now,
        "runs": {"live": [], "held": []},
        "load": {"loop_lag_ms": 1.5, "underruns": 0, "calls_made": 0},
        **more,
    }
    return WorkerRow(**values)


async def add(database: Database, rows: Sequence[Any]) -> None:
    """Add rows."""
    async with database.session() as session:
        session.add_all(rows)
