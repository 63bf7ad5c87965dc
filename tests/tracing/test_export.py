"""Traces reach an OTLP endpoint, and hold up nobody."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from loguru import logger
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from runner.tracing import export
from runner.tracing.export import export_report, export_run, is_configured
from tests.records.outcomes import agent_failed
from tests.tracing.test_spans import BEGAN_NS, STARTED_AT, S, facts

VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED")


class Collector:
    """What an OTLP endpoint was sent."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], ExportTraceServiceRequest]] = []
        self.url = ""

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for _, _, request in self.requests
            for of_resource in request.resource_spans
            for scope in of_resource.scope_spans
            for span in scope.spans
        ]


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class _Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            request = ExportTraceServiceRequest.FromString(content)
            collector.requests.append((self.path, dict(self.headers), request))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    export._exporter.cache_clear()
    yield
    export._exporter.cache_clear()


def test_a_run_and_its_report_are_one_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=planted")
        export_run(agent_failed(), facts(), evaluated_ns=12 * S)
        export_report("1", STARTED_AT, BEGAN_NS + 12 * S)
        exporter = export._exporter()
        assert exporter is not None
        exporter.close()
        path, headers, request = collector.requests[0]
        spans = collector.spans
    assert path == "/v1/traces" and headers["api-key"] == "planted"
    names = {
        attribute.key: attribute.value.string_value for attribute in request.resource_spans[0].resource.attributes
    }
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
    export_report("1", STARTED_AT, BEGAN_NS)
    exporter = export._exporter()
    assert exporter is not None
    began_s = time.monotonic()
    for _ in range(2_500):
        # More than the queue takes; to wait for the endpoint would take a second each.
        export_report("1", STARTED_AT, BEGAN_NS)
    assert time.monotonic() - began_s < 60
    closing_s = time.monotonic()
    exporter.close()
    assert time.monotonic() - closing_s < export.AT_EXIT_S + 10
    logger.remove(sink)
    assert len([one for one in said if "can't be exported" in one]) <= 1


def test_what_goes_wrong_fails_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    export_run(agent_failed().model_copy(update={"started_at": "never"}), facts(), evaluated_ns=0)


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


def test_without_them_nothing_is_loaded() -> None:
    export_run(agent_failed(), facts(), evaluated_ns=12 * S)
    assert export._exporter.cache_info().currsize == 0
