"""The tracer's webhook: ``/test_framework/v1/pipecat/webhook``."""

import json
from typing import Annotated, Any

from pydantic import JsonValue, StringConstraints
from sqlalchemy import update

from runner.api.auth import AppServices, ProjectId
from runner.api.errors import refusals
from runner.api.routing import CompatRouter
from runner.api.schemas.common import ResponseBody
from runner.records.tables import RunRow, utc_now
from runner.records.written import MAX_ID, JsonObject, RequestBody

MAX_TRACE_BYTES = 1_000_000
"""So much of a trace is kept; the logs go first, then the transcript."""

RUN_ID = "cekura_run_id"

router = CompatRouter("/test_framework/v1/pipecat/webhook", tags=["tracer"])


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


@router.post("/", responses=refusals())
async def take_trace(services: AppServices, project: ProjectId, body: TraceBody) -> TraceTaken:
    """Store what a tracer inside the agent saw with the run whose id the session was started with.

    A trace of a run that is not known is not an error: the agent can't do anything about it.
    """
    run_id = _run_id(body)
    if run_id is None:
        return TraceTaken(run=None, stored=False, detail=f"provider_data.session_params has no {RUN_ID}.")
    trace, truncated = _kept(body, run_id)
    mine = update(RunRow).where(RunRow.id == run_id, RunRow.project_id == project)
    async with services.database.session() as session:
        found = await session.scalar(mine.values(trace=trace).returning(RunRow.id))
    if found is None:
        return TraceTaken(run=None, stored=False, detail=f"There is no run {run_id}.")
    return TraceTaken(run=run_id, stored=True, truncated=truncated)


def _run_id(body: TraceBody) -> int | None:
    """Return the run's id, as a number or as the text that some servers make of it."""
    given = ((body.provider_data.session_params if body.provider_data else None) or {}).get(RUN_ID)
    if isinstance(given, str) and given.isascii() and given.isdigit() and len(given) < 20:
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MAX_ID:
        return None
    return given


def _kept(body: TraceBody, run_id: int) -> tuple[dict[str, Any], bool]:
    """Return what is kept of a trace, and whether something was left out for its size.

    Of the session's parameters only the run's id: the others can hold keys of the agent.
    """
    trace = body.model_dump(mode="json", exclude_none=True)
    provider = trace.get("provider_data", {})
    provider["session_params"] = {RUN_ID: run_id}
    trace["received_at"] = utc_now().isoformat()
    truncated = False
    for part in ("logs", "transcript"):
        if _size(trace) <= MAX_TRACE_BYTES:
            return trace, truncated
        if trace.pop(part, None) is not None:
            truncated = True
    if _size(trace) > MAX_TRACE_BYTES:
        known = ("session_start", "session_end", "trace_id", "received_at")
        trace = {name: trace[name] for name in known if name in trace and _size(trace[name]) <= 1_000}
        truncated = True
    return trace, truncated


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode())
