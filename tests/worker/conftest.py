"""What the worker's tests share."""

import hashlib
from pathlib import Path

import pytest
import sqlalchemy as sa

from runner.records.tables import ApiKey, Base, Project, WorkerRow
from runner.worker import live_report, progress, retries
from tests.worker.record_double import KEY, RecordDouble, job

TOKEN = "planted-token"


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> RecordDouble:
    """A record with run 7, and a worker in a hurry."""
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(retries, "LONGEST_WAIT_S", 0.05)
    monkeypatch.setattr(progress, "INTERVAL_S", 0.05)
    monkeypatch.setattr(progress, "GATHERING_S", 0.0)
    monkeypatch.setattr(live_report, "BATCH_INTERVAL_S", 0.02)
    return RecordDouble(jobs={7: job(token=TOKEN, data_message={"value": None}, session_data={"table": 4})})


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """A database with workers and a worker's key, as far as they go by it."""
    url = f"sqlite:///{tmp_path}/record.sqlite"
    engine = sa.create_engine(url)
    Base.metadata.create_all(engine, tables=[Project.__table__, ApiKey.__table__, WorkerRow.__table__])
    engine.dispose()
    add_key(url)
    return url


def add_key(url: str) -> None:
    """Let a database know the key that the record's double takes."""
    engine = sa.create_engine(url)
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    with engine.begin() as connection:
        connection.execute(sa.insert(ApiKey).values(kind="worker", name="w", prefix=KEY[:12], digest=digest))
    engine.dispose()


async def until(wanted: object, timeout_s: float = 20.0) -> None:
    """Wait until a function returns something true."""
    import anyio

    assert callable(wanted)
    with anyio.fail_after(timeout_s):
        while not wanted():
            await anyio.sleep(0.01)
