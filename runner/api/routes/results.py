"""Results: ``/test_framework/v1/results``."""

from collections.abc import AsyncGenerator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, cast

from fastapi import Query, Request, Response
from loguru import logger
from pydantic import TypeAdapter
from sqlalchemy import Select, delete, exists, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from runner.api.auth import AppServices, ProjectId, Reader, UserKey
from runner.api.details import details
from runner.api.errors import BadRequest, NotFound, refusals
from runner.api.paging import Page, PageAsked, PageIfAsked, Paging, absolute_url
from runner.api.routes.launch import body_digest, launched
from runner.api.routing import CompatRouter
from runner.api.schemas import results as schemas
from runner.api.schemas.common import PathId, QueryId, Words
from runner.api.schemas.launch import Launched, RerunEntry
from runner.api.streaming import enclosed, sharing_of, streamed
from runner.records import results as records
from runner.records.database import Database
from runner.records.honoured import unknown_metrics
from runner.records.launch_request import LaunchRefused
from runner.records.launches import Anew, again
from runner.records.runs import lock_result, refresh_result, request_cancel
from runner.records.sharing import Sharing
from runner.records.statuses import FINAL_RUN, OPEN_RUN, RunStatus
from runner.records.tables import Agent, ResultRow, RunRow, utc_now
from runner.records.written import unless_empty

router = CompatRouter("/test_framework/v1/results", "/test_framework/v1/results-external", tags=["results"])

RUNS_AT_ONCE = 2_000
"""How many runs a list of results is read with at a time, unless one result has more."""

_ITEM = TypeAdapter(schemas.ResultItem)
_SUMMARY = TypeAdapter(schemas.RunSummary)


@router.get("/", response_model=Page[schemas.ResultItem], responses=refusals(404))
async def list_results(
    request: Request,
    services: AppServices,
    project: ProjectId,
    paging: PageAsked,
    agent_id: QueryId = None,
    project_id: QueryId = None,
    search: Annotated[str | None, Query(max_length=1_000, description="What the name holds.")] = None,
    scenarios: Words = None,
) -> Response:
    """List the results of the key's project, the latest first."""
    statement = select(ResultRow).where(ResultRow.project_id == project).order_by(ResultRow.id.desc())
    if agent_id is not None:
        statement = statement.where(ResultRow.agent_id == agent_id)
    if project_id is not None:
        statement = statement.where(ResultRow.project_id == project_id)
    if search:
        statement = statement.where(ResultRow.name.icontains(search, autoescape=True))
    if scenarios:
        of_scenario = RunRow.scenario_id.in_(ids_of(scenarios, "scenarios"))
        statement = statement.where(exists().where(RunRow.result_id == ResultRow.id, of_scenario))
    database, sharing = services.database, sharing_of(request.app)
    listed = await sharing.read(
        ("results", project, paging), lambda: database.browse(lambda session: _listed(session, paging, statement))
    )
    return await streamed(enclosed(listed.opening, _items(database, sharing, project, listed), b"]}"))


@router.get("/{id}/", response_model=schemas.Result, responses=refusals(404))
async def get_result(
    request: Request, services: AppServices, reader: Reader, id: PathId, paging: PageIfAsked
) -> Response:
    """Show a result with its runs: all of them, or those on a page. Also open to whoever has a link to it."""
    if not reader.sees(id):
        raise NotFound
    return await details(request.app).answer(request, reader.project_id, id, paging)


@router.post("/{id}/rerun/", responses=refusals(404))
async def rerun(
    request: Request, services: AppServices, key: UserKey, id: PathId, body: schemas.RerunBody | None = None
) -> Launched:
    """Launch a result anew, or some of its runs, with their scenarios as they are now.

    A run whose token was erased, as tokens are when a run ends, needs another one: ``runs`` gives it.
    """
    asked = body or schemas.RerunBody()
    digest = await body_digest(request, key, f"rerun {id}")
    async with services.database.reading() as session:
        result = await _find(session, key.project_id, id)
        ids = await _chosen(session, id, asked.run_ids)
        anew = _anew(asked.runs or [], set(ids))
        runs = await records.runs_to_repeat(session, ids)
    try:
        launch = again(services, result, runs, key_id=key.id, name=asked.name or "", digest=digest, anew=anew)
    except LaunchRefused as error:
        raise BadRequest(error.errors) from None
    try:
        return await launched(services, launch)
    except BadRequest as error:
        raise BadRequest(_by_run(error.body, runs)) from None


@router.post("/{id}/end_calls/", response_class=Response, responses=refusals(404))
async def end_calls(
    services: AppServices, project: ProjectId, id: PathId, body: schemas.EndCallsBody | None = None
) -> Response:
    """End the calls of a result: what has not begun is cancelled at once, what is on within two seconds."""
    async with services.database.session() as session:
        await _find(session, project, id)
        ids = await _chosen(session, id, None if body is None else body.run_ids)
        await session.run_sync(request_cancel, ids)
    return Response(status_code=200)


