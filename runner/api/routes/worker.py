"""What workers tell the record: ``/worker/v1/runs``. Only a worker's key may."""

import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, TypeGuard

from fastapi import Path, Query, Request, Response
from fastapi.routing import APIRoute
from sqlalchemy.orm import Session

from bots.timeline import EndedReason
from runner.api.auth import AppServices, WorkerKey
from runner.api.errors import BadRequest, Conflict, NotFound, TooLarge, refusals
from runner.api.metrics import Metrics
from runner.api.routes.events import live_timelines
from runner.api.routing import CompatRouter
from runner.api.schemas import worker as schemas
from runner.api.schemas.query import PathId
from runner.api.services import Services
from runner.calls.run_file import RunReport
from runner.errors import UsageError
from runner.evaluation.verdicts import Cause
from runner.records.endings import RunProblem, read_outcome, storable
from runner.records.jobs import Job
from runner.records.runs import (
    Claimed,
    Receipt,
    Told,
    add_artefact,
    claim,
    end_run,
    give_back,
    lock_results_of,
    look_at,
    progress,
)
from runner.records.statuses import FINAL_RUN, RunStatus
from runner.records.store import ArtefactTooLarge, artefact_key
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
    jobs = await _claimed(services, [schemas.RunClaim(run_id=id, attempt=body.attempt, executor=body.executor)])
    if not jobs:
        await _state(services, id, body.attempt)
        raise Conflict("The run has ended, or is another worker's.")
    return schemas.JobBody.of(jobs[0])


@router.post("/claims/", responses=refusals())
async def claim_runs(services: AppServices, key: WorkerKey, body: schemas.ClaimsBody) -> schemas.Jobs:
    """Take several runs on. Those that can't be taken, for whichever reason, are not in the answer."""
    return schemas.Jobs(jobs=[schemas.JobBody.of(job) for job in await _claimed(services, body.claims)])


@router.post("/progress/", responses=refusals())
async def report_progress(
    request: Request, services: AppServices, key: WorkerKey, body: schemas.ProgressBody
) -> schemas.RunOrders:
    """Say how far the runs have come that a worker has, and ask what to do about them.

    Told again and again while calls are on. What is known already costs no writing.
    """
    run_ids = [told.run_id for told in body.runs]
    known = await services.database.look(lambda session: look_at(session, run_ids)) if run_ids else {}
    news = [_told(told) for told in body.runs if _is_news(told, known.get(told.run_id))]
    refused: set[int] = set()
    if news:
        under_way = await services.database.run(lambda session: progress(session, news))
        refused = {told.run_id for told in news} - under_way
    timelines = live_timelines(request.app)
    orders: list[schemas.RunOrder] = []
    for told in body.runs:
        state = known.get(told.run_id)
        # What was taken from the worker between the two is not its any more.
        counts = _is_under_way(state, told.attempt) and told.run_id not in refused
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
        told = Told(id, body.attempt, said=True)
        await services.database.run(lambda session: progress(session, [told]))
    again = await services.database.run(
        lambda session: give_back(session, id, body.attempt, detail=body.detail, unsaid=not body.said)
    )
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
    added = await services.database.run(lambda session: add_artefact(session, id, attempt, name, size))
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
    outcome = schemas.RunOutcome(run_id=id, attempt=body.attempt, run=body.run, error=body.error)
    (answer,) = await _take_outcomes(request, services, [outcome])
    if not answer.accepted:
        # Whatever it is, it may be that nobody wants it. Otherwise it has ended in another way.
        await _state(services, id, body.attempt)
    if answer.error is not None:
        raise BadRequest({"run": [answer.error]})
    return schemas.Accepted(accepted=answer.accepted)


@router.post("/outcomes/", responses=refusals())
async def report_outcomes(
    request: Request, services: AppServices, key: WorkerKey, body: schemas.OutcomesBody
) -> schemas.Answers:
    """Report what several runs came to. Each counts once, however often it comes, and whatever the others are."""
    return schemas.Answers(answers=await _take_outcomes(request, services, body.outcomes))


async def _claimed(services: Services, claims: Sequence[schemas.RunClaim]) -> list[Job]:
    """Take runs on; return the jobs of those that could be taken."""

    def take(session: Session) -> list[tuple[schemas.RunClaim, Job | UsageError | None]]:
        if len(claims) > 1:
            lock_results_of(session, [one.run_id for one in claims])
        taken: list[tuple[schemas.RunClaim, Job | UsageError | None]] = []
        for one in sorted(claims, key=lambda one: one.run_id):
            try:
                job = claim(session, services.vault, one.run_id, one.attempt, one.executor)
            except UsageError as error:
                taken.append((one, error))
            else:
                taken.append((one, job))
        return taken

    taken = await services.database.run(take)
    guard = RoomGuard(services.settings)
    await guard.look_up([url for _, job in taken if isinstance(job, Job) for url in _addresses(job)])
    jobs: list[Job] = []
    for one, job in taken:
        if isinstance(job, UsageError):
            # Not by another worker either: the record's key is not the one that things were encrypted with.
            await _give_up_claim(services, one, str(job), Cause.HARNESS, EndedReason.RUNNER_ERROR)
        elif job is not None:
            refusal = await _refusal(guard, job)
            if refusal is None:
                jobs.append(job)
            else:
                await _give_up_claim(services, one, refusal, Cause.ROOM, EndedReason.ROOM_UNREACHABLE)
    return jobs


