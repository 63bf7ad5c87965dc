"""What a call came to: its status, its verdict, and whose fault a failure was."""

import signal
from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from bots.caller.script import Script
from bots.timeline import (
    SESSION_FAILED,
    AgentProcessEnded,
    AgentSessionEnded,
    CallEnded,
    EndedReason,
    TimelineEvent,
)
from runner.evaluation.blame import DIFFERS, excuse, fairly, gave_up_in_error
from runner.evaluation.causes import end_of_process, find_failure, talked_over
from runner.evaluation.differences import silence_in_error, speech_in_error
from runner.evaluation.dropped import dropped_words
from runner.evaluation.expectations import evaluate
from runner.evaluation.failure import KIND_OF_TROUBLE, Failure, FailureKind
from runner.evaluation.limit import Limit, limit_reached
from runner.evaluation.observable import unobservable_start
from runner.evaluation.trouble import troubles_of
from runner.evaluation.verdicts import Cause, ExpectationVerdict, Judgements, Verdict, evidence_of
from runner.evaluation.view import CallView


class Status(StrEnum):
    """Whether the call took place; says nothing about how well the agent did."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Outcome(BaseModel):
    """The verdict on a call.

    Attributes:
        status: Whether the call took place.
        success: True: passed. False: the agent failed. None: inconclusive, for no fault of the agent.
        cause: Whose fault it was, where something failed.
        ended_reason: How the call ended.
        detail: What happened, in one line for a person; where the run did not pass, the failure's headline.
        failure: Why it did not pass.
    """

    model_config = ConfigDict(frozen=True)

    status: Status
    success: bool | None
    cause: Cause | None
    ended_reason: EndedReason
    detail: str | None
    failure: Failure | None = None

    @property
    def exit_code(self) -> int:
        """0 passed, 1 the agent failed, 2 anything else."""
        if self.success is None:
            return 2
        return 0 if self.success else 1


_NO_CALL: dict[EndedReason, tuple[Cause, FailureKind]] = {
    EndedReason.ROOM_UNREACHABLE: (Cause.ROOM, FailureKind.NO_ROOM),
    EndedReason.AGENT_AT_CAPACITY: (Cause.ROOM, FailureKind.NO_ROOM),
    EndedReason.TOKEN_REFUSED: (Cause.ROOM, FailureKind.NO_ROOM),
    EndedReason.ICE_FAILED: (Cause.NETWORK, FailureKind.NETWORK_TROUBLE),
    EndedReason.RUNNER_ERROR: (Cause.HARNESS, FailureKind.HARNESS_TROUBLE),
}
"""Endings that say nothing about the agent, and whose fault they are."""

_AGENT_FAILED = frozenset(
    {
        EndedReason.AGENT_NEVER_JOINED,
        EndedReason.AGENT_NEVER_SPOKE,
        EndedReason.AGENT_VANISHED,
        EndedReason.AGENT_FROZE,
    }
)
"""Endings that are a failure of the agent whatever was expected of it."""

_NOBODY_THERE = frozenset({EndedReason.ROOM_UNREACHABLE, EndedReason.ICE_FAILED})
"""Endings without a call that the agent's own end explains, where the runner started it."""

_KILLED = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_NOT_BY_ITSELF = frozenset({0, *(-number for number in _KILLED), *(128 + number for number in _KILLED)})
"""Exit codes of a process that somebody else may have ended; a shell adds 128 to the signal of its child."""

SESSION_CRASHED = "the agent's session ended with an error"
TALKED_OVER = "the agent talked over the caller"

_NOT_ALL_PLAYED = "not every turn was reached"


def judge_expectations(
    script: Script, facts: CallView | Sequence[TimelineEvent], judgements: Judgements | None = None
) -> list[ExpectationVerdict]:
    """Return the verdict on every expectation of a finished call.

    Where the call broke off for no fault of the agent, what was still open is not judged. What was missed after
    trouble of our own or of the network is not judged either.

    Args:
        script: The script that was played.
        facts: The call, or its facts.
        judgements: What a judge answered; None where there was no judge.
    """
    view = _view(facts)
    ended = view.ended
    doubted = dropped_words(view)
    if ended is not None and ended.reason is not EndedReason.CANCELLED and ended.reason not in _NO_CALL:
        verdicts = evaluate(script, view, judgements=judgements, doubted=doubted)
        return fairly(script, view, verdicts, troubles_of(view))
    reason = "the call broke off before" if ended is None else f"the call ended before ({ended.reason.value})"
    verdicts = [
        v.model_copy(update={"verdict": Verdict.NOT_JUDGED, "reason": reason}) if v.verdict is Verdict.PENDING else v
        for v in evaluate(script, view, judgements=judgements, now_ns=view.end_ns, doubted=doubted)
    ]
    return fairly(script, view, verdicts, troubles_of(view))


