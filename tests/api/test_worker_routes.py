"""What workers tell the record over HTTP."""

import asyncio
import json
from typing import Any

import httpx
import pytest

import runner.rooms.allowed
from runner.api.services import Services
from runner.records.secrets import Vault
from runner.records.tables import RunRow
from tests.records.outcomes import agent_failed, outcome, reported

pytestmark = pytest.mark.anyio

WORKER = "/worker/v1/runs"
V1 = "/test_framework/v1/scenarios/run_scenarios_pipecat/"
ROOM = "http://localhost:7860/api/offer"
TOKEN = "pl4nted-t0ken"


async def run_launched(client: httpx.AsyncClient, count: int = 1, **entry: Any) -> list[int]:
    """Launch runs of scenario 1 and return their ids."""
    entries = [{"scenario": 1, "pipecat_room_url": ROOM, **entry}] * count
    answer = await client.post(V1, json={"scenarios": entries})
    assert answer.status_code == 200, answer.text
    return [run["id"] for run in answer.json()["runs"]]


async def claimed(worker: httpx.AsyncClient, run_id: int) -> dict[str, Any]:
    """Claim a run and return the job."""
    answer = await worker.post(f"{WORKER}/{run_id}/claim", json={"executor": "me"})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def report(worker: httpx.AsyncClient, run_id: int, run: Any, attempt: int = 1) -> httpx.Response:
    """Report an outcome."""
    return await worker.post(f"{WORKER}/{run_id}/outcome", json={"attempt": attempt, "run": reported(run)})


async def test_a_job_has_all_that_the_call_needs(client: httpx.AsyncClient, worker_client: httpx.AsyncClient) -> None:
    (run_id,) = await run_launched(client, pipecat_token=TOKEN, publish_data_message={"type": "hi"})
    job = await claimed(worker_client, run_id)
    assert (job["run_id"], job["attempt"], job["scenario"]) == (run_id, 1, "Book a table")
    assert (job["room_url"], job["token"], job["session"]) == (ROOM, TOKEN, None)
    assert job["data_message"] == {"value": {"type": "hi"}}
    assert job["script"]["turns"] and job["transcribe"] is True and job["allow_unjudged"] is False
    assert job["session_data"] == {"cekura_run_id": run_id}
    assert (await client.get(f"/test_framework/v1/runs/{run_id}")).json()["status"] == "running"


async def test_progress_tells_whether_to_stop(client: httpx.AsyncClient, worker_client: httpx.AsyncClient) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)
    path = f"{WORKER}/{run_id}"
    told = {"attempt": 1, "status": "running", "joined": True}
    assert (await worker_client.post(f"{path}/progress", json=told)).json() == {"cancel_requested": False}
    assert (await worker_client.get(path, params={"attempt": 1})).json() == {
        "cancel_requested": False,
        "status": "running",
    }
    assert (await client.post(f"/test_framework/v1/runs-external/{run_id}/end_call")).status_code == 200
    assert (await worker_client.get(path, params={"attempt": 1})).json()["cancel_requested"] is True
    told = {"attempt": 1, "status": "evaluating", "joined": True}
    assert (await worker_client.post(f"{path}/progress", json=told)).json() == {"cancel_requested": True}
    run = (await client.get(f"/test_framework/v1/runs/{run_id}")).json()
    assert run["status"] == "evaluating" and run["scenario_runner"]["joined_at"] is not None


async def test_an_outcome_counts_once(client: httpx.AsyncClient, worker_client: httpx.AsyncClient) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)
    for run, accepted in ((outcome(), True), (outcome(), True), (agent_failed(), False)):
        answer = await report(worker_client, run_id, run)
        assert (answer.status_code, answer.json()) == (200, {"accepted": accepted})
    error = {"cause": "room", "reason": "token-refused", "detail": "no"}
    answer = await worker_client.post(f"{WORKER}/{run_id}/outcome", json={"attempt": 1, "error": error})
    assert answer.json() == {"accepted": False}
    run = (await client.get(f"/test_framework/v1/runs/{run_id}")).json()
    assert (run["status"], run["success"]) == ("completed", True)
    late = {"attempt": 1, "status": "running", "joined": True}
    answer = await worker_client.post(f"{WORKER}/{run_id}/progress", json=late)
    assert answer.json() == {"cancel_requested": True}
    assert (await worker_client.post(f"{WORKER}/{run_id}/claim", json={"executor": "x"})).status_code == 409


async def test_reports_of_an_attempt_that_is_not_under_way_are_refused(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    (run_id,) = await run_launched(client)
    path = f"{WORKER}/{run_id}"
    await claimed(worker_client, run_id)
    assert (await claimed(worker_client, run_id))["attempt"] == 2
    for attempt in (1, 3):
        told = {"attempt": attempt, "status": "running", "joined": True}
        assert (await worker_client.post(f"{path}/progress", json=told)).status_code == 409
        assert (await worker_client.get(path, params={"attempt": attempt})).status_code == 409
        assert (await report(worker_client, run_id, outcome(), attempt)).status_code == 409
        events = {"attempt": attempt, "events": []}
        assert (await worker_client.post(f"{path}/events", json=events)).status_code == 409
        answer = await worker_client.put(f"{path}/artefacts/run.json", params={"attempt": attempt}, content=b"{}")
        assert answer.status_code == 409
    assert (await client.get(f"/test_framework/v1/runs/{run_id}")).json()["status"] == "running"


async def test_what_is_no_report_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)
    path = f"{WORKER}/{run_id}/outcome"
    error = {"cause": "room", "reason": "token-refused"}
    for body in (
        {},
        {"attempt": 1},
        {"attempt": 1, "run": {}},
        {"attempt": 1, "run": {**reported(outcome()), "status": TOKEN}},
        {"attempt": 1, "run": reported(outcome()), "error": error},
        {"attempt": 1, "error": {"cause": "x" * 30, "reason": "y"}},
        {"attempt": 0, "error": error},
    ):
        answer = await worker_client.post(path, json=body)
        assert answer.status_code == 400, body
        assert TOKEN not in answer.text
    assert (await client.get(f"/test_framework/v1/runs/{run_id}")).json()["status"] == "running"


