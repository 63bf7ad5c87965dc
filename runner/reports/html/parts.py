"""What an answer took its time for, where the agent's RTVI metrics say so."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bots.timeline import MessageReceived, TimelineEvent

REST = "the rest"


@dataclass(frozen=True)
class Part:
    """A part of the time until an answer."""

    name: str
    seconds: float


@dataclass(frozen=True)
class _Span:
    name: str
    from_s: float
    to_s: float


_STAGES = (("STT", "recognising"), ("LLM", "thinking"), ("TTS", "making speech"))


def answer_parts(facts: Sequence[TimelineEvent], from_s: float, to_s: float) -> list[Part]:
    """Return the parts of the time between the caller's end and the agent's onset; empty without metrics.

    A metric (time to first byte of a stage, silence at the beginning of the speech) is the span of so many seconds
    before its message arrived. Where two overlap the earlier one keeps the time. What no metric covers is the rest:
    waiting for the end of the caller's turn, buffers, the network.

    Args:
        from_s: When the caller's line ended.
        to_s: When the agent began to speak.
    """
    # The last message may overtake the sound that it is about, or come shortly after it.
    spans = sorted(
        (span for fact in facts if from_s < fact.at_s <= to_s + 0.25 for span in _spans(fact)),
        key=lambda span: (span.from_s, span.to_s),
    )
    taken: dict[str, float] = {}
    at_s = from_s
    for span in spans:
        begin_s, end_s = max(span.from_s, at_s), min(span.to_s, to_s)
        if end_s > begin_s:
            taken[span.name] = taken.get(span.name, 0.0) + end_s - begin_s
            at_s = end_s
    if not taken:
        return []
    rest_s = to_s - from_s - sum(taken.values())
    return [*(Part(name, s) for name, s in taken.items() if s >= 0.005), Part(REST, max(rest_s, 0.0))]


def _spans(fact: TimelineEvent) -> Iterator[_Span]:
    match fact:
        case MessageReceived(message={"type": "metrics", "data": {"ttfa": list() as items}}):
            for item in items:
                if (silence_s := _number(item, "leading_silence")) is not None:
                    # The silence is played after the first byte, of which the message tells.
                    yield _Span("silence before the words", fact.at_s, fact.at_s + silence_s)
        case MessageReceived(message={"type": "metrics", "data": {"ttfb": list() as items}}):
            for item in items:
                name = _stage(item)
                if name is not None and (took_s := _number(item, "value")):
                    yield _Span(name, fact.at_s - took_s, fact.at_s)
        case _:
            pass


def _stage(item: Any) -> str | None:
    processor = item.get("processor") if isinstance(item, dict) else None
    return next((name for stage, name in _STAGES if isinstance(processor, str) and stage in processor), None)


def _number(item: Any, key: str) -> float | None:
    value = item.get(key) if isinstance(item, dict) else None
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 3_600
    return float(value) if usable and isinstance(value, int | float) else None
