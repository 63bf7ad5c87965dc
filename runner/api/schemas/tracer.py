"""What a tracer inside the agent sends."""

from typing import Annotated

from pydantic import JsonValue, StringConstraints

from runner.api.schemas.common import ResponseBody
from runner.records.written import JsonObject, RequestBody

_Text = Annotated[str, StringConstraints(max_length=1_000)]


class ProviderData(RequestBody):
    """Where the session came from; ``session_params`` is the body it was started with."""

    session_id: JsonValue = None
    session_params: JsonObject | None = None
    custom_metadata: JsonValue = None


class TraceBody(RequestBody):
    """What ``cekura.pipecat.PipecatTracer`` posts at the end of a session."""

    session_id: JsonValue = None
    session_start: JsonValue = None
    session_end: JsonValue = None
    transcript: list[JsonValue] | None = None
    agent_id: JsonValue = None
    sdk_version: JsonValue = None
    sdk_language: JsonValue = None
    provider_data: ProviderData | None = None
    trace_id: _Text | None = None
    logs: list[JsonValue] | None = None


class TraceTaken(ResponseBody):
    """What became of a trace.

    Attributes:
        run: The run it was stored with; null where it names none.
        stored: Whether it was stored.
        truncated: Whether parts of it were left out for their size.
        detail: Why it was not stored.
    """

    run: int | None
    stored: bool
    truncated: bool = False
    detail: str | None = None
