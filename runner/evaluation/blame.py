"""Whom what was missed may be blamed on: the agent, only where the harness was able to judge."""

from collections.abc import Sequence

from bots.caller.script import (
    AGENT_NEVER_TALKS_OVER,
    AGENT_SPEAKS,
    AGENT_STOPS,
    Expectation,
    FunctionCall,
    Script,
)
from bots.clock import NS_PER_MS, NS_PER_S
from bots.timeline import AgentCalledFunction, AgentError, AgentFunctionReturned, CallerTurnSettled, EndedReason
from runner.evaluation.behaviour import MIN_OVERLAP_NS
from runner.evaluation.causes import is_wrong_answer
from runner.evaluation.failure import FailureKind
from runner.evaluation.search import CALLS, matches
from runner.evaluation.trouble import AGENT_LOST_MS, WENT_ON, Trouble, longest_unheard_ms
from runner.evaluation.verdicts import Cause, ExpectationVerdict, Verdict
from runner.evaluation.view import CallView

TOO_LOUD = "the background is too loud here to tell whether it was the agent"

UNHEARD = "{:.0f} ms of the agent's audio were lost here: nobody knows whether it spoke"

_EDGES = frozenset({"agent_started_speaking", "agent_stopped_speaking"})
_SAME_S = 0.002
"""Evidence states its times to the millisecond."""

_OWN_DOING = frozenset({EndedReason.AGENT_LEFT, EndedReason.AGENT_VANISHED})
"""Endings that nobody comes to by being slow."""

_STOP_NS = (60 * NS_PER_MS, 200 * NS_PER_MS)
"""An agent that seems to stop so shortly after a hole begins, or before one, may have gone on in it."""

_NEEDS_NO_LINE = frozenset({EndedReason.AGENT_VANISHED, EndedReason.AGENT_NEVER_JOINED})
"""Endings that an agent comes to whatever it heard of the caller."""


def fairly(
    script: Script, view: CallView, verdicts: Sequence[ExpectationVerdict], troubles: Sequence[Trouble]
) -> list[ExpectationVerdict]:
    """Return verdicts in which nothing is missed that the harness can't blame on the agent."""
    gave_up = gave_up_in_error(view, verdicts)
    went_on = {e.turn for e in view.of(CallerTurnSettled) if not e.failed} if view.is_measured else set[int]()
    fair: list[ExpectationVerdict] = []
    excused: ExpectationVerdict | None = None
    for verdict in verdicts:
        missing = verdict.broken_off or verdict.verdict is Verdict.MISSED
        if missing and verdict.turn in went_on and (verdict.broken_off or _heard_another_sound(view, verdict.turn)):
            fair.append(_inconclusive(verdict, Cause.CALLER, WENT_ON))
            continue
        judged = verdict
        if verdict.verdict is Verdict.MET and _rests_on_a_background(view, verdict):
            judged = _inconclusive(verdict, Cause.CALLER, TOO_LOUD)
        elif verdict.verdict is Verdict.MET and (unheard_ms := _rests_on_a_hole(script, view, verdict)):
            judged = _inconclusive(verdict, Cause.NETWORK, UNHEARD.format(unheard_ms))
        elif verdict.verdict is not Verdict.MISSED:
            pass
        elif gave_up is not None and verdict.turn > gave_up and verdict.turn not in view.starts:
            passed = FailureKind.HARNESS_TROUBLE.says("gave_up", turn=gave_up + 1)
            judged = _inconclusive(verdict, Cause.HARNESS, passed)
        elif excused is not None and excused.cause is not None and verdict.follows:
            judged = _inconclusive(verdict, excused.cause, f"turn {excused.turn + 1} is inconclusive")
        elif (trouble := _touching(script, view, verdict, troubles)) is not None:
            judged = excused = _inconclusive(verdict, trouble.cause, f"{trouble.what}; then: {verdict.reason}")
        fair.append(judged)
    return fair


def gave_up_in_error(view: CallView, verdicts: Sequence[ExpectationVerdict]) -> int | None:
    """Return the turn that the caller took for failed and that had not failed; None if there is none."""
    for settled in view.of(CallerTurnSettled):
        missed = any(v.turn == settled.turn and v.verdict is Verdict.MISSED for v in verdicts)
        if settled.failed and not missed:
            return settled.turn
    return None


def excuse(view: CallView, reason: EndedReason, troubles: Sequence[Trouble]) -> Trouble | None:
    """Return the trouble that an ending may owe to; None if the agent alone can have brought it about."""
    turn = max(view.starts, default=None)
    begin_ns = 0 if turn is None else view.starts[turn]
    # That an agent left is told by the room: a moment that was not heard changes nothing about it.
    is_told = reason is EndedReason.AGENT_LEFT
    is_own = reason in _OWN_DOING or _raised(view, begin_ns, view.end_ns)
    able = [
        t
        for t in troubles
        if not (t.lasting and reason in _NEEDS_NO_LINE and t.to_ns < view.end_ns)
        and not (is_told and t.heard_only)
        and not (is_own and t.slows_only)
    ]
    return next((t for t in able if t.touches(begin_ns, view.end_ns)), None)


