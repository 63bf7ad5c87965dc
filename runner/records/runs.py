"""How a run goes from launched to ended.

Every move is one conditional update: a run that has ended never changes again, and a report counts for the attempt it
is of. The result of a run is locked before the run is, and follows in the same transaction.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from bots.caller.script import Script
from bots.timeline import EndedReason
from runner.calls.run_file import Run
from runner.evaluation.cekura_words import CEKURA_ENDED_REASON
from runner.evaluation.outcome import Cause, Status
from runner.records.changes import Change, RunChange, note
from runner.records.jobs import Job, RoomSecrets, RunType, SessionStart, open_pipecat_data, session_start
from runner.records.secrets import Vault
from runner.records.statuses import FINAL_RESULT, FINAL_RUN, ResultStatus, RunStatus, result_status
from runner.records.tables import Agent, ResultRow, RunRow, utc_now

AT_ONCE = 500
"""How many ids go into one statement."""

MAX_LOST = 2
"""How often a run is given to another worker because its worker was lost: it may be what workers die of."""

MAX_STORED_DEPTH = 100
"""How deep what is kept of a report may be nested."""

_FINAL_RUN = [status.value for status in FINAL_RUN]
_FINAL_RESULT = [status.value for status in FINAL_RESULT]
_LIVE = [RunStatus.RUNNING.value, RunStatus.EVALUATING.value]
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_CAUSES = {cause.value for cause in Cause}


class RunProblem(BaseModel):
    """Why a worker could not see a run through."""

    model_config = ConfigDict(frozen=True)

    cause: str = Field(max_length=20)
    """Whose fault it was, as :class:`runner.evaluation.outcome.Cause` has it."""
    reason: str = Field(max_length=40)
    """How it ended, as :class:`bots.timeline.EndedReason` has it."""
    detail: str = Field(default="", max_length=4_000)


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


async def claim(session: AsyncSession, vault: Vault, run_id: int, attempt: int, executor: str) -> Job | None:
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
    result = await _lock_result(session, run_id)
    if result is None:
        return None
    run = (
        await session.execute(
            select(
                RunRow.status,
                RunRow.cancel_requested,
                RunRow.attempt,
                RunRow.agent_id,
                RunRow.scenario_name,
                RunRow.snapshot,
                RunRow.room_url,
                RunRow.room_token,
                RunRow.data_message,
                RunRow.session_data,
            )
            .where(RunRow.id == run_id, _of_attempt(attempt), RunRow.executor == executor, _open())
            .with_for_update()
        )
    ).first()
    if run is None:
        return None
    if run.cancel_requested:
        await _close(session, run_id, _cancelled())
        await refresh_result(session, result.id)
        return None
    if run.status == RunStatus.PENDING.value:
        now = utc_now()
        await session.execute(
            update(RunRow)
            .where(RunRow.id == run_id)
            .values(status=RunStatus.RUNNING.value, started_at=now, updated_at=now)
            .execution_options(synchronize_session=False)
        )
        note(session, RunChange(run_id, attempt, Change.CLAIMED, f"by {executor}"))
        if result.status != ResultStatus.RUNNING.value:
            await refresh_result(session, result.id)
    return await _job(session, vault, run_id, run, result)


async def progress(
    session: AsyncSession,
    run_id: int,
    attempt: int,
    status: RunStatus,
    joined_at: datetime | None,
    said_at: datetime | None = None,
) -> bool:
    """Take in how far a run has come.

    Args:
        session: A transaction.
        run_id: The run.
        attempt: The attempt this is a report of.
        status: Running or evaluating; a step back is passed over.
        joined_at: When the caller was in the room with the agent; None if it is not yet.
        said_at: When something was said or published there; None if nothing was yet.

    Returns:
        Whether the attempt is the one under way.
    """
    found = (
        await session.execute(
            select(RunRow.status, RunRow.joined_at, RunRow.said_at)
            .where(RunRow.id == run_id, _of_attempt(attempt), _open())
            .with_for_update()
        )
    ).first()
    if found is None:
        return False
    values: dict[str, Any] = {}
    if joined_at is not None and found.joined_at is None:
        values["joined_at"] = joined_at
        note(session, RunChange(run_id, attempt, Change.JOINED))
    if said_at is not None and found.said_at is None:
        values["said_at"] = said_at
        note(session, RunChange(run_id, attempt, Change.SAID))
    if status is RunStatus.EVALUATING and found.status == RunStatus.RUNNING.value:
        values["status"] = status.value
        note(session, RunChange(run_id, attempt, Change.EVALUATING))
    # Most reports repeat what is known, and cost no writing.
    if values:
        await session.execute(
            update(RunRow)
            .where(RunRow.id == run_id)
            .values(**values, updated_at=utc_now())
            .execution_options(synchronize_session=False)
        )
    return True


async def finish(session: AsyncSession, run_id: int, attempt: int, outcome: Run) -> bool:
    """End a run with what its call came to. Tokens are erased; the result follows.

    Args:
        session: A transaction.
        run_id: The run.
        attempt: The attempt this is a report of.
        outcome: The worker's ``run.json``.

    Returns:
        Whether the record holds this outcome now: also where this very report came before. False if the run had ended
        otherwise, or another attempt is under way.
    """
    ending = _Ending(
        status=RunStatus(outcome.status.value),
        success=outcome.success,
        cause=None if outcome.cause is None else outcome.cause.value,
        ended_reason=outcome.ended_reason.value,
        call_ended_reason=outcome.call_ended_reason,
        error_message=_error_message(outcome),
        duration_s=outcome.duration_s,
        outcome=storable(outcome.model_dump(mode="json", exclude={"script"})),
    )
    return await _report(session, run_id, attempt, ending)


async def give_up(session: AsyncSession, run_id: int, attempt: int, problem: RunProblem) -> bool:
    """End a run that came to no call. Otherwise as :func:`finish`."""
    return await _report(session, run_id, attempt, _failed(problem))


async def give_back(
    session: AsyncSession, run_id: int, attempt: int, *, detail: str, unsaid: bool, was_lost: bool = False
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

    Returns:
        Whether it waits again, and not ended; None if the attempt was not under way.
    """
    result = await _lock_result(session, run_id)
    if result is None:
        return None
    # Locked: what is said from now on is said in an attempt that is void, and refused.
    found = (
        await session.execute(
            select(
                RunRow.status,
                RunRow.cancel_requested,
                RunRow.lost,
                RunRow.said_at,
                RunRow.artefacts,
            )
            .where(RunRow.id == run_id, _of_attempt(attempt), _open())
            .with_for_update()
        )
    ).first()
    if found is None:
        return None
    begun = found.status != RunStatus.PENDING.value
    starts_anew = result.run_type == RunType.SESSIONS.value
    again = not begun or (
        not found.cancel_requested
        and found.lost + was_lost <= MAX_LOST
        and (starts_anew or (unsaid and found.said_at is None))
    )
    if again:
        await session.execute(
            update(RunRow)
            .where(RunRow.id == run_id)
            .values(
                status=RunStatus.PENDING.value,
                executor=None,
                attempt=RunRow.attempt + 1,
                lost=RunRow.lost + int(was_lost and begun),
                started_at=None,
                joined_at=None,
                said_at=None,
                artefacts=_set_aside(found.artefacts, attempt),
                updated_at=utc_now(),
            )
        )
        note(session, RunChange(run_id, attempt, Change.GIVEN_BACK, "it waits again"))
    else:
        ending = _cancelled() if found.cancel_requested else _failed(_lost(detail))
        await _close(session, run_id, ending)
    await refresh_result(session, result.id, result.status)
    return again


