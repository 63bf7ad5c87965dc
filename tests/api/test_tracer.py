"""What a tracer inside the agent sends."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import select

from runner.api.routes.tracer import MAX_TRACE_BYTES
from runner.api.services import Services
from runner.records.tables import ResultRow, RunRow
from tests.api.conftest import Client, client_of, on_every_database, other_project

pytestmark = pytest.mark.anyio

WEBHOOK = "/test_framework/v1/pipecat/webhook/"


@pytest.fixture
async def run_id(services: Services) -> AsyncIterator[int]:
    async with services.database.session() as session:
        result = ResultRow(project_id=1, run_type="pipecat")
        session.add(result)
        await session.flush()
        run = RunRow(result_id=result.id, project_id=1, scenario_name="x", snapshot={})
        session.add(run)
        await session.flush()
    yield run.id


async def trace_of(services: Services, run_id: int) -> dict[str, Any] | None:
    async with services.database.reading() as session:
        return await session.scalar(select(RunRow.trace).where(RunRow.id == run_id))


def payload(run_id: Any, **more: Any) -> dict[str, Any]:
    """Return what the tracer posts."""
    return {
        "session_start": "2026-01-01T10:00:00Z",
        "session_end": "2026-01-01T10:01:00Z",
        "transcript": [{"role": "assistant", "content": "Hello", "tool_calls": [{"id": "1"}], "started_at": 1.5}],
        "agent_id": 12,
        "session_id": "abc",
        "sdk_version": "1.6.7",
        "sdk_language": "python",
        "provider_data": {
            "session_id": "abc",
            "session_params": {"cekura_run_id": run_id, "openai_key": "sk-planted"},
            "custom_metadata": {"build": 7},
        },
        "trace_id": "0" * 32,
        "logs": [{"timestamp": "t", "level": "INFO", "logger": "x", "message": "m"}],
        **more,
    }


@on_every_database
async def test_a_trace_is_stored_with_the_run_it_names(client: Client, services: Services, run_id: int) -> None:
    for given in (run_id, str(run_id)):
        answer = await client.post(WEBHOOK, json=payload(given))
        assert answer.status_code == 200
        assert answer.json() == {"run": run_id, "stored": True, "truncated": False, "detail": None}
    trace = await trace_of(services, run_id)
    assert trace is not None
    assert trace["trace_id"] == "0" * 32
    assert trace["transcript"][0]["tool_calls"] == [{"id": "1"}]
    assert trace["provider_data"]["custom_metadata"] == {"build": 7}


async def test_nothing_else_of_the_session_s_parameters_is_kept(
    client: Client, services: Services, run_id: int
) -> None:
    await client.post(WEBHOOK, json=payload(run_id))
    trace = await trace_of(services, run_id)
    assert trace is not None
    assert trace["provider_data"]["session_params"] == {"cekura_run_id": run_id}


async def test_a_trace_of_no_known_run_is_no_error(client: Client) -> None:
    for number in (None, "", "x", True, 1.5, -1, 0, 10**6, "9" * 19, "9" * 30, [1]):
        answer = await client.post(WEBHOOK, json=payload(number))
        assert (answer.status_code, answer.json()["stored"]) == (200, False), number
    for body in ({}, {"provider_data": None}, {"provider_data": {}}):
        assert (await client.post(WEBHOOK, json=body)).json()["stored"] is False


async def test_what_is_too_large_is_left_out(client: Client, services: Services, run_id: int) -> None:
    logs = [{"message": "x" * MAX_TRACE_BYTES}]
    answer = await client.post(WEBHOOK, json=payload(run_id, logs=logs))
    assert (answer.json()["stored"], answer.json()["truncated"]) == (True, True)
    trace = await trace_of(services, run_id)
    assert trace is not None
    assert "logs" not in trace
    assert trace["transcript"]
    await client.post(WEBHOOK, json=payload(run_id, logs=None, transcript=logs, session_end="y" * MAX_TRACE_BYTES))
    answer = await client.post(WEBHOOK, json=payload(run_id, logs=None, session_end="y" * MAX_TRACE_BYTES))
    trace = await trace_of(services, run_id)
    assert trace is not None
    assert set(trace) == {"session_start", "trace_id", "received_at"}


async def test_another_projects_run_is_left_alone(app: Any, services: Services, run_id: int) -> None:
    _, key = await other_project(services)
    async with client_of(app, key) as stranger:
        assert (await stranger.post(WEBHOOK, json=payload(run_id))).json()["stored"] is False
    assert await trace_of(services, run_id) is None
