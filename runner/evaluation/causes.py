"""Why a run failed: the earliest failure that explains the rest, with what was expected beside what was heard.

What is missed first in the order of the script is often a consequence: an agent whose pipeline raised says nothing
within its time, one that is slow has not said the right words yet. So every missed expectation is first taken for
what it is, and then the agent's own errors, its end and its manners are looked at for what came before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bots.caller.script import (
    AGENT_HANGS_UP,
    AGENT_NEVER_TALKS_OVER,
    AGENT_SPEAKS,
    AGENT_STOPS,
    AfterAgentTurn,
    AfterSilence,
    Expectation,
    Script,
)
from bots.clock import NS_PER_MS, NS_PER_S
from bots.timeline import (
    SESSION_COMPLETED,
    SESSION_FAILED,
    AgentCalledFunction,
    AgentError,
    AgentLeft,
    AgentProbed,
    AgentProcessEnded,
    AgentSessionEnded,
    CallEnded,
    EndedReason,
    Source,
    TimelineEvent,
)
from runner.evaluation.behaviour import MIN_OVERLAP_NS, gives_way
from runner.evaluation.dropped import dropped_words
from runner.evaluation.failure import Failure, FailureKind
from runner.evaluation.function_calls import CALLS
from runner.evaluation.speech import began_ns
from runner.evaluation.verdicts import Cause, Evidence, ExpectationVerdict, Verdict, evidence_of
from runner.evaluation.view import CallView, Speech
from runner.evaluation.wanted_words import text_problem

LATE_SHARE = 0.6
"""Words that were not complete in time are late, not wrong, where the answer took so much of the time to begin."""

OFTEN = 0.5
"""An agent that talks over so many of the caller's lines talks over the caller, whatever was expected of it."""

OFTEN_LINES = 2

_LONGEST_TEXT = 160

_ENDED_BY_AGENT = {
    EndedReason.AGENT_NEVER_JOINED: FailureKind.SILENT,
    EndedReason.AGENT_NEVER_SPOKE: FailureKind.SILENT,
    EndedReason.AGENT_FROZE: FailureKind.SILENT,
    EndedReason.AGENT_VANISHED: FailureKind.CRASHED,
    EndedReason.AGENT_LEFT: FailureKind.LEFT,
}


_FOLLOWS_FROM_ENDING = frozenset({FailureKind.SILENT, FailureKind.WRONG})


@dataclass(frozen=True)
class _Candidate:
    """A failure, and when it happened."""

    at_ns: int
    failure: Failure


def find_failure(
    script: Script, view: CallView, verdicts: Sequence[ExpectationVerdict], *, ended: CallEnded, otherwise: str
) -> Failure:
    """Return why the agent failed.

    Args:
        script: The script that was played.
        view: A finished call.
        verdicts: The verdicts on the script's expectations.
        ended: How it ended.
        otherwise: What to say where nothing explains it.
    """
    doubted = dropped_words(view)
    found = [
        _Candidate(_happened_ns(view, script, v), _of_verdict(script, view, v, doubted))
        for v in verdicts
        if v.verdict is Verdict.MISSED and not v.follows and v.turn in view.starts
    ]
    session = view.first(AgentSessionEnded)
    failed = session is not None and session.state == SESSION_FAILED
    explains = failed or not found or ended.reason is not EndedReason.AGENT_LEFT or _owes(view)
    if ended.reason in _ENDED_BY_AGENT and explains:
        # What was still expected in the last turn is missed because of the ending, and not the other way round.
        last = view.turn_at(view.end_ns)
        follows = [c for c in found if c.failure.turn == last and c.failure.kind in _FOLLOWS_FROM_ENDING]
        found = [c for c in found if c not in follows]
        ending = _of_ending(view, ended)
        if follows:
            missed = follows[0].failure
            ending = ending.model_copy(update={"expected": missed.expected, "heard": missed.heard})
        found.append(_Candidate(view.end_ns, ending))
    over = talked_over(script, view)
    if over:
        found.append(_Candidate(over[0].started.at_ns, _talks_over(view, over)))
    if not found:
        found.append(_Candidate(view.end_ns, _agents(FailureKind.WRONG, otherwise, turn=view.turn_at(view.end_ns))))
    first = min(found, key=lambda candidate: candidate.at_ns)
    return _explained(view, first)