async def request_cancel(session: AsyncSession, run_ids: Sequence[int]) -> list[int]:
    """Cancel runs: what nobody has begun ends at once, what is under way when its worker has left the room.

    Args:
        session: A transaction.
        run_ids: The runs; those that have ended stay as they are.

    Returns:
        Those that ended at once. Where one was handed to a worker already, its claim is refused.
    """
    cancelled: list[int] = []
    in_order = sorted(run_ids)
    for begin in range(0, len(in_order), AT_ONCE):
        ids = in_order[begin : begin + AT_ONCE]
        results = (
            await session.scalars(
                select(ResultRow.id)
                .where(ResultRow.id.in_(select(RunRow.result_id).where(RunRow.id.in_(ids))))
                .order_by(ResultRow.id)
                .with_for_update()
            )
        ).all()
        # In the order in which a worker's progress locks them: an update goes by where they lie.
        await session.execute(
            select(RunRow.id).where(RunRow.id.in_(ids), _open()).order_by(RunRow.id).with_for_update()
        )
        pending = RunRow.status == RunStatus.PENDING.value
        ended = await session.execute(
            update(RunRow)
            .where(RunRow.id.in_(ids), pending)
            .values(**_cancelled().values())
            .returning(RunRow.id, RunRow.attempt)
        )
        for run_id, attempt in ended.all():
            cancelled.append(run_id)
            note(session, RunChange(run_id, attempt, Change.ENDED, _cancelled().in_words))
        await session.execute(
            update(RunRow)
            .where(RunRow.id.in_(ids), RunRow.status.in_(_LIVE))
            .values(cancel_requested=True, updated_at=utc_now())
        )
        for result_id in results:
            await refresh_result(session, result_id)
    return cancelled


