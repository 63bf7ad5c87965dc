"""What workers ask and tell: ``/worker/v1``. Only a worker's key may (see :mod:`runner.protocol.messages`)."""

import importlib.metadata
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import anyio
from fastapi import Depends, Path, Query, Request, Response
from sqlalchemy.orm import Session
from starlette.requests import ClientDisconnect

from bots.timeline import EndedReason
from runner.api.auth import AppServices, WorkerKey
from runner.api.errors import (
    NON_FIELD,
    BadRequest,
    Conflict,
    Gone,
    NotFound,
    OutOfStorage,
    TooLarge,
    Unavailable,
    UpgradeRequired,
    refusals,
)
from runner.api.limits import takes_bytes
from runner.api.live_sound import live_sounds
from runner.api.metrics import Metrics
from runner.api.routes.events import live_timelines
from runner.api.routing import CompatRouter, JsonRoute, parse_json
from runner.api.schemas.common import PathId
from runner.api.services import Services
from runner.dispatch.dispatcher import RecordAway, WorkerGone
from runner.errors import UsageError
from runner.evaluation.verdicts import Cause
from runner.protocol import messages
from runner.records.artefacts import MAX_ARTEFACTS, Upload, add_artefact, expect_artefact
from runner.records.endings import read_outcome, storable
from runner.records.runs import Receipt, end_run, is_of, progress, release, state_of
from runner.records.statuses import FINAL_RUN
from runner.records.store import ArtefactTooLarge, StoreFailed, artefact_key


class _ReportRoute(JsonRoute):
    """A route whose body holds what an agent said and did: what can't be stored is replaced, and not refused."""

    @staticmethod
    def read(content: bytes) -> Any:
        """Return the value of a body.

        Raises:
            ValueError: It is not valid JSON.
        """
        return storable(parse_json(content))


router = CompatRouter(messages.ROOT, tags=["worker"])
router.route_class = _ReportRoute

Attempt = Annotated[int, Query(ge=1, le=2**31 - 1, description="The attempt this is of.")]
Executor = Annotated[str, Query(pattern=r"^[\w.:-]{1,200}$", description="The worker whose run it is.")]
ArtefactName = Annotated[str, Path(max_length=200)]
Offset = Annotated[int, Query(ge=0, le=2**53, description="How many bytes come before these.")]
Size = Annotated[int, Query(ge=0, le=2**53, description="How many bytes all of it has.")]

_BYTES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_VERSION = importlib.metadata.version("pipecat-scenario-runner")


@router.get("/hello/", responses=refusals())
async def hello(services: AppServices, key: WorkerKey) -> messages.Hello:
    """Say which version of the messages this is, and take the key or not."""
    return messages.Hello(protocol=messages.VERSION, version=_VERSION, lease_s=services.settings.server.lease_s)


@router.post("/poll/", response_model=messages.Answer, responses=refusals(410, 426, 503))
async def poll(request: Request, services: AppServices, key: WorkerKey, body: messages.Poll) -> Response:
    """Take a worker's sign of life; answer with runs to make, and what to do about those it has.

    The answer may wait: as long as the worker says, and less than half a lease. 410: the worker was given up, and
    what it had is somebody else's. 426: it speaks another version of these messages.
    """
    if body.protocol != messages.VERSION:
        raise UpgradeRequired(_other_version(body.protocol))
    answer = messages.Answer(lease_s=services.settings.server.lease_s)
    refusal: RecordAway | WorkerGone | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_until_disconnected, request, tasks.cancel_scope)
        try:
            answer = await services.dispatcher.poll(body)
        except (RecordAway, WorkerGone) as error:
            refusal = error
        tasks.cancel_scope.cancel()
    if isinstance(refusal, WorkerGone):
        raise Gone(str(refusal))
    if refusal is not None:
        raise Unavailable(str(refusal))
    return Response(answer.on_the_wire(), media_type="application/json")


@router.post("/gone/", status_code=204, responses=refusals())
async def worker_gone(services: AppServices, key: WorkerKey, body: messages.Gone) -> None:
    """Take a worker for gone: its parent says that its process is dead. Its runs go to others at once."""
    await services.dispatcher.report_gone(body)


