"""Which workers there are, and what each of them has: a run is a worker's for as long as that polls.

The clock is the record's: the database server's, or this machine's where there is none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import Row, bindparam, delete, func, select, update
from sqlalchemy.orm import Session

from runner.protocol.messages import Kept, Poll, RunNow, WorkerState
from runner.records.assignments import taken
from runner.records.changes import work_changed
from runner.records.runs import begin, progress
from runner.records.statuses import RunStatus
from runner.records.tables import RUNS, WORKERS, utc_now

REMEMBERED = timedelta(hours=1)
"""How long a worker that is gone is shown."""

KEPT_LIMIT = timedelta(minutes=15)
"""How long an outcome may lie on the disk of a worker that is gone, before its run is taken for lost as well."""


Had = Row[*tuple[Any, ...]]
"""A run that a worker has: ``id``, ``attempt``, ``executor``, and whether it ``has_begun``, ``joined`` the room,
``said`` anything, ``is_evaluating``, as far as the worker has told, and ``is_cancelled``: whether it is to end."""


@dataclass(frozen=True)
class Renewed:
    """What became of some polls."""

    gone: frozenset[str]
    """The workers that were given up before: their polls count for nothing."""
    new: frozenset[str]
    """Those that polled for the first time."""
    late: frozenset[str]
    """Those whose later poll was here before this one."""
    runs: Mapping[str, Sequence[Had]]
    """What each of them has now, by its id."""


def clock(session: Session) -> datetime:
    """Return the time by the record's clock."""
    if session.get_bind().dialect.name == "postgresql":
        return cast(datetime, session.scalar(_CLOCK))
    return utc_now()


def renew(session: Session, polls: Sequence[Poll]) -> Renewed:
    """Take in polls, one of each worker: its sign of life, and how far its runs are."""
    by_executor = {poll.worker.executor: poll for poll in polls}
    known = {row.executor: row for row in session.execute(_KNOWN, {"of_workers": sorted(by_executor)})}
    gone = frozenset(executor for executor, row in known.items() if row.gone_at is not None)
    late = frozenset(executor for executor, row in known.items() if row.number >= by_executor[executor].number)
    now = clock(session)
    counted = [poll for poll in polls if poll.worker.executor not in gone | late]
    new = [poll for poll in counted if poll.worker.executor not in known]
    if new:
        session.execute(_ADD, [{**poll.worker.model_dump(), **_how(poll, now), "started_at": now} for poll in new])
    if again := [poll for poll in counted if poll.worker.executor in known]:
        session.execute(_RENEW, [{"of_worker": poll.worker.executor, **_how(poll, now)} for poll in again])
    runs = runs_of(session, [poll.worker.executor for poll in counted if poll.runs])
    news = [
        (poll.worker.executor, run)
        for poll in counted
        for run in poll.runs
        if _is_news(run, _find(runs.get(poll.worker.executor, ()), run))
    ]
    if news:
        begin(session, [(run.run_id, run.attempt, executor) for executor, run in news])
        progress(session, [run for _, run in news])
    if any(poll.state is WorkerState.STOPPED for poll in counted):
        work_changed(session)
    executors = [poll.worker.executor for poll in polls if poll.worker.executor not in gone]
    return Renewed(
        gone=gone,
        new=frozenset(poll.worker.executor for poll in new),
        late=late,
        runs=runs_of(session, executors),
    )


def runs_of(session: Session, executors: Sequence[str]) -> dict[str, list[Had]]:
    """Return what workers have, by their ids; without those that have nothing."""
    found: dict[str, list[Had]] = {}
    if not executors:
        return found
    for run in session.execute(_HAD, {"of_workers": sorted(executors)}):
        found.setdefault(run.executor, []).append(run)
    return found


def takers(session: Session, executors: Sequence[str]) -> set[str]:
    """Return those of some workers that take runs, by what each of them said last."""
    return set(session.scalars(_TAKERS, {"of_workers": sorted(executors)}))


def silent_workers(session: Session, *, longer_than_s: float) -> list[str]:
    """Return the workers that have not polled for so long, and are not gone."""
    limit = clock(session) - timedelta(seconds=longer_than_s)
    return list(session.scalars(_SILENT, {"limit": limit}))


def lose(session: Session, executors: Sequence[str], *, longer_than_s: float | None = None) -> list[str]:
    """Take workers for gone, or only those silent for so long by now; return those of them that were there."""
    now = clock(session)
    limit = now if longer_than_s is None else now - timedelta(seconds=longer_than_s)
    gone = {"of_workers": sorted(executors), "limit": limit, "state": WorkerState.LOST, "gone_at": now}
    session.execute(_KNOWN, {"of_workers": gone["of_workers"]}).all()
    lost = list(session.scalars(_LOSE, gone))
    if lost:
        work_changed(session)
    return lost


def note_kept(session: Session, executor: str, kept: Sequence[Kept]) -> None:
    """Note which outcomes lie on the disk of a worker that can't say so itself any more."""
    session.execute(_NOTE, {"of_worker": executor, "runs": {"live": [], "kept": _dumped(kept)}})


