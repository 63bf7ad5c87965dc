"""Turns and barge-ins, from where the two sides of a recording speak."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot

from bots.clock import NS_PER_MS, NS_PER_S
from runner.evaluation.measure.agent import MeasuredSpeech

LINE_GAP_NS = 700 * NS_PER_MS
"""Speech of the caller with shorter pauses in it, in which the agent says nothing, is one line."""


@dataclass(frozen=True)
class Line:
    """Something the caller said, in nanoseconds of the recording; exact where a timeline says so."""

    start_ns: int
    end_ns: int
    start_uncertainty_ms: float = 0.0
    end_uncertainty_ms: float = 0.0


@dataclass(frozen=True)
class Turn:
    """A line of the caller, and what the agent answered to it before the caller's next one.

    There is no end of an answer in which the recording breaks off, and no latency where the agent ``interrupted``:
    began to speak before the caller had finished. The latency lies within its uncertainty in 95 of 100 cases.
    """

    caller_start_s: float
    caller_end_s: float
    agent_start_s: float | None
    agent_end_s: float | None
    response_latency_ms: float | None
    uncertainty_ms: float | None
    interrupted: bool
    too_loud: bool


@dataclass(frozen=True)
class BargeIn:
    """A line of the caller that began while the agent spoke, and how long the agent took to stop.

    There is no end of speech in which the recording breaks off. The time lies within its uncertainty in 95 of 100
    cases.
    """

    caller_start_s: float
    agent_end_s: float | None
    stop_time_ms: float | None
    uncertainty_ms: float | None
    too_loud: bool


def lines_of(speeches: Sequence[MeasuredSpeech], agent: Sequence[MeasuredSpeech]) -> list[Line]:
    """Return the caller's lines, from its speech as it was measured in its own channel."""
    lines: list[Line] = []
    for speech in speeches:
        line = Line(speech.onset_ns, speech.end_ns, speech.onset_uncertainty_ms, speech.end_uncertainty_ms)
        if lines and line.start_ns - lines[-1].end_ns < LINE_GAP_NS and not _begins(agent, lines[-1], line):
            before = lines.pop()
            line = Line(before.start_ns, line.end_ns, before.start_uncertainty_ms, line.end_uncertainty_ms)
        lines.append(line)
    return lines


def _begins(agent: Sequence[MeasuredSpeech], before: Line, after: Line) -> bool:
    return any(before.end_ns <= speech.onset_ns < after.start_ns for speech in agent)


def turns_of(lines: Sequence[Line], agent: Sequence[MeasuredSpeech], breaks_off_ns: int | None) -> list[Turn]:
    """Return a turn for each line, in order.

    ``breaks_off_ns`` is where the recording breaks off, if it does: what lasts until then did not end there.
    """
    turns: list[Turn] = []
    for index, line in enumerate(lines):
        until_ns = lines[index + 1].start_ns if index + 1 < len(lines) else None
        mine = [s for s in agent if s.onset_ns > line.start_ns and (until_ns is None or s.onset_ns < until_ns)]
        interrupted = bool(mine) and mine[0].onset_ns < line.end_ns
        latency_ms = within_ms = None
        if mine and not interrupted:
            latency_ms = round((mine[0].onset_ns - line.end_ns) / NS_PER_MS, 1)
            within_ms = round(hypot(mine[0].onset_uncertainty_ms, line.end_uncertainty_ms), 1)
        turns.append(
            Turn(
                caller_start_s=_seconds(line.start_ns),
                caller_end_s=_seconds(line.end_ns),
                agent_start_s=_seconds(mine[0].onset_ns) if mine else None,
                agent_end_s=_end_s(mine[-1], breaks_off_ns) if mine else None,
                response_latency_ms=latency_ms,
                uncertainty_ms=within_ms,
                interrupted=interrupted,
                too_loud=any(speech.too_loud for speech in mine),
            )
        )
    return turns


def barge_ins_of(lines: Sequence[Line], agent: Sequence[MeasuredSpeech], breaks_off_ns: int | None) -> list[BargeIn]:
    """Return the lines that began while the agent spoke; the arguments are those of :func:`turns_of`."""
    found: list[BargeIn] = []
    for line in lines:
        for speech in (s for s in agent if s.onset_ns < line.start_ns < s.end_ns):
            end_s = _end_s(speech, breaks_off_ns)
            stop_ms = within_ms = None
            if end_s is not None:
                stop_ms = round((speech.end_ns - line.start_ns) / NS_PER_MS, 1)
                within_ms = round(hypot(speech.end_uncertainty_ms, line.start_uncertainty_ms), 1)
            found.append(BargeIn(_seconds(line.start_ns), end_s, stop_ms, within_ms, speech.too_loud))
    return found


def _end_s(speech: MeasuredSpeech, breaks_off_ns: int | None) -> float | None:
    if breaks_off_ns is not None and speech.end_ns >= breaks_off_ns - 100 * NS_PER_MS:
        return None
    return _seconds(speech.end_ns)


def _seconds(at_ns: int) -> float:
    return round(at_ns / NS_PER_S, 3)
