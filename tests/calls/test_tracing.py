"""A run as a trace; traces reach an OTLP endpoint, and hold up nobody."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bots.timeline import AgentJoined, CallEnded, CallStarted, EndedReason, TimelineEvent
from runner.calls import tracing
from runner.calls.spans import Span, report_span, run_span_id, spans_of, trace_id
from runner.calls.tracing import export_report, export_run, is_configured
from runner.evaluation.outcome import Status
from runner.evaluation.turns import TurnMeasures
from tests.doubles.receiver import receiving
from tests.records.outcomes import agent_failed, no_call, outcome

VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED")
S = 1_000_000_000
STARTED_AT = "2026-01-01T10:00:00.000Z"
BEGAN_NS = 1_767_261_600 * S
TURNS = [
    TurnMeasures(turn=0, said="Hello", started_s=1.5, response_latency_ms=800.0),
    TurnMeasures(turn=1, said="my card is 4111", started_s=4.0, talked_over=True),
]


def facts(*, joined_s: float | None = 1.0, ended_s: float = 10.0) -> list[TimelineEvent]:
    first = CallStarted(at_ns=0, run_id="1", scenario="s", room="r", wall_time=STARTED_AT, monotonic_ns=1)
    joined = [] if joined_s is None else [AgentJoined(at_ns=round(joined_s * S))]
    return [first, *joined, CallEnded(at_ns=round(ended_s * S), reason=EndedReason.CALLER_HUNG_UP)]


def times(span: Span) -> tuple[float, float]:
    return (span.start_ns - BEGAN_NS) / S, (span.end_ns - BEGAN_NS) / S


def test_a_run_is_joined_held_and_evaluated() -> None:
    spans = spans_of(outcome(turns=TURNS), facts(), evaluated_ns=12 * S)
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
    # Turns as Pipecat tells them.
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
    # Nothing that was said is in it.
    failed = agent_failed("the agent says 4111: it never did").model_copy(update={"turns": TURNS})
    assert "4111" not in str(spans_of(failed, facts(), evaluated_ns=12 * S))


@pytest.mark.parametrize(
    ("run", "is_error"),
    [(outcome(), False), (agent_failed(), True), (no_call(), True), (outcome(success=None), False)],
)
def test_a_run_that_failed_is_an_error(run: Any, is_error: bool) -> None:
    assert spans_of(run, facts(), evaluated_ns=12 * S)[0].is_error is is_error


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


# Exported.


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    tracing._exporter.cache_clear()
    yield
    tracing._exporter.cache_clear()


def test_a_run_and_its_report_are_one_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url(""))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=planted")
        export_run(agent_failed(), facts(), evaluated_ns=12 * S)
        export_report("1", STARTED_AT, BEGAN_NS + 12 * S)
        exporter = tracing._exporter()
        assert exporter is not None
        exporter.close()
    requests = [ExportTraceServiceRequest.FromString(one.content) for one in collector.received]
    [*of_resources] = [resource for request in requests for resource in request.resource_spans]
    spans = [span for resource in of_resources for scope in resource.scope_spans for span in scope.spans]
    first = collector.received[0]
    assert first.path == "/v1/traces" and first.headers["api-key"] == "planted"
    names = {attribute.key: attribute.value.string_value for attribute in of_resources[0].resource.attributes}
    assert names["service.name"] == "scenario-runner"
    assert [span.name for span in spans][:3] == ["run", "join", "conversation"] and spans[-1].name == "report"
    assert len({span.trace_id for span in spans}) == 1
    root = spans[0]
    assert root.parent_span_id == b"" and spans[-1].parent_span_id == spans[1].parent_span_id == root.span_id
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (BEGAN_NS, BEGAN_NS + 12 * S)
    assert root.status.code == 2 and spans[1].status.code == 0


def test_an_endpoint_that_is_away_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    said: list[str] = []
    sink = logger.add(said.append, level="WARNING", format="{message}")
    exporter = tracing._exporter()
    assert exporter is not None
    # What goes wrong fails no run.
    export_run(agent_failed().model_copy(update={"started_at": "never"}), facts(), evaluated_ns=0)
    began_s = time.monotonic()
    for _ in range(2_500):
        # More than the queue takes; to wait for the endpoint would take a second each.
        export_report("1", STARTED_AT, BEGAN_NS)
    assert time.monotonic() - began_s < 60
    closing_s = time.monotonic()
    exporter.close()
    assert time.monotonic() - closing_s < tracing.AT_EXIT_S + 10
    logger.remove(sink)
    assert len([one for one in said if "can't be exported" in one]) <= 1


@pytest.mark.parametrize(
    ("given", "configured"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_standard_variables_say_where_to(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], configured: bool
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert is_configured() is configured
    if not given:
        # Then nothing is loaded either.
        export_run(agent_failed(), facts(), evaluated_ns=12 * S)
        assert tracing._exporter.cache_info().currsize == 0
