"""What a server deletes now and then: again and again, and whatever went wrong before."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from loguru import logger

from runner import housekeeping
from runner.dispatch.queue import Queue
from runner.housekeeping import QUEUE_MEMORY, keep_pruning, keep_purging
from runner.records.database import Database
from runner.records.store import ArtefactStore, open_store
from runner.records.tables import utc_now
from runner.settings import ServerSettings

pytestmark = pytest.mark.anyio


class Broken:
    """A queue that can't be pruned the first two times."""

    def __init__(self) -> None:
        self.pruned: list[datetime] = []

    async def prune(self, *, older_than: datetime) -> int:
        self.pruned.append(older_than)
        if len(self.pruned) <= 2:
            raise RuntimeError("the database is away")
        return 0


async def test_the_queue_is_pruned_again_and_again_whatever_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "PRUNING_INTERVAL_S", 0.01)
    queue = Broken()
    said: list[Any] = []
    sink = logger.add(lambda message: said.append(message.record), level="WARNING")
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_pruning, cast(Queue, queue))
            with anyio.fail_after(5):
                while len(queue.pruned) < 4:
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
    finally:
        logger.remove(sink)
    assert utc_now() - queue.pruned[-1] >= QUEUE_MEMORY
    assert [(one["message"], one["exception"] is not None) for one in said] == [
        ("what is old could not be deleted (RuntimeError)", True),
        ("what is old could not be deleted (RuntimeError)", False),
    ]


async def test_artefacts_are_purged_once_they_are_so_many_days_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[datetime] = []

    async def purge(database: Database, store: ArtefactStore, *, older_than: datetime) -> int:
        asked.append(older_than)
        return 1

    monkeypatch.setattr(housekeeping, "purge", purge)
    database, store = Database(f"sqlite:///{tmp_path}/record.sqlite"), open_store(ServerSettings(data_dir=tmp_path))
    with anyio.move_on_after(0.05):
        await keep_purging(database, store, 1.5)
    [older_than] = asked
    assert timedelta(days=1.5) <= utc_now() - older_than < timedelta(days=1.5, minutes=1)
