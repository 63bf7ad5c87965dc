"""What each turn took: when the caller stopped, when the agent was heard, and the time in between."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from bots.caller.script import AfterAgentTurn, Script, StaySilent
from bots.timeline import CallerStartedSpeaking
from runner.evaluation.speech import WIDEST_NS, in_ms, own_uncertainty_ns
from runner.evaluation.trouble import WENT_ON, Trouble, troubles_of
from runner.evaluation.view import CallView

SPOKE_TOO_SOON = "the caller took the agent's turn to be over, and spoke while the agent went on"


class TurnMeasures(BaseModel):
    """What happened in one turn, in the terms a caller would use.

    Attributes:
        turn: The turn's place in the script, from 0.
        said: What the caller said or pressed; null where it did neither.
        started_s: When the turn was taken up.
        caller_speech_end_s: When the last voiced sample of the caller's line left for the network.
        agent_onset_s: First sample of audible agent speech after that.
        response_latency_ms: Agent onset minus caller speech end. Null for a turn that was not handed over (the
            agent spoke over its end), that got no answer, or that had nothing to answer.
        uncertainty_ms: The latency lies within so much of the measured one, in 95 of 100 cases: packet timing,
            placement, the detector's margin and the background together.
        refused: Why there is no latency although the agent answered: the sample was too uncertain, or the harness
            was in trouble. Null where there is one.
        talked_over: Whether the agent was speaking when the caller's line ended.
    """

    model_config = ConfigDict(frozen=True)

    turn: int
    said: str | None = None
    started_s: float
    caller_speech_end_s: float | None = None
    agent_onset_s: float | None = None
    response_latency_ms: float | None = None
    uncertainty_ms: float | None = None
    refused: str | None = None
    talked_over: bool = False


def measure_turns(script: Script, view: CallView) -> list[TurnMeasures]:
    """Return the measures of every turn that was taken up, in order."""
    troubles = troubles_of(view)
    in_order = sorted(view.starts, key=lambda turn: view.starts[turn])
    return [_measure(script, view, turn, troubles) for turn in in_order]


def first_response_ms(view: CallView) -> float | None:
    """Return agent onset minus both parties present, in milliseconds; None if the agent never spoke."""
    joined = view.joined
    if joined is None or not view.speeches:
        return None
    return in_ms(view.speeches[0].started.at_ns - joined.at_ns)


def _measure(script: Script, view: CallView, turn: int, troubles: Sequence[Trouble]) -> TurnMeasures:
    started_s = round(view.starts[turn] / 1e9, 3)
    line, keys = view.line(turn), view.keys(turn)
    said = None if line is None else line.text
    if line is None and not isinstance(script.turns[turn].action, StaySilent) and keys is not None:
        said = f"[keys] {keys.keys}"
    handed_over = view.handed_over(turn)
    if line is None or handed_over is None:
        return TurnMeasures(turn=turn, said=said, started_s=started_s)
    from_ns = handed_over.at_ns
    # The reply to this turn comes before the caller speaks again.
    next_line_ns = min((e.at_ns for e in view.of(CallerStartedSpeaking) if e.at_ns > line.at_ns), default=None)
    talked_over = any(s.started.at_ns == from_ns or s.lasts_at(from_ns) for s in view.speeches)
    reply = next((s for s in view.speeches if s.started.at_ns > from_ns), None)
    if reply is not None and next_line_ns is not None and reply.started.at_ns >= next_line_ns:
        reply = None
    measures = TurnMeasures(
        turn=turn,
        said=said,
        started_s=started_s,
        caller_speech_end_s=round(from_ns / 1e9, 3),
        agent_onset_s=None if reply is None else round(reply.started.at_ns / 1e9, 3),
        talked_over=talked_over,
    )
    until_ns = view.end_ns if next_line_ns is None else next_line_ns
    went_on = any(from_ns <= s.started.at_ns < until_ns for s in view.live_speeches)
    if reply is None and not talked_over and view.is_measured and went_on:
        # The caller took something for the answer that the recording does not have.
        return measures.model_copy(update={"refused": WENT_ON})
    if talked_over and isinstance(script.turns[turn].start, AfterAgentTurn) and view.is_measured:
        begun = any(s.started.at_ns < line.at_ns and s.lasts_at(from_ns) for s in view.speeches)
        mistaken = next((t.what for t in troubles if t.what == WENT_ON and t.from_ns < line.at_ns), None)
        return measures.model_copy(update={"refused": SPOKE_TOO_SOON if begun else mistaken})
    if reply is None or talked_over:
        return measures
    bar_ns = reply.onset_uncertainty_ns + own_uncertainty_ns(view) if reply.onset_uncertainty_ns else None
    trouble = next((t for t in troubles if t.overlaps(from_ns, reply.started.at_ns)), None)
    if reply.too_loud:
        refused = "the background is too loud to tell when the agent began to speak"
    elif bar_ns is not None and bar_ns > WIDEST_NS:
        refused = f"too uncertain: ± {in_ms(bar_ns):.0f} ms"
    else:
        refused = None if trouble is None else trouble.what
    if refused is not None:
        return measures.model_copy(update={"refused": refused})
    latency_ms = in_ms(reply.started.at_ns - from_ns)
    uncertainty_ms = None if bar_ns is None else in_ms(bar_ns)
    return measures.model_copy(update={"response_latency_ms": latency_ms, "uncertainty_ms": uncertainty_ms})
