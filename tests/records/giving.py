"""Runs that were given to a worker, as the dispatcher gives them, and workers to give them to and that begin them."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from runner.protocol.messages import Job, WorkerInfo
from runner.records.database import Database
from runner.records.jobs import job_of
from runner.records.runs import begin
from runner.records.secrets import Vault
from runner.records.tables import RunRow, WorkerRow, utc_now

WORKER = "host-1-0000"
ROOMS = ("daily", "smallwebrtc")


async def give(database: Database, *run_ids: int, executor: str = WORKER) -> None:
    """Give runs that wait to a worker."""
    async with database.session() as session:
        await session.execute(
            update(RunRow).where(RunRow.id.in_(run_ids), RunRow.executor.is_(None)).values(executor=executor)
        )


def take(session: Session, vault: Vault, run_id: int, attempt: int, executor: str) -> Job | None:
    """Let a worker begin a run that was given to it; return what its call needs."""
    job = job_of(session, vault, run_id, attempt, executor)
    begin(session, [(run_id, attempt, executor)])
    return job


def able_worker(executor: str = "w", calls: int = 100, rooms: Iterable[str] = ROOMS) -> WorkerInfo:
    """Return what a worker says of itself that can take so many runs."""
    return WorkerInfo(
        executor=executor, name=executor, version="0.1.0", rooms=tuple(rooms), calls=max(calls, 1)
    ).model_copy(update={"calls": calls})


def worker(executor: str = WORKER, **more: Any) -> WorkerRow:
    """Return the row of a worker that has just polled."""
    now = utc_now()
    values: dict[str, Any] = {
        "executor": executor,
        "name": executor.rpartition("-")[0] or executor,
        "version": "0.1.0",
        "rooms": list(ROOMS),
        "calls": 4,
        "state": "taking",
        "number": 1,
        "seen_at": now,
        "started_at": now,
        "runs": {"live": [], "kept": []},
        "load": {"loop_lag_ms": 1.5, "underruns": 0, "calls_made": 0},
        **more,
    }
    return WorkerRow(**values)


async def add(database: Database, rows: Sequence[Any]) -> None:
    """Add rows."""
    async with database.session() as session:
        session.add_all(rows)
