"""How a run goes from launched to ended.

Every move is one conditional update: a run that has ended never changes again, and a report counts for the attempt it
is of. Where the result of a run may have to follow, it is locked before the run is, and follows in the same
transaction.

Most of it comes many times a second while calls are on: it is done in threads
(:meth:`runner.records.database.Database.run`), with statements that are built once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import ColumnElement, Row, bindparam, func, insert, literal_column, select, update
from sqlalchemy.orm import Session

from runner.calls.run_file import FILE_NAME as RUN_FILE
from runner.calls.run_file import RunReport, not_asked_because
from runner.evaluation.outcome import Status
from runner.protocol.messages import Problem, RunNow
from runner.records.artefacts import set_aside
from runner.records.changes import Change, note, work_changed
from runner.records.endings import Ending, cancelled, ending_of, lost
from runner.records.filters import chunks
from runner.records.jobs import RunType
from runner.records.statuses import FINAL_RESULT, FINAL_RUN, OPEN_RUN, ResultStatus, RunStatus, result_status
from runner.records.tables import LATENCIES, RESULTS, RUNS, ResultRow, RunRow, utc_now
from runner.records.webhooks import result_completed

MAX_LOST = 2
"""How often a run is given to another worker because its worker was lost: it may be what workers die of."""

AWAITED = "the judge has not answered yet"
CANCELLED_DETAIL = "the run was cancelled before the judge had answered"

JudgeLater = Callable[[Session, int, int], None]
"""Sees to it, in a transaction, that what was asked of a run in an attempt is judged once that is committed."""

_RUN = RUNS.c.id == bindparam("of_run")
_RUNS = RUNS.c.id.in_(bindparam("of_runs", expanding=True))
_ATTEMPT = (RUNS.c.attempt == bindparam("of_attempt")) & RUNS.c.executor.is_not(None)
"""An attempt is the one a worker has. Only the worker that holds a run can report on it."""

_UNREPORTED = RUNS.c.reported.is_(None)
_OPEN = RUNS.c.status.in_([literal_column(f"'{status}'") for status in OPEN_RUN])
_OF_RESULT = RUNS.c.result_id == bindparam("of_result")

_LOCK_RESULT = (
    select(*RESULTS.c["id", "status", "run_type"], *RUNS.c["created_at", "not_before", "started_at", "joined_at"])
    .join_from(RUNS, RESULTS, RESULTS.c.id == RUNS.c.result_id)
    .where(_RUN)
    .with_for_update(of=RESULTS)
)
_LOCK_RESULTS = (
    select(RESULTS.c.id)
    .where(RESULTS.c.id.in_(select(RUNS.c.result_id).where(_RUNS)))
    .order_by(RESULTS.c.id)
    .with_for_update()
)
_PENDING = (
    select(*RUNS.c["id", "result_id"], RESULTS.c.status.label("result_status"))
    .join_from(RUNS, RESULTS, RESULTS.c.id == RUNS.c.result_id)
    .where(_RUNS, RUNS.c.status == RunStatus.PENDING)
)
_BEGIN = (
    update(RUNS)
    .where(_RUN, _ATTEMPT, RUNS.c.executor == bindparam("of_executor"), RUNS.c.status == RunStatus.PENDING)
    .values(status=RunStatus.RUNNING)
    .returning(RUNS.c.id)
)
_UNDER_WAY = (
    select(*RUNS.c["status", "cancel_requested", "lost", "said_at", "artefacts", "room_url", "room_kind"])
    .where(_RUN, _ATTEMPT, _OPEN, _UNREPORTED)
    .with_for_update()
)
_LOCKED = (
    select(*RUNS.c["id", "status", "attempt", "executor", "joined_at", "said_at", "reported", "outcome"])
    .where(_RUNS, _OPEN)
    .order_by(RUNS.c.id)
    .with_for_update()
)
_STATE = select(*RUNS.c["status", "attempt", "executor"]).where(_RUN)
_SET = update(RUNS).where(_RUN)
_SET_ALL = update(RUNS).where(_RUNS)
_REPORTED = select(*RUNS.c["attempt", "executor", "status", "reported", "artefacts"]).where(_RUN)
_JUDGED = select(*RUNS.c["artefacts", "outcome"]).where(_RUN, _ATTEMPT, _OPEN, RUNS.c.reported.is_not(None))
_ALL_JUDGED = select(*RUNS.c["id", "attempt"]).where(
    # By its status, so that runs that have ended are not even looked at.
    RUNS.c.status == RunStatus.EVALUATING,
    RUNS.c.reported.is_not(None),
    RUNS.c.updated_at < bindparam("since", type_=RUNS.c.updated_at.type),
)
_CLOSE = update(RUNS).where(_RUN, _OPEN).returning(RUNS.c.attempt)
_CLOSE_ATTEMPT = _CLOSE.where(_ATTEMPT, _UNREPORTED)
_INSERT_LATENCIES = insert(LATENCIES)
_KEPT = frozenset({"duration_s", "outcome", "room_token", "updated_at"})
"""What is known already of the end of a run that is still to be judged."""

_FIRST_OPEN = select(RUNS.c.status).where(_OF_RESULT, _OPEN).limit(1)
_STATUSES = select(RUNS.c.status).where(_OF_RESULT).distinct()


def begin(session: Session, given: Sequence[tuple[int, int, str]]) -> None:
    """Let runs be running that workers have taken on: of each the run, the attempt, and the worker.

    What is not theirs (any more), or has begun, stays as it is.
    """
    pending = {
        row.id: row for row in session.execute(_PENDING, {"of_runs": sorted({run_id for run_id, *_ in given})})
    }
    if not pending:
        return
    if any(row.result_status != ResultStatus.RUNNING for row in pending.values()):
        # The results have to follow: they are locked first.
        lock_results_of(session, list(pending))
    # All of them before any is changed, in the order in which everybody locks several.
    session.execute(_LOCKED, {"of_runs": sorted({run_id for run_id, *_ in given})}).all()
    now = utc_now()
    for run_id, attempt, executor in sorted(given):
        row = pending.get(run_id)
        of_run = {"of_run": run_id, "of_attempt": attempt, "of_executor": executor}
        if row is None or session.execute(_BEGIN, {**of_run, "started_at": now, "updated_at": now}).first() is None:
            continue
        note(session, run_id, attempt, Change.CLAIMED, f"by {executor}")
        if row.result_status != ResultStatus.RUNNING:
            refresh_result(session, row.result_id)


def progress(session: Session, told: Sequence[RunNow]) -> set[int]:
    """Take in how far runs have come, and return those whose attempt is under way.

    What is told of other attempts is passed over, and so is a step back.
    """
    by_run = {one.run_id: one for one in told}
    now = utc_now()
    news = {"joined_at": now, "said_at": now, "status": RunStatus.EVALUATING}
    moved: dict[tuple[str, ...], list[int]] = {}
    under_way: set[int] = set()
    for run in session.execute(_LOCKED, {"of_runs": sorted(by_run)}):
        one = by_run[run.id]
        if run.executor is None or run.attempt != one.attempt or run.reported is not None:
            continue
        under_way.add(run.id)
        changes = {
            "joined_at": Change.JOINED if one.joined and run.joined_at is None else None,
            "said_at": Change.SAID if one.said and run.said_at is None else None,
            "status": Change.EVALUATING if one.is_evaluating and run.status == RunStatus.RUNNING else None,
        }
        for change in filter(None, changes.values()):
            note(session, run.id, run.attempt, change)
        # Most reports repeat what is known, and cost no writing.
        if columns := tuple(name for name, change in changes.items() if change is not None):
            moved.setdefault(columns, []).append(run.id)
    for columns, run_ids in moved.items():
        values = {name: news[name] for name in columns}
        session.execute(_SET_ALL, {"of_runs": run_ids, "updated_at": now, **values})
    return under_way


@dataclass(frozen=True)
class Receipt:
    """What the record says to a report of what a run came to."""

    accepted: bool
    """Whether the record holds it now: also where this very report came before. False if the run had ended otherwise,
    another attempt is under way, or it is not there."""
    is_new: bool = False
    """Whether the record did not hold it before."""
    has_ended: bool = False
    """Whether the run has ended, in this attempt."""
    queued_s: float | None = None
    """How long the run took to begin; None where it did not."""
    set_up_s: float | None = None
    """How long it took then to get into its room; None where that was not told."""


def end_run(
    session: Session,
    run_id: int,
    attempt: int,
    report: RunReport | Problem,
    *,
    executor: str | None = None,
    owed: Sequence[str] = (),
    judge_later: JudgeLater | None = None,
) -> Receipt:
    """End a run with what its call came to, or with why it came to none. Tokens are erased; the result follows.

    A call of which more was asked than its script says does not end its run yet, where there is a judge
    (``judge_later``): it is judged first, and the worker has nothing more to do with it. A report of another
    ``executor`` than the one that has the run does not count; None: whoever has it. ``owed`` are the artefacts that
    come later.
    """
    ending = ending_of(report)
    result = _lock_result(session, run_id)
    if result is None:
        return Receipt(accepted=False)
    found = session.execute(_REPORTED, {"of_run": run_id}).first()
    if found is None or (executor is not None and found.executor != executor):
        return Receipt(accepted=False)
    values: dict[str, Any] = {"reported": ending.digest}
    if coming := {name: None for name in owed if name not in found.artefacts}:
        values["artefacts"] = {**found.artefacts, **coming}
    if (
        judge_later is not None
        and isinstance(report, RunReport)
        and report.status is Status.COMPLETED
        and report.asked.needs_judge
    ):
        awaited = ending_of(not_asked_because(report, AWAITED))
        has_ended, is_new = False, _hand_on(session, run_id, attempt, awaited, values)
        if is_new:
            judge_later(session, run_id, attempt)
    else:
        has_ended = is_new = _close(session, run_id, ending, attempt, values)
    if is_new:
        refresh_result(session, result.id, result.status)
        queued_s = set_up_s = None
        if result.started_at is not None:
            queued_s = (result.started_at - (result.not_before or result.created_at)).total_seconds()
            set_up_s = None if result.joined_at is None else (result.joined_at - result.started_at).total_seconds()
        return Receipt(accepted=True, is_new=True, has_ended=has_ended, queued_s=queued_s, set_up_s=set_up_s)
    # While the result is locked nobody else ends the run: what was found stands.
    is_of_attempt = found.attempt == attempt
    has_ended = is_of_attempt and found.status in FINAL_RUN
    # A run that ended otherwise has no report, or another.
    return Receipt(accepted=is_of_attempt and found.reported == ending.digest, has_ended=has_ended)


def end_judged(
    session: Session, run_id: int, attempt: int, judged: RunReport | str, *, run_file_bytes: int | None = None
) -> bool:
    """End a run that waits to be judged; the result follows. Return whether it ended by this.

    ``judged`` is what it came to; or why it could not be judged: then it ends as it was reported. ``run_file_bytes``
    is the size of the ``run.json`` that the store holds now, where that was written anew.
    """
    result = _lock_result(session, run_id)
    if result is None:
        return False
    found = session.execute(_JUDGED, {"of_run": run_id, "of_attempt": attempt}).first()
    if found is None:
        return False
    if isinstance(judged, str):
        judged = _unjudged(found.outcome, judged)
    values = {} if run_file_bytes is None else {"artefacts": {**found.artefacts, RUN_FILE: run_file_bytes}}
    _close(session, run_id, ending_of(judged), values=values)
    refresh_result(session, result.id, result.status)
    return True


def awaiting_judge(session: Session, run_id: int, attempt: int) -> Mapping[str, int | None] | None:
    """Return the artefacts of a run that waits to be judged in this attempt; None if it does not."""
    found = session.execute(_JUDGED, {"of_run": run_id, "of_attempt": attempt}).first()
    return None if found is None else found.artefacts


def all_awaiting_judge(session: Session, *, since: datetime) -> list[tuple[int, int]]:
    """Return the runs, with their attempts, that have waited to be judged since before a time."""
    return [(row.id, row.attempt) for row in session.execute(_ALL_JUDGED, {"since": since})]


def release(
    session: Session,
    run_id: int,
    attempt: int,
    *,
    detail: str,
    safe_to_retry: bool,
    was_lost: bool = False,
    only_unbegun: bool = False,
) -> bool | None:
    """Take a run from a worker that will not see it through: it waits for another one, or ends because of ``detail``.

    It waits again if nobody had begun it, if its session can be started anew, or if nothing had been said, where the
    record would know that (``safe_to_retry``); and if its worker was lost, not more often than :data:`MAX_LOST`
    times. From then on nothing counts that its worker reports. With ``only_unbegun`` it is left where it is if it has
    been begun by now.

    Returns:
        Whether it waits again, and not ended; None if the attempt was not under way, or the run was left.
    """
    result = _lock_result(session, run_id)
    if result is None:
        return None
    # Locked: what is said from now on is said in an attempt that is void, and refused.
    found = session.execute(_UNDER_WAY, {"of_run": run_id, "of_attempt": attempt}).first()
    if found is None:
        return None
    begun = found.status != RunStatus.PENDING
    if begun and only_unbegun:
        return None
    starts_anew = result.run_type == RunType.SESSIONS or _starts_a_session(found.room_url, found.room_kind)
    again = not begun or (
        not found.cancel_requested
        and found.lost + was_lost <= MAX_LOST
        and (starts_anew or (safe_to_retry and found.said_at is None))
    )
    if again:
        _set(
            session,
            run_id,
            status=RunStatus.PENDING,
            executor=None,
            attempt=attempt + 1,
            lost=found.lost + int(was_lost and begun),
            started_at=None,
            joined_at=None,
            said_at=None,
            artefacts=set_aside(found.artefacts, attempt),
            updated_at=utc_now(),
        )
        note(session, run_id, attempt, Change.RELEASED, "it waits again")
    else:
        ending = cancelled() if found.cancel_requested else lost(detail)
        _close(session, run_id, ending)
    work_changed(session)
    refresh_result(session, result.id, result.status)
    return again


def request_cancel(session: Session, run_ids: Sequence[int]) -> list[int]:
    """Cancel runs: what nobody has begun ends at once, what is under way when its worker has left the room.

    What waits for the judge ends at once as well, with what there is of its call. Return those that ended at once:
    where one was handed to a worker already, its claim is refused.
    """
    at_once: list[int] = []
    for ids in chunks(sorted(run_ids)):
        results = lock_results_of(session, ids)
        # In the order in which a worker's progress locks them: an update goes by where they lie.
        open_runs = session.execute(_LOCKED, {"of_runs": ids}).all()
        pending = RunRow.status == RunStatus.PENDING
        ended = session.execute(
            update(RunRow)
            .where(RunRow.id.in_(ids), pending)
            .values(**cancelled().values())
            .returning(RunRow.id, RunRow.attempt)
        )
        for run_id, attempt in ended.all():
            at_once.append(run_id)
            note(session, run_id, attempt, Change.ENDED, cancelled().in_words)
        for run in open_runs:
            if run.reported is not None:
                # Its call took place: nobody waits for the judge any more.
                at_once.append(run.id)
                _close(session, run.id, ending_of(_unjudged(run.outcome, CANCELLED_DETAIL)))
        session.execute(
            update(RunRow)
            .where(RunRow.id.in_(ids), RunRow.status.in_([RunStatus.RUNNING, RunStatus.EVALUATING]))
            .values(cancel_requested=True, updated_at=utc_now())
        )
        for result_id in results:
            refresh_result(session, result_id)
    work_changed(session)
    return at_once


def state_of(session: Session, run_id: int) -> Row[*tuple[Any, ...]] | None:
    """Return the status of a run, the attempt that counts, and the worker that has it; None if it is not there."""
    return session.execute(_STATE, {"of_run": run_id}).first()


def is_of(run: Row[*tuple[Any, ...]], attempt: int) -> bool:
    """Return whether an attempt is the one that counts: of a run that waits there is none yet."""
    return run.executor is not None and run.attempt == attempt


def refresh_result(session: Session, result_id: int, known: str | None = None) -> None:
    """Let the status of a result follow those of its runs. Its row must be locked by the transaction."""
    of_result = {"of_result": result_id}
    if known == ResultStatus.RUNNING and session.execute(_FIRST_OPEN, of_result).first() is not None:
        return
    status = result_status(RunStatus(text) for text in session.scalars(_STATUSES, of_result))
    if status == known:
        return
    forward = ResultRow.status.not_in(FINAL_RESULT)
    if status is ResultStatus.PENDING:
        forward &= ResultRow.status == ResultStatus.PENDING
    moved = session.execute(
        update(ResultRow)
        .where(ResultRow.id == result_id, forward)
        .values(status=status, updated_at=utc_now())
        .returning(ResultRow.id)
        .execution_options(synchronize_session=False)
    ).first()
    if moved is not None and status in FINAL_RESULT:
        result_completed(session, result_id)


def lock_result(session: Session, result_id: int) -> bool:
    """Keep other transactions from ending runs of a result, or giving them back; return whether it is there."""
    found = session.scalar(select(ResultRow.id).where(ResultRow.id == result_id).with_for_update())
    return found is not None


def lock_results_of(session: Session, run_ids: Sequence[int]) -> list[int]:
    """Lock the results of runs, in order, and return them: whoever locks several does so before everything else."""
    return list(session.scalars(_LOCK_RESULTS, {"of_runs": list(run_ids)}))


def _lock_result(session: Session, run_id: int) -> Any:
    """Lock the result of a run, before the run itself: whoever locks both does so in this order.

    Return what is known of it, and of the times of the run, which is not locked; None if the run is not there.
    """
    return session.execute(_LOCK_RESULT, {"of_run": run_id}).first()


def _set(session: Session, run_id: int, **values: Any) -> None:
    session.execute(_SET, {"of_run": run_id, **values})


def _hand_on(session: Session, run_id: int, attempt: int, ending: Ending, values: Mapping[str, Any]) -> bool:
    """Let a run be evaluated by others than its worker, if that has it in this attempt."""
    kept = {name: value for name, value in ending.values().items() if name in _KEPT}
    kept |= {"joined_at": _joined(), "status": RunStatus.EVALUATING, **values}
    of_attempt = {"of_run": run_id, "of_attempt": attempt}
    if session.execute(_CLOSE_ATTEMPT.values(**kept), of_attempt).first() is None:
        return False
    note(session, run_id, attempt, Change.REPORTED, "it waits for the judge")
    work_changed(session)
    return True


def _joined() -> ColumnElement[datetime]:
    """Return when the caller was in the room of a call that took place: the report of it may still be under way."""
    return func.coalesce(RUNS.c.joined_at, RUNS.c.started_at, utc_now())


def _unjudged(outcome: Mapping[str, Any], why: str) -> RunReport:
    """Return what a run comes to that waited for the judge, and waits no more."""
    report = RunReport.model_validate(outcome)
    return not_asked_because(report, why, instead_of=AWAITED)


def _close(
    session: Session,
    run_id: int,
    ending: Ending,
    attempt: int | None = None,
    values: Mapping[str, Any] | None = None,
) -> bool:
    """End a run, if it is open and, where one is named, this is the attempt that a worker has of it."""
    of_attempt = {} if attempt is None else {"of_attempt": attempt}
    statement = _CLOSE if attempt is None else _CLOSE_ATTEMPT
    if ending.status is RunStatus.COMPLETED:
        statement = statement.values(joined_at=_joined())
    closed = session.execute(
        statement, {"of_run": run_id, **of_attempt, **ending.values(), **(values or {})}
    ).scalar()
    if closed is None:
        return False
    if times_ms := ending.latencies_ms:
        session.execute(_INSERT_LATENCIES, {"run_id": run_id, "times_ms": times_ms})
    note(session, run_id, closed, Change.ENDED, ending.in_words)
    work_changed(session)
    return True


def _starts_a_session(room_url: str | None, kind: str | None) -> bool:
    """Return whether a run's room is a Pipecat runner's base address, which starts a session for every call."""
    return room_url is not None and kind is None and not urlsplit(room_url).path.strip("/")
