"""The transcript of a call, in the shape of Cekura's ``transcript_object``."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from bots.clock import NS_PER_MS, NS_PER_S
from bots.timeline import (
    AgentCalledFunction,
    AgentFunctionReturned,
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    AgentTurnEnded,
    CallerPressedKeys,
    CallerStartedSpeaking,
    Source,
)
from runner.evaluation.view import CallView

CALLER_ROLE = "Testing Agent"
AGENT_ROLE = "Main Agent"
CALL_ROLE = "Function Call"
RESULT_ROLE = "Function Call Result"

TOLD_SLACK_NS = 2 * NS_PER_S
"""What an agent tells arrives before, while or shortly after it is heard."""

WORD_NS = 300 * NS_PER_MS
"""What is shorter holds no word that would be missed."""


class TranscriptEntry(BaseModel):
    """One entry. Times are seconds from the beginning of the call; ``time`` is ``MM:SS``."""

    model_config = ConfigDict(frozen=True)

    role: str
    content: str
    time: str
    start_time: float
    end_time: float
    source: Source | None = None
    """Ours: where an agent's words come from."""
    told: str | None = None
    """Ours: what the agent says it said, where the content is what was heard."""
    data: dict[str, Any] | None = None
    """Function calls: ``id``, ``name`` and ``arguments`` or ``result``."""


def transcribe_call(view: CallView) -> list[TranscriptEntry]:
    """Return what was said, pressed and called, ordered by when it began."""
    entries = [*_caller(view), *_agent(view), *_functions(view)]
    return sorted(entries, key=lambda entry: (entry.start_time, entry.end_time))


def agent_turns(view: CallView) -> list[tuple[int, int]]:
    """Return the agent's turns as ``(onset, end)`` of its speech, in nanoseconds, ordered.

    A turn is all it says until the caller takes it to be over: pauses between sentences do not end it. One still
    open at the end of the call ends with its last speech, or with the last fact where that never stopped.
    """
    turns: list[tuple[int, int]] = []
    onset_ns: int | None = None
    end_ns: int | None = None
    for event in view.facts:
        match event:
            case AgentStartedSpeaking():
                onset_ns = event.at_ns if onset_ns is None else onset_ns
                end_ns = None
            case AgentStoppedSpeaking():
                end_ns = event.at_ns
            case AgentTurnEnded() if onset_ns is not None and end_ns is not None:
                turns.append((onset_ns, end_ns))
                onset_ns = end_ns = None
            case _:
                pass
    if onset_ns is not None:
        turns.append((onset_ns, view.last_ns if end_ns is None else end_ns))
    return turns


def unrecognised(view: CallView, recognised: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the stretches of the agent's turns that were not recognised yet, as ``(onset, end)``, ordered."""
    stretches: list[tuple[int, int]] = []
    for onset_ns, end_ns in agent_turns(view):
        pieces = [
            piece
            for s in view.speeches
            if onset_ns <= s.started.at_ns < end_ns
            for piece in _uncovered(s.started.at_ns, min(s.end_or(end_ns), end_ns), recognised)
        ]
        for piece in pieces:
            before = stretches[-1] if stretches and stretches[-1][0] >= onset_ns else None
            # Nothing between two pieces of a turn was recognised: they are one.
            if before is not None and not any(a < piece[0] and b > before[1] for a, b in recognised):
                stretches[-1] = (before[0], piece[1])
            else:
                stretches.append(piece)
    return stretches


def _uncovered(from_ns: int, to_ns: int, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the parts of a stretch that lie in no span, and are long enough for a word."""
    parts: list[tuple[int, int]] = []
    at_ns = from_ns
    for onset_ns, end_ns in sorted(spans):
        if onset_ns < to_ns and end_ns > at_ns:
            parts.append((at_ns, onset_ns))
            at_ns = max(at_ns, end_ns)
    parts.append((at_ns, to_ns))
    return [(begin_ns, end_ns) for begin_ns, end_ns in parts if end_ns - begin_ns >= WORD_NS]


def _caller(view: CallView) -> list[TranscriptEntry]:
    lines = ((line, view.line_end(line.turn) or line) for line in view.of(CallerStartedSpeaking))
    return [
        *(_entry(CALLER_ROLE, line.text, line.at_ns, end.at_ns) for line, end in lines),
        *(_entry(CALLER_ROLE, f"[keys] {keys.keys}", keys.at_ns) for keys in view.of(CallerPressedKeys)),
    ]


def _agent(view: CallView) -> list[TranscriptEntry]:
    heard = [e for e in view.said(Source.HEARD) if e.text]
    told = view.said(Source.TOLD)
    if not heard:
        return [_entry(AGENT_ROLE, e.text, e.at_ns, source=Source.TOLD) for e in told]
    entries: list[TranscriptEntry] = []
    remaining = list(told)
    for index, event in enumerate(heard):
        start_ns = event.at_ns if event.started_ns is None else event.started_ns
        next_start_ns = heard[index + 1].started_ns if index + 1 < len(heard) else None
        until_ns = event.at_ns + TOLD_SLACK_NS
        until_ns = until_ns if next_start_ns is None else min(until_ns, next_start_ns)
        mine = [e for e in remaining if e.at_ns < until_ns]
        remaining = remaining[len(mine) :]
        told_text = " ".join(e.text for e in mine) or None
        entries.append(_entry(AGENT_ROLE, event.text, start_ns, event.at_ns, source=Source.HEARD, told=told_text))
    # Told and never heard: nothing of it is lost.
    return [*entries, *(_entry(AGENT_ROLE, e.text, e.at_ns, source=Source.TOLD) for e in remaining)]


def _functions(view: CallView) -> list[TranscriptEntry]:
    entries: list[TranscriptEntry] = []
    for event in view.of(AgentCalledFunction):
        data = {"id": event.call_id, "name": event.name, "arguments": event.arguments}
        entries.append(_entry(CALL_ROLE, event.name or "", event.at_ns, data=data))
    for event in view.of(AgentFunctionReturned):
        data = {"id": event.call_id, "name": event.name, "result": event.result}
        entries.append(_entry(RESULT_ROLE, event.name or "", event.at_ns, data=data))
    return entries


def _entry(role: str, content: str, start_ns: int, end_ns: int | None = None, **more: Any) -> TranscriptEntry:
    start_s = start_ns // NS_PER_S
    return TranscriptEntry(
        role=role,
        content=content,
        time=f"{start_s // 60:02d}:{start_s % 60:02d}",
        start_time=round(start_ns / NS_PER_S, 3),
        end_time=round((start_ns if end_ns is None else end_ns) / NS_PER_S, 3),
        **more,
    )
