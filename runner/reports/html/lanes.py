"""The call on one time axis: what lies where, in percent of its length."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bots.caller.script import AGENT_STOPS
from bots.clock import NS_PER_MS, NS_PER_S
from bots.timeline import AgentCalledFunction, AgentError, CallerStartedSpeaking
from runner.calls.run_file import RunReport
from runner.evaluation.behaviour import MIN_OVERLAP_NS, gives_way
from runner.evaluation.verdicts import ExpectationVerdict, Verdict
from runner.evaluation.view import CallView
from runner.reports.html.shown import percent, seconds, sentence, words

_TICKS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600)
_MOST_TICKS = 14
_LABEL = 60
MAX_MARKS = 500
"""Of each kind so many marks are drawn."""


@dataclass(frozen=True)
class Band:
    """A stretch of the axis.

    Attributes:
        x: Where it begins, in percent.
        width: How long it is, in percent.
        room: How much room there is for the label, in percent.
    """

    x: float
    width: float
    label: str
    kind: str = ""
    room: float = 0.0


@dataclass(frozen=True)
class Lanes:
    """What lies where on the time axis of a call."""

    ticks: list[Band]
    turns: list[Band]
    answers: list[Band]
    overlaps: list[Band]
    tools: list[Band]
    checks: list[Band]
    failing: float | None


@dataclass(frozen=True)
class Overlap:
    """Both sides speaking at once.

    Attributes:
        turn: The caller's turn, from 0.
        from_s: When the second one began.
        to_s: Until when both spoke.
    """

    turn: int
    from_s: float
    to_s: float
    label: str
    text: str


def overlaps_of(view: CallView, verdicts: Sequence[ExpectationVerdict] = ()) -> list[Overlap]:
    """Return where the caller broke in, and where the agent talked over the caller, in order.

    Args:
        verdicts: What became of what was expected: what is said of a barge-in is what was judged.
    """
    found: list[Overlap] = []
    for line in view.of(CallerStartedSpeaking):
        end = view.line_end(line.turn)
        end_ns = view.end_ns if end is None else end.at_ns
        judged = next((v for v in verdicts if (v.turn, v.event) == (line.turn, AGENT_STOPS) and v.reason), None)
        broke_in = False
        for speech in view.speeches:
            if speech.too_loud or not view.noticed_live(speech):
                continue
            until_ns = min(speech.end_or(view.end_ns), end_ns)
            if speech.lasts_at(line.at_ns) and until_ns - line.at_ns >= MIN_OVERLAP_NS:
                broke_in = True
                both = seconds((until_ns - line.at_ns) / NS_PER_MS)
                text = f"both spoke for {both}" if judged is None else words(judged.reason, 300)
                text = f"The caller broke in: {sentence(text)}"
                found.append(_overlap(line.turn, line.at_ns, until_ns, "broke in", text))
            elif line.at_ns < speech.started.at_ns <= end_ns - MIN_OVERLAP_NS and not gives_way(line.at_ns, speech):
                after = seconds((speech.started.at_ns - line.at_ns) / NS_PER_MS)
                label = "spoke on" if broke_in else "talked over"
                what = "spoke on" if broke_in else "began to speak"
                text = f"The agent {what} {after} into the caller's line."
                found.append(_overlap(line.turn, speech.started.at_ns, until_ns, label, text))
    return sorted(found, key=lambda overlap: overlap.from_s)


def _overlap(turn: int, from_ns: int, to_ns: int, label: str, text: str) -> Overlap:
    return Overlap(turn, from_ns / NS_PER_S, to_ns / NS_PER_S, label, text)


def lanes_of(
    run: RunReport, view: CallView, overlaps: Sequence[Overlap], *, length_s: float, failing_s: float | None
) -> Lanes:
    """Return what lies where on the axis."""

    def x(at_s: float) -> float:
        return percent(at_s, length_s)

    def band(from_s: float, to_s: float, label: str, kind: str = "") -> Band:
        return Band(x(from_s), round(max(x(to_s) - x(from_s), 0.0), 3), label, kind)

    failing = None if run.failure is None else run.failure.turn
    starts = [t.started_s for t in run.turns]
    turns = [
        band(
            turn.started_s,
            following,
            f"Turn {turn.turn + 1}" + (" · failed here" if turn.turn == failing and run.success is False else ""),
            "bad" if turn.turn == failing and run.success is False else ("alt" if index % 2 else ""),
        )
        for index, (turn, following) in enumerate(zip(run.turns, [*starts[1:], length_s], strict=False))
    ]
    answers = [
        band(turn.caller_speech_end_s, turn.agent_onset_s, seconds(turn.response_latency_ms))
        for turn in run.turns
        if turn.caller_speech_end_s is not None
        and turn.agent_onset_s is not None
        and turn.response_latency_ms is not None
    ]
    both = [band(o.from_s, o.to_s, o.label) for o in overlaps]
    return Lanes(
        ticks=list(_ticks(length_s)),
        turns=turns[:MAX_MARKS],
        answers=_with_room(answers),
        overlaps=both[:MAX_MARKS],
        tools=_with_room(list(_tools(view, length_s))),
        checks=list(_checks(run.expectations, length_s))[:MAX_MARKS],
        failing=None if failing_s is None else x(failing_s),
    )


def speech_bands(view: CallView, length_s: float) -> list[Band]:
    """Return where each side speaks by the facts: for a call without its recording."""
    spans = [("a", s.started.at_ns, s.end_or(view.end_ns)) for s in view.speeches]
    for line in view.of(CallerStartedSpeaking):
        end = view.line_end(line.turn)
        spans.append(("c", line.at_ns, view.end_ns if end is None else end.at_ns))
    return [
        Band(
            percent(from_ns / NS_PER_S, length_s),
            round(percent(to_ns / NS_PER_S, length_s) - percent(from_ns / NS_PER_S, length_s), 3),
            "",
            side,
        )
        for side, from_ns, to_ns in spans[:MAX_MARKS]
    ]


def _with_room(bands: list[Band]) -> list[Band]:
    """Return marks, each with the room that its label has before the next one."""
    kept = bands[:MAX_MARKS]
    ends = [*(band.x for band in kept[1:]), 100.0]
    return [
        Band(b.x, b.width, b.label, b.kind, round(max(end - b.x - b.width, 0.0), 3))
        for b, end in zip(kept, ends, strict=False)
    ]


def _tools(view: CallView, length_s: float) -> Iterator[Band]:
    marks = sorted([*view.of(AgentCalledFunction), *view.of(AgentError)], key=lambda e: e.at_ns)
    for fact in marks:
        is_error = isinstance(fact, AgentError)
        label = "error" if is_error else words(fact.name or "a function", _LABEL)
        yield Band(percent(fact.at_s, length_s), 0.0, label, "error" if is_error else "tool")


def _checks(verdicts: Sequence[ExpectationVerdict], length_s: float) -> Iterator[Band]:
    kinds = {Verdict.MET: "pass", Verdict.MISSED: "fail"}
    for verdict in verdicts:
        if verdict.evidence:
            at_s = verdict.evidence[-1].at_s
            kind = kinds.get(verdict.verdict, "unsure")
            yield Band(percent(at_s, length_s), 0.0, verdict.expected, kind)


def _ticks(length_s: float) -> Iterator[Band]:
    step_s = next((step for step in _TICKS_S if length_s / step <= _MOST_TICKS), 1_800)
    for number in range(math.floor(length_s / step_s) + 1):
        at_s = number * step_s
        label = f"{at_s} s" if number == 0 else (str(at_s) if length_s < 120 else f"{at_s // 60}:{at_s % 60:02d}")
        x = percent(at_s, length_s)
        if x < 98:
            yield Band(x, 0.0, label)
