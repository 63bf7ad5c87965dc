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
from runner.evaluation.blame import excuse, fairly, gave_up_in_error
from runner.evaluation.causes import end_of_process, find_failure, talked_over
from runner.evaluation.differences import silence_in_error, speech_in_error
from runner.evaluation.dropped import dropped_words
from runner.evaluation.ending import AGENT_FAILED, KIND_OF_ENDING, NO_CALL
from runner.evaluation.expectations import evaluate
from runner.evaluation.failure import Failure, FailureKind
from runner.evaluation.limit import Limit, limit_reached
from runner.evaluation.trouble import troubles_of
from runner.evaluation.verdicts import Cause, ExpectationVerdict, Judgements, Verdict, evidence_of
from runner.evaluation.view import CallView
from runner.evaluation.window import unobservable_start


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


_NOBODY_THERE = frozenset({EndedReason.ROOM_UNREACHABLE, EndedReason.ICE_FAILED})
"""Endings without a call that the agent's own end explains, where the runner started it."""

_KILLED = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_NOT_BY_ITSELF = frozenset({0, *(-number for number in _KILLED), *(128 + number for number in _KILLED)})
"""Exit codes of a process that somebody else may have ended; a shell adds 128 to the signal of its child."""

_NOT_ALL_PLAYED = "not every turn was reached"
_TALKED_OVER = FailureKind.TALKS_OVER.says("call")


