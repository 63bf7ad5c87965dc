"""What workers tell the record: ``/worker/v1/runs``. Only a worker's key may."""

import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Path, Query, Request, Response
from fastapi.routing import APIRoute
from sqlalchemy import select

from bots.timeline import EndedReason
from runner.api.auth import AppServices, WorkerKey
from runner.api.errors import BadRequest, Conflict, NotFound, TooLarge, refusals
from runner.api.routes.events import live_timelines
from runner.api.routing import CompatRouter
from runner.api.schemas import worker as schemas
from runner.api.schemas.query import PathId
from runner.api.services import Services
from runner.errors import UsageError
from runner.evaluation.outcome import Cause
from runner.records.runs import (
    Claimed,
    Job,
    RunProblem,
    add_artefact,
    claim,
    fail,
    finish,
    give_up,
    look_at,
    progress,
    read_outcome,
    storable,
)
from runner.records.statuses import FINAL_RUN, RunStatus
from runner.records.store import ArtefactTooLarge, artefact_key
from runner.records.tables import RunRow, utc_now
from runner.rooms.allowed import RoomGuard, RoomRefused


class _ReportRequest(Request):
    """A request whose body holds what an agent said and did: what can't be stored is replaced, and not refused."""

    async def json(self) -> Any:
        """Return the body.

        Raises:
            ValueError: It is no JSON.
        """
        return storable(json.loads(await self.body()))


class _ReportRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what handles a request."""
        handle = super().get_route_handler()

        async def leniently(request: Request) -> Response:
            return await handle(_ReportRequest(request.scope, request.receive))

        return leniently


router = CompatRouter("/worker/v1/runs", tags=["worker"])
router.route_class = _ReportRoute

ATTEMPT = Query(ge=1, le=2**31 - 1, description="The attempt this is of.")
Attempt = Annotated[int, ATTEMPT]
ArtefactName = Annotated[str, Path(max_length=200)]


@router.post("/{id}/claim/", responses=refusals(404, 409))
async def claim_run(services: AppServices, key: WorkerKey, id: PathId, body: schemas.ClaimBody) -> schemas.JobBody:
    """Take a run on. 409: it has ended, or was cancelled."""
    try:
        async with services.database.session() as session:
            job = await claim(session, services.vault, id, body.executor)
    except UsageError as error:
        # Not by another worker either: the record's key is not the one that things were encrypted with.
        await _give_up_claim(services, id, str(error), Cause.HARNESS, EndedReason.RUNNER_ERROR)
        raise Conflict("The run has ended.") from None
    if job is None:
        await _state(services, id)
        raise Conflict("The run has ended.")
    refusal = await _refusal(services, job)
    if refusal is not None:
        await _give_up_claim(services, id, refusal, Cause.ROOM, EndedReason.ROOM_UNREACHABLE)
        raise Conflict("The run has ended: its room is not allowed.")
    return schemas.JobBody.of(job)


@router.post("/{id}/progress/", responses=refusals(404, 409))
async def report_progress(
    services: AppServices, key: WorkerKey, id: PathId, body: schemas.ProgressBody
) -> schemas.Cancelling:
    """Say how far a run has come. 409: another attempt is under way."""
    joined_at = utc_now() if body.joined else None
    async with services.database.session() as session:
        await progress(session, id, body.attempt, RunStatus(body.status), joined_at)
    state = await _state(services, id, body.attempt)
    return schemas.Cancelling(cancel_requested=state.cancel_requested or state.status in FINAL_RUN)


@router.get("/{id}/", responses=refusals(404, 409))
async def get_state(services: AppServices, key: WorkerKey, id: PathId, attempt: Attempt) -> schemas.RunState:
    """Ask whether a call is to be broken off. 409: another attempt is under way."""
    state = await _state(services, id, attempt)
    return schemas.RunState(cancel_requested=state.cancel_requested or state.status in FINAL_RUN, status=state.status)


@router.post("/{id}/events/", status_code=204, responses=refusals(404, 409))
async def report_events(
    request: Request, services: AppServices, key: WorkerKey, id: PathId, body: schemas.EventsBody
) -> None:
    """Tell whoever watches what happens in a call. 409: another attempt is under way."""
    state = await _state(services, id, body.attempt)
    if state.status not in FINAL_RUN:
        live_timelines(request.app).post(id, body.attempt, body.events)


@router.put(
    "/{id}/artefacts/{name}/",
    responses=refusals(404, 409),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def put_artefact(
    request: Request, services: AppServices, key: WorkerKey, id: PathId, name: ArtefactName, attempt: Attempt
) -> schemas.Stored:
    """Keep a recording, a timeline, or whatever else there is of a call. 409: another attempt is under way."""
    try:
        stored_as = artefact_key(id, name)
    except UsageError as error:
        raise BadRequest({"name": [str(error)]}) from None
    await _state(services, id, attempt)
    try:
        size = await services.store.put(
            stored_as, request.stream(), max_bytes=services.settings.server.max_artefact_bytes
        )
    except ArtefactTooLarge as error:
        raise TooLarge(str(error)) from None
    async with services.database.session() as session:
        added = await add_artefact(session, id, attempt, name, size)
    if not added:
        await _state(services, id, attempt)
    return schemas.Stored(size=size)


@router.post("/{id}/outcome/", responses=refusals(404, 409))
async def report_outcome(
    request: Request, services: AppServices, key: WorkerKey, id: PathId, body: schemas.OutcomeBody
) -> schemas.Accepted:
    """Report what a run came to. It counts once, however often it comes. 409: another attempt is under way."""
    await _state(services, id, body.attempt)
    async with services.database.session() as session:
        if body.run is None:
            problem = body.error or RunProblem(cause=Cause.HARNESS.value, reason=EndedReason.RUNNER_ERROR.value)
            accepted = await give_up(session, id, body.attempt, problem)
        else:
            script = await session.scalar(select(RunRow.snapshot["script"]).where(RunRow.id == id))
            try:
                run = read_outcome(body.run, script or {})
            except ValueError as error:
                raise BadRequest({"run": [str(error)]}) from None
            accepted = await finish(session, id, body.attempt, run)
    await _state(services, id, body.attempt)
    live_timelines(request.app).end(id)
    return schemas.Accepted(accepted=accepted)


async def _state(services: Services, run_id: int, attempt: int | None = None) -> Claimed:
    """Return what stands of a run.

    Raises:
        NotFound: There is no such run.
        Conflict: Another attempt than this one is under way.
    """
    async with services.database.reading() as session:
        state = await look_at(session, run_id)
    if state is None:
        raise NotFound
    if attempt is not None and state.attempt != attempt:
        raise Conflict(f"This is attempt {attempt}; attempt {state.attempt} is under way.")
    return state


async def _refusal(services: Services, job: Job) -> str | None:
    """Return why a job's room or start URL must not be opened: where a name leads can change after a launch."""
    guard = RoomGuard(services.settings)
    try:
        if job.room_url is not None:
            await guard.check_room(job.room_url)
        if job.session is not None:
            await guard.check_start_url(job.session.start_url)
    except (UsageError, RoomRefused) as error:
        return str(error)
    return None


async def _give_up_claim(services: Services, run_id: int, detail: str, cause: Cause, reason: EndedReason) -> None:
    async with services.database.session() as session:
        await fail(session, run_id, cause=cause.value, reason=reason.value, detail=detail)
