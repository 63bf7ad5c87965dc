"""How a run goes from launched to ended.

Every move is one conditional update: a run that has ended never changes again, and a report counts for the attempt it
is of. Where the result of a run may have to follow, it is locked before the run is, and follows in the same
transaction.

Most of it comes many times a second while calls are on: it is done in threads
(:meth:`runner.records.database.Database.run`), with statements that are built once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel, ConfigDict
from sqlalchemy import bindparam, func, literal_column, select, update
from sqlalchemy.orm import Session

from runner.calls.run_file import RunReport
from runner.evaluation.asked import Asked
from runner.records.changes import Change, RunChange, note
from runner.records.endings import Ending, RunProblem, cancelled, ending_of, lost
from runner.records.jobs import Job, RoomSecrets, RunType, SessionStart, open_pipecat_data, session_start
from runner.records.secrets import Vault
from runner.records.statuses import FINAL_RESULT, FINAL_RUN, OPEN_RUN, ResultStatus, RunStatus, result_status
from runner.records.tables import RESULTS, RUNS, Agent, ResultRow, RunRow, utc_now

AT_ONCE = 500
"""How many ids go into one statement."""

MAX_LOST = 2
"""How often a run is given to another worker because its worker was lost: it may be what workers die of."""

_FINAL_RESULT = [status.value for status in FINAL_RESULT]
_LIVE = [RunStatus.RUNNING.value, RunStatus.EVALUATING.value]

_RUN = RUNS.c.id == bindparam("of_run")
_ATTEMPT = (RUNS.c.attempt == bindparam("of_attempt")) & RUNS.c.executor.is_not(None)
"""An attempt is the one a worker has. Nobody can report on a run that nobody has."""

_OPEN = RUNS.c.status.in_([literal_column(f"'{status.value}'") for status in OPEN_RUN])

_LOCK_RESULT = (
    select(
        RESULTS.c.id,
        RESULTS.c.status,
        RESULTS.c.run_type,
        RUNS.c.created_at,
        RUNS.c.not_before,
        RUNS.c.started_at,
        RUNS.c.joined_at,
    )
    .join_from(RUNS, RESULTS, RESULTS.c.id == RUNS.c.result_id)
    .where(_RUN)
    .with_for_update(of=RESULTS)
)
_LOCK_RESULTS = (
    select(RESULTS.c.id)
    .where(RESULTS.c.id.in_(select(RUNS.c.result_id).where(RUNS.c.id.in_(bindparam("of_runs", expanding=True)))))
    .order_by(RESULTS.c.id)
    .with_for_update()
)
_OF_EXECUTOR = RUNS.c.executor == bindparam("of_executor")
_GIVEN = (
    select(
        RUNS.c.status,
        RUNS.c.cancel_requested,
        RUNS.c.attempt,
        RUNS.c.agent_id,
        RUNS.c.scenario_name,
        RUNS.c.snapshot,
        RUNS.c.room_url,
        RUNS.c.room_token,
        RUNS.c.data_message,
        RUNS.c.session_data,
        RUNS.c.result_id,
        RESULTS.c.status.label("result_status"),
        RESULTS.c.run_type,
        RESULTS.c.run_settings,
    )
    .join_from(RUNS, RESULTS, RESULTS.c.id == RUNS.c.result_id)
    .where(_RUN, _ATTEMPT, _OF_EXECUTOR, _OPEN)
)
_BEGIN = (
    update(RUNS)
    .where(_RUN, _ATTEMPT, _OF_EXECUTOR, RUNS.c.status == RunStatus.PENDING.value)
    .values(status=RunStatus.RUNNING.value)
    .returning(RUNS.c.id)
)
_UNDER_WAY = (
    select(RUNS.c.status, RUNS.c.cancel_requested, RUNS.c.lost, RUNS.c.said_at, RUNS.c.artefacts)
    .where(_RUN, _ATTEMPT, _OPEN)
    .with_for_update()
)
_ARTEFACTS = select(RUNS.c.artefacts).where(_RUN, _ATTEMPT).with_for_update()
_LOCKED = (
    select(RUNS.c.id, RUNS.c.status, RUNS.c.attempt, RUNS.c.executor, RUNS.c.joined_at, RUNS.c.said_at)
    .where(RUNS.c.id.in_(bindparam("of_runs", expanding=True)), _OPEN)
    .order_by(RUNS.c.id)
    .with_for_update()
)
_STATE = select(
    RUNS.c.id,
    RUNS.c.status,
    RUNS.c.attempt,
    RUNS.c.executor,
    RUNS.c.cancel_requested,
    RUNS.c.joined_at,
    RUNS.c.said_at,
).where(RUNS.c.id.in_(bindparam("of_runs", expanding=True)))
_SET = update(RUNS).where(_RUN)
_SET_ALL = update(RUNS).where(RUNS.c.id.in_(bindparam("of_runs", expanding=True)))
_CLOSE = update(RUNS).where(_RUN, _OPEN).returning(RUNS.c.attempt)
_CLOSE_ATTEMPT = _CLOSE.where(_ATTEMPT)
_FIRST_OPEN = select(RUNS.c.status).where(RUNS.c.result_id == bindparam("of_result"), _OPEN).limit(1)
_STATUSES = select(RUNS.c.status).where(RUNS.c.result_id == bindparam("of_result")).distinct()


@dataclass(frozen=True)
class Told:
    """What a worker tells of a run that it has.

    Attributes:
        run_id: The run.
        attempt: The attempt this is of.
        joined: Whether its caller is in the room with the agent, or was.
        said: Whether something was said or published there.
        evaluating: Whether its call is over.
    """

    run_id: int
    attempt: int
    joined: bool = False
    said: bool = False
    evaluating: bool = False


class Claimed(BaseModel):
    """What stands of a run when somebody asks who has it."""

    model_config = ConfigDict(frozen=True)

    status: RunStatus
    attempt: int
    executor: str | None
    """The worker that has it, or had it when it ended."""
    cancel_requested: bool
    joined: bool
    """Whether its caller was in the room with the agent."""
    said: bool
    """Whether something was said or published there."""

    def is_of(self, attempt: int) -> bool:
        """Return whether an attempt is the one that counts: of a run that waits there is none yet."""
        return self.executor is not None and self.attempt == attempt


def claim(session: Session, vault: Vault, run_id: int, attempt: int, executor: str) -> Job | None:
    """Take a run on that was given to a worker: it is running. The same again gives the same.

    A run whose cancelling was asked for ends here.

    Args:
        session: A transaction.
        vault: Opens what is encrypted.
        run_id: The run.
        attempt: The attempt it was given for.
        executor: The worker it was given to.

    Returns:
        What is needed to make the call; None if the run has ended, is another worker's, or is not there.
    """
    given = {"of_run": run_id, "of_attempt": attempt, "of_executor": executor}
    run = session.execute(_GIVEN, given).first()
    if run is not None and (run.result_status != ResultStatus.RUNNING.value or run.cancel_requested):
        # The result may have to follow: it is locked first, and what stands of the run is read anew.
        _lock_result(session, run_id)
        run = session.execute(_GIVEN, given).first()
    if run is None:
        return None
    if run.cancel_requested:
        _close(session, run_id, cancelled())
        refresh_result(session, run.result_id)
        return None
    # First, for it may fail: then nothing was begun.
    job = _job(session, vault, run_id, run)
    if run.status == RunStatus.PENDING.value:
        now = utc_now()
        if session.execute(_BEGIN, {**given, "started_at": now, "updated_at": now}).first() is None:
            return None
        note(session, RunChange(run_id, attempt, Change.CLAIMED, f"by {executor}"))
        if run.result_status != ResultStatus.RUNNING.value:
            refresh_result(session, run.result_id)
    return job


def progress(session: Session, told: Sequence[Told]) -> set[int]:
    """Take in how far runs have come. Reports of attempts that are not under way are passed over.

    Args:
        session: A transaction.
        told: The reports. A step back is passed over.

    Returns:
        The runs whose attempt is under way.
    """
    by_run = {one.run_id: one for one in told}
    now = utc_now()
    news = {"joined_at": now, "said_at": now, "status": RunStatus.EVALUATING.value}
    moved: dict[tuple[str, ...], list[int]] = {}
    under_way: set[int] = set()
    for run in session.execute(_LOCKED, {"of_runs": sorted(by_run)}):
        one = by_run[run.id]
        if run.executor is None or run.attempt != one.attempt:
            continue
        under_way.add(run.id)
        changes = {
            "joined_at": Change.JOINED if one.joined and run.joined_at is None else None,
            "said_at": Change.SAID if one.said and run.said_at is None else None,
            "status": Change.EVALUATING if one.evaluating and run.status == RunStatus.RUNNING.value else None,
        }
        for change in filter(None, changes.values()):
            note(session, RunChange(run.id, run.attempt, change))
        # Most reports repeat what is known, and cost no writing.
        if columns := tuple(name for name, change in changes.items() if change is not None):
            moved.setdefault(columns, []).append(run.id)
    for columns, run_ids in moved.items():
        values = {name: news[name] for name in columns}
        session.execute(_SET_ALL, {"of_runs": run_ids, "updated_at": now, **values})
    return under_way


@dataclass(frozen=True)
class Receipt:
    """What the record says to a report of what a run came to.

    Attributes:
        accepted: Whether the record holds it now: also where this very report came before. False if the run had ended
            otherwise, another attempt is under way, or it is not there.
        is_new: Whether the run ended by it.
        has_ended: Whether the run has ended, in this attempt.
        queued_s: How long the run took to begin; None where it did not.
        set_up_s: How long it took then to get into its room; None where that was not told.
    """

    accepted: bool
    is_new: bool = False
    has_ended: bool = False
    queued_s: float | None = None
    set_up_s: float | None = None


def end_run(session: Session, run_id: int, attempt: int, report: RunReport | RunProblem) -> Receipt:
    """End a run with what its call came to, or with why it came to none. Tokens are erased; the result follows.

    Args:
        session: A transaction.
        run_id: The run.
        attempt: The attempt this is a report of.
        report: The worker's ``run.json``, or the problem.
    """
    return _report(session, run_id, attempt, ending_of(report))


def give_back(
    session: Session,
    run_id: int,
    attempt: int,
    *,
    detail: str,
    unsaid: bool,
    was_lost: bool = False,
    only_unbegun: bool = False,
) -> bool | None:
    """Take a run from a worker that will not see it through: it waits for another one, or ends.

    It waits again if nobody had begun it, if its session can be started anew, or if nothing had been said; and if its
    worker was lost, not more often than :data:`MAX_LOST` times. From then on nothing counts that its worker reports.

    Args:
        session: A transaction.
        run_id: The run.
        attempt: The attempt that the worker was given.
        detail: Why, in one line: the end of a run that has to end.
        unsaid: Whether the record would know if something had been said.
        was_lost: Whether its worker was lost, and with it maybe because of it.
        only_unbegun: Leave it where it is if it has been begun by now.

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
    begun = found.status != RunStatus.PENDING.value
    if begun and only_unbegun:
        return None
    starts_anew = result.run_type == RunType.SESSIONS.value
    again = not begun or (
        not found.cancel_requested
        and found.lost + was_lost <= MAX_LOST
        and (starts_anew or (unsaid and found.said_at is None))
    )
    if again:
        _set(
            session,
            run_id,
            status=RunStatus.PENDING.value,
            executor=None,
            attempt=attempt + 1,
            lost=found.lost + int(was_lost and begun),
            started_at=None,
            joined_at=None,
            said_at=None,
            artefacts=_set_aside(found.artefacts, attempt),
            updated_at=utc_now(),
        )
        note(session, RunChange(run_id, attempt, Change.GIVEN_BACK, "it waits again"))
    else:
        ending = cancelled() if found.cancel_requested else lost(detail)
        _close(session, run_id, ending)
    refresh_result(session, result.id, result.status)
    return again


