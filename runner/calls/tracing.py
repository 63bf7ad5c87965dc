"""Exports spans over OTLP, where the standard environment variables say where to (``OTEL_EXPORTER_OTLP_ENDPOINT``).

It happens in a thread, out of a queue that is bounded: nobody waits for it, and what does not fit is left out. At the
end of the process what is left gets a moment.
"""

import atexit
import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import anyio.to_thread
from loguru import logger

from bots.timeline import TimelineEvent
from runner.calls.run_file import Run
from runner.calls.spans import Span, report_span, run_span_id, spans_of, trace_id

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
SERVICE = "scenario-runner"

AT_EXIT_S = 5.0
"""How long the end of a process waits for what is not exported yet."""


def is_configured() -> bool:
    """Return whether the environment says where to export to, and does not say not to."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() != "otlp":
        return False
    return any(os.environ.get(name, "").strip() for name in ENDPOINTS)


async def load() -> None:
    """Load what it takes, where it is configured: once calls are on, that would hold them up."""
    if is_configured():
        await anyio.to_thread.run_sync(_exporter)


def export_run(run: Run, facts: Sequence[TimelineEvent], *, evaluated_ns: int) -> None:
    """Export a run as a trace, where that is configured. Does not fail, and does not wait."""
    if is_configured():
        _export(run.id, run.started_at, lambda: spans_of(run, facts, evaluated_ns=evaluated_ns))


def export_report(run_id: str, started_at: str, start_ns: int) -> None:
    """Export that a run was reported: from ``start_ns``, since 1970, until now. Does not fail or wait, as above."""
    if is_configured():
        _export(run_id, started_at, lambda: [report_span(run_id, started_at, start_ns, time.time_ns())])


def _export(run_id: str, started_at: str, make: Any) -> None:
    try:
        exporter = _exporter()
        if exporter is not None:
            exporter.put(trace_id(run_id, started_at), run_span_id(run_id, started_at), make())
    except Exception as error:
        logger.opt(exception=True).warning("run {}: its trace can't be made ({})", run_id, type(error).__name__)


@cache
def _exporter() -> "Exporter | None":
    try:
        return Exporter()
    except ImportError:
        logger.warning("traces are not exported: install the runner again with the extra 'otel' added")
    return None


class Exporter:
    """Gives spans to the SDK; by default for OTLP over HTTP, as the environment says.

    Raises:
        ImportError: The SDK is not installed.
    """

    def __init__(self, exporter: Any = None):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

        self._ids = ids = _Ids()

        class Given(RandomIdGenerator):
            """Gives out the ids that are set: the SDK asks for them when a span begins."""

            def generate_trace_id(self) -> int:
                return ids.trace

            def generate_span_id(self) -> int:
                return ids.span

        # What goes wrong is said once, by ourselves.
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
        logging.getLogger("opentelemetry").propagate = False
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: SERVICE}
        provider = TracerProvider(resource=Resource.create(named), id_generator=Given(), shutdown_on_exit=False)
        self._processor = BatchSpanProcessor(cast(Any, _Telling(exporter or OTLPSpanExporter())))
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer(SERVICE)
        self._lock = threading.Lock()
        atexit.register(self.close)

    def put(self, trace: int, root: int, spans: Sequence[Span]) -> None:
        """Export spans of a trace; its first one, the root, may be exported apart."""
        from opentelemetry import trace as api
        from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags

        with self._lock:
            for span in spans:
                self._ids.trace, self._ids.span = trace, span.span_id
                parent = SpanContext(trace, span.parent_id or root, is_remote=False, trace_flags=TraceFlags(1))
                context = (
                    api.set_span_in_context(NonRecordingSpan(parent)) if span.parent_id is not None else api.Context()
                )
                made = self._tracer.start_span(
                    span.name, context=context, attributes=span.attributes, start_time=span.start_ns
                )
                if span.is_error:
                    made.set_status(Status(StatusCode.ERROR))
                made.end(span.end_ns)

    def close(self) -> None:
        """Export what is left, for a moment at most."""
        last = threading.Thread(target=self._processor.shutdown, daemon=True)
        last.start()
        last.join(AT_EXIT_S)


@dataclass
class _Ids:
    """The ids of the span that begins."""

    trace: int = 1
    span: int = 1


class _Telling:
    """An exporter that says once that it fails."""

    def __init__(self, exporter: Any):
        self._exporter = exporter
        self._has_told = False

    def export(self, spans: Any) -> Any:
        from opentelemetry.sdk.trace.export import SpanExportResult

        try:
            result = self._exporter.export(spans)
        except Exception:
            result = SpanExportResult.FAILURE
        if result is not SpanExportResult.SUCCESS and not self._has_told:
            self._has_told = True
            logger.warning("traces can't be exported to the OTLP endpoint; runs go on without")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return bool(self._exporter.force_flush(timeout_millis))