def talked_over(script: Script, view: CallView) -> list[Speech]:
    """Return the speech with which the agent talks over the caller often, one for each line; empty if it does not.

    Lines that barge in are left out. So is an agent that may do so (``agent_never_talks_over: false``).
    """
    if script.may_be_talked_over:
        return []
    lines = over = 0
    first: list[Speech] = []
    for index, turn in enumerate(script.turns):
        line, end = view.line(index), view.line_end(index)
        if line is None or end is None or not isinstance(turn.start, AfterAgentTurn | AfterSilence):
            continue
        if any(s.lasts_at(line.at_ns) for s in view.speeches):
            continue
        lines += 1
        speech = next(
            (
                s
                for s in view.speeches
                if line.at_ns < s.started.at_ns <= end.at_ns - MIN_OVERLAP_NS
                and not s.too_loud
                and view.noticed_live(s)
                and not gives_way(line.at_ns, s)
            ),
            None,
        )
        if speech is not None:
            over += 1
            first.append(speech)
    return first if over >= OFTEN_LINES and over >= OFTEN * lines else []


def is_wrong_answer(script: Script, view: CallView, verdict: ExpectationVerdict) -> bool:
    """Whether an expectation is missed because the agent answered in time, and with other words."""
    event = script.turns[verdict.turn].expect[verdict.index].event
    if event in CALLS or event == AGENT_HANGS_UP:
        return False
    return _of_verdict(script, view, verdict, dropped_words(view)).kind is FailureKind.WRONG


def _of_verdict(script: Script, view: CallView, verdict: ExpectationVerdict, doubted: frozenset[int]) -> Failure:
    expectation = script.turns[verdict.turn].expect[verdict.index]
    latency_ns = _latency_ns(view, verdict.turn)
    answered = None if latency_ns is None else f"answered {latency_ns / NS_PER_S:.1f} s after the caller"
    heard = _heard_in(view, verdict.turn)
    match expectation.event:
        case event if event == AGENT_SPEAKS:
            kind = FailureKind.SILENT if latency_ns is None else FailureKind.LATE
            said = answered or verdict.reason
            return _missed(kind, verdict, f"{said} (limit {expectation.budget_ms / 1000:g} s)", heard)
        case event if event == AGENT_STOPS:
            return _missed(FailureKind.WILL_NOT_STOP, verdict, f"did not stop in time: {verdict.reason}", heard)
        case event if event == AGENT_NEVER_TALKS_OVER:
            return _missed(FailureKind.TALKS_OVER, verdict, f"talked over the caller: {verdict.reason}", heard)
        case event if event == AGENT_HANGS_UP:
            return _missed(FailureKind.WRONG, verdict, verdict.reason, heard)
        case event if event in CALLS:
            calls = ", ".join(_call(e) for e in view.of(AgentCalledFunction) if _in_turn(view, e, verdict.turn))
            return _missed(FailureKind.WRONG, verdict, verdict.reason, calls or "no call")
        case _:
            pass
    if expectation.absent:
        return _missed(FailureKind.WRONG, verdict, verdict.reason, heard)
    lost = [e for e in view.said(Source.TOLD) if id(e) in doubted and _in_turn(view, e, verdict.turn)]
    if lost and expectation.needs_words:
        words = _short(" ".join(e.text for e in lost))
        return _missed(
            FailureKind.SILENT, verdict, f"the agent reported {words!r}, but no audio of it arrived", heard
        )
    if _is_late(view, verdict, expectation, latency_ns):
        said = f"{answered}; {verdict.reason}" if answered else verdict.reason
        return _missed(FailureKind.LATE, verdict, f"too slow: {said}", heard)
    if not any(_in_turn(view, s.started, verdict.turn) for s in view.speeches):
        return _missed(FailureKind.SILENT, verdict, verdict.reason, heard)
    return _missed(FailureKind.WRONG, verdict, f"expected {verdict.expected}; {verdict.reason}", heard)