@router.post("/{id}/delete_runs/", status_code=204, responses=refusals(404))
async def delete_runs(services: AppServices, project: ProjectId, id: PathId, body: schemas.DeleteRunsBody) -> None:
    """Delete runs with everything that is kept of them. A call that is on must be ended first."""
    async with services.database.session() as session:
        await _find(session, project, id)
        ids = await _chosen(session, id, body.run_ids)
        await session.run_sync(lock_result, id)
        await session.run_sync(request_cancel, await _with_status(session, ids, [RunStatus.PENDING]))
        live = await _with_status(session, ids, OPEN_RUN)
        if live:
            on = ", ".join(str(run_id) for run_id in live)
            raise BadRequest({"run_ids": [f"These calls are on: {on}. End them first (end_calls)."]})
        await session.execute(delete(RunRow).where(RunRow.id.in_(ids)))
        await session.run_sync(refresh_result, id)
    for run_id in ids:
        try:
            await services.store.delete_run(run_id)
        except Exception as error:
            # The runs are gone, and a client that asks again would be told that they never were there.
            logger.warning("run {}: its artefacts can't be deleted ({})", run_id, type(error).__name__)


@router.post("/{id}/evaluate_metrics/", responses=refusals(404))
async def evaluate_metrics(
    services: AppServices, project: ProjectId, id: PathId, body: schemas.EvaluateMetricsBody
) -> schemas.Evaluated:
    """Measure runs again. There is one metric, the latency, and it is measured whenever a run is read."""
    async with services.database.reading() as session:
        await _find(session, project, id)
        ids = await _chosen(session, id, body.run_ids)
    if unknown := unknown_metrics(body.metric_ids, services.settings):
        raise BadRequest({"metric_ids": [unknown]})
    return schemas.Evaluated(
        status="completed",
        detail="Nothing was left to do: this metric is measured from the facts of a call whenever its run is read.",
        run_ids=ids,
        metric_ids=body.metric_ids,
    )


@router.post("/{id}/create_shareable_link_token/", responses=refusals(404))
async def create_shareable_link_token(
    request: Request, services: AppServices, project: ProjectId, id: PathId, body: schemas.ShareBody | None = None
) -> schemas.Shared:
    """Let whoever has the token read a result and its runs."""
    expires_at = None if body is None else body.expire_at
    if expires_at is not None and (expires_at.tzinfo is None or expires_at <= utc_now()):
        raise BadRequest({"expire_at": ["It must lie ahead, and name its time zone."]})
    async with services.database.session() as session:
        await _find(session, project, id)
        token = await records.share(session, id, expires_at)
    address = absolute_url(request, f"/test_framework/v1/results/{id}/")
    return schemas.Shared(token=token, shareable_link=f"{address}#{token}")


def ids_of(text: str, name: str) -> list[int]:
    """Return the ids in a comma separated text.

    Raises:
        BadRequest: It holds something else, none, or too many.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise BadRequest({name: ["This field is required."]})
    if len(words) > 1_000:
        raise BadRequest({name: ["Ensure this field has no more than 1000 elements."]})
    if not all(word.isascii() and word.isdigit() and len(word) < 19 for word in words):
        raise BadRequest({name: ["Expected ids, separated by commas."]})
    return [int(word) for word in words]


async def _find(session: AsyncSession, project_id: int | None, result_id: int) -> ResultRow:
    row = None if project_id is None else await records.find_result(session, project_id, result_id)
    if row is None:
        raise NotFound
    return row


async def _chosen(session: AsyncSession, result_id: int, asked: list[int] | None) -> list[int]:
    """Return the runs of a result, or those of them that were asked for.

    Raises:
        BadRequest: One of them is not the result's.
    """
    ids = await records.run_ids_of(session, result_id)
    if asked is None:
        return ids
    if foreign := sorted(set(asked).difference(ids)):
        raise BadRequest({"run_ids": [f"There is no run {run_id} in this result." for run_id in foreign]})
    return sorted(set(asked))


def _anew(entries: Sequence[RerunEntry], ids: Collection[int]) -> dict[int, Anew]:
    """Return what runs are made again with, by their ids.

    Raises:
        BadRequest: One of them is not among the runs that are made again, or stands there twice.
    """
    found: dict[int, Anew] = {}
    wrong: dict[str, list[str]] = {}
    for entry in entries:
        if entry.run not in ids or entry.run in found:
            problem = (
                "It stands here twice." if entry.run in found else "It is not among the runs that are made again."
            )
            wrong[str(entry.run)] = [problem]
        # A room without an address is none: null is as good as nothing there.
        given = {name for name in entry.model_fields_set if name != "pipecat_room_url" or entry.pipecat_room_url}
        message = entry.publish_data_message
        found[entry.run] = Anew(
            given=frozenset(given),
            pipecat_room_url=entry.pipecat_room_url,
            pipecat_token=unless_empty(entry.pipecat_token),
            publish_data_message=None if message is None else {"value": message},
        )
    if wrong:
        raise BadRequest({"runs": wrong})
    return found


def _by_run(errors: Mapping[str, Any], runs: Sequence[RunRow]) -> dict[str, Any]:
    """Return a launch's errors with those of its entries under the runs that they come from."""
    entries = errors.get("scenarios")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in cast(list[Any], entries)):
        return dict(errors)
    pairs = zip(runs, cast(list[dict[str, Any]], entries), strict=False)
    others = {name: value for name, value in errors.items() if name != "scenarios"}
    return {**others, "runs": {str(run.id): entry for run, entry in pairs if entry}}


