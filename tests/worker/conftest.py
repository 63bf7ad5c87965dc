"""What the worker's tests share."""

import pytest

from runner.worker import link, live_report, process, record_client
from tests.worker.record_double import RecordDouble, job

TOKEN = "planted-token"


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> RecordDouble:
    """A record with run 7, and a worker in a hurry."""
    for module in (record_client, link, process):
        monkeypatch.setattr(module, "FIRST_WAIT_S", 0.01)
    for module in (record_client, process):
        monkeypatch.setattr(module, "LONGEST_WAIT_S", 0.05)
    monkeypatch.setattr(link, "GATHERING_S", 0.0)
    monkeypatch.setattr(link, "PAUSE_S", 0.0)
    monkeypatch.setattr(live_report, "BATCH_INTERVAL_S", 0.02)
    return RecordDouble(jobs={7: job(token=TOKEN, data_message={"value": None}, session_data={"table": 4})})