def decide(
    script: Script,
    facts: CallView | Sequence[TimelineEvent],
    verdicts: Sequence[ExpectationVerdict],
    *,
    allow_unjudged: bool = False,
) -> Outcome:
    """Return what a finished call came to.

    Args:
        script: The script that was played.
        facts: The call, or its facts; the last :class:`CallEnded` says how it ended. A timeline without one belongs
            to a call whose runner died.
        verdicts: The verdicts on the script's expectations (see :func:`judge_expectations`).
        allow_unjudged: Whether a call passes although expectations were not judged or not observable.
    """
    view = _view(facts)
    ended = view.ended
    if ended is None:
        died = "the timeline breaks off: the runner was stopped in the middle of the call"
        return _not_held(EndedReason.RUNNER_ERROR, died)
    reason = ended.reason
    if reason is EndedReason.CANCELLED:
        return Outcome(status=Status.CANCELLED, success=None, cause=None, ended_reason=reason, detail=ended.detail)
    if reason in _NO_CALL:
        process = next((e for e in view.of(AgentProcessEnded) if e.exit_code not in _NOT_BY_ITSELF), None)
        if process is not None and reason in _NOBODY_THERE:
            return _died_before(reason, process)
        return _not_held(reason, ended.detail)
    status = Status.FAILED if reason is EndedReason.AGENT_NEVER_JOINED else Status.COMPLETED
    all_played = len(view.starts) == len(script.turns)
    unreachable = unobservable_start(script, view)
    limit = limit_reached(script, view, ended.at_ns) if reason is EndedReason.MAX_DURATION else Limit()
    missed = any(v.verdict is Verdict.MISSED and not v.follows for v in verdicts)
    why = _failure(script, view, ended, limit, all_played=all_played, unreachable=unreachable is not None)
    if why is not None and not missed:
        inconclusive = _inconclusive(view, ended, verdicts, why)
        if inconclusive is not None:
            return Outcome(
                status=status,
                success=None,
                cause=inconclusive.cause,
                ended_reason=reason,
                detail=inconclusive.headline,
                failure=inconclusive,
            )
    if missed or why is not None:
        failure = find_failure(script, view, verdicts, ended=ended, otherwise=why or _NOT_ALL_PLAYED)
        return Outcome(
            status=status,
            success=False,
            cause=Cause.AGENT,
            ended_reason=reason,
            detail=failure.headline,
            failure=failure,
        )
    # Whatever may be left unjudged: a call that was not the whole scenario is no success.
    inconclusive = [v for v in verdicts if v.verdict is not Verdict.MET]
    unplayed = unreachable[1] if unreachable is not None else _unplayed(script, ended, all_played=all_played)
    if unplayed is None and not inconclusive:
        return Outcome(status=status, success=True, cause=None, ended_reason=reason, detail=ended.detail)
    cause = Cause.CALLER if limit.by_caller else next((v.cause for v in inconclusive if v.cause is not None), None)
    detail = unplayed
    if unplayed is not None and cause is None and speech_in_error(view):
        cause = Cause.CALLER
        detail = f"{unplayed}: the caller waited for speech to end that the recording does not have"
    if detail is None:
        first = inconclusive[0]
        detail = f"turn {first.turn + 1}: {first.expected}: {first.verdict.value.replace('_', ' ')}: {first.reason}"
        if len(inconclusive) > 1:
            detail += f" (and {len(inconclusive) - 1} more)"
        # What our own side or the network spoilt, nobody can allow for.
        if allow_unjudged and cause is None:
            return Outcome(status=status, success=True, cause=None, ended_reason=reason, detail=detail)
    kind = FailureKind.NOT_JUDGED if cause is None else KIND_OF_TROUBLE[cause]
    failure = Failure(
        kind=kind,
        cause=cause,
        headline=detail,
        turn=inconclusive[0].turn if inconclusive else None,
        expected=inconclusive[0].expected if inconclusive else None,
        evidence=inconclusive[0].evidence if inconclusive else (),
    )
    return Outcome(status=status, success=None, cause=cause, ended_reason=reason, detail=detail, failure=failure)


def _view(facts: CallView | Sequence[TimelineEvent]) -> CallView:
    return facts if isinstance(facts, CallView) else CallView.measured(facts)


