"""Queued and active runs, and worker health. Nothing is changed here."""

from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from runner.protocol.messages import WorkerState
from runner.records.assignments import is_due, taken, waiting
from runner.records.database import Database
from runner.records.leases import clock
from runner.records.statuses import RunStatus
from runner.records.tables import RunRow, WorkerRow

OVERTIME_S = 300.0
"""So much longer than its script allows may a call be on, with what comes before and after it."""

MAX_NAMED = 20
"""How many of many stuck runs are named."""

_ABLE = (WorkerState.TAKING, WorkerState.PAUSED)


@dataclass(frozen=True)
class QueueState:
    """What waits, and what is on."""

    waiting: int = 0
    """Runs that could begin, and wait for a worker."""
    delayed: int = 0
    """Runs that are not to begin yet."""
    oldest_waiting_s: float | None = None
    """How long the one of them that could begin first could have; None if none waits."""
    handed_over: int = 0
    """Runs that a worker has and has not begun."""
    running: int = 0
    """Runs whose session starts, or whose call is on."""
    evaluating: int = 0
    """Runs whose call is over, and is being judged."""


@dataclass(frozen=True)
class WorkerView:
    """A worker as it says of itself: as ``status --json`` prints it."""

    executor: str
    name: str
    version: str
    state: str
    why: str
    is_gone: bool
    """Whether it has ended, or was given up for lost."""
    rooms: tuple[str, ...]
    limit: int
    """How many calls it makes at once."""
    live: tuple[int, ...]
    """The runs it works on."""
    kept: tuple[tuple[int, int], ...]
    """The outcomes on its disk that the record has not taken, each as run and attempt."""
    loop_lag_ms: float
    underruns: int
    calls_made: int
    seen_s: float
    """How long ago it polled, by the record's clock."""
    up_s: float
    """How long it has been up; or had been when it polled last, if it is gone."""


class TakenRun(NamedTuple):
    """A run that a worker has: how long ago it began, if it has, and how long its call may last."""

    run_id: int
    attempt: int
    executor: str
    begun_s: float | None
    limit_s: float


@dataclass(frozen=True)
class Stuck:
    """Runs that go no further by themselves: what holds them up, how many they are, and some of them, in order."""

    why: str
    count: int
    run_ids: tuple[int, ...]


@dataclass(frozen=True)
class Overview:
    """Everything at a glance."""

    queue: QueueState
    workers: list[WorkerView]
    stuck: list[Stuck]


async def read_overview(database: Database, *, max_duration_s: float, lease_s: float) -> Overview:
    """Return everything at a glance.

    ``max_duration_s`` is how long a call may last whose script does not say, ``lease_s`` how long a worker keeps its
    runs without polling.
    """
    async with database.reading() as session:
        now = await read_clock(session)
        queue = await read_queue(session, now)
        workers = await read_workers(session, now)
        live = await _taken_runs(session, now, max_duration_s)
        due = await _waiting_runs(session, now)
    silent = {worker.executor for worker in workers if not worker.is_gone and worker.seen_s > lease_s}
    return Overview(queue, workers, find_stuck(live, due, workers, silent))


async def read_clock(session: AsyncSession) -> datetime:
    """Return the time by the record's clock."""
    return await session.run_sync(clock)


async def read_queue(session: AsyncSession, now: datetime) -> QueueState:
    """Return what waits, and what is on."""
    due_at = func.coalesce(RunRow.not_before, RunRow.created_at)
    due_now = is_due(now)
    count, due, oldest = (
        await session.execute(
            select(
                func.count(),
                func.coalesce(func.sum(case((due_now, 1), else_=0)), 0),
                func.min(case((due_now, due_at))),
            ).where(waiting())
        )
    ).one()
    statuses = await session.execute(select(RunRow.status, func.count()).where(taken()).group_by(RunRow.status))
    by_status: dict[str, int] = {status: number for status, number in statuses}
    return QueueState(
        waiting=due,
        delayed=count - due,
        oldest_waiting_s=None if oldest is None else max(0.0, (now - oldest).total_seconds()),
        handed_over=by_status.get(RunStatus.PENDING, 0),
        running=by_status.get(RunStatus.RUNNING, 0),
        evaluating=by_status.get(RunStatus.EVALUATING, 0),
    )


async def read_workers(session: AsyncSession, now: datetime) -> list[WorkerView]:
    """Return the workers, those that went lately included, by name."""
    rows = await session.scalars(select(WorkerRow).order_by(WorkerRow.name, WorkerRow.started_at))
    return [_view(row, now) for row in rows]


