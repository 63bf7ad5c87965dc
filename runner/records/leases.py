"""Which workers there are, and what each of them has: a run is a worker's for as long as that polls.

The clock is the record's: the database server's, or this machine's where there is none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import bindparam, delete, func, select, update
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


@dataclass(frozen=True)
class RunHad:
    """A run that a worker has.

    Attributes:
        run_id: The run.
        attempt: The attempt.
        executor: The worker.
        has_begun: Whether the worker has told of it.
        is_cancelled: Whether it is to end.
        joined: Whether its caller was in the room.
        said: Whether anything was said there.
        is_evaluating: Whether its call is over.
    """

    run_id: int
    attempt: int
    executor: str
    has_begun: bool
    is_cancelled: bool
    joined: bool
    said: bool
    is_evaluating: bool


@dataclass(frozen=True)
class Renewed:
    """What became of some polls.

    Attributes:
        gone: The workers that were given up before: their polls count for nothing.
        new: The workers that polled for the first time.
        late: Those whose later poll was here before this one.
        runs: What each of them has now, by its id.
    """

    gone: frozenset[str]
    new: frozenset[str]
    late: frozenset[str]
    runs: Mapping[str, Sequence[RunHad]]


@dataclass(frozen=True)
class Orphan:
    """A run whose worker is gone.

    Attributes:
        run_id: The run.
        attempt: The attempt.
        has_begun: Whether its worker had told of it.
        was_stopped: Whether that worker ended in good order.
        was_in_touch: Whether the record knew, when it went, what was said in its calls.
        is_kept: Whether its outcome lies on a disk from which it may still come.
    """

    run_id: int
    attempt: int
    has_begun: bool
    was_stopped: bool
    was_in_touch: bool
    is_kept: bool


def clock(session: Session) -> datetime:
    """Return the time by the record's clock."""
    if session.get_bind().dialect.name == "postgresql":
        return cast(datetime, session.scalar(_CLOCK))
    return utc_now()


def renew(session: Session, polls: Sequence[Poll]) -> Renewed:
    """Take in polls, one of each worker: its sign of life, and how far its runs are.

    Args:
        session: A transaction.
        polls: The polls.
    """
    by_executor = {poll.worker.executor: poll for poll in polls}
    known = {row.executor: row for row in session.execute(_KNOWN, {"of_workers": sorted(by_executor)})}
    gone = frozenset(executor for executor, row in known.items() if row.gone_at is not None)
    late = frozenset(executor for executor, row in known.items() if row.number >= by_executor[executor].number)
    now = clock(session)
    counted = [poll for poll in polls if poll.worker.executor not in gone | late]
    new = [poll for poll in counted if poll.worker.executor not in known]
    if new:
        session.execute(_ADD, [{**_who(poll), **_how(poll, now), "started_at": now} for poll in new])
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
        _take_in(session, news)
    if any(poll.state is WorkerState.STOPPED for poll in counted):
        work_changed(session)
    executors = [poll.worker.executor for poll in polls if poll.worker.executor not in gone]
    return Renewed(
        gone=gone,
        new=frozenset(poll.worker.executor for poll in new),
        late=late,
        runs=runs_of(session, executors),
    )


def runs_of(session: Session, executors: Sequence[str]) -> dict[str, list[RunHad]]:
    """Return what workers have, by their ids; without those that have nothing."""
    found: dict[str, list[RunHad]] = {}
    if not executors:
        return found
    for row in session.execute(_HAD, {"of_workers": sorted(executors)}):
        run = RunHad(
            run_id=row.id,
            attempt=row.attempt,
            executor=row.executor,
            has_begun=row.status != RunStatus.PENDING.value,
            is_cancelled=row.cancel_requested,
            joined=row.joined_at is not None,
            said=row.said_at is not None,
            is_evaluating=row.status == RunStatus.EVALUATING.value,
        )
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
    """Take workers for gone; return those of them that were there.

    Args:
        session: A transaction.
        executors: The workers.
        longer_than_s: Only those that have not polled for so long by now; None for all.
    """
    now = clock(session)
    limit = now if longer_than_s is None else now - timedelta(seconds=longer_than_s)
    gone = {"of_workers": sorted(executors), "limit": limit, "state": WorkerState.LOST.value, "gone_at": now}
    session.execute(_KNOWN, {"of_workers": gone["of_workers"]}).all()
    lost = list(session.scalars(_LOSE, gone))
    if lost:
        work_changed(session)
    return lost


