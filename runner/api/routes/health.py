"""What watches the server: ``/healthz``, ``/readyz`` and ``/metrics``. None of it needs a key."""

from typing import Any

import anyio
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from loguru import logger
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from runner.api.auth import AppServices
from runner.api.metrics import CONTENT_TYPE, Metrics
from runner.api.routing import CompatRouter
from runner.api.schemas.health import Health, Readiness
from runner.api.services import Services
from runner.records.tables import RunRow

READY_TIMEOUT_S = 5.0

router = CompatRouter(tags=["health"])

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
    """Say whether launches can be taken."""
    database = await _database_is_ready(services)
    # A queue that can't tell has nothing to start.
    queue = bool(getattr(services.queue, "started", True))
    is_ready = database and queue
    found = Readiness(status="ready" if is_ready else "not ready", database=database, queue=queue)
    return JSONResponse(found.model_dump(), 200 if is_ready else 503)


@router.get("/metrics", response_class=Response, responses=_TEXT)
async def metrics(request: Request, services: AppServices) -> Response:
    """Give out what the server counts of itself."""
    counts: Metrics = request.app.state.metrics
    try:
        async with services.database.reading() as session:
            rows = await session.execute(select(RunRow.status, func.count()).group_by(RunRow.status))
            counts.set_runs({status: count for status, count in rows})
    except (SQLAlchemyError, OSError):
        # What else is counted is worth reading above all when the record is away.
        logger.warning("the runs could not be counted: the record can't be read")
    return Response(counts.text(), headers={"Content-Type": CONTENT_TYPE})


async def _database_is_ready(services: Services) -> bool:
    with anyio.move_on_after(READY_TIMEOUT_S):
        try:
            return await services.database.is_current()
        except Exception:
            logger.opt(exception=True).warning("the record can't be reached")
    return False
