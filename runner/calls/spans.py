"""The spans of a run: pure functions of its facts and its outcome.

They hold figures and names, and nothing that was said. ``conversation`` and ``turn`` are called as Pipecat's own
tracing calls them (:mod:`pipecat.utils.tracing.turn_trace_observer`), with its attributes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from bots.timeline import AgentJoined, CallEnded, TimelineEvent
from runner.calls.run_file import Run
from runner.evaluation.outcome import Status
from runner.evaluation.turns import TurnMeasures

Value = str | bool | int | float

RUN, JOIN, CONVERSATION, TURN = "run", "join", "conversation", "turn"
EVALUATION, REPORT = "evaluation", "report"

MAX_TURNS = 500
"""How many turns of a run are spans."""

_S = 1_000_000_000


@dataclass(frozen=True)
class Span:
    name: str
    span_id: int
    parent_id: int | None
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Value] = field(default_factory=dict[str, Value])
    is_error: bool = False


def trace_id(run_id: str, started_at: str) -> int:
    """Return the id of the trace of a call: always the same."""
    return _id("trace", run_id, started_at) or 1


def run_span_id(run_id: str, started_at: str) -> int:
    """Return the id of its first span."""
    return _span_id(run_id, started_at, RUN, 0)


def spans_of(run: Run, facts: Sequence[TimelineEvent], *, evaluated_ns: int) -> list[Span]:
    """Return the spans of a run, the first one being all of it; it had been evaluated so long into its call."""
    epoch_ns = epoch(run.started_at)
    joined = next((fact.at_ns for fact in facts if isinstance(fact, AgentJoined)), None)
    ended = next((fact.at_ns for fact in facts if isinstance(fact, CallEnded)), evaluated_ns)
    evaluated_ns = max(ended, evaluated_ns)
    root = run_span_id(run.id, run.started_at)

    def span(
        name: str,
        start_ns: int,
        end_ns: int,
        attributes: Mapping[str, Value] | None = None,
        *,
        of: int | None = root,
        number: int = 0,
        is_error: bool = False,
    ) -> Span:
        own = _span_id(run.id, run.started_at, name, number)
        return Span(name, own, of, epoch_ns + start_ns, epoch_ns + max(start_ns, end_ns), attributes or {}, is_error)

    spans = [
        span(RUN, 0, evaluated_ns, _of_run(run), of=None, is_error=_went_wrong(run)),
        span(JOIN, 0, ended if joined is None else joined, is_error=joined is None),
    ]
    if joined is not None:
        conversation = span(CONVERSATION, joined, ended, {"conversation.id": run.id, "conversation.type": "voice"})
        spans.append(conversation)
        turns = sorted(run.turns, key=lambda turn: turn.started_s)[:MAX_TURNS]
        # A turn lasts until the next one.
        ends_ns = [*(round(turn.started_s * _S) for turn in turns[1:]), ended]
        for number, (turn, end_ns) in enumerate(zip(turns, ends_ns, strict=False), start=1):
            start_ns = round(turn.started_s * _S)
            about = _of_turn(run, turn, number, (max(start_ns, end_ns) - start_ns) / _S)
            spans.append(span(TURN, start_ns, end_ns, about, of=conversation.span_id, number=number))
    spans.append(span(EVALUATION, ended, evaluated_ns))
    return spans


def report_span(run_id: str, started_at: str, start_ns: int, end_ns: int) -> Span:
    """Return the span of a run's being reported, from when it was handed in until the record had it (since 1970)."""
    own, root = _span_id(run_id, started_at, REPORT), run_span_id(run_id, started_at)
    return Span(REPORT, own, root, start_ns, max(start_ns, end_ns))


def epoch(started_at: str) -> int:
    """Return a time that a run has, in nanoseconds since 1970."""
    return round(datetime.fromisoformat(started_at).timestamp() * 1_000) * 1_000_000


def _went_wrong(run: Run) -> bool:
    return run.success is False or run.status is Status.FAILED


def _of_run(run: Run) -> dict[str, Value]:
    known = {
        "run.id": run.id,
        "run.status": run.status.value,
        "run.success": run.success,
        "run.cause": None if run.cause is None else run.cause.value,
        "run.ended_reason": run.call_ended_reason,
        "scenario.name": run.scenario,
        "room.url": run.room,
    }
    return {f"scenario_runner.{name}": value for name, value in known.items() if value is not None}


def _of_turn(run: Run, turn: TurnMeasures, number: int, duration_s: float) -> dict[str, Value]:
    about: dict[str, Value] = {
        "turn.number": number,
        "turn.type": "conversation",
        "turn.duration_seconds": duration_s,
        "turn.was_interrupted": turn.talked_over,
        "conversation.id": run.id,
        "scenario_runner.turn.index": turn.turn,
    }
    if turn.response_latency_ms is not None:
        about["turn.user_bot_latency_seconds"] = turn.response_latency_ms / 1_000
    return about


def _span_id(*parts: str | int) -> int:
    return (_id("span", *parts) >> 64) or 1


def _id(*parts: str | int) -> int:
    return int.from_bytes(hashlib.sha256("\n".join(map(str, parts)).encode()).digest()[:16])