def _is_late(view: CallView, verdict: ExpectationVerdict, expectation: Expectation, latency_ns: int | None) -> bool:
    """Whether what was expected came after its time, or was about to."""
    deadline_ns = view.starts[verdict.turn] + expectation.budget_ms * NS_PER_MS
    if verdict.late:
        return True
    handed_over = view.handed_over(verdict.turn)
    if latency_ns is not None and handed_over is not None:
        onset_ns = handed_over.at_ns + latency_ns
        if onset_ns > deadline_ns or latency_ns >= LATE_SHARE * max(deadline_ns - handed_over.at_ns, 1):
            return True
    if not expectation.needs_words or expectation.criterion is not None:
        return False
    after = " ".join(e.text for e in view.said() if e.at_ns > deadline_ns)
    return bool(after) and not text_problem(expectation, after)


def _of_ending(view: CallView, ended: CallEnded) -> Failure:
    turn = view.turn_at(view.end_ns)
    kind = _ENDED_BY_AGENT[ended.reason]
    what = ended.detail or ended.reason.value.replace("-", " ")
    evidence: tuple[Evidence, ...] = tuple(evidence_of(e) for e in view.of(AgentProbed))
    if ended.reason is EndedReason.AGENT_VANISHED and any(e.answers is False for e in view.of(AgentProbed)):
        what = "the agent's process died: nothing arrives from it any more, and its address refuses connections"
    if ended.reason is EndedReason.AGENT_LEFT:
        left = view.first(AgentLeft)
        evidence = () if left is None else (evidence_of(left),)
        what = "the agent left"
        unknown = "it hung up or crashed, and nothing tells which"
        session = view.first(AgentSessionEnded)
        if session is not None and session.state == SESSION_FAILED:
            kind, unknown = FailureKind.CRASHED, "its session ended with an error, by the word of whoever runs it"
        elif session is not None and session.state == SESSION_COMPLETED:
            unknown = "it hung up: its session is complete, by the word of whoever runs it"
        if session is not None:
            evidence = (evidence_of(session), *evidence)
        says_it_speaks = view.told_speaking[-1:] and view.told_speaking[-1][1]
        if says_it_speaks or any(s.lasts_at(view.end_ns) or s.stopped is None for s in view.speeches[-1:]):
            what += f" in the middle of its own sentence: {unknown}"
        elif _owes(view):
            what += f" and owed the caller an answer: {unknown}"
        else:
            what += " before the script had come to its end"
            if kind is FailureKind.CRASHED:
                what += f": {unknown}"
    return _agents(kind, _in_turn_words(turn, what), turn=turn, evidence=evidence)


def _talks_over(view: CallView, over: Sequence[Speech]) -> Failure:
    turn = view.turn_at(over[0].started.at_ns)
    headline = f"the agent talked over the caller in {len(over)} turns, first {_place(turn, over[0].started)}"
    evidence = tuple(evidence_of(s.started) for s in over[:3])
    expected = "the agent lets the caller finish"
    return Failure(
        kind=FailureKind.TALKS_OVER,
        cause=Cause.AGENT,
        headline=headline,
        turn=turn,
        expected=expected,
        heard=f"it began to speak within {len(over)} of the caller's lines",
        evidence=evidence,
    )


def _explained(view: CallView, first: _Candidate) -> Failure:
    """Return a failure, or what the agent itself says went wrong before it."""
    failure = first.failure
    begin_ns = 0 if failure.turn is None else view.starts.get(failure.turn, 0)
    error = next((e for e in view.of(AgentError) if begin_ns <= e.at_ns <= view.end_ns), None)
    process = next((e for e in view.of(AgentProcessEnded) if e.exit_code != 0), None)
    follows = failure.headline.partition(": ")[2] if failure.turn is not None else failure.headline
    if process is not None and failure.kind in (FailureKind.CRASHED, FailureKind.LEFT, FailureKind.SILENT):
        words = end_of_process(process)
        return failure.model_copy(
            update={
                "kind": FailureKind.CRASHED,
                "headline": _in_turn_words(failure.turn, words),
                "evidence": (evidence_of(process), *failure.evidence),
            }
        )
    if error is not None:
        words = f"the agent reported an error ({_short(error.text)}); then: {follows}"
        return failure.model_copy(
            update={
                "kind": FailureKind.ERRORED,
                "headline": _in_turn_words(failure.turn, words),
                "evidence": (evidence_of(error), *failure.evidence),
            }
        )
    return failure


