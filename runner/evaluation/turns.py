"""What each turn took: when the caller stopped, when the agent was heard, and the time in between."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from bots.caller.script import Script, StaySilent
from bots.clock import NS_PER_MS
from bots.timeline import (
    AgentJoined,
    AgentStartedSpeaking,
    CallerPressedKeys,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    CallerTurnStarted,
    TimelineEvent,
)
from runner.evaluation.speech import speeches_of


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


def measure_turns(script: Script, facts: Sequence[TimelineEvent]) -> list[TurnMeasures]:
    """Return the measures of every turn that was taken up, in order."""
    ordered = sorted(facts, key=lambda event: event.at_ns)
    starts = [event for event in ordered if isinstance(event, CallerTurnStarted)]
    return [_measure(script, ordered, start, starts) for start in starts]


def first_response_ms(facts: Sequence[TimelineEvent]) -> float | None:
    """Return agent onset minus both parties present, in milliseconds; None if the agent never spoke."""
    joined = next((e for e in facts if isinstance(e, AgentJoined)), None)
    onset = min((e.at_ns for e in facts if isinstance(e, AgentStartedSpeaking)), default=None)
    if joined is None or onset is None:
        return None
    return in_ms(onset - joined.at_ns)


def _measure(
    script: Script, facts: Sequence[TimelineEvent], start: CallerTurnStarted, starts: Sequence[CallerTurnStarted]
) -> TurnMeasures:
    turn = start.turn
    line = next((e for e in facts if isinstance(e, CallerStartedSpeaking) and e.turn == turn), None)
    keys = next((e for e in facts if isinstance(e, CallerPressedKeys) and e.turn == turn), None)
    said = line.text if line is not None else (f"[keys] {keys.keys}" if keys is not None else None)
    if line is None and isinstance(script.turns[turn].action, StaySilent):
        said = None
    end = next((e for e in facts if isinstance(e, CallerStoppedSpeaking) and e.turn == turn), None)
    handed_over_ns = end.at_ns if end is not None else (keys.at_ns if keys is not None else None)
    if line is None or handed_over_ns is None:
        return TurnMeasures(turn=turn, said=said, started_s=round(start.at_s, 3))
    # The reply to this turn comes before the caller speaks again.
    next_line_ns = min(
        (e.at_ns for e in facts if isinstance(e, CallerStartedSpeaking) and e.at_ns > line.at_ns), default=None
    )
    talked_over = any(s.started.at_ns == handed_over_ns or s.lasts_at(handed_over_ns) for s in speeches_of(facts))
    onset_ns = next(
        (e.at_ns for e in facts if isinstance(e, AgentStartedSpeaking) and e.at_ns > handed_over_ns), None
    )
    if onset_ns is not None and next_line_ns is not None and onset_ns >= next_line_ns:
        onset_ns = None
    latency_ms = None if onset_ns is None or talked_over else in_ms(onset_ns - handed_over_ns)
    return TurnMeasures(
        turn=turn,
        said=said,
        started_s=round(start.at_s, 3),
        caller_speech_end_s=round(handed_over_ns / 1e9, 3),
        agent_onset_s=None if onset_ns is None else round(onset_ns / 1e9, 3),
        response_latency_ms=latency_ms,
        talked_over=talked_over,
    )


def in_ms(duration_ns: int) -> float:
    """Return a duration in milliseconds, to a tenth."""
    return round(duration_ns / NS_PER_MS, 1)