def note_kept(session: Session, executor: str, kept: Sequence[Kept]) -> None:
    """Note which outcomes lie on the disk of a worker that can't say so itself any more."""
    session.execute(_NOTE, {"of_worker": executor, "runs": {"live": [], "kept": _dumped(kept)}})


def orphans(session: Session, *, touch_s: float, unknown_too: bool) -> list[Orphan]:
    """Return the runs whose workers are gone.

    Args:
        session: A look.
        touch_s: A worker that polled within so long before it went was in touch with the record.
        unknown_too: Whether to return those whose worker is not known as well.
    """
    now = clock(session)
    found: list[Orphan] = []
    kept: set[tuple[int, int]] | None = None
    for row in session.execute(_ORPHANS):
        if row.is_known is None and not unknown_too:
            continue
        if kept is None:
            kept = _kept(session, now)
        found.append(
            Orphan(
                run_id=row.id,
                attempt=row.attempt,
                has_begun=row.status != RunStatus.PENDING.value,
                was_stopped=row.state == WorkerState.STOPPED.value,
                was_in_touch=row.is_known is not None and row.gone_at - row.seen_at <= timedelta(seconds=touch_s),
                is_kept=(row.id, row.attempt) in kept,
            )
        )
    # In order: not by the statement, for then SQLite would go through all runs there are, in theirs.
    return sorted(found, key=lambda run: run.run_id)


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


def _take_in(session: Session, news: Sequence[tuple[str, RunNow]]) -> None:
    """Take in how far runs are."""
    begin(session, [(run.run_id, run.attempt, executor) for executor, run in news])
    progress(session, [run for _, run in news])


def _is_news(run: RunNow, known: RunHad | None) -> bool:
    """Return whether the record does not know yet what a worker tells of a run."""
    return known is not None and (
        not known.has_begun
        or (run.joined and not known.joined)
        or (run.said and not known.said)
        or (run.is_evaluating and not known.is_evaluating)
    )


def _find(runs: Iterable[RunHad], told: RunNow) -> RunHad | None:
    return next((run for run in runs if (run.run_id, run.attempt) == (told.run_id, told.attempt)), None)


def _who(poll: Poll) -> dict[str, Any]:
    worker = poll.worker
    return {
        "executor": worker.executor,
        "name": worker.name,
        "version": worker.version,
        "rooms": list(worker.rooms),
        "calls": worker.calls,
    }


def _how(poll: Poll, now: datetime) -> dict[str, Any]:
    return {
        "number": poll.number,
        "state": poll.state.value,
        "why": poll.why,
        "seen_at": now,
        "gone_at": now if poll.state is WorkerState.STOPPED else None,
        "runs": {
            "live": [run.run_id for run in poll.runs],
            "kept": _dumped(poll.kept),
        },
        "load": poll.load.model_dump(),
    }


def _dumped(kept: Iterable[Kept]) -> list[list[Any]]:
    return [[one.run_id, one.attempt, one.may_end] for one in kept]


_OF_WORKERS = WORKERS.c.executor.in_(bindparam("of_workers", expanding=True))
_CLOCK = select(func.clock_timestamp())
# Locked, in an order: who is given up meanwhile stays so, and processes that hear of the same ones take turns.
_KNOWN = (
    select(WORKERS.c.executor, WORKERS.c.number, WORKERS.c.gone_at)
    .where(_OF_WORKERS)
    .order_by(WORKERS.c.executor)
    .with_for_update()
)
_TAKERS = select(WORKERS.c.executor).where(
    _OF_WORKERS, WORKERS.c.gone_at.is_(None), WORKERS.c.state == WorkerState.TAKING.value
)
_ADD = WORKERS.insert()
_RENEW = update(WORKERS).where(WORKERS.c.executor == bindparam("of_worker"))
_NOTE = _RENEW.where(WORKERS.c.gone_at.is_(None))
_HAD = select(
    RUNS.c.id,
    RUNS.c.attempt,
    RUNS.c.executor,
    RUNS.c.status,
    RUNS.c.cancel_requested,
    RUNS.c.joined_at,
    RUNS.c.said_at,
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
    select(
        RUNS.c.id,
        RUNS.c.attempt,
        RUNS.c.status,
        WORKERS.c.executor.label("is_known"),
        WORKERS.c.state,
        WORKERS.c.gone_at,
        WORKERS.c.seen_at,
    )
    .join_from(RUNS, WORKERS, WORKERS.c.executor == RUNS.c.executor, isouter=True)
    .where(taken(), WORKERS.c.executor.is_(None) | WORKERS.c.gone_at.is_not(None))
)
