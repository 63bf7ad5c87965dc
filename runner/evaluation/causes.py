"""Why a run failed: the earliest failure that explains the rest, with what was expected beside what was heard.

What is missed first in the order of the script is often a consequence: an agent whose pipeline raised says nothing
within its time, one that is slow has not said the right words yet. So every missed expectation is first taken for
what it is, and then the agent's own errors, its end and its manners are looked at for what came before.
"""

from collections.abc import Sequence
from typing import Any

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
from runner.evaluation.ending import KIND_OF_ENDING, NO_CALL
from runner.evaluation.failure import Failure, FailureKind
from runner.evaluation.search import CALLS, text_problem
from runner.evaluation.speech import began_ns
from runner.evaluation.verdicts import ExpectationVerdict, Verdict, evidence_of
from runner.evaluation.view import CallView, Speech

LATE_SHARE = 0.6
"""Words that were not complete in time are late, not wrong, where the answer took so much of the time to begin."""

OFTEN = 0.5
"""An agent that talks over so many of the caller's lines talks over the caller, whatever was expected of it."""

OFTEN_LINES = 2

_LONGEST_TEXT = 160


def find_failure(
    script: Script, view: CallView, verdicts: Sequence[ExpectationVerdict], *, ended: CallEnded, otherwise: str
) -> Failure:
    """Return why the agent failed; ``otherwise`` is the headline where nothing explains it."""
    doubted = dropped_words(view)
    found = [
        (_happened_ns(view, script, v), _of_verdict(script, view, v, doubted))
        for v in verdicts
        if v.verdict is Verdict.MISSED and not v.follows and v.turn in view.starts
    ]
    last = view.turn_at(view.end_ns)
    session = view.first(AgentSessionEnded)
    failed = session is not None and session.state == SESSION_FAILED
    explains = failed or not found or ended.reason is not EndedReason.AGENT_LEFT or _owes(view)
    if ended.reason in KIND_OF_ENDING and ended.reason not in NO_CALL and explains:
        # What was still expected in the last turn is missed because of the ending, and not the other way round.
        follow = [f for _, f in found if f.turn == last and f.kind.about.follows]
        found = [(at_ns, f) for at_ns, f in found if f not in follow]
        ending = _of_ending(view, ended)
        if follow:
            ending = ending.model_copy(update={"expected": follow[0].expected, "heard": follow[0].heard})
        found.append((view.end_ns, ending))
    over = talked_over(script, view)
    if over:
        found.append((over[0].started.at_ns, _talks_over(view, over)))
    if not found:
        found.append((view.end_ns, Failure.of(FailureKind.WRONG, otherwise, turn=last)))
    return _explained(view, min(found, key=lambda candidate: candidate[0])[1])


def talked_over(script: Script, view: CallView) -> list[Speech]:
    """Return the speech with which the agent talks over the caller often, one for each line; empty if it does not.

    Lines that barge in are left out. So is an agent that may do so (``agent_never_talks_over: false``).
    """
    if script.may_be_talked_over:
        return []
    lines = 0
    first: list[Speech] = []
    for index, turn in enumerate(script.turns):
        line, end = view.line(index), view.line_end(index)
        if line is None or end is None or not isinstance(turn.start, AfterAgentTurn | AfterSilence):
            continue
        if any(s.lasts_at(line.at_ns) for s in view.speeches):
            continue
        lines += 1
        first += [
            s
            for s in view.speeches
            if line.at_ns < s.started.at_ns <= end.at_ns - MIN_OVERLAP_NS
            and not s.too_loud
            and view.noticed_live(s)
            and not gives_way(line.at_ns, s)
        ][:1]
    return first if len(first) >= OFTEN_LINES and len(first) >= OFTEN * lines else []


def is_wrong_answer(script: Script, view: CallView, verdict: ExpectationVerdict) -> bool:
    """Whether an expectation is missed because the agent answered in time, and with other words."""
    event = script.turns[verdict.turn].expect[verdict.index].event
    if event in CALLS or event == AGENT_HANGS_UP:
        return False
    return _of_verdict(script, view, verdict, dropped_words(view)).kind is FailureKind.WRONG


