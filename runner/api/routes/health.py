"""What watches the server: ``/healthz``, ``/readyz`` and ``/metrics``. None of it needs a key."""

from typing import Any, Literal

import anyio
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from loguru import logger
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from runner.api.auth import AppServices
from runner.api.metrics import Metrics
from runner.api.routing import CompatRouter
from runner.api.schemas.common import ResponseBody
from runner.api.services import Services
from runner.records.tables import RunRow
from runner.records.workers import read_clock, read_queue, read_workers
from runner.serving import METRICS_TYPE

READY_TIMEOUT_S = 5.0

router = CompatRouter(tags=["health"])


class Health(ResponseBody):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(ResponseBody):
    """Whether launches can be taken.

    Attributes:
        status: ``ready`` if all of it is.
        database: Whether the record can be reached, and its tables are of this version.
        queue: Whether runs that wait are looked at: launches are kept, but none begins while they are not.
    """

    status: Literal["ready", "not ready"]
    database: bool
    queue: bool


_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": Readiness, "description": "Something is not ready."}}
_TEXT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format."}
}


@router.get("/healthz")
async def healthz() -> Health:
    """Say that the process answers."""
    return Health()


@router.get("/readyz", response_model=Readiness, responses=_NOT_READY)
async def readyz(services: AppServices) -> JSONResponse:
    """Say whether launches can be taken, and go on to workers. There need be no worker."""
    database = await _database_is_ready(services)
    queue = services.dispatcher.is_looking
    is_ready = database and queue
    found = Readiness(status="ready" if is_ready else "not ready", database=database, queue=queue)
    return JSONResponse(found.model_dump(), 200 if is_ready else 503)


@router.get("/metrics", response_class=Response, responses=_TEXT)
async def metrics(request: Request, services: AppServices) -> Response:
    """Give out what the server counts of itself, of the queue, and of the workers."""
    counts: Metrics = request.app.state.metrics
    # What else is counted is worth reading above all when the record is away.
    if not await _read_record(services, counts):
        logger.warning("the runs could not be counted: the record can't be read")
        counts.clear_record()
    return Response(counts.text(), headers={"Content-Type": METRICS_TYPE})


async def _read_record(services: Services, counts: Metrics) -> bool:
    with anyio.move_on_after(READY_TIMEOUT_S):
        try:
            async with services.database.reading() as session:
                now = await read_clock(session)
                rows = await session.execute(select(RunRow.status, func.count()).group_by(RunRow.status))
                by_status: dict[str, int] = {status: count for status, count in rows}
                counts.set_record(by_status, await read_queue(session, now), await read_workers(session, now))
            return True
        except (SQLAlchemyError, OSError):
            return False
    return False


async def _database_is_ready(services: Services) -> bool:
    with anyio.move_on_after(READY_TIMEOUT_S):
        try:
            return await services.database.is_current()
        except Exception:
            logger.opt(exception=True).warning("the record can't be reached")
    return False