async def test_only_workers_report_and_only_on_what_is_there(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    (run_id,) = await run_launched(client)
    claim = {"executor": "x"}
    assert (await client.post(f"{WORKER}/{run_id}/claim", json=claim)).status_code == 403
    assert (await anonymous.post(f"{WORKER}/{run_id}/claim", json=claim)).status_code == 401
    assert (await worker_client.post(f"{WORKER}/999/claim", json=claim)).status_code == 404
    assert (await worker_client.get(f"{WORKER}/999", params={"attempt": 1})).status_code == 404
    assert (await report(worker_client, 999, outcome())).status_code == 404
    assert (await worker_client.post(f"{WORKER}/{10**30}/claim", json=claim)).status_code == 404


async def test_a_room_whose_name_leads_inside_since_the_launch_is_not_opened(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "52.1.2.3"

    async def resolve(host: str) -> list[str]:
        return [address]

    monkeypatch.setattr(runner.rooms.allowed, "resolve", resolve)
    (run_id,) = await run_launched(client, pipecat_room_url="https://acme.daily.co/r1", pipecat_token=TOKEN)
    address = "169.254.169.254"
    answer = await worker_client.post(f"{WORKER}/{run_id}/claim", json={"executor": "x"})
    assert answer.status_code == 409 and TOKEN not in answer.text
    run = (await client.get(f"/test_framework/v1/runs/{run_id}")).json()
    assert (run["status"], run["scenario_runner"]["cause"]) == ("failed", "room")
    assert "server.allowed_rooms" in run["error_message"]


async def test_a_run_whose_token_cant_be_decrypted_fails_and_says_so(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    (run_id,) = await run_launched(client, pipecat_token=TOKEN)
    async with services.database.session() as session:
        other = Vault(b"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
        (await session.get_one(RunRow, run_id)).room_token = other.seal("{}")
    assert (await worker_client.post(f"{WORKER}/{run_id}/claim", json={"executor": "x"})).status_code == 409
    run = (await client.get(f"/test_framework/v1/runs/{run_id}")).json()
    assert (run["status"], run["scenario_runner"]["cause"]) == ("failed", "harness")


async def test_artefacts_are_kept_under_names_that_stay_in_their_place(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)
    path = f"{WORKER}/{run_id}/artefacts"
    answer = await worker_client.put(f"{path}/recording.wav", params={"attempt": 1}, content=b"RIFF")
    assert (answer.status_code, answer.json()) == (200, {"size": 4})
    for name in ("..%2f..%2fx", "a%2fb", ".hidden", "%20", "x" * 150):
        answer = await worker_client.put(f"{path}/{name}", params={"attempt": 1}, content=b"x")
        assert answer.status_code in (400, 404), name
    async with services.database.reading() as session:
        assert (await session.get_one(RunRow, run_id)).artefacts == {"recording.wav": 4}


async def test_many_reports_at_once_end_every_run_and_the_result(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    ids = await run_launched(client, 6)

    async def see_through(run_id: int) -> None:
        await claimed(worker_client, run_id)
        moves = [report(worker_client, run_id, outcome()) for _ in range(2)]
        for answer in await asyncio.gather(*moves):
            assert answer.json() == {"accepted": True}

    await asyncio.gather(*(see_through(run_id) for run_id in ids))
    run = (await client.get(f"/test_framework/v1/runs/{ids[0]}")).json()
    result = (await client.get(f"/test_framework/v1/results/{run['result_id']}")).json()
    assert (result["status"], result["success_runs_count"], result["success_rate"]) == ("completed", 6, 100.0)


async def test_an_outcome_is_not_refused_for_what_the_agent_said(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)
    nested: Any = 1
    for _ in range(300):
        nested = [nested]
    arguments = {"nul": "\x00", "half": "\ud800", "large": 10**40, "none": float("nan"), "nested": nested}
    told = reported(outcome())
    told["transcript_object"][0]["data"] = {"arguments": arguments}
    content = json.dumps({"attempt": 1, "run": told})
    headers = {"Content-Type": "application/json"}
    for _ in range(2):
        answer = await worker_client.post(f"{WORKER}/{run_id}/outcome", content=content, headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"accepted": True})
    run = (await client.get(f"/test_framework/v1/runs/{run_id}")).json()
    kept = run["transcript_object"][0]["data"]["arguments"]
    assert (kept["nul"], kept["half"], kept["none"]) == ("\ufffd", "\ufffd", None)
    events = json.dumps({"attempt": 1, "events": [arguments]})
    answer = await worker_client.post(f"{WORKER}/{run_id}/events", content=events, headers=headers)
    assert answer.status_code == 204
    broken = await worker_client.post(f"{WORKER}/{run_id}/outcome", content="[" * 100_000, headers=headers)
    assert broken.status_code == 400