def request_cancel(session: Session, run_ids: Sequence[int]) -> list[int]:
    """Cancel runs: what nobody has begun ends at once, what is under way when its worker has left the room.

    Args:
        session: A transaction.
        run_ids: The runs; those that have ended stay as they are.

    Returns:
        Those that ended at once. Where one was handed to a worker already, its claim is refused.
    """
    at_once: list[int] = []
    in_order = sorted(run_ids)
    for begin in range(0, len(in_order), AT_ONCE):
        ids = in_order[begin : begin + AT_ONCE]
        results = lock_results_of(session, ids)
        # In the order in which a worker's progress locks them: an update goes by where they lie.
        session.execute(_LOCKED, {"of_runs": ids})
        pending = RunRow.status == RunStatus.PENDING.value
        ended = session.execute(
            update(RunRow)
            .where(RunRow.id.in_(ids), pending)
            .values(**cancelled().values())
            .returning(RunRow.id, RunRow.attempt)
        )
        for run_id, attempt in ended.all():
            at_once.append(run_id)
            note(session, RunChange(run_id, attempt, Change.ENDED, cancelled().in_words))
        session.execute(
            update(RunRow)
            .where(RunRow.id.in_(ids), RunRow.status.in_(_LIVE))
            .values(cancel_requested=True, updated_at=utc_now())
        )
        for result_id in results:
            refresh_result(session, result_id)
    return at_once


