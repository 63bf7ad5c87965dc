"""What is deleted when it is old enough."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runner.records.database import Database
from runner.records.retention import purge
from runner.records.store import ArtefactStore, artefact_key, open_store
from runner.records.tables import ResultRow, RunRow
from runner.settings import ServerSettings

pytestmark = pytest.mark.anyio
NOW = datetime(2026, 6, 1, tzinfo=UTC)
OLD = NOW - timedelta(days=91)
LIMIT = NOW - timedelta(days=90)


@pytest.fixture
def store(tmp_path: Path) -> ArtefactStore:
    return open_store(ServerSettings(data_dir=tmp_path))


async def add_runs(database: Database, store: ArtefactStore, *ended: datetime | None) -> list[int]:
    """Add a run with a recording for each time at which one ended."""
    async with database.session() as session:
        session.add(result := ResultRow(project_id=1, run_type="pipecat"))
        await session.flush()
        runs = [
            RunRow(
                result_id=result.id,
                project_id=1,
                scenario_name="x",
                snapshot={"script": {}},
                status="completed",
                outcome={"success": True},
                artefacts={"recording.wav": 3},
                ended_at=at,
                updated_at=OLD,
            )
            for at in ended
        ]
        session.add_all(runs)
    for run in runs:
        await store.put(artefact_key(run.id, "recording.wav", 1), b"abc", max_bytes=3)
    return [run.id for run in runs]


async def kept(database: Database, store: ArtefactStore, ids: list[int]) -> list[bool]:
    """Return which runs have their recording, both in the store and in the record."""
    sizes = [await store.size(artefact_key(run_id, "recording.wav", 1)) for run_id in ids]
    async with database.reading() as session:
        named = [(await session.get_one(RunRow, run_id)).artefacts == {"recording.wav": 3} for run_id in ids]
    assert [size is not None for size in sizes] == named
    return named


async def test_artefacts_of_old_runs_go(seeded: Database, store: ArtefactStore) -> None:
    ids = await add_runs(seeded, store, OLD, LIMIT - timedelta(seconds=1), LIMIT, NOW, None)
    assert await purge(seeded, store, older_than=LIMIT) == 2
    assert await kept(seeded, store, ids) == [False, False, True, True, True]


async def test_what_the_record_says_of_them_stays(seeded: Database, store: ArtefactStore) -> None:
    (run_id,) = await add_runs(seeded, store, OLD)
    await purge(seeded, store, older_than=LIMIT)
    async with seeded.reading() as session:
        run = await session.get_one(RunRow, run_id)
    assert (run.status, run.outcome, run.snapshot) == ("completed", {"success": True}, {"script": {}})
    assert (run.ended_at, run.updated_at) == (OLD, OLD)


async def test_the_next_time_there_is_nothing_left_to_do(seeded: Database, store: ArtefactStore) -> None:
    await add_runs(seeded, store, OLD)
    assert await purge(seeded, store, older_than=LIMIT) == 1
    assert await purge(seeded, store, older_than=LIMIT) == 0


async def test_more_than_one_batch_is_purged(
    seeded: Database, store: ArtefactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.records.retention.BATCH", 3)
    ids = await add_runs(seeded, store, *[OLD] * 7)
    assert await purge(seeded, store, older_than=LIMIT) == 7
    assert await kept(seeded, store, ids) == [False] * 7


async def test_what_can_not_be_deleted_is_kept_for_the_next_time(
    seeded: Database, store: ArtefactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await add_runs(seeded, store, OLD, OLD, OLD)
    delete = store.delete_run

    async def fail_one(run_id: int) -> None:
        if run_id == ids[1]:
            raise OSError("busy")
        await delete(run_id)

    with monkeypatch.context() as patch:
        patch.setattr(store, "delete_run", fail_one)
        assert await purge(seeded, store, older_than=LIMIT) == 2
    assert await kept(seeded, store, ids) == [False, True, False]
    assert await purge(seeded, store, older_than=LIMIT) == 1
