"""Runs: ``/test_framework/v1/runs``."""

import re
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, cast, get_args

from fastapi import Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, TypeAdapter
from sqlalchemy import Select, false, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from runner.api.auth import AppServices, ProjectId, Reader, Reading
from runner.api.errors import BadRequest, NotFound, refusals
from runner.api.paging import Page, PageAsked, absolute_url
from runner.api.routes.results import ids_of
from runner.api.routing import CompatRouter
from runner.api.schemas import runs as schemas
from runner.api.schemas.common import PathId, QueryId, Search, Words
from runner.api.streaming import enclosed, in_pieces, sharing_of, streamed
from runner.errors import UsageError
from runner.records.filters import holds_any, words_of
from runner.records.results import select_runs
from runner.records.runs import request_cancel
from runner.records.store import ArtefactMissing, artefact_key
from runner.records.tables import ResultRow, RunRow

PATH = "/test_framework/v1/runs"

router = CompatRouter(PATH, "/test_framework/v1/runs-external", tags=["runs"])

PIECE = 20
"""How many runs are read and sent at once: with all that was said, some hundred kB."""

_RUN = TypeAdapter(schemas.Run)

_RANGE = re.compile(r"bytes=(?:(?P<first>\d{1,18})-(?P<last>\d{0,18})|-(?P<suffix>\d{1,18}))", re.ASCII)
_CLOCK = re.compile(r"(?P<minutes>\d{1,6}):(?P<seconds>\d{2})", re.ASCII)
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)

_TYPES = {".wav": "audio/wav", ".jsonl": "application/x-ndjson", ".json": "application/json", ".log": "text/plain"}
_ANYTHING = "application/octet-stream"
"""Everything else: a page of somebody else's, say, would run here with this server's rights."""

AnyStatus = Literal[
    "running", "completed", "failed", "pending", "in_progress", "evaluating", "in_queue", "timeout", "cancelled",
    "scaling_up",
]  # fmt: skip
"""Every status there is at Cekura. Here no run is ever in some of them."""

DurationText = Annotated[str | None, Query(max_length=20, description="Seconds, or MM:SS.")]
Moment = Annotated[AwareDatetime | None, Query(description="ISO 8601, with its time zone.")]


@router.get("/", response_model=Page[schemas.Run], responses=refusals(404))
async def list_runs(
    request: Request,
    services: AppServices,
    reader: Reader,
    paging: PageAsked,
    result_id: QueryId = None,
    agent_id: QueryId = None,
    project_id: QueryId = None,
    id__in: Words = None,
    status: Annotated[AnyStatus | None, Query()] = None,
    status__in: Words = None,
    success: Annotated[bool | None, Query()] = None,
    timestamp__gte: Moment = None,
    timestamp__lte: Moment = None,
    duration__gte: DurationText = None,
    duration__lte: DurationText = None,
    scenario__id: QueryId = None,
    personality__id: QueryId = None,
    tags: Words = None,
    search: Search = None,
    call_ended_reason: Annotated[str | None, Query(max_length=1_000)] = None,
    call_ended_reason__in: Words = None,
    call_ended_reason__icontains: Annotated[str | None, Query(max_length=1_000)] = None,
) -> Response:
    """List runs, the latest first. Also open to whoever has a link to their result."""
    statuses = [*words_of(status__in), *([status] if status is not None else [])]
    reasons = [*words_of(call_ended_reason__in), *([call_ended_reason] if call_ended_reason else [])]
    wanted = select_runs(
        reader.project_id,
        result_id=result_id or reader.result_id,
        agent_id=agent_id,
        scenario_id=scenario__id,
        personality_id=personality__id,
        ids=ids_of(id__in, "id__in") if id__in else None,
        statuses=_statuses(statuses) or None,
        success=success,
        since=timestamp__gte,
        until=timestamp__lte,
        shortest_s=_seconds(duration__gte, "duration__gte"),
        longest_s=_seconds(duration__lte, "duration__lte"),
        search=search,
        ended_reasons=reasons or None,
        ended_reason_holds=call_ended_reason__icontains,
    )
    statement = _narrowed(wanted, reader)
    if project_id not in (None, reader.project_id):
        statement = statement.where(false())
    if labels := words_of(tags):
        statement = statement.where(holds_any(cast(Any, RunRow.snapshot["tags"]), labels))
    # What the runs came to is read of those on the page alone, and while they are sent.
    only_ids = statement.with_only_columns(RunRow.id)
    ids, count = await services.database.browse(lambda session: paging.select(session, only_ids))
    return await streamed(enclosed(paging.opening(count), _whole_runs(request, services, reader, ids), b"]}"))