def find_stuck(
    live: Sequence[TakenRun],
    due: Iterable[tuple[str | None, int, Sequence[int]]],
    workers: Sequence[WorkerView],
    silent: Set[str] = frozenset(),
) -> list[Stuck]:
    """Return the runs that go no further by themselves.

    Args:
        live: The runs that workers have.
        due: The runs that could begin: by the kind of room they need, how many they are, and some of them.
        workers: The workers.
        silent: Those of them that show no sign of life.
    """
    by_executor = {worker.executor: worker for worker in workers}
    reported = {outcome for worker in workers if _lives(worker, silent) for outcome in worker.kept}
    held_up: defaultdict[str, list[int]] = defaultdict(list)
    for run in live:
        why = _holds_up(run, by_executor.get(run.executor), silent)
        # Whoever finds an outcome on a disk reports it, whose run it was.
        if why is not None and (run.run_id, run.attempt) not in reported:
            held_up[why].append(run.run_id)
    found = [Stuck(why, len(ids), tuple(ids[:MAX_NAMED])) for why, ids in held_up.items()]
    able = [worker for worker in workers if _lives(worker, silent) and worker.state in _ABLE]
    for kind, count, ids in due:
        if not able:
            found.append(Stuck("there is no worker that takes runs", count, tuple(ids)))
        elif kind is not None and not any(kind in worker.rooms for worker in able):
            found.append(Stuck(f"no worker that takes runs can enter a {kind} room", count, tuple(ids)))
    return found


def _lives(worker: WorkerView, silent: Set[str]) -> bool:
    return not worker.is_gone and worker.executor not in silent


def _holds_up(run: TakenRun, worker: WorkerView | None, silent: Set[str]) -> str | None:
    """Return what holds up a run that a worker has; None if nothing does."""
    if worker is None:
        return f"worker {run.executor} is unknown"
    if worker.is_gone:
        return f"worker {worker.name} is gone" + (
            ", with what it has to report on its disk" if (run.run_id, run.attempt) in worker.kept else ""
        )
    if worker.executor in silent:
        return f"worker {worker.name} does not poll"
    if run.begun_s is not None and run.begun_s > run.limit_s + OVERTIME_S:
        return f"on for {run.begun_s / 60:.0f} min, where the script allows {run.limit_s / 60:.0f}"
    return None


async def _taken_runs(session: AsyncSession, now: datetime, max_duration_s: float) -> list[TakenRun]:
    limit = func.coalesce(RunRow.snapshot[("script", "max_duration_s")].as_float(), max_duration_s)
    columns = (RunRow.id, RunRow.attempt, RunRow.executor, RunRow.started_at, limit)
    rows = await session.execute(select(*columns).where(taken()).order_by(RunRow.id))
    return [
        TakenRun(run_id, attempt, executor or "", started_at and (now - started_at).total_seconds(), limit_s)
        for run_id, attempt, executor, started_at, limit_s in rows
    ]


async def _waiting_runs(session: AsyncSession, now: datetime) -> list[tuple[str | None, int, Sequence[int]]]:
    due = waiting() & is_due(now)
    counts = await session.execute(
        select(RunRow.room_kind, func.count()).where(due).group_by(RunRow.room_kind).order_by(RunRow.room_kind)
    )
    found: list[tuple[str | None, int, Sequence[int]]] = []
    for kind, count in counts.all():
        ids = select(RunRow.id).where(due, RunRow.room_kind.is_not_distinct_from(kind)).order_by(RunRow.id)
        found.append((kind, count, (await session.scalars(ids.limit(MAX_NAMED))).all()))
    return found


def _view(row: WorkerRow, now: datetime) -> WorkerView:
    load: dict[str, Any] = row.load
    return WorkerView(
        executor=row.executor,
        name=row.name,
        version=row.version,
        state=row.state,
        why=row.why,
        is_gone=row.gone_at is not None,
        rooms=tuple(row.rooms),
        limit=row.calls,
        live=tuple(row.runs.get("live", ())),
        kept=tuple((run_id, attempt) for run_id, attempt, _ in row.runs.get("kept", ())),
        loop_lag_ms=float(load.get("loop_lag_ms", 0.0)),
        underruns=int(load.get("underruns", 0)),
        calls_made=int(load.get("calls_made", 0)),
        seen_s=(now - row.seen_at).total_seconds(),
        up_s=((now if row.gone_at is None else row.seen_at) - row.started_at).total_seconds(),
    )