async def _with_status(session: AsyncSession, ids: list[int], statuses: Sequence[RunStatus]) -> list[int]:
    found = select(RunRow.id).where(RunRow.id.in_(ids), RunRow.status.in_([status.value for status in statuses]))
    return list(await session.scalars(found.order_by(RunRow.id)))


@dataclass(frozen=True)
class _Listed:
    """A page of results without their runs: its JSON up to where they follow, and which agents are called."""

    opening: bytes
    rows: Sequence[ResultRow]
    counts: Mapping[int, records.Counts]
    inbound: Mapping[int, bool]

    def in_pieces(self) -> Iterator[Sequence[ResultRow]]:
        """Yield the results, so many at a time that they have no more runs than are read at once."""
        some: list[ResultRow] = []
        runs = 0
        for row in self.rows:
            total = self.counts[row.id].total
            if some and runs + total > RUNS_AT_ONCE:
                yield some
                some, runs = [], 0
            some.append(row)
            runs += total
        if some:
            yield some


def _listed(session: Session, paging: Paging, statement: Select[Any]) -> _Listed:
    rows, count = paging.select(session, statement)
    agents = {row.agent_id for row in rows if row.agent_id is not None}
    inbound = session.execute(select(Agent.id, Agent.inbound).where(Agent.id.in_(agents)))
    return _Listed(
        opening=paging.opening(count),
        rows=rows,
        counts=records.count_runs(session, [row.id for row in rows]),
        inbound={agent_id: is_inbound for agent_id, is_inbound in inbound},
    )


async def _items(database: Database, sharing: Sharing, project: int, listed: _Listed) -> AsyncGenerator[list[bytes]]:
    """Yield the results of a list as JSON, with what is short about their runs."""
    for number, rows in enumerate(listed.in_pieces()):

        def read(session: Session, rows: Sequence[ResultRow] = rows) -> list[bytes]:
            runs = _summaries(session, [row.id for row in rows])
            return [_item(listed, row).removesuffix(b"]}") + b",".join(runs[row.id]) + b"]}" for row in rows]

        # For those with whom the list was shared, and nobody else.
        key = ("runs of results", project, id(listed), number)
        yield await sharing.read(key, partial(database.browse, read, refuses=not number))


def _item(listed: _Listed, row: ResultRow) -> bytes:
    """Return a result of a list as JSON, without its runs, which stand last."""
    inbound = None if row.agent_id is None else listed.inbound.get(row.agent_id)
    item = schemas.ResultItem(**schemas.common(row, listed.counts[row.id]), agent_inbound=inbound, runs=[])
    return _ITEM.dump_json(item)


def _summaries(session: Session, ids: Sequence[int]) -> dict[int, list[bytes]]:
    """Return by the ids of results what is short about their runs, as JSON."""
    rests: dict[Any, bytes] = {}

    def rest_of(text: str, success: bool | None, scenario_id: int | None, name: str) -> bytes:
        """Return all but the id, which is the same for many."""
        status = RunStatus(text)
        passed = success is True if status in FINAL_RUN else None
        summary = schemas.RunSummary(id=0, status=status, success=passed, scenario=scenario_id, scenario_name=name)
        return _SUMMARY.dump_json(summary).removeprefix(b'{"id":0')

    summaries: dict[int, list[bytes]] = {result_id: [] for result_id in ids}
    runs = session.execute(
        select(RunRow.result_id, RunRow.id, RunRow.status, RunRow.success, RunRow.scenario_id, RunRow.scenario_name)
        .where(RunRow.result_id.in_(ids))
        .order_by(RunRow.result_id, RunRow.id)
    )
    for result_id, run_id, text, success, scenario_id, name in runs:
        same = (text, success, scenario_id, name)
        if same not in rests:
            rests[same] = rest_of(*same)
        summaries[result_id].append(b'{"id":%d%b' % (run_id, rests[same]))
    return summaries
