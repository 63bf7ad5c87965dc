"""The workers: which there are, how they fare, and what waits for them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from runner.records.tables import RunRow
from runner.records.workers import read_overview
from runner.reports.html.shown import words
from runner.web.visits import Visit


async def show_workers(visit: Visit) -> Response:
    """Show the workers. Runs of other projects are counted, and not named."""
    settings = visit.services.settings
    overview = await read_overview(
        visit.services.database,
        max_duration_s=settings.max_duration_s,
        lease_s=settings.server.lease_s,
    )
    async with visit.services.database.reading() as session:
        named = [run_id for worker in overview.workers for run_id in worker.live]
        ours = await _ours(session, visit.project, [*named, *(i for stuck in overview.stuck for i in stuck.run_ids)])
    workers: list[dict[str, Any]] = [
        {
            "name": words(worker.name, 200),
            "state": "gone"
            if worker.is_gone
            else ("silent" if worker.seen_s > settings.server.lease_s else worker.state),
            "why": words(worker.why, 200),
            "rooms": ", ".join(worker.rooms),
            "live": len(worker.live),
            "limit": worker.limit,
            "runs": [run_id for run_id in worker.live if run_id in ours],
            "kept": len(worker.kept),
            "lag_ms": worker.loop_lag_ms,
            "underruns": worker.underruns,
            "made": worker.calls_made,
            "seen_s": worker.seen_s,
            "up_s": worker.up_s,
            "version": words(worker.version, 40),
        }
        for worker in overview.workers
    ]
    stuck = [
        {"why": words(one.why, 300), "count": one.count, "runs": [run_id for run_id in one.run_ids if run_id in ours]}
        for one in overview.stuck
    ]
    template = "workers_now.html" if visit.is_by_htmx else "workers.html"
    return visit.show(template, queue=overview.queue, workers=workers, stuck=stuck)


async def _ours(session: AsyncSession, project: int, run_ids: Sequence[int]) -> set[int]:
    """Return those of some runs that are of a project."""
    if not run_ids:
        return set()
    mine = select(RunRow.id).where(RunRow.id.in_(run_ids), RunRow.project_id == project)
    return set(await session.scalars(mine))