def look_at(session: Session, run_ids: Sequence[int]) -> dict[int, Claimed]:
    """Return what stands of runs for whoever works on them; without those that are not there."""
    return {
        row.id: Claimed(
            status=RunStatus(row.status),
            attempt=row.attempt,
            executor=row.executor,
            cancel_requested=row.cancel_requested,
            joined=row.joined_at is not None,
            said=row.said_at is not None,
        )
        for row in session.execute(_STATE, {"of_runs": list(run_ids)})
    }


def add_artefact(session: Session, run_id: int, attempt: int, name: str, size: int) -> bool:
    """Take down that the store holds an artefact of a run.

    Returns:
        Whether the attempt is the one that counts; if not, nothing is taken down.
    """
    found = session.execute(_ARTEFACTS, {"of_run": run_id, "of_attempt": attempt}).first()
    if found is None:
        return False
    artefacts = cast(dict[str, int], found.artefacts)
    _set(session, run_id, artefacts={**artefacts, name: size}, updated_at=utc_now())
    return True


def artefacts_of(run: RunRow) -> dict[str, int]:
    """Return what the store holds of a run's last attempt, with the sizes in bytes."""
    return {name: size for name, size in run.artefacts.items() if "/" not in name}


def refresh_result(session: Session, result_id: int, known: str | None = None) -> None:
    """Let the status of a result follow those of its runs. Its row must be locked by the transaction.

    Args:
        session: The transaction.
        result_id: The result.
        known: Its status, where that is known.
    """
    of_result = {"of_result": result_id}
    if known == ResultStatus.RUNNING.value and session.execute(_FIRST_OPEN, of_result).first() is not None:
        return
    status = result_status(RunStatus(text) for text in session.scalars(_STATUSES, of_result))
    if status.value == known:
        return
    forward = ResultRow.status.not_in(_FINAL_RESULT)
    if status is ResultStatus.PENDING:
        forward &= ResultRow.status == ResultStatus.PENDING.value
    session.execute(
        update(ResultRow)
        .where(ResultRow.id == result_id, forward)
        .values(status=status.value, updated_at=utc_now())
        .execution_options(synchronize_session=False)
    )