@router.post("/report/", responses=refusals())
@takes_bytes(messages.MAX_REPORT_BYTES)
async def report(request: Request, services: AppServices, key: WorkerKey, body: messages.Report) -> messages.Receipt:
    """Take what came of an attempt at a run. It counts once, however often it comes."""
    if body.release is not None:
        return await _release(request, services, body, body.release)
    try:
        what = None if body.run is None else read_outcome(body.run)
    except ValueError as error:
        raise BadRequest({"run": [str(error)]}) from None
    unknown = messages.Problem(cause=Cause.HARNESS.value, reason=EndedReason.RUNNER_ERROR.value)
    receipt: Receipt = await services.database.run(
        lambda session: end_run(
            session,
            body.run_id,
            body.attempt,
            what or body.problem or unknown,
            executor=body.executor,
            owed=[name for name in body.owed if _can_be_kept(name)],
            judge_later=services.durable.judge_later,
        )
    )
    metrics: Metrics = request.app.state.metrics
    if receipt.is_new:
        metrics.ended(queued_s=receipt.queued_s, set_up_s=receipt.set_up_s)
    if receipt.has_ended:
        live_timelines(request.app).end(body.run_id)
    return messages.Receipt(counted=receipt.accepted)


@router.post("/runs/{id}/events/", responses=refusals(404, 409))
async def report_events(
    request: Request, services: AppServices, key: WorkerKey, id: PathId, body: messages.Events
) -> messages.EventsTaken:
    """Tell whoever watches what happens in a call. 409: this attempt does not count any more."""
    status = await _status(services, id, body.attempt)
    timelines = live_timelines(request.app)
    if status not in FINAL_RUN:
        timelines.post(id, body.attempt, body.events, body.first, body.call)
    return messages.EventsTaken(next=timelines.wanted_from(id, body.attempt, body.call))


@router.post("/runs/{id}/sound/", status_code=204, responses=refusals(404, 409), openapi_extra=_BYTES)
@takes_bytes(messages.MAX_SOUND_BYTES)
async def pass_on_sound(
    request: Request, services: AppServices, key: WorkerKey, id: PathId, attempt: Attempt
) -> None:
    """Let whoever listens hear a call while it is on. 409: this attempt does not count any more.

    The body is PCM as :mod:`runner.protocol.messages` has it.
    """
    await _status(services, id, attempt)
    with _refusing():
        pcm = await request.body()
    if len(pcm) % messages.SOUND_FRAME_BYTES:
        raise BadRequest({NON_FIELD: ["The sound ends within a sample."]})
    live_sounds(request.app).post(id, pcm)


@dataclass(frozen=True)
class _Artefact:
    """What a worker brings of an attempt."""

    services: Services
    of: tuple[int, int, str, str]
    """The run, the attempt, the executor, and the file's name."""
    stored_as: str

    async def look_up(self) -> Upload:
        """Return whether it is wanted, or there."""
        return await self.services.database.run(lambda session: expect_artefact(session, *self.of))

    async def is_there(self) -> bool:
        """Return whether it is there already, and not wanted.

        Raises:
            Conflict: It is neither.
        """
        upload = await self.look_up()
        if upload is Upload.VOID:
            raise _void(self.of[1])
        if upload is Upload.TOO_MANY:
            raise Conflict(f"An attempt brings {MAX_ARTEFACTS} files at most.")
        return upload is Upload.THERE


async def _artefact(
    services: AppServices, id: PathId, name: ArtefactName, attempt: Attempt, executor: Executor
) -> _Artefact:
    try:
        return _Artefact(services, (id, attempt, executor, name), artefact_key(id, name, attempt))
    except UsageError as error:
        raise BadRequest({"name": [str(error)]}) from None


Artefact = Annotated[_Artefact, Depends(_artefact)]


@router.get("/runs/{id}/artefacts/{name}/", responses=refusals(404, 409, 507))
async def find_artefact(services: AppServices, key: WorkerKey, artefact: Artefact) -> messages.Stored:
    """Say how much is there of a recording, a timeline, or whatever else there is of a call."""
    with _refusing():
        if await artefact.is_there():
            return messages.Stored(size=await services.store.size(artefact.stored_as) or 0, is_whole=True)
        return messages.Stored(size=await services.store.size_of_parts(artefact.stored_as), is_whole=False)


