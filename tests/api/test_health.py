"""What watches the server."""

import dataclasses
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from runner.api.app import create_app
from runner.api.services import Services
from runner.records.database import Database
from runner.records.tables import ResultRow, RunRow
from tests.api.conftest import FakeQueue, client_of, on_every_database

pytestmark = pytest.mark.anyio


async def test_the_process_answers_without_a_key(anonymous: httpx.AsyncClient) -> None:
    answer = await anonymous.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_it_is_ready_with_its_record_and_its_queue(anonymous: httpx.AsyncClient, services: Services) -> None:
    answer = await anonymous.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "database": True, "queue": True})
    queue = services.queue
    assert isinstance(queue, FakeQueue)
    queue.started = False
    answer = await anonymous.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "not ready", "database": True, "queue": False})


async def test_it_is_not_ready_without_its_tables(services: Services, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/empty.sqlite")
    async with client_of(create_app(dataclasses.replace(services, database=database))) as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["database"]) == (503, False)
        # What else is counted can be read all the same.
        assert (await client.get("/metrics")).status_code == 200
    await database.close()


async def samples(client: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    answer = await client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_requests_are_counted_by_route_and_never_by_what_was_sent(client: httpx.AsyncClient) -> None:
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
async def test_runs_are_counted_by_status(client: httpx.AsyncClient, services: Services) -> None:
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


async def test_each_application_counts_for_itself(app: FastAPI, services: Services) -> None:
    other = create_app(services)
    async with client_of(app) as client, client_of(other) as stranger:
        await client.get("/healthz")
        assert ("scenario_runner_requests_total", "GET", "/healthz", "200") not in await samples(stranger)
