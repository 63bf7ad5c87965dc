"""What a call came to: its status, its verdict, and whose fault a failure was."""

from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from bots.caller.script import Script
from bots.timeline import CallEnded, EndedReason, TimelineEvent
from runner.evaluation.expectations import evaluate
from runner.evaluation.limit import Limit, limit_reached
from runner.evaluation.observable import turn_starts, unobservable_start
from runner.evaluation.verdicts import Cause, Evidence, ExpectationVerdict, Judgements, Verdict


class Status(StrEnum):
    """Whether the call took place; says nothing about how well the agent did."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class FailureKind(StrEnum):
    """What went wrong, in one word: the leaves of the cause tree."""

    # The agent
    WRONG = "wrong"
    """It said or did something else than was expected."""
    SILENT = "silent"
    """It said nothing, or its audio did not arrive although it reports that it spoke."""
    LATE = "late"
    TALKS_OVER = "talks_over"
    WILL_NOT_STOP = "will_not_stop"
    CRASHED = "crashed"
    LEFT = "left"
    ERRORED = "errored"
    """It reported an error of its own, and what was expected of it did not come."""
    # The caller
    LINE_NOT_SPOKEN = "line_not_spoken"
    RECOGNITION_UNSURE = "recognition_unsure"
    # Everything else
    NO_ROOM = "no_room"
    NETWORK_TROUBLE = "network_trouble"
    HARNESS_TROUBLE = "harness_trouble"
    NOT_JUDGED = "not_judged"
    """Something that was asked for could not be judged or observed."""


class Failure(BaseModel):
    """Why a run did not pass: the earliest thing that explains the rest.

    Attributes:
        kind: What went wrong.
        cause: Whose fault it was; None where nobody's.
        headline: One sentence for a person.
        turn: The turn it happened in, from 0; None where it belongs to no turn.
        expected: What was expected, in words.
        heard: What was heard instead (or told, marked as such).
        evidence: The facts it rests on.
    """

    model_config = ConfigDict(frozen=True)

    kind: FailureKind
    cause: Cause | None
    headline: str
    turn: int | None = None
    expected: str | None = None
    heard: str | None = None
    evidence: tuple[Evidence, ...] = ()


class Outcome(BaseModel):
    """The verdict on a call.

    Attributes:
        status: Whether the call took place.
        success: True: passed. False: the agent failed. None: nobody can say, for no fault of the agent.
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


