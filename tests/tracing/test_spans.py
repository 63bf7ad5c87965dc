"""A run as a trace."""

import pytest

from bots.timeline import AgentJoined, CallEnded, CallStarted, EndedReason, TimelineEvent
from runner.evaluation.outcome import Status
from runner.evaluation.turns import TurnMeasures
from runner.tracing.spans import Span, report_span, run_span_id, spans_of, trace_id
from tests.records.outcomes import agent_failed, no_call, outcome

S = 1_000_000_000
STARTED_AT = "2026-01-01T10:00:00.000Z"
BEGAN_NS = 1_767_261_600 * S


def facts(*, joined_s: float | None = 1.0, ended_s: float = 10.0) -> list[TimelineEvent]:
    first = CallStarted(at_ns=0, run_id="1", scenario="s", room="r", wall_time=STARTED_AT, monotonic_ns=1)
    joined = [] if joined_s is None else [AgentJoined(at_ns=round(joined_s * S))]
    return [first, *joined, CallEnded(at_ns=round(ended_s * S), reason=EndedReason.CALLER_HUNG_UP)]


TURNS = [
    TurnMeasures(turn=0, said="Hello", started_s=1.5, response_latency_ms=800.0),
    TurnMeasures(turn=1, said="my card is 4111", started_s=4.0, talked_over=True),
]


def times(span: Span) -> tuple[float, float]:
    return (span.start_ns - BEGAN_NS) / S, (span.end_ns - BEGAN_NS) / S


def test_a_run_is_joined_held_and_evaluated() -> None:
    run = outcome(turns=TURNS)
    spans = spans_of(run, facts(), evaluated_ns=12 * S)
    assert [(span.name, times(span)) for span in spans] == [
        ("run", (0.0, 12.0)),
        ("join", (0.0, 1.0)),
        ("conversation", (1.0, 10.0)),
        ("turn", (1.5, 4.0)),
        ("turn", (4.0, 10.0)),
        ("evaluation", (10.0, 12.0)),
    ]
    root, join, conversation, first, second, evaluation = spans
    assert root.parent_id is None and root.span_id == run_span_id("1", STARTED_AT)
    assert {join.parent_id, conversation.parent_id, evaluation.parent_id} == {root.span_id}
    assert {first.parent_id, second.parent_id} == {conversation.span_id}
    assert len({span.span_id for span in spans}) == len(spans)


def test_turns_are_told_as_pipecat_tells_them() -> None:
    *_, first, second, _ = spans_of(outcome(turns=TURNS), facts(), evaluated_ns=12 * S)
    assert first.attributes == {
        "turn.number": 1,
        "turn.type": "conversation",
        "turn.duration_seconds": 2.5,
        "turn.was_interrupted": False,
        "turn.user_bot_latency_seconds": 0.8,
        "conversation.id": "1",
        "scenario_runner.turn.index": 0,
    }
    assert second.attributes["turn.was_interrupted"] is True
    assert "turn.user_bot_latency_seconds" not in second.attributes


def test_nothing_that_was_said_is_in_a_trace() -> None:
    run = agent_failed("the agent says 4111: it never did").model_copy(update={"turns": TURNS})
    assert "4111" not in str(spans_of(run, facts(), evaluated_ns=12 * S))


@pytest.mark.parametrize(
    ("run", "is_error"),
    [(outcome(), False), (agent_failed(), True), (no_call(), True), (outcome(success=None), False)],
)
def test_a_run_that_failed_is_an_error(run: object, is_error: bool) -> None:
    root, *_ = spans_of(run, facts(), evaluated_ns=12 * S)  # pyright: ignore[reportArgumentType]
    assert root.is_error is is_error


def test_a_call_that_never_was_has_no_conversation() -> None:
    spans = spans_of(no_call(), facts(joined_s=None, ended_s=3), evaluated_ns=4 * S)
    assert [(span.name, times(span), span.is_error) for span in spans] == [
        ("run", (0.0, 4.0), True),
        ("join", (0.0, 3.0), True),
        ("evaluation", (3.0, 4.0), False),
    ]
    assert spans[0].attributes["scenario_runner.run.status"] == Status.FAILED.value


def test_a_report_is_part_of_the_same_trace() -> None:
    report = report_span("1", STARTED_AT, BEGAN_NS, BEGAN_NS + S)
    assert report.parent_id == run_span_id("1", STARTED_AT) and report.name == "report"
    assert trace_id("1", STARTED_AT) == trace_id("1", STARTED_AT) != trace_id("2", STARTED_AT)
    assert 0 < trace_id("1", STARTED_AT) < 2**128 and 0 < report.span_id < 2**64
