"""What watches the server."""

import dataclasses
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from runner.api.app import create_app
from runner.api.services import Services
from runner.dispatch import dispatcher
from runner.records.database import Database
from runner.records.tables import ResultRow, RunRow, WorkerRow, utc_now
from tests.api.conftest import Client, client_of, on_every_database
from tests.api.telling import REFUSED, claimed, given, release, report, run_launched
from tests.records.giving import worker as row_of
from tests.records.outcomes import outcome

pytestmark = pytest.mark.anyio


async def test_the_process_answers_without_a_key(anonymous: Client) -> None:
    answer = await anonymous.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_it_is_ready_with_its_database_and_while_runs_are_read(
    anonymous: Client, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = await anonymous.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "not ready", "database": True, "queue": False})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(services.dispatcher.run)
        with anyio.fail_after(10):
            while not services.dispatcher.is_looking:
                await anyio.sleep(0.01)
        answer = await anonymous.get("/readyz")
        tasks.cancel_scope.cancel()
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "database": True, "queue": True})
    # It has not looked for a while.
    monkeypatch.setattr(dispatcher, "STALE_S", -1.0)
    assert (await anonymous.get("/readyz")).json()["queue"] is False


async def test_it_is_not_ready_without_its_tables(services: Services, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/empty.sqlite")
    async with client_of(create_app(dataclasses.replace(services, database=database))) as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["database"]) == (503, False)
        # What else is counted can be read all the same.
        assert (await client.get("/metrics")).status_code == 200
    await database.close()


async def samples(client: Client) -> dict[tuple[str, ...], float]:
    answer = await client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_requests_are_counted_by_route_and_not_by_content(client: Client) -> None:
    for number in (1, 2, 999):
        await client.get(f"/test_framework/v1/scenarios/{number}/")
    await client.get("/tok_planted")
    await client.request("BREW", "/healthz")
    found = await samples(client)
    total, route = "scenario_runner_requests_total", "/test_framework/v1/scenarios/{id}"
    assert found[total, "GET", route, "200"] == 1
    assert found[total, "GET", route, "404"] == 2
    assert found[total, "GET", "unmatched", "404"] == 1
    assert found[total, "other", "/healthz", "405"] == 1
    assert found["scenario_runner_request_seconds_count", "GET", route] == 3
    assert "tok_planted" not in str(found)


@on_every_database
async def test_runs_are_counted_by_status(client: Client, services: Services) -> None:
    async with services.database.session() as session:
        result = ResultRow(project_id=1, run_type="pipecat")
        session.add(result)
        await session.flush()
        for status in ("pending", "pending", "completed"):
            session.add(RunRow(result_id=result.id, project_id=1, scenario_name="x", snapshot={}, status=status))
    found = await samples(client)
    assert found["scenario_runner_runs", "pending"] == 2
    assert found["scenario_runner_runs", "completed"] == 1
    assert found["scenario_runner_runs", "running"] == 0


@on_every_database
async def test_what_waits_and_how_workers_fare_can_be_read(client: Client, services: Services) -> None:
    now = utc_now()
    minute = timedelta(minutes=1)
    async with services.database.session() as session:
        session.add(result := ResultRow(project_id=1, run_type="pipecat"))
        await session.flush()
        for values in (
            {"created_at": now - 5 * minute},
            {"not_before": now + minute},
            {"executor": "w", "created_at": now - 9 * minute},
        ):
            session.add(RunRow(result_id=result.id, project_id=1, scenario_name="x", snapshot={}, **values))
        load = {"loop_lag_ms": 250.0, "underruns": 3}
        session.add(row_of("one-1", calls=4, runs={"live": [1, 2], "kept": [[3, 1, True]]}, load=load))
        # Its process was started anew while the one before it sees its calls through.
        session.add(row_of("two-1", state="draining", calls=2, runs={"live": [4], "kept": []}))
        session.add(row_of("two-2", calls=2, runs={"live": [5], "kept": []}))
        session.add(row_of("gone-1", state="lost", gone_at=now))
    found = await samples(client)
    prefix = "scenario_runner_"
    assert found[prefix + "record_readable",] == 1
    assert (found[prefix + "runs_waiting", "yes"], found[prefix + "runs_waiting", "no"]) == (1, 1)
    assert 299 < found[prefix + "oldest_waiting_seconds",] < 400
    states = {state: found[prefix + "workers", state] for state in ("taking", "draining", "lost", "stopped")}
    assert states == {"taking": 2, "draining": 1, "lost": 1, "stopped": 0}
    assert (found[prefix + "worker_calls", "one"], found[prefix + "worker_calls_limit", "one"]) == (2, 4)
    assert found[prefix + "worker_calls", "two"] == 2
    assert found[prefix + "worker_loop_lag_seconds", "one"] == 0.25
    assert (found[prefix + "worker_reports_waiting", "one"], found[prefix + "worker_underruns", "one"]) == (1, 3)
    assert not [key for key in found if "gone" in key]
    async with services.database.session() as session:
        await session.execute(update(WorkerRow).where(WorkerRow.name == "one").values(gone_at=now, state="stopped"))
    assert not [key for key in await samples(client) if "one" in key]


async def test_a_record_that_is_away_leaves_no_old_figures(
    client: Client, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with services.database.session() as session:
        session.add(row_of("one-1"))
    assert ("scenario_runner_worker_calls", "one") in await samples(client)
    readable = services.database.reading

    def away() -> Any:
        raise OperationalError("SELECT", {}, Exception("the database is away"))

    monkeypatch.setattr(services.database, "reading", away)
    found = await samples(client)
    assert found["scenario_runner_record_readable",] == 0
    assert math.isnan(found["scenario_runner_oldest_waiting_seconds",])
    assert not [key for key in found if key[0] in ("scenario_runner_runs", "scenario_runner_worker_calls")]
    assert found["scenario_runner_requests_total", "GET", "/metrics", "200"] == 1
    monkeypatch.setattr(services.database, "reading", readable)
    assert ("scenario_runner_worker_calls", "one") in await samples(client)


@on_every_database
async def test_how_long_a_run_waited_and_took_to_its_room_counts_once(
    client: Client, worker: Client, services: Services
) -> None:
    delayed, unjoined, unclaimed, lost = await run_launched(client, 4)
    for run_id in (delayed, unjoined, lost):
        await claimed(worker, run_id)
    await given(worker, unclaimed)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    times = {"created_at": at, "not_before": at + timedelta(seconds=60), "started_at": at + timedelta(seconds=63)}
    async with services.database.session() as session:
        joined = {"joined_at": at + timedelta(seconds=67)}
        await session.execute(update(RunRow).where(RunRow.id == delayed).values(**times, **joined))
        await session.execute(update(RunRow).where(RunRow.id == unjoined).values(**times))
    for _ in range(2):
        await report(worker, delayed, outcome())
        # It was in the room, and the report of that got lost: how soon is not known.
        await report(worker, unjoined, outcome())
        await report(worker, unclaimed, REFUSED)
    await release(worker, lost, said=True)
    found = await samples(client)
    queue, set_up = "scenario_runner_run_queue_seconds", "scenario_runner_run_setup_seconds"
    assert (found[queue + "_count",], found[queue + "_sum",]) == (2, 6)
    assert (found[set_up + "_count",], found[set_up + "_sum",]) == (1, 4)


async def test_each_application_counts_for_itself(app: FastAPI, services: Services) -> None:
    other = create_app(services)
    async with client_of(app) as client, client_of(other) as stranger:
        await client.get("/healthz")
        assert ("scenario_runner_requests_total", "GET", "/healthz", "200") not in await samples(stranger)