def _of_verdict(script: Script, view: CallView, verdict: ExpectationVerdict, doubted: frozenset[int]) -> Failure:
    turn = verdict.turn
    expectation = script.turns[turn].expect[verdict.index]
    latency_ns = _latency_ns(view, turn)
    answered = None if latency_ns is None else f"answered {latency_ns / NS_PER_S:.1f} s after the caller"
    heard = _heard_in(view, turn)

    def missed(kind: FailureKind, how: str | None = None, **what: Any) -> Failure:
        says = verdict.reason if how is None else kind.says(how, **{"reason": verdict.reason, **what})
        return Failure.of(
            kind,
            _in_turn_words(turn, says),
            turn=turn,
            expected=verdict.expected,
            heard=heard,
            evidence=verdict.evidence,
        )

    match expectation.event:
        case event if event == AGENT_SPEAKS:
            kind = FailureKind.SILENT if latency_ns is None else FailureKind.LATE
            return missed(kind, "limit", reason=answered or verdict.reason, limit_s=expectation.budget_ms / 1000)
        case event if event == AGENT_STOPS:
            return missed(FailureKind.WILL_NOT_STOP, "barge_in")
        case event if event == AGENT_NEVER_TALKS_OVER:
            return missed(FailureKind.TALKS_OVER, "line")
        case event if event in CALLS:
            calls = ", ".join(_call(e) for e in view.of(AgentCalledFunction) if _in_turn(view, e, turn))
            heard = calls or "no call"
            return missed(FailureKind.WRONG)
        case event if event == AGENT_HANGS_UP or expectation.absent:
            return missed(FailureKind.WRONG)
        case _:
            pass
    lost = [e for e in view.said(Source.TOLD) if id(e) in doubted and _in_turn(view, e, turn)]
    if lost and expectation.needs_words:
        return missed(FailureKind.SILENT, "unheard", words=_short(" ".join(e.text for e in lost)))
    if _is_late(view, verdict, expectation, latency_ns):
        said = f"{answered}; {verdict.reason}" if answered else verdict.reason
        return missed(FailureKind.LATE, "words", reason=said)
    if not any(_in_turn(view, s.started, turn) for s in view.speeches):
        return missed(FailureKind.SILENT)
    return missed(FailureKind.WRONG, "words", expected=verdict.expected)


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
    kind = KIND_OF_ENDING[ended.reason]
    what = ended.detail or ended.reason.value.replace("-", " ")
    evidence = tuple(evidence_of(e) for e in view.of(AgentProbed))
    if ended.reason is EndedReason.AGENT_VANISHED and any(e.answers is False for e in view.of(AgentProbed)):
        what = kind.says("vanished")
    if ended.reason is EndedReason.AGENT_LEFT:
        left, session = view.first(AgentLeft), view.first(AgentSessionEnded)
        evidence = tuple(evidence_of(e) for e in (session, left) if e is not None)
        why = kind.says("unknown")
        if session is not None and session.state == SESSION_FAILED:
            kind = FailureKind.CRASHED
            why = kind.says("left")
        elif session is not None and session.state == SESSION_COMPLETED:
            why = kind.says("hung_up")
        says_it_speaks = view.told_speaking[-1:] and view.told_speaking[-1][1]
        if says_it_speaks or any(s.lasts_at(view.end_ns) or s.stopped is None for s in view.speeches[-1:]):
            what = FailureKind.LEFT.says("speaking", why=why)
        elif _owes(view):
            what = FailureKind.LEFT.says("owing", why=why)
        else:
            what = FailureKind.LEFT.says("early") + (f": {why}" if kind is FailureKind.CRASHED else "")
    return Failure.of(kind, _in_turn_words(turn, what), turn=turn, evidence=evidence)


def _talks_over(view: CallView, over: Sequence[Speech]) -> Failure:
    first = over[0].started
    turn = view.turn_at(first.at_ns)
    place = f"{'' if turn is None else f'in turn {turn + 1}, '}at {first.at_s:.1f} s"
    return Failure.of(
        FailureKind.TALKS_OVER,
        FailureKind.TALKS_OVER.says("often", count=len(over), place=place),
        turn=turn,
        expected="the agent lets the caller finish",
        heard=f"it began to speak within {len(over)} of the caller's lines",
        evidence=tuple(evidence_of(s.started) for s in over[:3]),
    )


def _explained(view: CallView, failure: Failure) -> Failure:
    """Return a failure, or what the agent itself says went wrong before it."""
    begin_ns = 0 if failure.turn is None else view.starts.get(failure.turn, 0)
    process = next((e for e in view.of(AgentProcessEnded) if e.exit_code != 0), None)
    if process is not None and failure.kind.about.by_process:
        kind, fact, words = FailureKind.CRASHED, process, end_of_process(process)
    else:
        fact = next((e for e in view.of(AgentError) if begin_ns <= e.at_ns <= view.end_ns), None)
        if fact is None:
            return failure
        then = failure.headline.partition(": ")[2] if failure.turn is not None else failure.headline
        kind = FailureKind.ERRORED
        words = kind.says("then", error=_short(fact.text), then=then)
    evidence = (evidence_of(fact), *failure.evidence)
    headline = _in_turn_words(failure.turn, words)
    return failure.model_copy(update={"kind": kind, "headline": headline, "evidence": evidence})


def end_of_process(process: AgentProcessEnded) -> str:
    """Return in words how the command that runs the agent ended, with the last line it printed."""
    last = process.log_tail.strip().splitlines()[-1:] or [""]
    how = FailureKind.CRASHED.says("signal" if process.exit_code < 0 else "process", code=abs(process.exit_code))
    return f"{how}: {_short(last[0])}" if last[0] else how


def _happened_ns(view: CallView, script: Script, verdict: ExpectationVerdict) -> int:
    """Return when an expectation was missed: at its evidence, or when its time was up."""
    expectation = script.turns[verdict.turn].expect[verdict.index]
    if expectation.event in (AGENT_STOPS, AGENT_NEVER_TALKS_OVER) and verdict.evidence:
        return round(verdict.evidence[-1].at_s * NS_PER_S)
    handed_over = view.handed_over(verdict.turn)
    return (view.starts[verdict.turn] if handed_over is None else handed_over.at_ns) + verdict.index


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


def _call(event: AgentCalledFunction) -> str:
    arguments = ", ".join(f"{key}={value!r}" for key, value in (event.arguments or {}).items())
    return f"{event.name or 'a function'}({arguments})"


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _LONGEST_TEXT else f"{flat[: _LONGEST_TEXT - 1]}…"
