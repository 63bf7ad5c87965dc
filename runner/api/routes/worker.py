"""What workers tell the record: ``/worker/v1/runs``. Only a worker's key may."""

import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Path, Query, Request, Response
from fastapi.routing import APIRoute
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bots.timeline import EndedReason
from runner.api.auth import AppServices, WorkerKey
from runner.api.errors import BadRequest, Conflict, NotFound, TooLarge, refusals
from runner.api.metrics import Metrics
from runner.api.routes.events import live_timelines
from runner.api.routing import CompatRouter
from runner.api.schemas import worker as schemas
from runner.api.schemas.query import PathId
from runner.api.services import Services
from runner.errors import UsageError
from runner.evaluation.outcome import Cause
from runner.records.changes import Change, noted
from runner.records.jobs import Job
from runner.records.runs import (
    Claimed,
    RunProblem,
    add_artefact,
    claim,
    finish,
    give_back,
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

MAX_DETAIL_CHARACTERS = 4_000


@router.post("/{id}/claim/", responses=refusals(404, 409))
async def claim_run(services: AppServices, key: WorkerKey, id: PathId, body: schemas.ClaimBody) -> schemas.JobBody:
    """Take a run on that was given to a worker; the same again is answered with the same.

    409: it is not this worker's (any more), has ended, or was cancelled.
    """
    try:
        async with services.database.session() as session:
            job = await claim(session, services.vault, id, body.attempt, body.executor)
    except UsageError as error:
        # Not by another worker either: the record's key is not the one that things were encrypted with.
        await _give_up_claim(services, id, body.attempt, str(error), Cause.HARNESS, EndedReason.RUNNER_ERROR)
        raise Conflict("The run has ended.") from None
    if job is None:
        await _state(services, id, body.attempt)
        raise Conflict("The run has ended, or is another worker's.")
    refusal = await _refusal(services, job)
    if refusal is not None:
        await _give_up_claim(services, id, body.attempt, refusal, Cause.ROOM, EndedReason.ROOM_UNREACHABLE)
        raise Conflict("The run has ended: its room is not allowed.")
    return schemas.JobBody.of(job)


@router.post("/progress/", responses=refusals())
async def report_progress(
    request: Request, services: AppServices, key: WorkerKey, body: schemas.ProgressBody
) -> schemas.RunOrders:
    """Say how far the runs have come that a worker has, and ask what to do about them.

    Told again and again while calls are on. What is known already costs no writing.
    """
    async with services.database.reading() as session:
        known = await look_at(session, [told.run_id for told in body.runs])
    news = [told for told in body.runs if _is_news(told, known.get(told.run_id))]
    if news:
        now = utc_now()
        async with services.database.session() as session:
            for told in sorted(news, key=lambda told: told.run_id):
                await progress(
                    session,
                    told.run_id,
                    told.attempt,
                    RunStatus(told.status),
                    joined_at=now if told.joined else None,
                    said_at=now if told.said else None,
                )
    timelines = live_timelines(request.app)
    orders: list[schemas.RunOrder] = []
    for told in body.runs:
        state = known.get(told.run_id)
        counts = state is not None and state.is_of(told.attempt) and state.status not in FINAL_RUN
        orders.append(
            schemas.RunOrder(
                run_id=told.run_id,
                attempt=told.attempt,
                executor=None if state is None else state.executor,
                counts=counts,
                cancel_requested=state is not None and counts and state.cancel_requested,
                events_from=timelines.wanted_from(told.run_id, told.attempt) if counts else None,
            )
        )
    return schemas.RunOrders(runs=orders)


@router.post("/{id}/release/", responses=refusals(404, 409))
async def release_run(
    request: Request, services: AppServices, key: WorkerKey, id: PathId, body: schemas.ReleaseBody
) -> schemas.Released:
    """Give a run back that this worker will not see through: it waits for another one, or ends as failed.

    Nothing counts that this attempt reports from then on. 409: it does not count any more already.
    """
    await _state(services, id, body.attempt)
    if body.said:
        # First, and for itself: what was said in a run is known from then on, whatever becomes of this request.
        async with services.database.session() as session:
            await progress(session, id, body.attempt, RunStatus.RUNNING, joined_at=None, said_at=utc_now())
    async with services.database.session() as session:
        again = await give_back(session, id, body.attempt, detail=body.detail, unsaid=not body.said)
    services.wake()
    if again is None:
        # It has ended, unless somebody else gave it back at the same moment.
        await _state(services, id, body.attempt)
    if not again:
        live_timelines(request.app).end(id)
    return schemas.Released(again=again)


@router.post("/{id}/events/", status_code=204, responses=refusals(404, 409))
async def report_events(
    request: Request, services: AppServices, key: WorkerKey, id: PathId, body: schemas.EventsBody
) -> None:
    """Tell whoever watches what happens in a call. 409: this attempt does not count any more."""
    state = await _state(services, id, body.attempt)
    if state.status not in FINAL_RUN:
        live_timelines(request.app).post(id, body.attempt, body.events, body.first)


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
    """Keep a recording, a timeline, or whatever else there is of a call.

    409: this attempt does not count any more.
    """
    try:
        stored_as = artefact_key(id, name, attempt)
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
        # Given back, or deleted, while it was uploaded: nothing else would ever remove it.
        await services.store.delete(stored_as)
        await _state(services, id, attempt)
    return schemas.Stored(size=size)


@router.post("/{id}/outcome/", responses=refusals(404, 409))
async def report_outcome(
    request: Request, services: AppServices, key: WorkerKey, id: PathId, body: schemas.OutcomeBody
) -> schemas.Accepted:
    """Report what a run came to. It counts once, however often it comes.

    409: this attempt does not count any more.
    """
    async with services.database.session() as session:
        reported = await _reported(session, id, body.attempt)
        if body.run is None:
            problem = body.error or RunProblem(cause=Cause.HARNESS.value, reason=EndedReason.RUNNER_ERROR.value)
            accepted = await give_up(session, id, body.attempt, problem)
        else:
            try:
                run = read_outcome(body.run, reported.script)
            except ValueError as error:
                raise BadRequest({"run": [str(error)]}) from None
            accepted = await finish(session, id, body.attempt, run)
        is_new = any(made.change is Change.ENDED for made in noted(session))
    if is_new:
        services.wake()
        metrics: Metrics = request.app.state.metrics
        metrics.ended(queued_s=reported.queued_s, set_up_s=reported.set_up_s)
    if not accepted:
        # It has ended otherwise, unless it was given back at the same moment.
        await _state(services, id, body.attempt)
    live_timelines(request.app).end(id)
    return schemas.Accepted(accepted=accepted)


async def _state(services: Services, run_id: int, attempt: int) -> Claimed:
    """Return what stands of a run.

    Raises:
        NotFound: There is no such run.
        Conflict: The attempt does not count (any more).
    """
    async with services.database.reading() as session:
        state = (await look_at(session, [run_id])).get(run_id)
    if state is None:
        raise NotFound
    if not state.is_of(attempt):
        raise _void(attempt)
    return state


def _void(attempt: int) -> Conflict:
    return Conflict(f"Attempt {attempt} does not count any more.")


def _is_news(told: schemas.RunProgress, known: Claimed | None) -> bool:
    """Return whether the record does not know yet what a worker tells of a run."""
    return (
        known is not None
        and known.is_of(told.attempt)
        and known.status not in FINAL_RUN
        and (
            (told.joined and not known.joined)
            or (told.said and not known.said)
            or (told.status == RunStatus.EVALUATING and known.status is not RunStatus.EVALUATING)
        )
    )


@dataclass(frozen=True)
class _Reported:
    """What is known of a run when its outcome comes.

    Attributes:
        script: The script that it was launched with.
        queued_s: How long it took to begin; None where it did not.
        set_up_s: How long it took then to get into its room; None where it did not come so far.
    """

    script: dict[str, Any]
    queued_s: float | None
    set_up_s: float | None


async def _reported(session: AsyncSession, run_id: int, attempt: int) -> _Reported:
    """Return it. Before the run ends: that fills in what was not told in time.

    Raises:
        NotFound: There is no such run.
        Conflict: The attempt does not count (any more).
    """
    found = (
        await session.execute(
            select(
                RunRow.attempt,
                RunRow.executor,
                RunRow.created_at,
                RunRow.not_before,
                RunRow.started_at,
                RunRow.joined_at,
                RunRow.snapshot["script"].label("script"),
            ).where(RunRow.id == run_id)
        )
    ).first()
    if found is None:
        raise NotFound
    if found.executor is None or found.attempt != attempt:
        raise _void(attempt)
    queued_s = set_up_s = None
    if found.started_at is not None:
        queued_s = (found.started_at - (found.not_before or found.created_at)).total_seconds()
        set_up_s = None if found.joined_at is None else (found.joined_at - found.started_at).total_seconds()
    return _Reported(found.script or {}, queued_s, set_up_s)


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


async def _give_up_claim(
    services: Services, run_id: int, attempt: int, detail: str, cause: Cause, reason: EndedReason
) -> None:
    problem = RunProblem(cause=cause.value, reason=reason.value, detail=detail[:MAX_DETAIL_CHARACTERS])
    async with services.database.session() as session:
        await give_up(session, run_id, attempt, problem)
    services.wake()