def lock_result(session: Session, result_id: int) -> bool:
    """Keep other transactions from ending runs of a result, or giving them back; return whether it is there."""
    found = session.scalar(select(ResultRow.id).where(ResultRow.id == result_id).with_for_update())
    return found is not None


def lock_results_of(session: Session, run_ids: Sequence[int]) -> list[int]:
    """Lock the results of runs, in order, and return them: whoever locks several does so before everything else."""
    return list(session.scalars(_LOCK_RESULTS, {"of_runs": list(run_ids)}))


def _set_aside(artefacts: Mapping[str, int], attempt: int) -> dict[str, int]:
    """Return what the store holds of a run whose attempt does not count any more: kept in mind to be deleted."""
    return {name if "/" in name else f"{attempt}/{name}": size for name, size in artefacts.items()}


def _lock_result(session: Session, run_id: int) -> Any:
    """Lock the result of a run, before the run itself: whoever locks both does so in this order.

    Returns:
        What is known of it, and of the times of the run, which is not locked; None if the run is not there.
    """
    return session.execute(_LOCK_RESULT, {"of_run": run_id}).first()


def _set(session: Session, run_id: int, **values: Any) -> None:
    session.execute(_SET, {"of_run": run_id, **values})


def _report(session: Session, run_id: int, attempt: int, ending: Ending) -> Receipt:
    result = _lock_result(session, run_id)
    if result is None:
        return Receipt(accepted=False)
    if _close(session, run_id, ending, attempt):
        refresh_result(session, result.id, result.status)
        queued_s = set_up_s = None
        if result.started_at is not None:
            queued_s = (result.started_at - (result.not_before or result.created_at)).total_seconds()
            set_up_s = None if result.joined_at is None else (result.joined_at - result.started_at).total_seconds()
        return Receipt(accepted=True, is_new=True, has_ended=True, queued_s=queued_s, set_up_s=set_up_s)
    found = session.execute(
        select(RUNS.c.attempt, RUNS.c.status, RUNS.c.ended_reason, RUNS.c.error_message, RUNS.c.outcome).where(_RUN),
        {"of_run": run_id},
    ).first()
    has_ended = found is not None and found.attempt == attempt and RunStatus(found.status) in FINAL_RUN
    # A run that ended otherwise has no outcome, or another.
    is_this = (
        found is not None
        and (found.status, found.ended_reason, found.error_message)
        == (ending.status.value, ending.ended_reason, ending.error_message)
        and found.outcome == ending.outcome
    )
    return Receipt(accepted=has_ended and is_this, has_ended=has_ended)


