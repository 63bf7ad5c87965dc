"""What was said and done in a call, turn by turn."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bots.timeline import AgentError, CallerHeardAs, Source, TimelineEvent
from runner.calls.run_file import RunReport
from runner.evaluation.transcript import AGENT_ROLE, CALL_ROLE, CALLER_ROLE, RESULT_ROLE, TranscriptEntry
from runner.evaluation.turns import TurnMeasures
from runner.evaluation.verdicts import Verdict
from runner.evaluation.view import CallView
from runner.evaluation.wording import same_words
from runner.reports.html.lanes import Overlap
from runner.reports.html.parts import Part, answer_parts
from runner.reports.html.shown import percent, seconds, words
from runner.text import count

MAX_ROWS = 3_000
"""So many rows are shown of a call; a day of talking has fewer."""

_VALUE_LIMIT = 600


@dataclass(frozen=True)
class Answer:
    """How long the agent took to answer a line.

    Attributes:
        parts: What took the time, with how much of it, in percent.
        width: How long the bar is, in percent of the longest of the call.
    """

    text: str
    parts: list[tuple[Part, float]]
    width: float


@dataclass(frozen=True)
class Row:
    """A row of the transcript.

    Attributes:
        who: ``Caller``, ``Agent``, ``Tool``, ``Error``; empty for a note.
        under: Something about that, such as what the agent understood.
        answer: How long the agent took to answer; of the caller's lines.
    """

    at_s: float
    end_s: float
    who: str
    words: str
    under: list[str] = field(default_factory=list)
    answer: Answer | None = None


@dataclass(frozen=True)
class TurnRows:
    """A turn of the script.

    Attributes:
        number: From 1; 0 for what came before the first.
        flags: What was expected and missed.
    """

    number: int
    note: str
    failed: bool
    rows: list[Row]
    flags: list[str]


def turn_rows(
    run: RunReport, view: CallView, facts: Sequence[TimelineEvent], overlaps: Sequence[Overlap]
) -> list[TurnRows]:
    """Return what was said and done, turn by turn.

    Args:
        facts: The same, with all messages.
        overlaps: Where both sides spoke at once.
    """
    rows = sorted(_rows(run, view, facts, overlaps), key=lambda row: (row.at_s, row.end_s))
    left = len(rows) - MAX_ROWS
    starts = [(turn.started_s, turn.turn) for turn in run.turns]
    grouped: dict[int, list[Row]] = {turn: [] for _, turn in starts}
    for row in rows[:MAX_ROWS]:
        # What an agent says before it is listened to is its greeting.
        first = starts[0][1] if starts else -1
        turn = next((turn for start_s, turn in reversed(starts) if start_s <= row.at_s + 0.0005), first)
        grouped.setdefault(turn, []).append(row)
    if left > 0 and grouped:
        last = next(reversed(grouped))
        grouped[last].append(Row(run.duration_s, run.duration_s, "", f"{count(left, 'more row')} in run.json"))
    return [_turn(run, turn, found) for turn, found in sorted(grouped.items())]


def _turn(run: RunReport, turn: int, rows: list[Row]) -> TurnRows:
    measured = next((t for t in run.turns if t.turn == turn), None)
    failed = run.success is False and run.failure is not None and run.failure.turn == turn
    note = "the caller listens" if measured is not None and measured.said is None else ""
    missed = [
        words(f"Expected: {v.expected}; {v.reason}.", 500)
        for v in run.expectations
        if v.turn == turn and v.verdict is Verdict.MISSED and measured is not None
    ]
    return TurnRows(turn + 1, "failed here" if failed else note, failed, rows, missed[:1])


def _rows(
    run: RunReport, view: CallView, facts: Sequence[TimelineEvent], overlaps: Sequence[Overlap]
) -> Iterator[Row]:
    entries = run.transcript_object
    results = {e.data.get("id"): e for e in entries if e.role == RESULT_ROLE and e.data}
    heard_any = any(e.source is Source.HEARD for e in entries)
    understood = _understood(view)
    longest_ms = max((t.response_latency_ms or 0.0 for t in run.turns), default=0.0)
    by_line = {round(line.at_ns / 1e9, 3): line.turn for turn in view.starts if (line := view.line(turn))}
    measured = {turn.turn: turn for turn in run.turns}
    for entry in entries:
        match entry.role:
            case role if role == CALLER_ROLE:
                turn = by_line.get(entry.start_time, _turn_of(run, entry.start_time))
                under = [f"The agent understood: “{words(text)}”" for text in understood.get(turn, [])]
                took = measured.get(turn)
                answer = None if took is None else _answer(took, facts, longest_ms)
                yield Row(entry.start_time, entry.end_time, "Caller", words(entry.content), under, answer)
            case role if role == AGENT_ROLE:
                under = _told_beside(entry, heard_any=heard_any)
                yield Row(entry.start_time, entry.end_time, "Agent", words(entry.content), under)
            case role if role == CALL_ROLE:
                result = results.pop((entry.data or {}).get("id"), None)
                yield _tool(entry, result)
            case _:
                pass
    for result in results.values():
        yield Row(result.start_time, result.end_time, "Tool", f"{words(result.content)} → {_returned(result)}")
    for error in view.of(AgentError):
        yield Row(error.at_s, error.at_s, "Error", words(error.text))
    for overlap in overlaps:
        yield Row(overlap.from_s, overlap.to_s, "", overlap.text)


def _turn_of(run: RunReport, at_s: float) -> int:
    return max((turn.turn for turn in run.turns if turn.started_s <= at_s + 0.0005), default=-1)


def _understood(view: CallView) -> dict[int, list[str]]:
    """Return what the agent says it understood, by the turn whose line it was."""
    found: dict[int, list[str]] = {}
    for event in view.of(CallerHeardAs):
        turn = view.turn_at(event.at_ns)
        if turn is not None and view.line(turn) is not None:
            texts = found.setdefault(turn, [""])
            texts[0] = f"{texts[0]} {event.text.strip()}".strip()
    return found


def _told_beside(entry: TranscriptEntry, *, heard_any: bool) -> list[str]:
    if entry.source is Source.TOLD:
        return ["reported by the agent, not heard in the recording" if heard_any else "reported by the agent"]
    if entry.told is not None and not same_words(entry.told, entry.content):
        return [f"It reported: “{words(entry.told)}”"]
    return []


def _tool(entry: TranscriptEntry, result: TranscriptEntry | None) -> Row:
    data = entry.data or {}
    arguments: Any = data.get("arguments")
    told = "…" if arguments is None else _pairs(arguments)
    text = f"{words(entry.content or 'a function', 200)}({told})"
    if result is not None:
        text += f" → {_returned(result)}"
    return Row(entry.start_time, entry.end_time, "Tool", text)


def _returned(result: TranscriptEntry) -> str:
    value: Any = (result.data or {}).get("result")
    return words(_pairs(value) if isinstance(value, dict) else repr(value), _VALUE_LIMIT)


def _pairs(values: Mapping[str, Any]) -> str:
    pairs = (f"{key} = {value if isinstance(value, str) else repr(value)}" for key, value in values.items())
    return words(", ".join(pairs), _VALUE_LIMIT)


def _answer(turn: TurnMeasures, facts: Sequence[TimelineEvent], longest_ms: float) -> Answer | None:
    if turn.caller_speech_end_s is None:
        return None
    if turn.response_latency_ms is None:
        why = "The agent was speaking when the line ended." if turn.talked_over else "No answer."
        return Answer(f"Not measured: {words(turn.refused, 300)}" if turn.refused else why, [], 0.0)
    sure = "" if turn.uncertainty_ms is None else f" ± {turn.uncertainty_ms / 1000:.2f} s"
    onset_s = turn.agent_onset_s
    parts = [] if onset_s is None else answer_parts(facts, turn.caller_speech_end_s, onset_s)
    whole_s = sum(part.seconds for part in parts)
    shares = [(part, percent(part.seconds, whole_s)) for part in parts]
    return Answer(
        f"Answered after {seconds(turn.response_latency_ms)}{sure}",
        shares,
        percent(turn.response_latency_ms, longest_ms),
    )
