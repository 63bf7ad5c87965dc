"""A worker's sign of life: kept by a thread of its own, and given up before anybody else may have its runs."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from runner.dispatch import lease as leases
from runner.dispatch.engines import lease_engine
from runner.dispatch.errors import QueueError
from runner.dispatch.lease import Beat, Lease, Load, Registration
from runner.dispatch.states import WorkerState
from runner.records.tables import WorkerRow


class Worker:
    """Says what a test wants, and remembers why it was lost."""

    def __init__(self, url: str):
        self.said = Beat(load=Load(loop_lag_ms=1.5))
        self.heard_s = 0.0
        self.reasons: list[str] = []
        self.lease = Lease(
            url,
            Registration("me-1", "host/1", "1.0", ("smallwebrtc",), 4),
            beat=lambda: self.said,
            lost=self.reasons.append,
            heard_s=lambda: self.heard_s,
        )


@contextmanager
def begun(url: str) -> Iterator[Worker]:
    worker = Worker(url)
    worker.lease.start()
    try:
        yield worker
    finally:
        worker.lease.stop()


def row(url: str) -> dict[str, Any]:
    engine = lease_engine(url)
    with engine.begin() as connection:
        found = connection.execute(sa.select(WorkerRow)).mappings().one()
    engine.dispose()
    return dict(found)


def change(url: str, **values: Any) -> None:
    engine = lease_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.update(WorkerRow).values(values))
    engine.dispose()


def until(wanted: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not wanted():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_INTERVAL_S", 0.05)


def test_it_beats_and_says_what_the_worker_does(database_url: str) -> None:
    with begun(database_url) as worker:
        first = row(database_url)
        assert first["name"] == "host/1" and first["calls"] == 4 and first["rooms"] == ["smallwebrtc"]
        assert first["state"] == "taking" and first["load"]["loop_lag_ms"] == 1.5
        until(lambda: row(database_url)["beat"] > first["beat"] + 1)
        worker.said = Beat(WorkerState.DRAINING, live=(3,), held=(1, 2), outcomes=((2, 4),))
        worker.lease.nudge()
        until(lambda: row(database_url)["state"] == "draining")
        assert row(database_url)["runs"] == {"live": [3], "held": [1, 2], "outcomes": [[2, 4]]}
    last = row(database_url)
    assert last["state"] == "stopped" and last["gone_at"] is not None
    assert worker.reasons == []


def test_who_was_given_up_for_lost_learns_it_and_stays_so(database_url: str) -> None:
    with begun(database_url) as worker:
        change(database_url, state="lost", gone_at=leases.utc_now())
        until(lambda: worker.reasons)
    assert worker.reasons == ["the worker was given up for lost"] and worker.lease.is_lost
    assert row(database_url)["state"] == "lost"


def test_who_stood_still_gives_its_calls_up_before_it_asks(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with begun(database_url) as worker:
        until(lambda: row(database_url)["beat"] > 2)
        clock_s = time.monotonic

        def jumped() -> float:
            return clock_s() + (60 if threading.current_thread().name == "lease" else 0)

        # Within a wait: it begins before and ends after.
        monkeypatch.setattr(leases.time, "monotonic", jumped)
        until(lambda: worker.reasons)
        monkeypatch.undo()
    assert worker.reasons[0].startswith("the worker stood still for ")


@pytest.mark.parametrize(
    ("live", "record_answers", "is_lost"), [((1,), False, True), ((1,), True, False), ((), False, False)]
)
def test_who_has_calls_and_is_cut_off_from_database_and_record_gives_them_up(
    database_url: str, monkeypatch: pytest.MonkeyPatch, live: tuple[int, ...], record_answers: bool, is_lost: bool
) -> None:
    with begun(database_url) as worker:
        worker.said = Beat(live=live)
        until(lambda: row(database_url)["beat"] > 2)
        tries: list[float] = []

        def away(values: Any) -> bool:
            tries.append(time.monotonic())
            # So long ago that it is time to give up, if the record has not answered since.
            worker.lease._last_s = tries[-1] - 60
            if record_answers:
                worker.heard_s = time.monotonic()
            raise sa.exc.OperationalError("", {}, Exception())

        monkeypatch.setattr(worker.lease, "_write", away)
        if is_lost:
            until(lambda: worker.reasons)
        else:
            until(lambda: len(tries) > 3)
        monkeypatch.undo()
        assert worker.reasons == (["the worker was cut off from the database and from the record"] * is_lost)


def test_without_tables_it_says_so_and_keeps_the_password(tmp_path: Any) -> None:
    with pytest.raises(QueueError, match="can't register"):
        Worker(f"sqlite:///{tmp_path}/none.sqlite").lease.start()
    with pytest.raises(QueueError) as raised:
        Worker("postgresql://u:secret-word@127.0.0.1:1/none").lease.start()
    assert "secret-word" not in str(raised.value)