async def look_at(session: AsyncSession, run_ids: Sequence[int]) -> dict[int, Claimed]:
    """Return what stands of runs for whoever works on them; without those that are not there."""
    rows = await session.execute(
        select(
            RunRow.id,
            RunRow.status,
            RunRow.attempt,
            RunRow.executor,
            RunRow.cancel_requested,
            RunRow.joined_at,
            RunRow.said_at,
        ).where(RunRow.id.in_(run_ids))
    )
    return {
        row.id: Claimed(
            status=RunStatus(row.status),
            attempt=row.attempt,
            executor=row.executor,
            cancel_requested=row.cancel_requested,
            joined=row.joined_at is not None,
            said=row.said_at is not None,
        )
        for row in rows
    }


async def add_artefact(session: AsyncSession, run_id: int, attempt: int, name: str, size: int) -> bool:
    """Take down that the store holds an artefact of a run.

    Returns:
        Whether the attempt is the one that counts; if not, nothing is taken down.
    """
    found = (
        await session.execute(
            select(RunRow.artefacts).where(RunRow.id == run_id, _of_attempt(attempt)).with_for_update()
        )
    ).first()
    if found is None:
        return False
    artefacts = cast(dict[str, int], found.artefacts)
    await session.execute(
        update(RunRow).where(RunRow.id == run_id).values(artefacts={**artefacts, name: size}, updated_at=utc_now())
    )
    return True


def artefacts_of(run: RunRow) -> dict[str, int]:
    """Return what the store holds of a run's last attempt, with the sizes in bytes."""
    return {name: size for name, size in run.artefacts.items() if "/" not in name}


async def refresh_result(session: AsyncSession, result_id: int, known: str | None = None) -> None:
    """Let the status of a result follow those of its runs. Its row must be locked by the transaction.

    Args:
        session: The transaction.
        result_id: The result.
        known: Its status, where that is known.
    """
    statuses = await session.scalars(select(RunRow.status).where(RunRow.result_id == result_id).distinct())
    status = result_status(RunStatus(text) for text in statuses)
    if status.value == known:
        return
    forward = ResultRow.status.not_in(_FINAL_RESULT)
    if status is ResultStatus.PENDING:
        forward &= ResultRow.status == ResultStatus.PENDING.value
    await session.execute(
        update(ResultRow)
        .where(ResultRow.id == result_id, forward)
        .values(status=status.value, updated_at=utc_now())
        .execution_options(synchronize_session=False)
    )


async def lock_result(session: AsyncSession, result_id: int) -> bool:
    """Keep other transactions from moving the runs of a result; return whether it is there."""
    found = await session.scalar(select(ResultRow.id).where(ResultRow.id == result_id).with_for_update())
    return found is not None


def read_outcome(reported: Mapping[str, Any], script: Mapping[str, Any]) -> Run:
    """Return a reported ``run.json``, checked.

    Args:
        reported: The run without its script.
        script: The script that the run was launched with.

    Raises:
        ValueError: It is none; says what is wrong with it, and quotes nothing of it.
    """
    try:
        return Run.model_validate({**reported, "script": Script.model_validate(script)})
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ValueError(f"{where}: {problem['msg']}") from None


def storable(value: Any, depth: int = MAX_STORED_DEPTH) -> Any:
    """Return a JSON value without what no database takes: NUL, halves of surrogate pairs, numbers that are none.

    What is nested deeper than ``depth`` is left out.
    """
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | dict) and depth == 0:
        return None
    if isinstance(value, list):
        return [storable(item, depth - 1) for item in cast(list[Any], value)]
    if isinstance(value, dict):
        return {storable(key): storable(item, depth - 1) for key, item in cast(dict[Any, Any], value).items()}
    return value


@dataclass(frozen=True)
class _Ending:
    status: RunStatus
    success: bool | None
    cause: str | None
    ended_reason: str
    call_ended_reason: str
    error_message: str
    duration_s: float | None = None
    outcome: dict[str, Any] | None = None

    @property
    def in_words(self) -> str:
        """What to log of it: words of ours alone."""
        if self.status is RunStatus.CANCELLED:
            return self.status.value
        cause = f", cause {self.cause}" if self.cause in _CAUSES else ""
        return f"{self.status.value}, success {json.dumps(self.success)}{cause}"

    def values(self) -> dict[str, Any]:
        """Return what the run's columns become."""
        now = utc_now()
        values: dict[str, Any] = {
            "status": self.status.value,
            "success": self.success,
            "cause": self.cause,
            "ended_reason": self.ended_reason,
            "call_ended_reason": self.call_ended_reason,
            "error_message": self.error_message,
            "room_token": None,
            "ended_at": now,
            "updated_at": now,
        }
        if self.outcome is not None:
            values |= {"duration_s": self.duration_s, "outcome": self.outcome}
            if self.status is RunStatus.COMPLETED:
                # The report that the caller was in the room may still be under way.
                values["joined_at"] = func.coalesce(RunRow.joined_at, RunRow.started_at, now)
        return values