def _close(session: Session, run_id: int, ending: Ending, attempt: int | None = None) -> bool:
    """End a run, if it is open and, where one is named, this is its attempt."""
    of_attempt = {} if attempt is None else {"of_attempt": attempt}
    statement = _CLOSE if attempt is None else _CLOSE_ATTEMPT
    if ending.status is RunStatus.COMPLETED:
        # The report that the caller was in the room may still be under way.
        statement = statement.values(joined_at=func.coalesce(RUNS.c.joined_at, RUNS.c.started_at, utc_now()))
    closed = session.execute(statement, {"of_run": run_id, **of_attempt, **ending.values()}).scalar()
    if closed is None:
        return False
    note(session, RunChange(run_id, closed, Change.ENDED, ending.in_words))
    return True


def _job(session: Session, vault: Vault, run_id: int, run: Any) -> Job:
    secrets = RoomSecrets.open(vault, run.room_token)
    data = {**run.session_data, "cekura_run_id": run_id}
    start: SessionStart | None = None
    agent = None if run.agent_id is None else session.get(Agent, run.agent_id)
    if run.run_type == RunType.SESSIONS.value:
        start = session_start(agent, vault, open_pipecat_data(vault, run.run_settings), data)
    return Job(
        run_id=run_id,
        attempt=run.attempt,
        scenario=run.scenario_name,
        script=run.snapshot["script"],
        notes=tuple(run.snapshot.get("notes", ())),
        room_url=run.room_url if secrets.url is None else secrets.url.get_secret_value(),
        token=secrets.token,
        data_message=run.data_message,
        session=start,
        session_data=data,
        asked=_asked(run.snapshot),
        participant_name=run.snapshot.get("participant_name")
        or (None if agent is None else agent.session.get("participant_name")),
    )


def _asked(snapshot: Mapping[str, Any]) -> Asked:
    """Return what is asked of a run besides its script."""
    if "asked" not in snapshot:
        # Launched by a version that judged no prompts.
        return Asked(expected_outcome=snapshot.get("expected_outcome_prompt") or None)
    return Asked.model_validate(snapshot["asked"])
