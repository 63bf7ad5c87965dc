"""What a call came to: its status, its verdict, and whose fault a failure was."""

import signal
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from bots.caller.script import AfterEvent, AfterSilence, AgentHeardFor, Listen, Script, StaySilent
from bots.clock import NS_PER_MS, NS_PER_S
from bots.timeline import (
    SESSION_FAILED,
    AgentProcessEnded,
    AgentSessionEnded,
    AgentTurnEnded,
    CallEnded,
    CallerPressedKeys,
    CallerStoppedSpeaking,
    EndedReason,
    LineEnd,
    TimelineEvent,
)
from runner.evaluation.blame import excuse, fairly, gave_up_in_error
from runner.evaluation.causes import end_of_process, find_failure, talked_over
from runner.evaluation.dropped import dropped_words
from runner.evaluation.ending import AGENT_FAILED, KIND_OF_ENDING, NO_CALL
from runner.evaluation.expectations import evaluate, evaluate_turn
from runner.evaluation.failure import Failure, FailureKind
from runner.evaluation.trouble import silence_in_error, speech_in_error, troubles_of
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
        success: True: passed. False: the agent failed. None: inconclusive, for no fault of the agent.
        cause: Whose fault it was, where something failed.
        detail: What happened, in one line for a person; where the run did not pass, the failure's headline.
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


_LONG_S = 10.0
"""What takes the agent less than this is not too long, however short the call may be."""

_SILENT_NS = 3 * NS_PER_S
"""An agent that was silent for so long had finished, whether or not the caller noticed."""


class _Limit(NamedTuple):
    """What a call was at when it reached its limit.

    ``by_agent`` says how the agent kept the caller from going on, ``by_caller`` whether the caller was at something
    of its own: a line, a silence, a delay.
    """

    by_agent: str | None = None
    by_caller: bool = False


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
    limit = _limit_reached(script, view, ended.at_ns) if reason is EndedReason.MAX_DURATION else _Limit()
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
    script: Script, view: CallView, ended: CallEnded, limit: _Limit, *, all_played: bool, unreachable: bool
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


def _limit_reached(script: Script, view: CallView, end_ns: int) -> _Limit:
    """Return what a call was at when it reached its limit.

    It was the agent's doing where the caller waited for the agent to finish, or to answer, and had done so for too
    long: for as long as an answer may take (``answer_timeout_s``), or for half of a shorter call.
    """
    turn = max(view.starts, default=None)
    if turn is not None and _acts(script, turn, view, end_ns):
        return _Limit(by_caller=True)
    open_turn = None
    if turn is not None:
        verdicts = evaluate_turn(turn, script.turns[turn], view, now_ns=end_ns)
        open_turn = script.turns[turn] if any(v.verdict is Verdict.PENDING for v in verdicts) else None
    following = 0 if turn is None else turn + 1
    trigger = script.turns[following].start if open_turn is None and following < len(script.turns) else None
    too_long_ns = round(min(script.turn_taking.answer_timeout_s, max(_LONG_S, script.max_duration_s / 2)) * NS_PER_S)
    talks_ns = _talks_for_ns(view, end_ns)
    if isinstance(trigger, AfterEvent) or (isinstance(trigger, AfterSilence) and not talks_ns):
        return _Limit(by_caller=True)
    if talks_ns >= too_long_ns and not isinstance(trigger, AgentHeardFor):
        return _Limit(by_agent=f"the agent had been talking for {talks_ns / NS_PER_S:.0f} s")
    if open_turn is not None and any(e.absent for e in open_turn.expect):
        return _Limit()
    owes_ns = _owes_for_ns(script, view, end_ns)
    if owes_ns >= too_long_ns:
        return _Limit(by_agent=f"the agent had owed an answer for {owes_ns / NS_PER_S:.0f} s")
    return _Limit()


def _acts(script: Script, turn: int, view: CallView, end_ns: int) -> bool:
    action = script.turns[turn].action
    if isinstance(action, StaySilent):
        return view.starts[turn] + action.duration_ms * NS_PER_MS > end_ns
    end = view.line_end(turn)
    return view.line(turn) is not None and (end is None or end.end is not LineEnd.SAID)


def _talks_for_ns(view: CallView, end_ns: int) -> int:
    """Return how long the agent's turn had lasted; 0 while it was not its turn."""
    over_ns = max((e.at_ns for e in view.of(AgentTurnEnded)), default=-1)
    speeches = view.speeches
    if not speeches:
        return 0
    last = speeches[-1]
    if last.stopped is not None and end_ns - last.stopped.at_ns > _SILENT_NS:
        return 0
    # A turn that was taken to be over just before it went on is a new one.
    onset_ns = next((s.started.at_ns for s in speeches if s.started.at_ns > over_ns), last.started.at_ns)
    return end_ns - onset_ns if onset_ns > over_ns or last.end_or(over_ns + 1) > over_ns else 0


def _owes_for_ns(script: Script, view: CallView, end_ns: int) -> int:
    """Return for how long the agent had owed an answer; 0 if it owed none."""
    speeches = view.speeches
    handed_over = max(
        [*view.of(CallerStoppedSpeaking), *view.of(CallerPressedKeys)], key=lambda e: e.at_ns, default=None
    )
    turn = max(view.starts, default=None)
    if handed_over is None:
        # A greeting is owed where the caller listens for it.
        listens = turn is not None and isinstance(script.turns[turn].action, Listen)
        joined = view.joined
        return end_ns - joined.at_ns if listens and joined is not None and not speeches else 0
    line = view.line(handed_over.turn) or handed_over
    since = [s for s in speeches if s.started.at_ns >= line.at_ns]
    if any(s.started.at_ns >= handed_over.at_ns or s.lasts_at(handed_over.at_ns) for s in since):
        return 0
    # Whoever listens, listens anew.
    asked_ns = handed_over.at_ns
    if turn is not None and isinstance(script.turns[turn].action, Listen):
        asked_ns = max(asked_ns, view.starts[turn])
    return end_ns - asked_ns