@router.get("/bulk/", response_model=list[schemas.Run], responses=refusals(404))
async def bulk(
    request: Request,
    services: AppServices,
    reader: Reader,
    ids: Annotated[str | None, Query(max_length=20_000, description="Ids, separated by commas.")] = None,
    run_ids: Annotated[str | None, Query(max_length=20_000, description="The same, as it was once called.")] = None,
) -> Response:
    """Show several runs, in the order asked for; those that are not there are left out."""
    asked = (("ids", ids), ("run_ids", run_ids))
    wanted = list(dict.fromkeys(number for name, text in asked if text for number in ids_of(text, name)))
    if not wanted:
        raise BadRequest({"run_ids": ["This field is required."]})
    return await streamed(enclosed(b"[", _whole_runs(request, services, reader, wanted), b"]"))


@router.get("/{id}/", response_model=schemas.Run, responses=refusals(404))
async def get_run(request: Request, services: AppServices, reader: Reader, id: PathId) -> Response:
    """Show a run. Also open to whoever has a link to its result."""
    found = await anext(_whole_runs(request, services, reader, [id]))
    if not found:
        raise NotFound
    return Response(found[0], media_type="application/json")


@router.post("/{id}/end_call/", response_class=Response, responses=refusals(404))
async def end_call(services: AppServices, project: ProjectId, id: PathId) -> Response:
    """End a call: at once if it has not begun, within two seconds if it is on. One that is over stays as it is."""
    async with services.database.session() as session:
        await find_run(session, Reading(project), id)
        await session.run_sync(request_cancel, [id])
    return Response(status_code=200)


@router.get("/{id}/trace/", responses=refusals(404))
async def get_trace(services: AppServices, reader: Reader, id: PathId) -> schemas.Trace:
    """Show what a tracer inside the agent sent of a run."""
    async with services.database.reading() as session:
        run = await find_run(session, reader, id)
    if not run.trace:
        raise NotFound("No trace was recorded for this run.")
    trace = dict(run.trace)
    trace_id, spans = trace.pop("trace_id", None), trace.pop("spans", None)
    return schemas.Trace(
        trace_id=trace_id if isinstance(trace_id, str) else None,
        spans=spans if isinstance(spans, list) else [],
        session=trace,
    )


_BYTES: dict[str, Any] = {"content": {kind: {} for kind in sorted({*_TYPES.values(), _ANYTHING})}}
Name = Annotated[str, Path(max_length=200, description="Such as recording.wav, timeline.jsonl or run.json.")]


@router.get(
    "/{id}/artefacts/{name}/",
    response_class=StreamingResponse,
    responses={
        **refusals(404),
        200: {**_BYTES, "description": "The whole of it."},
        206: {**_BYTES, "description": "The range that was asked for."},
        416: {"description": "The range lies beyond the end."},
    },
)
async def get_artefact(request: Request, services: AppServices, reader: Reader, id: PathId, name: Name) -> Response:
    """Give out what is kept of a call. A single range of bytes can be asked for, as players do that seek."""
    return await artefact(request, services, reader, id, name)


@router.api_route("/{id}/artefacts/{name}/", methods=["HEAD"], include_in_schema=False)
async def head_artefact(request: Request, services: AppServices, reader: Reader, id: PathId, name: Name) -> Response:
    """Say how large what is kept of a call is."""
    return await artefact(request, services, reader, id, name, with_body=False)


async def find_run(session: AsyncSession, reader: Reading, run_id: int) -> RunRow:
    """Return a run that a reader may see.

    Raises:
        NotFound: There is none.
    """
    statement = select(RunRow).where(RunRow.project_id == reader.project_id, RunRow.id == run_id)
    row = await session.scalar(_narrowed(statement, reader))
    if row is None:
        raise NotFound
    return row