def orphans(session: Session, *, unknown_too: bool) -> list[Row[*tuple[Any, ...]]]:
    """Return the runs whose workers are gone: ``id``, ``attempt``, and of the worker ``state``, ``gone_at`` and
    ``seen_at``.

    These are None where the worker is not known, which are left out unless asked for. So are those whose outcomes lie
    on a disk: whoever finds them there reports them.
    """
    found = [run for run in session.execute(_ORPHANS) if unknown_too or run.state is not None]
    if not found:
        return []
    kept = _kept(session, clock(session))
    left = [run for run in found if run.status == RunStatus.PENDING or (run.id, run.attempt) not in kept]
    # In order: not by the statement, for then SQLite would go through all runs there are, in theirs.
    return sorted(left, key=lambda run: run.id)


def may_forget(session: Session) -> bool:
    """Return whether there are workers that went long ago."""
    return session.execute(_LONG_GONE, {"limit": clock(session) - REMEMBERED}).first() is not None


def forget(session: Session) -> None:
    """Remove workers that went long ago."""
    session.execute(_FORGET, {"limit": clock(session) - REMEMBERED})


def _kept(session: Session, now: datetime) -> set[tuple[int, int]]:
    """Return the attempts that may end by what lies on a disk from which it may still come."""
    rows = session.execute(
        select(WORKERS.c.runs).where(WORKERS.c.gone_at.is_(None) | (WORKERS.c.gone_at > now - KEPT_LIMIT))
    )
    return {(run_id, attempt) for row in rows for run_id, attempt, may_end in row.runs.get("kept", ()) if may_end}


def _is_news(run: RunNow, known: Had | None) -> bool:
    """Return whether the record does not know yet what a worker tells of a run."""
    steps = ("joined", "said", "is_evaluating")
    return known is not None and (
        not known.has_begun or any(getattr(run, step) and not getattr(known, step) for step in steps)
    )


def _find(runs: Iterable[Had], told: RunNow) -> Had | None:
    return next((run for run in runs if (run.id, run.attempt) == told.key), None)


def _how(poll: Poll, now: datetime) -> dict[str, Any]:
    return {
        "number": poll.number,
        "state": poll.state,
        "why": poll.why,
        "seen_at": now,
        "gone_at": now if poll.state is WorkerState.STOPPED else None,
        "runs": {"live": [run.run_id for run in poll.runs], "kept": _dumped(poll.kept)},
        "load": poll.load.model_dump(),
    }


def _dumped(kept: Iterable[Kept]) -> list[list[Any]]:
    return [[one.run_id, one.attempt, one.may_end] for one in kept]


_OF_WORKERS = WORKERS.c.executor.in_(bindparam("of_workers", expanding=True))
_CLOCK = select(func.clock_timestamp())
# Locked, in an order: who is given up meanwhile stays so, and processes that hear of the same ones take turns.
_KNOWN = (
    select(*WORKERS.c["executor", "number", "gone_at"])
    .where(_OF_WORKERS)
    .order_by(WORKERS.c.executor)
    .with_for_update()
)
_TAKERS = select(WORKERS.c.executor).where(
    _OF_WORKERS, WORKERS.c.gone_at.is_(None), WORKERS.c.state == WorkerState.TAKING
)
_ADD = WORKERS.insert()
_RENEW = update(WORKERS).where(WORKERS.c.executor == bindparam("of_worker"))
_NOTE = _RENEW.where(WORKERS.c.gone_at.is_(None))
_HAD = select(
    *RUNS.c["id", "attempt", "executor"],
    (RUNS.c.status != RunStatus.PENDING).label("has_begun"),
    (RUNS.c.status == RunStatus.EVALUATING).label("is_evaluating"),
    RUNS.c.cancel_requested.label("is_cancelled"),
    RUNS.c.joined_at.is_not(None).label("joined"),
    RUNS.c.said_at.is_not(None).label("said"),
).where(taken(), RUNS.c.executor.in_(bindparam("of_workers", expanding=True)))
_SILENT = select(WORKERS.c.executor).where(
    WORKERS.c.gone_at.is_(None), WORKERS.c.seen_at <= bindparam("limit", type_=WORKERS.c.seen_at.type)
)
_WENT_BEFORE = WORKERS.c.gone_at < bindparam("limit", type_=WORKERS.c.gone_at.type)
_LONG_GONE = select(WORKERS.c.executor).where(_WENT_BEFORE).limit(1)
_FORGET = delete(WORKERS).where(_WENT_BEFORE)
_LOSE = (
    update(WORKERS)
    .where(
        _OF_WORKERS,
        WORKERS.c.gone_at.is_(None),
        WORKERS.c.seen_at <= bindparam("limit", type_=WORKERS.c.seen_at.type),
    )
    .returning(WORKERS.c.executor)
)
_ORPHANS = (
    select(*RUNS.c["id", "attempt", "status"], *WORKERS.c["state", "gone_at", "seen_at"])
    .join_from(RUNS, WORKERS, WORKERS.c.executor == RUNS.c.executor, isouter=True)
    .where(taken(), WORKERS.c.executor.is_(None) | WORKERS.c.gone_at.is_not(None))
)