def _heard_another_sound(view: CallView, turn: int) -> bool:
    """Whether the live hearing had speech in a turn that the recording does not have."""
    begin_ns = view.starts.get(turn, view.end_ns) if turn else 0
    until_ns = view.next_start_ns(turn)
    until_ns = view.end_ns if until_ns is None else until_ns
    return any(begin_ns <= s.started.at_ns < until_ns and not view.is_recorded(s) for s in view.live_speeches)


def _rests_on_a_background(view: CallView, verdict: ExpectationVerdict) -> bool:
    """Whether what meets an expectation is an edge of sound that may be no voice, and no words."""
    edges = [e.at_s for e in verdict.evidence if e.event in _EDGES]
    if not edges or any(e.text for e in verdict.evidence if e.event == "agent_said"):
        return False
    doubtful = [e for s in view.speeches if s.too_loud for e in (s.started, s.stopped) if e is not None]
    return any(abs(e.at_s - at_s) < _SAME_S for e in doubtful for at_s in edges)


def _rests_on_a_hole(script: Script, view: CallView, verdict: ExpectationVerdict) -> float:
    """Return how much lost audio an agent's silence may be that meets an expectation, in milliseconds; 0 if none."""
    expectation = script.turns[verdict.turn].expect[verdict.index]
    line, line_end = view.line(verdict.turn), view.line_end(verdict.turn)
    least_ms = AGENT_LOST_MS
    if expectation.event == AGENT_STOPS:
        ends_ns = [round(e.at_s * NS_PER_S) for e in verdict.evidence if e.event == "agent_stopped_speaking"]
        if not ends_ns:
            return 0
        from_ns, to_ns = ends_ns[-1] - _STOP_NS[0], ends_ns[-1] + _STOP_NS[1]
    elif expectation.event == AGENT_NEVER_TALKS_OVER and line is not None and line_end is not None:
        from_ns, to_ns, least_ms = line.at_ns, line_end.at_ns, MIN_OVERLAP_NS / NS_PER_MS
    elif expectation.absent and expectation.event not in CALLS:
        from_ns, to_ns = view.starts[verdict.turn], _until_ns(script, view, verdict)
    else:
        return 0
    lost_ms = longest_unheard_ms(view, from_ns, to_ns)
    return lost_ms if lost_ms >= least_ms else 0


def _touching(
    script: Script, view: CallView, verdict: ExpectationVerdict, troubles: Sequence[Trouble]
) -> Trouble | None:
    turn = verdict.turn
    if turn not in view.starts:
        return None if view.ended is None else excuse(view, view.ended.reason, troubles)
    begin_ns = view.starts[turn] if turn else 0
    expectation = script.turns[turn].expect[verdict.index]
    # What came after its time was up changed nothing.
    until_ns = _until_ns(script, view, verdict)
    told = expectation.event in CALLS
    # It made the call otherwise, or raised an error or was gone before anything could come.
    gone = view.ended is not None and view.ended.reason in _OWN_DOING and until_ns >= view.end_ns
    is_own = (
        gone
        or (told and not verdict.late and _called_otherwise(expectation, view, begin_ns, until_ns))
        or _raised(view, begin_ns, until_ns)
    )
    for trouble in troubles:
        if not trouble.touches(begin_ns, until_ns) or (told and trouble.heard_only):
            continue
        if trouble.slows_only and (is_own or (not trouble.garbles and is_wrong_answer(script, view, verdict))):
            continue
        return trouble
    return None


def _until_ns(script: Script, view: CallView, verdict: ExpectationVerdict) -> int:
    """Return until when what happens bears on an expectation of a turn that was taken up."""
    turn = verdict.turn
    expectation = script.turns[turn].expect[verdict.index]
    line, handed_over, next_ns = view.line(turn), view.handed_over(turn), view.next_start_ns(turn)
    began_ns, budget_ns = view.starts[turn], expectation.budget_ms * NS_PER_MS
    if expectation.event == AGENT_STOPS and line is not None:
        began_ns = line.at_ns
    elif handed_over is not None and expectation.event == AGENT_NEVER_TALKS_OVER:
        began_ns, budget_ns = handed_over.at_ns, 0
    elif handed_over is not None and expectation.event == AGENT_SPEAKS:
        began_ns = handed_over.at_ns
    return min(began_ns + budget_ns - 1, view.end_ns if next_ns is None else next_ns)


def _called_otherwise(expectation: Expectation, view: CallView, from_ns: int, to_ns: int) -> bool:
    """Whether the agent made a call that is looked for in a span of time, but not as it is to be made."""
    refused = expectation.criterion is not None
    return any(
        (call.name or e.name) == e.name and (refused or not matches(call, e))
        for call in expectation.calls or (FunctionCall(),)
        for e in view.named(expectation.event)
        if isinstance(e, AgentCalledFunction | AgentFunctionReturned) and from_ns <= e.at_ns <= to_ns
    )


def _raised(view: CallView, from_ns: int, to_ns: int) -> bool:
    return any(from_ns <= e.at_ns <= to_ns for e in view.of(AgentError))


def _inconclusive(verdict: ExpectationVerdict, cause: Cause, reason: str) -> ExpectationVerdict:
    return verdict.model_copy(update={"verdict": Verdict.NOT_JUDGED, "cause": cause, "reason": reason})
