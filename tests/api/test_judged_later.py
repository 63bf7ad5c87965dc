"""A run whose worker has reported it, and that a judge is still to be asked about, as clients see it."""

import dataclasses
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from runner.api.app import create_app
from runner.api.services import Services
from runner.dispatch.durable import Durable
from runner.evaluation.asked import NO_JUDGE_ASKED, Asked
from runner.evaluation.failure import Failure, FailureKind
from runner.settings import JudgeSettings, Settings
from tests.api.conftest import Client, client_of
from tests.api.telling import show
from tests.records.giving import WORKER, give
from tests.records.outcomes import outcome, reported

pytestmark = pytest.mark.anyio

LAUNCH = "/test_framework/v1/scenarios/run_scenarios_pipecat/"
RUNS = "/test_framework/v1/runs"
WHY = f"expected_outcome_prompt was not judged: {NO_JUDGE_ASKED}"
REPORTED = outcome(
    success=None,
    detail=WHY,
    failure=Failure(kind=FailureKind.NOT_JUDGED, cause=None, headline=WHY),
    asked=Asked(expected_outcome="it sings"),
)


@pytest.fixture
async def judging(services: Services) -> AsyncGenerator[Services]:
    """What the routes of a server with a judge work with."""
    settings = Settings(
        server=services.settings.server, judge=JudgeSettings(base_url="http://127.0.0.1:9/v1", model="m")
    )
    durable = Durable(services.database, services.store, settings)
    await durable.prepare()
    yield dataclasses.replace(services, durable=durable)
    await durable.close()


async def report(client: Client, run_id: int) -> dict[str, Any]:
    told = {"run_id": run_id, "attempt": 1, "executor": WORKER, "run": reported(REPORTED)}
    answer = await client.post("/worker/v1/report/", json=told)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_run_is_evaluating_while_the_judge_is_asked(
    judging: Services, user_key: str, worker_key: str
) -> None:
    app = create_app(judging)
    async with client_of(app, user_key) as client, client_of(app, worker_key) as worker:
        launched = await client.post(
            LAUNCH, json={"scenarios": [{"scenario": 1, "pipecat_room_url": "http://localhost:7860/api/offer"}]}
        )
        result = launched.json()
        run_id = result["runs"][0]["id"]
        await give(judging.database, run_id)
        # As often as the worker reports it.
        assert [await report(worker, run_id) for _ in range(2)] == [{"counted": True, "waits_again": False}] * 2

        run = await show(client, run_id)
        assert (run["status"], run["success"], run["expected_outcome"]) == ("evaluating", None, None)
        assert "the judge has not answered yet" in run["scenario_runner"]["detail"]
        assert run["transcript_object"] and run["duration"] == "00:41"
        state = (await client.get(f"/test_framework/v1/results/{result['id']}/")).json()
        assert state["status"] == "running"

        assert (await client.post(f"{RUNS}/{run_id}/end_call/")).status_code == 200
        run = await show(client, run_id)
        assert (run["status"], run["success"], run["scenario_runner"]["success"]) == ("completed", False, None)
        assert "cancelled before the judge had answered" in run["error_message"]