def end_of_process(process: AgentProcessEnded) -> str:
    """Return in words how the command that runs the agent ended, with the last line it printed."""
    last = process.log_tail.strip().splitlines()[-1:] or [""]
    how = f"the agent's process ended with exit code {process.exit_code}"
    if process.exit_code < 0:
        how = f"the agent's process was ended by signal {-process.exit_code}"
    return f"{how}: {_short(last[0])}" if last[0] else how


def _happened_ns(view: CallView, script: Script, verdict: ExpectationVerdict) -> int:
    """Return when an expectation was missed: at its evidence, or when its time was up."""
    expectation = script.turns[verdict.turn].expect[verdict.index]
    if expectation.event in (AGENT_STOPS, AGENT_NEVER_TALKS_OVER) and verdict.evidence:
        return round(verdict.evidence[-1].at_s * NS_PER_S)
    handed_over = view.handed_over(verdict.turn)
    return (view.starts[verdict.turn] if handed_over is None else handed_over.at_ns) + verdict.index


def _missed(kind: FailureKind, verdict: ExpectationVerdict, what: str, heard: str | None) -> Failure:
    return Failure(
        kind=kind,
        cause=Cause.AGENT,
        headline=_in_turn_words(verdict.turn, what),
        turn=verdict.turn,
        expected=verdict.expected,
        heard=heard,
        evidence=verdict.evidence,
    )


def _agents(
    kind: FailureKind, headline: str, *, turn: int | None = None, evidence: tuple[Evidence, ...] = ()
) -> Failure:
    return Failure(kind=kind, cause=Cause.AGENT, headline=headline, turn=turn, evidence=evidence)


def _heard_in(view: CallView, turn: int) -> str | None:
    """Return what was heard in a turn, or else what the agent told in it."""
    for source in (Source.HEARD, Source.TOLD):
        words = [e.text for e in view.said(source) if _in_turn(view, e, turn)]
        if words:
            text = _short(" ".join(words))
            return text if source is Source.HEARD else f"{text} (told)"
    return None


def _in_turn(view: CallView, event: TimelineEvent, turn: int) -> bool:
    begin_ns = view.starts.get(turn, 0) if turn else 0
    next_ns = view.next_start_ns(turn)
    return begin_ns <= began_ns(event) and (next_ns is None or began_ns(event) < next_ns)


def _latency_ns(view: CallView, turn: int) -> int | None:
    """Return how long the agent took to answer a turn, whenever that was; None if it did not."""
    handed_over = view.handed_over(turn)
    if handed_over is None:
        return None
    next_ns = view.next_start_ns(turn)
    onset_ns = next((s.started.at_ns for s in view.speeches if s.started.at_ns >= handed_over.at_ns), None)
    if onset_ns is None or (next_ns is not None and onset_ns >= next_ns):
        return None
    return onset_ns - handed_over.at_ns


def _owes(view: CallView) -> bool:
    """Whether the agent owed the caller an answer when the call ended."""
    turn = view.turn_at(view.end_ns)
    return turn is not None and view.handed_over(turn) is not None and _latency_ns(view, turn) is None


def _in_turn_words(turn: int | None, what: str) -> str:
    return what if turn is None else f"turn {turn + 1}: {what}"


def _place(turn: int | None, event: TimelineEvent) -> str:
    where = "" if turn is None else f"in turn {turn + 1}, "
    return f"{where}at {event.at_s:.1f} s"


def _call(event: AgentCalledFunction) -> str:
    arguments = ", ".join(f"{key}={value!r}" for key, value in (event.arguments or {}).items())
    return f"{event.name or 'a function'}({arguments})"


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _LONGEST_TEXT else f"{flat[: _LONGEST_TEXT - 1]}…"