def _not_held(reason: EndedReason, detail: str | None) -> Outcome:
    """Return what a call came to that did not take place."""
    cause, kind = _NO_CALL[reason]
    headline = detail or reason.value.replace("-", " ")
    return Outcome(
        status=Status.FAILED,
        success=None,
        cause=cause,
        ended_reason=reason,
        detail=detail,
        failure=Failure(kind=kind, cause=cause, headline=headline),
    )


def _died_before(reason: EndedReason, process: AgentProcessEnded) -> Outcome:
    """Return what a call came to of which the agent died before it began."""
    headline = f"there was no call: {end_of_process(process)}"
    return Outcome(
        status=Status.FAILED,
        success=False,
        cause=Cause.AGENT,
        ended_reason=reason,
        detail=headline,
        failure=Failure(
            kind=FailureKind.CRASHED, cause=Cause.AGENT, headline=headline, evidence=(evidence_of(process),)
        ),
    )


def _failure(
    script: Script, view: CallView, ended: CallEnded, limit: Limit, *, all_played: bool, unreachable: bool
) -> str | None:
    """Return why the agent failed, whatever was expected of it in single turns; None if it did not."""
    if ended.reason in _AGENT_FAILED:
        return ended.detail or _NOT_ALL_PLAYED
    if any(e.state == SESSION_FAILED for e in view.of(AgentSessionEnded)):
        return SESSION_CRASHED
    if ended.reason is EndedReason.MAX_DURATION:
        return None if limit.by_agent is None else f"{_limit_detail(ended)}: {limit.by_agent}"
    if not (all_played or unreachable):
        return ended.detail or _NOT_ALL_PLAYED
    if not script.hang_up and all_played and ended.reason is EndedReason.CALLER_HUNG_UP:
        return ended.detail or "the agent was to hang up, and did not"
    if talked_over(script, view):
        return TALKED_OVER
    return None


def _inconclusive(
    view: CallView, ended: CallEnded, verdicts: Sequence[ExpectationVerdict], why: str
) -> Failure | None:
    """Return what keeps a failure from being blamed on the agent; None if nothing does."""
    gave_up = gave_up_in_error(view, verdicts)
    unfair = next((v for v in verdicts if v.verdict is Verdict.NOT_JUDGED and v.cause is not None), None)
    if unfair is not None and unfair.cause is not None and ended.reason is EndedReason.CALLER_HUNG_UP:
        return Failure(
            kind=KIND_OF_TROUBLE[unfair.cause],
            cause=unfair.cause,
            headline=f"inconclusive: turn {unfair.turn + 1}: {unfair.reason}",
            turn=unfair.turn,
            expected=unfair.expected,
            evidence=unfair.evidence,
        )
    if gave_up is not None and ended.reason is EndedReason.CALLER_HUNG_UP:
        return Failure(
            kind=FailureKind.HARNESS_TROUBLE,
            cause=Cause.HARNESS,
            headline=f"inconclusive: {DIFFERS.format(turn=gave_up + 1)}",
            turn=gave_up,
        )
    if silence_in_error(view, ended.reason):
        headline = f"inconclusive: the caller took the agent for silent ({why}), but the recording has its answer"
        return Failure(kind=FailureKind.HARNESS_TROUBLE, cause=Cause.HARNESS, headline=headline)
    if speech_in_error(view):
        headline = f"inconclusive: the caller waited for speech to end that the recording does not have; then: {why}"
        return Failure(kind=FailureKind.RECOGNITION_UNSURE, cause=Cause.CALLER, headline=headline)
    troubles = troubles_of(view)
    # Manners show in the whole call, an ending in its last turn.
    trouble = next(iter(troubles), None) if why == TALKED_OVER else excuse(view, ended.reason, troubles)
    if trouble is None:
        return None
    return Failure(
        kind=KIND_OF_TROUBLE[trouble.cause],
        cause=trouble.cause,
        headline=f"inconclusive: {trouble.what}; then: {why}",
        evidence=(trouble.evidence,),
    )


def _unplayed(script: Script, ended: CallEnded, *, all_played: bool) -> str | None:
    """Return what of the scenario a call did not come to because it reached its limit."""
    if ended.reason is not EndedReason.MAX_DURATION:
        return None
    if not all_played:
        return f"{_limit_detail(ended)} before every turn was reached"
    return None if script.hang_up else f"{_limit_detail(ended)} before the agent hung up"


def _limit_detail(ended: CallEnded) -> str:
    return ended.detail or "the call reached its limit"