def judge_expectations(
    script: Script, facts: CallView | Sequence[TimelineEvent], judgements: Judgements | None = None
) -> list[ExpectationVerdict]:
    """Return the verdict on every expectation of a finished call.

    Where the call broke off for no fault of the agent, what was still open is not judged. What was missed after
    trouble of our own or of the network is not judged either. ``judgements`` are what a judge answered; None where
    there was no judge.
    """
    view = _view(facts)
    ended = view.ended
    doubted = dropped_words(view)
    if ended is not None and ended.reason is not EndedReason.CANCELLED and ended.reason not in NO_CALL:
        verdicts = evaluate(script, view, judgements=judgements, doubted=doubted)
    else:
        reason = "the call broke off before" if ended is None else f"the call ended before ({ended.reason.value})"
        open_still = {"verdict": Verdict.NOT_JUDGED, "reason": reason}
        verdicts = [
            v.model_copy(update=open_still) if v.verdict is Verdict.PENDING else v
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
    """Return what a finished call came to, by the verdicts of :func:`judge_expectations`.

    The last :class:`CallEnded` says how it ended. A timeline without one belongs to a call whose runner died. With
    ``allow_unjudged`` a call passes although expectations were not judged or not observable.
    """
    view = _view(facts)
    ended = view.ended
    if ended is None:
        died = FailureKind.HARNESS_TROUBLE.says("broken_off")
        return _not_passed(Status.FAILED, EndedReason.RUNNER_ERROR, Failure.of(FailureKind.HARNESS_TROUBLE, died))
    reason = ended.reason
    if reason is EndedReason.CANCELLED:
        return Outcome(status=Status.CANCELLED, success=None, cause=None, ended_reason=reason, detail=ended.detail)
    if reason in NO_CALL:
        process = next((e for e in view.of(AgentProcessEnded) if e.exit_code not in _NOT_BY_ITSELF), None)
        if process is not None and reason in _NOBODY_THERE:
            headline = FailureKind.CRASHED.says("before", end=end_of_process(process))
            crashed = Failure.of(FailureKind.CRASHED, headline, evidence=(evidence_of(process),))
            return _not_passed(Status.FAILED, reason, crashed)
        not_held = Failure.of(KIND_OF_ENDING[reason], ended.detail or reason.value.replace("-", " "))
        return _not_passed(Status.FAILED, reason, not_held).model_copy(update={"detail": ended.detail})
    status = Status.FAILED if reason is EndedReason.AGENT_NEVER_JOINED else Status.COMPLETED
    all_played = len(view.starts) == len(script.turns)
    unreachable = unobservable_start(script, view)
    limit = limit_reached(script, view, ended.at_ns) if reason is EndedReason.MAX_DURATION else Limit()
    missed = any(v.verdict is Verdict.MISSED and not v.follows for v in verdicts)
    why = _failure(script, view, ended, limit, all_played=all_played, unreachable=unreachable is not None)
    if why is not None and not missed and (excused := _inconclusive(view, ended, verdicts, why)) is not None:
        return _not_passed(status, reason, excused)
    if missed or why is not None:
        failure = find_failure(script, view, verdicts, ended=ended, otherwise=why or _NOT_ALL_PLAYED)
        return _not_passed(status, reason, failure)
    # Whatever may be left unjudged: a call that was not the whole scenario is no success.
    unmet = [v for v in verdicts if v.verdict is not Verdict.MET]
    detail = unreachable[1] if unreachable is not None else _unplayed(script, ended, all_played=all_played)
    passed = Outcome(status=status, success=True, cause=None, ended_reason=reason, detail=detail or ended.detail)
    if detail is None and not unmet:
        return passed
    cause = Cause.CALLER if limit.by_caller else next((v.cause for v in unmet if v.cause is not None), None)
    if detail is not None and cause is None and speech_in_error(view):
        cause = Cause.CALLER
        detail += f": {FailureKind.RECOGNITION_UNSURE.says('waited')}"
    if detail is None:
        first = unmet[0]
        detail = f"turn {first.turn + 1}: {first.expected}: {first.verdict.value.replace('_', ' ')}: {first.reason}"
        if len(unmet) > 1:
            detail += f" (and {len(unmet) - 1} more)"
        # What our own side or the network spoilt, nobody can allow for.
        if allow_unjudged and cause is None:
            return passed.model_copy(update={"detail": detail})
    of_first = {name: getattr(unmet[0], name) for name in ("turn", "expected", "evidence")} if unmet else {}
    return _not_passed(status, reason, Failure.of(FailureKind.of_trouble(cause), detail, **of_first))


def _view(facts: CallView | Sequence[TimelineEvent]) -> CallView:
    return facts if isinstance(facts, CallView) else CallView.measured(facts)


def _not_passed(status: Status, reason: EndedReason, failure: Failure) -> Outcome:
    return Outcome(
        status=status,
        success=False if failure.cause is Cause.AGENT else None,
        cause=failure.cause,
        ended_reason=reason,
        detail=failure.headline,
        failure=failure,
    )


def _failure(
    script: Script, view: CallView, ended: CallEnded, limit: Limit, *, all_played: bool, unreachable: bool
) -> str | None:
    """Return why the agent failed, whatever was expected of it in single turns; None if it did not."""
    if ended.reason in AGENT_FAILED:
        return ended.detail or _NOT_ALL_PLAYED
    if any(e.state == SESSION_FAILED for e in view.of(AgentSessionEnded)):
        return FailureKind.CRASHED.says("session")
    if ended.reason is EndedReason.MAX_DURATION:
        return None if limit.by_agent is None else f"{_limit_detail(ended)}: {limit.by_agent}"
    if not (all_played or unreachable):
        return ended.detail or _NOT_ALL_PLAYED
    if not script.hang_up and all_played and ended.reason is EndedReason.CALLER_HUNG_UP:
        return ended.detail or FailureKind.WRONG.says("stays")
    return _TALKED_OVER if talked_over(script, view) else None


def _inconclusive(
    view: CallView, ended: CallEnded, verdicts: Sequence[ExpectationVerdict], why: str
) -> Failure | None:
    """Return what keeps a failure from being blamed on the agent; None if nothing does."""
    gave_up = gave_up_in_error(view, verdicts)
    unfair = next((v for v in verdicts if v.verdict is Verdict.NOT_JUDGED and v.cause is not None), None)
    harness, caller = FailureKind.HARNESS_TROUBLE, FailureKind.RECOGNITION_UNSURE
    if unfair is not None and ended.reason is EndedReason.CALLER_HUNG_UP:
        kind = FailureKind.of_trouble(unfair.cause)
        says = kind.says("turn", turn=unfair.turn + 1, what=unfair.reason)
        return Failure.of(kind, says, turn=unfair.turn, expected=unfair.expected, evidence=unfair.evidence)
    if gave_up is not None and ended.reason is EndedReason.CALLER_HUNG_UP:
        return Failure.of(harness, f"inconclusive: {harness.says('gave_up', turn=gave_up + 1)}", turn=gave_up)
    if silence_in_error(view, ended.reason):
        return Failure.of(harness, f"inconclusive: {harness.says('took_for_silent', then=why)}")
    if speech_in_error(view):
        return Failure.of(caller, caller.says("before", what=caller.says("waited"), then=why))
    troubles = troubles_of(view)
    # Manners show in the whole call, an ending in its last turn.
    trouble = next(iter(troubles), None) if why == _TALKED_OVER else excuse(view, ended.reason, troubles)
    if trouble is None:
        return None
    kind = FailureKind.of_trouble(trouble.cause)
    return Failure.of(kind, kind.says("before", what=trouble.what, then=why), evidence=(trouble.evidence,))


def _unplayed(script: Script, ended: CallEnded, *, all_played: bool) -> str | None:
    """Return what of the scenario a call did not come to because it reached its limit."""
    if ended.reason is not EndedReason.MAX_DURATION:
        return None
    if not all_played:
        return f"{_limit_detail(ended)} before every turn was reached"
    return None if script.hang_up else f"{_limit_detail(ended)} before the agent hung up"


def _limit_detail(ended: CallEnded) -> str:
    return ended.detail or "the call reached its limit"