def _cancelled() -> _Ending:
    return _Ending(
        status=RunStatus.CANCELLED,
        success=None,
        cause=None,
        ended_reason=EndedReason.CANCELLED.value,
        call_ended_reason=CEKURA_ENDED_REASON[EndedReason.CANCELLED],
        error_message="the run was cancelled",
    )


def _failed(problem: RunProblem) -> _Ending:
    if problem.reason == EndedReason.CANCELLED.value:
        return _cancelled()
    try:
        words = CEKURA_ENDED_REASON[EndedReason(problem.reason)]
    except ValueError:
        words = "call-failed-unknown-error"
    return _Ending(
        status=RunStatus.FAILED,
        success=None,
        cause=cast(str, storable(problem.cause)),
        ended_reason=cast(str, storable(problem.reason)),
        call_ended_reason=words,
        error_message=cast(str, storable(problem.detail)) or f"no call took place ({problem.reason})",
    )


def _lost(detail: str) -> RunProblem:
    return RunProblem(cause=Cause.HARNESS.value, reason=EndedReason.RUNNER_ERROR.value, detail=detail)


def _error_message(outcome: Run) -> str:
    detail = cast(str | None, storable(outcome.detail))
    if outcome.status is Status.CANCELLED:
        return detail or "the run was cancelled"
    if outcome.status is Status.FAILED:
        return detail or f"no call took place ({outcome.ended_reason.value})"
    if outcome.success is None:
        return f"undecided: {detail or 'nobody can say whether the agent passed'}"
    return ""


def _set_aside(artefacts: Mapping[str, int], attempt: int) -> dict[str, int]:
    """Return what the store holds of a run whose attempt does not count any more: kept in mind to be deleted."""
    return {name if "/" in name else f"{attempt}/{name}": size for name, size in artefacts.items()}


def _open() -> ColumnElement[bool]:
    return RunRow.status.not_in(_FINAL_RUN)


def _of_attempt(attempt: int) -> ColumnElement[bool]:
    """Return the condition that an attempt is the one a worker has. Nobody can report on a run that nobody has."""
    return (RunRow.attempt == attempt) & RunRow.executor.is_not(None)


@dataclass(frozen=True)
class _LockedResult:
    """The result of a run, which no other transaction changes.

    Attributes:
        id: The result.
        status: Its status.
        run_type: How its runs come to their rooms.
        run_settings: What it was launched with.
    """

    id: int
    status: str
    run_type: str
    run_settings: dict[str, Any]


async def _lock_result(session: AsyncSession, run_id: int) -> _LockedResult | None:
    """Lock the result of a run, before the run itself: whoever locks both does so in this order."""
    of_run = select(RunRow.result_id).where(RunRow.id == run_id).scalar_subquery()
    columns = (ResultRow.id, ResultRow.status, ResultRow.run_type, ResultRow.run_settings)
    row = (await session.execute(select(*columns).where(ResultRow.id == of_run).with_for_update())).first()
    return None if row is None else _LockedResult(*row)


async def _report(session: AsyncSession, run_id: int, attempt: int, ending: _Ending) -> bool:
    result = await _lock_result(session, run_id)
    if result is None:
        return False
    if await _close(session, run_id, ending, where=_of_attempt(attempt)):
        await refresh_result(session, result.id, result.status)
        return True
    found = (
        await session.execute(
            select(RunRow.attempt, RunRow.status, RunRow.ended_reason, RunRow.error_message, RunRow.outcome).where(
                RunRow.id == run_id
            )
        )
    ).first()
    # A run that ended otherwise has no outcome, or another.
    return (
        found is not None
        and found.attempt == attempt
        and (found.status, found.ended_reason, found.error_message)
        == (ending.status.value, ending.ended_reason, ending.error_message)
        and found.outcome == ending.outcome
    )


async def _close(
    session: AsyncSession, run_id: int, ending: _Ending, *, where: ColumnElement[bool] | None = None
) -> bool:
    condition = RunRow.id == run_id
    closed = await session.execute(
        update(RunRow)
        .where(condition if where is None else condition & where, _open())
        .values(**ending.values())
        .returning(RunRow.attempt)
        .execution_options(synchronize_session=False)
    )
    attempt = closed.scalar()
    if attempt is None:
        return False
    note(session, RunChange(run_id, attempt, Change.ENDED, ending.in_words))
    return True


async def _job(session: AsyncSession, vault: Vault, run_id: int, run: Any, result: _LockedResult) -> Job:
    secrets = RoomSecrets.open(vault, run.room_token)
    data = {**run.session_data, "cekura_run_id": run_id}
    start: SessionStart | None = None
    if result.run_type == RunType.SESSIONS.value:
        agent = None if run.agent_id is None else await session.get(Agent, run.agent_id)
        start = session_start(agent, vault, open_pipecat_data(vault, result.run_settings), data)
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
    )
