"""Results: ``/test_framework/v1/results``."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Query, Request, Response
from loguru import logger
from sqlalchemy import exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from runner.api.auth import AppServices, ProjectId, UserKey
from runner.api.errors import BadRequest, NotFound, refusals
from runner.api.paging import Page, PageAsked, absolute_url
from runner.api.routes.launch import body_digest, launched
from runner.api.routing import CompatRouter
from runner.api.schemas import results as schemas
from runner.api.schemas.launch import Launched
from runner.api.schemas.query import PathId, QueryId, Words
from runner.api.sharing import Reader
from runner.records import results as records
from runner.records.honoured import LATENCY_METRIC_ID, no_metric
from runner.records.launches import LaunchRefused, again
from runner.records.runs import AT_ONCE, lock_result, refresh_result, request_cancel
from runner.records.statuses import FINAL_RUN, OPEN_RUN, RunStatus
from runner.records.tables import Agent, ResultRow, RunRow, utc_now

router = CompatRouter("/test_framework/v1/results", "/test_framework/v1/results-external", tags=["results"])


@router.get("/", responses=refusals(404))
async def list_results(
    services: AppServices,
    project: ProjectId,
    paging: PageAsked,
    agent_id: QueryId = None,
    project_id: QueryId = None,
    search: Annotated[str | None, Query(max_length=1_000, description="What the name holds.")] = None,
    scenarios: Words = None,
) -> Page[schemas.ResultItem]:
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
    async with services.database.reading() as session:
        rows, count = await paging.rows(session, statement)
        items = await _items(session, rows)
    return paging.page_of(items, count)


@router.get("/{id}/", responses=refusals(404))
async def get_result(services: AppServices, reader: Reader, id: PathId) -> schemas.Result:
    """Show a result with its runs. Also open to whoever has a link to it."""
    async with services.database.reading() as session:
        row = await records.find_result(session, reader.project_id, id)
        if row is None or not reader.sees(row.id):
            raise NotFound
        return schemas.result(row, await records.read_lines(session, id))


@router.post("/{id}/rerun/", responses=refusals(404))
async def rerun(
    request: Request, services: AppServices, key: UserKey, id: PathId, body: schemas.RerunBody | None = None
) -> Launched:
    """Launch a result anew, or some of its runs, with their scenarios as they are now.

    A room whose token was erased, as tokens are when a run ends, can't be entered again.
    """
    asked = body or schemas.RerunBody()
    digest = await body_digest(request, key, f"rerun {id}")
    async with services.database.reading() as session:
        result = await _find(session, key.project_id, id)
        ids = await _chosen(session, id, asked.run_ids)
        runs: list[RunRow] = []
        for begin in range(0, len(ids), AT_ONCE):
            wanted = select(RunRow).where(RunRow.id.in_(ids[begin : begin + AT_ONCE])).order_by(RunRow.id)
            runs += (await session.scalars(wanted)).all()
    try:
        return await launched(
            services, again(services, result, runs, key_id=key.id, name=asked.name or "", digest=digest)
        )
    except LaunchRefused as error:
        raise BadRequest(error.errors) from None


@router.post("/{id}/end_calls/", response_class=Response, responses=refusals(404))
async def end_calls(
    services: AppServices, project: ProjectId, id: PathId, body: schemas.EndCallsBody | None = None
) -> Response:
    """End the calls of a result: what has not begun is cancelled at once, what is on within two seconds."""
    async with services.database.session() as session:
        await _find(session, project, id)
        ids = await _chosen(session, id, None if body is None else body.run_ids)
        await session.run_sync(request_cancel, ids)
    services.wake()
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
        await records.delete_runs(session, ids)
        await session.run_sync(refresh_result, id)
    services.wake()
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
    if unknown := [metric for metric in body.metric_ids if metric != LATENCY_METRIC_ID]:
        raise BadRequest({"metric_ids": [no_metric(unknown)]})
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

    Args:
        text: The text.
        name: The parameter it comes from.

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


async def _with_status(session: AsyncSession, ids: list[int], statuses: Sequence[RunStatus]) -> list[int]:
    found = select(RunRow.id).where(RunRow.id.in_(ids), RunRow.status.in_([status.value for status in statuses]))
    return list(await session.scalars(found.order_by(RunRow.id)))


async def _items(session: AsyncSession, rows: Sequence[ResultRow]) -> list[schemas.ResultItem]:
    ids = [row.id for row in rows]
    counts = await records.count_runs(session, ids)
    summaries: dict[int, list[schemas.RunSummary]] = {result_id: [] for result_id in ids}
    runs = await session.execute(
        select(RunRow.result_id, RunRow.id, RunRow.status, RunRow.success, RunRow.scenario_id, RunRow.scenario_name)
        .where(RunRow.result_id.in_(ids))
        .order_by(RunRow.id)
    )
    for result_id, run_id, text, success, scenario_id, name in runs:
        status = RunStatus(text)
        passed = success is True if status in FINAL_RUN else None
        summaries[result_id].append(
            schemas.RunSummary(id=run_id, status=status, success=passed, scenario=scenario_id, scenario_name=name)
        )
    agents = {row.agent_id for row in rows if row.agent_id is not None}
    found = await session.execute(select(Agent.id, Agent.inbound).where(Agent.id.in_(agents)))
    inbound = {agent_id: is_inbound for agent_id, is_inbound in found}
    return [
        schemas.ResultItem(
            **schemas.common(row, counts[row.id]),
            agent_inbound=None if row.agent_id is None else inbound.get(row.agent_id),
            runs=summaries[row.id],
        )
        for row in rows
    ]
