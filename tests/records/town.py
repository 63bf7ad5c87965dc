"""A record with schedules, and a clock that is turned by hand."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from runner.dispatch.schedules import Schedules
from runner.records import firings
from runner.records.crontab import next_due
from runner.records.database import Database
from runner.records.record import Record
from runner.records.secrets import open_vault
from runner.records.store import open_store
from runner.records.tables import Agent, CronJob, Firing, ResultRow, RunRow
from runner.settings import ServerSettings, Settings

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""What is not about the database is tried on one kind of it."""

NOON = datetime(2027, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Town:
    """A record with schedules, and a clock that is turned by hand."""

    def __init__(self, database: Database, folder: Path):
        server = ServerSettings(data_dir=folder, database_url=SecretStr(database.url), allow_loopback=True)
        self.record = Record(Settings(server=server), database, open_vault(server), open_store(server))
        self.now = NOON
        self.schedules = self.another_process(database)

    def another_process(self, database: Database) -> Schedules:
        record = Record(self.record.settings, database, self.record.vault, self.record.store)
        return Schedules(record, lambda _: self.now)

    @property
    def revealed_settings(self) -> str:
        """Its settings as JSON, with the address of its database: for a process of its own."""
        server = self.record.settings.server.model_dump(mode="json", exclude={"database_url", "secret_key"})
        return json.dumps({"server": {**server, "database_url": self.record.database.url}})

    async def run(self, work: Callable[[Session], Any]) -> Any:
        return await self.record.database.run(work)

    async def add(self, expression: str = "* * * * *", **fields: Any) -> int:
        """Add a schedule that is due next after noon, and return its id."""
        values: dict[str, Any] = {"name": "nightly", "agent_id": 1, "scenario_ids": [1], "data": {}, **fields}
        job = CronJob(project_id=1, crontab_expression=expression, **values)
        job.timezone = job.timezone or "UTC"
        if job.next_due_at is None and job.is_active is not False:
            job.next_due_at = next_due(expression, job.timezone, self.now)
        async with self.record.database.session() as session:
            session.add(job)
        return job.id

    async def pass_by(self, time: timedelta = MINUTE) -> None:
        self.now += time
        await self.schedules.look()

    async def history(self, job_id: int) -> list[Firing]:
        async with self.record.database.reading() as session:
            return list(await session.scalars(firings.history(job_id).order_by(None).order_by(Firing.due_at)))

    async def states(self, job_id: int) -> list[str]:
        return [firing.state for firing in await self.history(job_id)]

    async def end(self, *, success: bool | None = True) -> None:
        """Let all that is on end."""
        await self.run(lambda session: session.execute(update(RunRow).values(success=success, status="completed")))
        await self.run(lambda session: session.execute(update(ResultRow).values(status="completed")))

    async def run_ids(self, result_id: int | None) -> list[int]:
        async with self.record.database.reading() as session:
            found = await session.scalars(select(RunRow.id).where(RunRow.result_id == result_id).order_by(RunRow.id))
            return list(found)

    async def count(self, table: Any) -> int:
        async with self.record.database.reading() as session:
            return await session.scalar(select(func.count()).select_from(table)) or 0


@pytest.fixture
async def town(seeded: Database, tmp_path: Path) -> Town:
    town = Town(seeded, tmp_path / "data")
    start = {"start_url": "http://localhost:7860/start", "transport": "webrtc"}
    await town.run(lambda session: session.execute(update(Agent).values(session=start)))
    return town