async def _take_outcomes(
    request: Request, services: Services, outcomes: Sequence[schemas.RunOutcome]
) -> list[schemas.Answer]:
    """Take in what runs came to; return an answer for each."""
    errors: dict[int, str] = {}
    reports: dict[int, RunReport | RunProblem] = {}
    for place, outcome in enumerate(outcomes):
        try:
            reports[place] = _report_of(outcome)
        except ValueError as error:
            errors[place] = str(error)

    def take(session: Session) -> dict[int, Receipt]:
        if len(reports) > 1:
            lock_results_of(session, [outcomes[place].run_id for place in reports])
        taken: dict[int, Receipt] = {}
        for place in sorted(reports, key=lambda place: outcomes[place].run_id):
            taken[place] = end_run(session, outcomes[place].run_id, outcomes[place].attempt, reports[place])
        return taken

    taken = await services.database.run(take) if reports else {}
    if any(one.is_new for one in taken.values()):
        services.wake()
    metrics: Metrics = request.app.state.metrics
    timelines = live_timelines(request.app)
    for place, one in taken.items():
        if one.is_new:
            metrics.ended(queued_s=one.queued_s, set_up_s=one.set_up_s)
        if one.has_ended:
            timelines.end(outcomes[place].run_id)
    return [
        schemas.Answer(
            accepted=place in taken and taken[place].accepted,
            error=errors.get(place),
        )
        for place in range(len(outcomes))
    ]


async def _state(services: Services, run_id: int, attempt: int) -> Claimed:
    """Return what stands of a run.

    Raises:
        NotFound: There is no such run.
        Conflict: The attempt does not count (any more).
    """
    state = (await services.database.look(lambda session: look_at(session, [run_id]))).get(run_id)
    if state is None:
        raise NotFound
    if not state.is_of(attempt):
        raise _void(attempt)
    return state


def _void(attempt: int) -> Conflict:
    return Conflict(f"Attempt {attempt} does not count any more.")


def _is_under_way(known: Claimed | None, attempt: int) -> TypeGuard[Claimed]:
    """Return whether an attempt is under way."""
    return known is not None and known.is_of(attempt) and known.status not in FINAL_RUN


def _is_news(told: schemas.RunProgress, known: Claimed | None) -> bool:
    """Return whether the record does not know yet what a worker tells of a run."""
    return _is_under_way(known, told.attempt) and (
        (told.joined and not known.joined)
        or (told.said and not known.said)
        or (told.status == RunStatus.EVALUATING and known.status is not RunStatus.EVALUATING)
    )


def _told(told: schemas.RunProgress) -> Told:
    return Told(
        told.run_id, told.attempt, told.joined, told.said, evaluating=told.status == RunStatus.EVALUATING.value
    )


def _addresses(job: Job) -> list[str]:
    """Return what a job makes a worker open."""
    return [url for url in (job.room_url, None if job.session is None else job.session.start_url) if url is not None]


async def _refusal(guard: RoomGuard, job: Job) -> str | None:
    """Return why a job's room or start URL must not be opened: where a name leads can change after a launch."""
    try:
        if job.room_url is not None:
            await guard.check_room(job.room_url)
        if job.session is not None:
            await guard.check_start_url(job.session.start_url)
    except (UsageError, RoomRefused) as error:
        return str(error)
    return None


def _report_of(outcome: schemas.RunOutcome) -> RunReport | RunProblem:
    """Return what a run came to.

    Raises:
        ValueError: It can't be read.
    """
    if outcome.run is not None:
        return read_outcome(outcome.run)
    return outcome.error or RunProblem(cause=Cause.HARNESS.value, reason=EndedReason.RUNNER_ERROR.value)


async def _give_up_claim(
    services: Services, claimed: schemas.RunClaim, detail: str, cause: Cause, reason: EndedReason
) -> None:
    problem = RunProblem(cause=cause.value, reason=reason.value, detail=detail[:MAX_DETAIL_CHARACTERS])
    await services.database.run(lambda session: end_run(session, claimed.run_id, claimed.attempt, problem))
    services.wake()