_NO_CALL: dict[EndedReason, Cause] = {
    EndedReason.ROOM_UNREACHABLE: Cause.ROOM,
    EndedReason.AGENT_AT_CAPACITY: Cause.ROOM,
    EndedReason.TOKEN_REFUSED: Cause.ROOM,
    EndedReason.ICE_FAILED: Cause.NETWORK,
    EndedReason.RUNNER_ERROR: Cause.HARNESS,
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


_NOT_ALL_PLAYED = "not every turn was reached"


def judge_expectations(
    script: Script, facts: Sequence[TimelineEvent], judgements: Judgements | None = None
) -> list[ExpectationVerdict]:
    """Return the verdict on every expectation of a finished call.

    Where the call broke off for no fault of the agent, what was still open is not judged.

    Args:
        script: The script that was played.
        facts: The facts of the call.
        judgements: What a judge answered; None where there was no judge.
    """
    ended = next((e for e in reversed(facts) if isinstance(e, CallEnded)), None)
    if ended is not None and ended.reason is not EndedReason.CANCELLED and ended.reason not in _NO_CALL:
        return evaluate(script, facts, judgements=judgements)
    end_ns = ended.at_ns if ended is not None else max((e.at_ns for e in facts), default=0)
    reason = "the call broke off before" if ended is None else f"the call ended before ({ended.reason.value})"
    return [
        v.model_copy(update={"verdict": Verdict.NOT_JUDGED, "reason": reason}) if v.verdict is Verdict.PENDING else v
        for v in evaluate(script, facts, judgements=judgements, now_ns=end_ns)
    ]


def decide(
    script: Script,
    facts: Sequence[TimelineEvent],
    verdicts: Sequence[ExpectationVerdict],
    *,
    allow_unjudged: bool = False,
) -> Outcome:
    """Return what a finished call came to.

    Args:
        script: The script that was played.
        facts: The facts of the call; the last :class:`CallEnded` says how it ended. A timeline without one
            belongs to a call whose runner died.
        verdicts: The verdicts on the script's expectations.
        allow_unjudged: Whether a call passes although expectations were not judged or not observable.
    """
    ended = next((e for e in reversed(facts) if isinstance(e, CallEnded)), None)
    if ended is None:
        return Outcome(
            status=Status.FAILED,
            success=None,
            cause=Cause.HARNESS,
            ended_reason=EndedReason.RUNNER_ERROR,
            detail="the timeline breaks off: the runner was stopped in the middle of the call",
        )
    reason = ended.reason
    if reason is EndedReason.CANCELLED:
        return Outcome(status=Status.CANCELLED, success=None, cause=None, ended_reason=reason, detail=ended.detail)
    if reason in _NO_CALL:
        return Outcome(
            status=Status.FAILED, success=None, cause=_NO_CALL[reason], ended_reason=reason, detail=ended.detail
        )
    status = Status.FAILED if reason is EndedReason.AGENT_NEVER_JOINED else Status.COMPLETED
    missed = [v for v in verdicts if v.verdict is Verdict.MISSED]
    all_played = len(turn_starts(facts)) == len(script.turns)
    unreachable = unobservable_start(script, facts)
    failure = _failure(ended, missed, all_played=all_played or unreachable is not None)
    if failure is None and not script.hang_up and all_played and reason is EndedReason.CALLER_HUNG_UP:
        failure = ended.detail or "the agent was to hang up, and did not"
    limit = Limit()
    if failure is None and reason is EndedReason.MAX_DURATION:
        limit = limit_reached(script, sorted(facts, key=lambda event: event.at_ns), ended.at_ns)
        failure = None if limit.by_agent is None else f"{_limit_detail(ended)}: {limit.by_agent}"
    if failure is not None:
        return Outcome(status=status, success=False, cause=Cause.AGENT, ended_reason=reason, detail=failure)
    # Whatever may be left unjudged: a call that was not the whole scenario is no success.
    if unreachable is not None:
        return Outcome(status=status, success=None, cause=None, ended_reason=reason, detail=unreachable[1])
    unplayed = _unplayed(script, ended, all_played=all_played)
    undecided = [v for v in verdicts if v.verdict is not Verdict.MET]
    cause = Cause.CALLER if limit.by_caller and (unplayed or undecided) else None
    if unplayed is not None:
        return Outcome(status=status, success=None, cause=cause, ended_reason=reason, detail=unplayed)
    if not undecided:
        return Outcome(status=status, success=True, cause=None, ended_reason=reason, detail=ended.detail)
    first = undecided[0]
    detail = f"turn {first.turn + 1}: {first.expected}: {first.verdict.value.replace('_', ' ')}: {first.reason}"
    if len(undecided) > 1:
        detail += f" (and {len(undecided) - 1} more)"
    success = True if allow_unjudged else None
    return Outcome(
        status=status, success=success, cause=None if success else cause, ended_reason=reason, detail=detail
    )


def _failure(ended: CallEnded, missed: Sequence[ExpectationVerdict], *, all_played: bool) -> str | None:
    """Return why the agent failed; None if it did not, as far as the verdicts and the ending tell."""
    ended_by_agent = ended.reason not in (EndedReason.CALLER_HUNG_UP, EndedReason.MAX_DURATION)
    if missed and not (ended_by_agent and ended.detail):
        return f"turn {missed[0].turn + 1}: {missed[0].expected}: {missed[0].reason}"
    if missed or ended.reason in _AGENT_FAILED:
        return ended.detail or _NOT_ALL_PLAYED
    if not all_played and ended.reason is not EndedReason.MAX_DURATION:
        return ended.detail or _NOT_ALL_PLAYED
    return None


def _unplayed(script: Script, ended: CallEnded, *, all_played: bool) -> str | None:
    """Return what of the scenario a call did not come to because it reached its limit."""
    if ended.reason is not EndedReason.MAX_DURATION:
        return None
    if not all_played:
        return f"{_limit_detail(ended)} before every turn was reached"
    return None if script.hang_up else f"{_limit_detail(ended)} before the agent hung up"


def _limit_detail(ended: CallEnded) -> str:
    return ended.detail or "the call reached its limit"