async def artefact(
    request: Request, services: AppServices, reader: Reading, run_id: int, name: str, *, with_body: bool = True
) -> Response:
    """Return an artefact as an answer: the whole of it, or the range that is asked for.

    Raises:
        NotFound: The reader sees no such run, or nothing of that name is kept of it.
    """
    async with services.database.reading() as session:
        run = await find_run(session, reader, run_id)
    if name not in run.kept:
        raise NotFound
    try:
        key = artefact_key(run_id, name, run.attempt)
    except UsageError:
        raise NotFound from None
    size = await services.store.size(key)
    if size is None:
        raise NotFound("It is not kept any more.")
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": f'"{run_id}-{run.attempt}-{size}"',
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private",
    }
    span = _span(request, size, headers["ETag"])
    if span is None:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    first, end = span
    partial = span != (0, size)
    if partial:
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - first)
    status, kind = (206 if partial else 200), _TYPES.get(PurePosixPath(name).suffix.lower(), _ANYTHING)
    if not with_body or first == end:
        return Response(status_code=status, headers=headers, media_type=kind)
    pieces = services.store.get(key, first, end if partial else None)
    try:
        # The first piece before the headers: what is gone by now is a 404, and no broken answer.
        return await streamed(pieces, headers, status=status, kind=kind)
    except ArtefactMissing:
        raise NotFound("It is not kept any more.") from None


def _span(request: Request, size: int, etag: str) -> tuple[int, int] | None:
    """Return the first of the bytes that are asked for, and where they end; None if they lie beyond the end.

    What is no single range of bytes, or was meant for another version, is answered with the whole (RFC 9110, 14.2).
    """
    asked = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if asked is None or request.headers.get("if-range", etag) != etag:
        return 0, size
    if asked["suffix"] is not None:
        length = min(int(asked["suffix"]), size)
        return (size - length, size) if length else None
    first, last = int(asked["first"]), int(asked["last"] or size - 1)
    if asked["last"] and last < first:
        return 0, size
    return (first, min(last, size - 1) + 1) if first < size else None


def _narrowed(statement: Select[RunRow], reader: Reading) -> Select[RunRow]:
    return statement if reader.result_id is None else statement.where(RunRow.result_id == reader.result_id)


async def _whole_runs(
    request: Request, services: AppServices, reader: Reading, ids: Sequence[int]
) -> AsyncGenerator[list[bytes]]:
    """Yield runs as JSON, in the order of their ids; without those that the reader may not see."""
    base = absolute_url(request, PATH)
    database, sharing = services.database, sharing_of(request.app)
    for number, some in enumerate(in_pieces(ids, PIECE)):

        def read(session: Session, some: Sequence[int] = some) -> list[bytes]:
            statement = select(RunRow).where(RunRow.project_id == reader.project_id, RunRow.id.in_(some))
            rows = {row.id: row for row in session.scalars(_narrowed(statement, reader))}
            runs = _shown(session, [rows[run_id] for run_id in some if run_id in rows], base)
            return [_RUN.dump_json(run) for run in runs]

        key = ("runs", reader, base, tuple(some))
        yield await sharing.read(key, partial(database.browse, read, refuses=not number))


def _shown(session: Session, rows: Sequence[RunRow], base: str) -> list[schemas.Run]:
    ids = {row.result_id for row in rows}
    found = session.execute(
        select(ResultRow.id, ResultRow.name, ResultRow.agent_name, ResultRow.run_type).where(ResultRow.id.in_(ids))
    )
    results = {row.id: row for row in found}
    return [
        schemas.run(
            row,
            result_name=results[row.result_id].name,
            agent_name=results[row.result_id].agent_name,
            run_type=results[row.result_id].run_type,
            artefacts={name: f"{base}/{row.id}/artefacts/{name}" for name in sorted(row.kept)},
        )
        for row in rows
    ]


def _statuses(texts: Sequence[str]) -> list[str]:
    known = get_args(AnyStatus)
    if any(text not in known for text in texts):
        raise BadRequest({"status__in": [f"Not a valid choice; they are {', '.join(known)}."]})
    return list(texts)


def _seconds(text: str | None, name: str) -> float | None:
    if not text:
        return None
    if clock := _CLOCK.fullmatch(text):
        return int(clock["minutes"]) * 60.0 + int(clock["seconds"])
    if not _SECONDS.fullmatch(text):
        raise BadRequest({name: ["Expected seconds, or MM:SS."]})
    return float(text)
