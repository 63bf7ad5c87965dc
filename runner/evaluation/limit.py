"""Whose doing it was that a call reached the longest it may take."""

from dataclasses import dataclass

from bots.caller.script import AfterEvent, AfterSilence, AgentHeardFor, Listen, Script, StaySilent
from bots.clock import NS_PER_MS, NS_PER_S
from bots.timeline import AgentTurnEnded, CallerPressedKeys, CallerStoppedSpeaking, LineEnd
from runner.evaluation.expectations import evaluate_turn
from runner.evaluation.verdicts import Verdict
from runner.evaluation.view import CallView

LONG_S = 10.0
"""What takes the agent less than this is not too long, however short the call may be."""

SILENT_NS = 3 * NS_PER_S
"""An agent that was silent for so long had finished, whether or not the caller noticed."""


@dataclass(frozen=True)
class Limit:
    """What a call was at when it reached its limit.

    ``by_agent`` says how the agent kept the caller from going on, ``by_caller`` whether the caller was at something
    of its own: a line, a silence, a delay.
    """

    by_agent: str | None = None
    by_caller: bool = False


def limit_reached(script: Script, view: CallView, end_ns: int) -> Limit:
    """Return what a call was at when it reached its limit.

    It was the agent's doing where the caller waited for the agent to finish, or to answer, and had done so for too
    long: for as long as an answer may take (``answer_timeout_s``), or for half of a shorter call.
    """
    turn = max(view.starts, default=None)
    if turn is not None and _acts(script, turn, view, end_ns):
        return Limit(by_caller=True)
    open_turn = None
    if turn is not None:
        verdicts = evaluate_turn(turn, script.turns[turn], view, now_ns=end_ns)
        open_turn = script.turns[turn] if any(v.verdict is Verdict.PENDING for v in verdicts) else None
    following = 0 if turn is None else turn + 1
    trigger = script.turns[following].start if open_turn is None and following < len(script.turns) else None
    too_long_ns = round(min(script.turn_taking.answer_timeout_s, max(LONG_S, script.max_duration_s / 2)) * NS_PER_S)
    talks_ns = _talks_for_ns(view, end_ns)
    if isinstance(trigger, AfterEvent) or (isinstance(trigger, AfterSilence) and not talks_ns):
        return Limit(by_caller=True)
    if talks_ns >= too_long_ns and not isinstance(trigger, AgentHeardFor):
        return Limit(by_agent=f"the agent had been talking for {talks_ns / NS_PER_S:.0f} s")
    if open_turn is not None and any(e.absent for e in open_turn.expect):
        return Limit()
    owes_ns = _owes_for_ns(script, view, end_ns)
    if owes_ns >= too_long_ns:
        return Limit(by_agent=f"the agent had owed an answer for {owes_ns / NS_PER_S:.0f} s")
    return Limit()


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
    if last.stopped is not None and end_ns - last.stopped.at_ns > SILENT_NS:
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