@router.put("/runs/{id}/artefacts/{name}/", responses=refusals(404, 409, 507), openapi_extra=_BYTES)
@takes_bytes(messages.PART_BYTES)
async def put_artefact(
    request: Request, services: AppServices, key: WorkerKey, artefact: Artefact, offset: Offset, size: Size
) -> messages.Stored:
    """Keep the next part of a file. With the last one it is complete.

    409: this attempt does not count any more, or has brought all that it may; or the part is not the next one.
    """
    limit_bytes = services.settings.server.max_artefact_bytes
    if size > limit_bytes:
        raise TooLarge(f"The file is larger than {limit_bytes} bytes.")
    if await artefact.is_there():
        return messages.Stored(size=size, is_whole=True)
    store, stored_as = services.store, artefact.stored_as
    with _refusing():
        there = await store.size_of_parts(stored_as)
        if there != offset:
            raise Conflict(f"The next byte is number {there}.")
        most = min(messages.PART_BYTES, size - offset)
        there += await store.put_part(stored_as, offset, request.stream(), max_bytes=most)
        if there < size:
            return messages.Stored(size=there, is_whole=False)
        await store.join_parts(stored_as, size=size)
    added = await services.database.run(lambda session: add_artefact(session, *artefact.of, size))
    if not added and await artefact.look_up() is not Upload.THERE:
        await store.delete(stored_as)
        raise _void(artefact.of[1])
    return messages.Stored(size=size, is_whole=True)


@router.post("/runs/claims/", include_in_schema=False)
@router.post("/runs/progress/", include_in_schema=False)
@router.post("/runs/outcomes/", include_in_schema=False)
@router.post("/runs/{id}/claim/", include_in_schema=False)
@router.post("/runs/{id}/release/", include_in_schema=False)
@router.post("/runs/{id}/outcome/", include_in_schema=False)
async def of_another_version(key: WorkerKey) -> None:
    """Refuse a worker of an earlier version, which spoke in another way."""
    raise UpgradeRequired(_other_version(None))


@contextmanager
def _refusing() -> Generator[None]:
    """Refuse what can't be stored, or has not come to its end."""
    try:
        yield
    except ArtefactTooLarge as error:
        raise TooLarge(str(error)) from None
    except StoreFailed as error:
        raise OutOfStorage(str(error)) from None
    except ClientDisconnect:
        # Nobody reads this.
        raise BadRequest({NON_FIELD: ["The body is not complete."]}) from None


async def _status(services: Services, run_id: int, attempt: int) -> str:
    """Return how far a run is of which this attempt counts."""
    state = await services.database.look(lambda session: state_of(session, run_id))
    if state is None:
        raise NotFound
    if not is_of(state, attempt):
        raise _void(attempt)
    return state.status


async def _until_disconnected(request: Request, scope: anyio.CancelScope) -> None:
    """Cancel what nobody waits for any more."""
    while (await request.receive())["type"] != "http.disconnect":
        continue
    scope.cancel()


async def _release(
    request: Request, services: Services, given: messages.Report, released: messages.Release
) -> messages.Receipt:
    """Take a run from a worker that will not see it through: it waits for another one, or ends as failed."""
    run_id, attempt = given.run_id, given.attempt

    def is_its(session: Session) -> bool:
        state = state_of(session, run_id)
        return state is not None and is_of(state, attempt) and state.executor == given.executor

    if not await services.database.look(is_its):
        return messages.Receipt(counted=False)
    if released.said:
        # First, and for itself: what was said in a run is known from then on, whatever becomes of this request.
        told = messages.RunNow(run_id=run_id, attempt=attempt, said=True)
        await services.database.run(lambda session: progress(session, [told]))
    again = await services.database.run(
        lambda session: release(session, run_id, attempt, detail=released.detail, safe_to_retry=not released.said)
    )
    if not again:
        live_timelines(request.app).end(run_id)
    return messages.Receipt(counted=again is not None, waits_again=bool(again))


def _can_be_kept(name: str) -> bool:
    """Return whether an artefact can have a name."""
    try:
        artefact_key(1, name, 1)
    except UsageError:
        return False
    return True


def _void(attempt: int) -> Conflict:
    return Conflict(f"Attempt {attempt} does not count any more.")


def _other_version(spoken: int | None) -> str:
    worker = "This worker speaks an earlier version" if spoken is None else f"This worker speaks version {spoken}"
    return (
        f"{worker} of the workers' messages, and this server (release {_VERSION}) version {messages.VERSION}: "
        "use the same release for both."
    )
