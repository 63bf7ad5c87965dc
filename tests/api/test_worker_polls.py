"""What workers ask for over HTTP, and are given."""

import asyncio
import json
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError

import runner.rooms.allowed
from runner.api.services import Services
from runner.dispatch.dispatcher import Dispatcher
from runner.protocol.messages import VERSION, Answer, Job, RunNow, SessionStart
from runner.records.tables import WorkerRow
from tests.api.conftest import BASE_URL, Client, on_every_database
from tests.api.telling import ME, ROOM, ROOT, RUNS, TOKEN, claimed, polling, run_launched, show, tell

pytestmark = pytest.mark.anyio


async def test_the_record_says_who_it_is_and_takes_the_key(worker: Client) -> None:
    said = (await worker.get(f"{ROOT}/hello")).json()
    assert (said["protocol"], said["lease_s"]) == (VERSION, 20.0) and said["version"]


@on_every_database
async def test_a_poll_brings_jobs_with_all_that_the_calls_need(
    client: Client, worker: Client, dispatching: Dispatcher
) -> None:
    (run_id,) = await run_launched(client, pipecat_token=TOKEN, publish_data_message={"type": "hi"})
    answer = await tell(worker, "poll", polling(waits=True))
    assert answer.status_code == 200 and answer.json()["lease_s"] == 20.0
    [job] = answer.json()["jobs"]
    assert (job["run_id"], job["attempt"], job["scenario"]) == (run_id, 1, "Book a table")
    assert (job["room_url"], job["token"], job["session"]) == (ROOM, TOKEN, None)
    assert job["data_message"]["value"] == {"type": "hi"}
    assert job["script"]["turns"] and job["transcribe"] is True and job["allow_unjudged"] is False
    assert job["session_data"] == {"cekura_run_id": run_id}
    assert job["participant_name"] is None
    # What a worker reads of it is what was meant.
    assert Answer.model_validate_json(answer.content).jobs[0].token == SecretStr(TOKEN)
    again = await tell(worker, "poll", polling(2, RunNow(run_id=run_id, attempt=1, joined=True)))
    order = {"run_id": run_id, "attempt": 1, "counts": True, "is_cancelled": False, "is_watched": False}
    order["is_listened_to"] = False
    assert again.json() == {"lease_s": 20.0, "jobs": [], "orders": [order]}
    run = await show(client, run_id)
    assert run["status"] == "running" and run["scenario_runner"]["joined_at"] is not None
    await client.post(f"{RUNS}-external/{run_id}/end_call")
    ended = await tell(worker, "poll", polling(3, RunNow(run_id=run_id, attempt=1)))
    assert ended.json()["orders"] == [{**order, "is_cancelled": True}]


async def test_a_job_names_the_agent_as_its_run_does_or_else_its_agent(client: Client, worker: Client) -> None:
    (named,) = await run_launched(client, participant_name="Bella")
    assert (await claimed(worker, named))["participant_name"] == "Bella"
    agent = (await show(client, named))["agent"]
    session = {"participant_name": "Luigi"}
    changed = await client.patch(f"/test_framework/v2/aiagents/{agent}/", json={"session": session})
    assert changed.json()["session"]["participant_name"] == "Luigi"
    (of_its_agent,) = await run_launched(client)
    assert (await claimed(worker, of_its_agent))["participant_name"] == "Luigi"


async def test_a_room_whose_name_leads_inside_by_now_is_not_opened(
    client: Client,
    worker: Client,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = "52.1.2.3"

    async def resolve(host: str) -> list[str]:
        return [address]

    monkeypatch.setattr(runner.rooms.allowed, "resolve", resolve)
    (run_id,) = await run_launched(client, pipecat_room_url="https://acme.daily.co/r1", pipecat_token=TOKEN)
    (good,) = await run_launched(client)
    address = "169.254.169.254"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(services.dispatcher.run)
        answer = await tell(worker, "poll", polling(waits=True))
        tasks.cancel_scope.cancel()
    assert [job["run_id"] for job in answer.json()["jobs"]] == [good] and TOKEN not in answer.text
    run = await show(client, run_id)
    assert (run["status"], run["scenario_runner"]["cause"]) == ("failed", "room")
    assert "server.allowed_rooms" in run["error_message"]


def test_secrets_are_in_clear_on_the_wire_and_nowhere_else() -> None:
    start = SessionStart(
        start_url="https://x.test/start", credential=SecretStr(TOKEN), private_key=SecretStr(TOKEN), data={"a": TOKEN}
    )
    kept: dict[str, Any] = {"run_id": 1, "attempt": 1, "scenario": "s", "script": {}, "session": start}
    job = Job(**kept, token=SecretStr(TOKEN), room_url=f"https://x.test/?t={TOKEN}", session_data={"a": TOKEN})
    answer = Answer(lease_s=1.0, jobs=(job,))
    plain = json.loads(answer.on_the_wire())["jobs"][0]
    assert [plain["token"], plain["session"]["credential"], plain["session"]["private_key"]] == [TOKEN] * 3
    assert Answer.model_validate_json(answer.on_the_wire()) == answer
    for shown in (answer, job, start):
        assert TOKEN not in repr(shown) and TOKEN not in str(shown)
    told = json.loads(answer.model_dump_json())["jobs"][0]
    dumped = answer.model_dump(mode="json")["jobs"][0]
    for hidden in (told, dumped):
        assert [hidden["token"], hidden["session"]["credential"]] == ["**********"] * 2
    # Nothing is nothing, and not the text of it.
    assert json.loads(Job(**kept).on_the_wire())["token"] is None


async def test_a_worker_that_was_given_up_is_told_so(
    worker: Client, dispatching: Dispatcher, services: Services
) -> None:
    assert (await tell(worker, "poll", polling())).status_code == 200
    gone = await worker.post(f"{ROOT}/gone/", json={"executor": ME})
    assert (gone.status_code, gone.content) == (204, b"")
    answer = await tell(worker, "poll", polling(2))
    assert (answer.status_code, answer.json()) == (410, {"detail": "the worker was given up for lost"})
    async with services.database.reading() as session:
        assert (await session.get_one(WorkerRow, ME)).state == "lost"


async def test_a_poll_that_the_record_did_not_take_is_a_503(
    worker: Client, dispatching: Dispatcher, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that its key is known.
    assert (await worker.get(f"{ROOT}/hello")).status_code == 200

    async def away(work: Any) -> Any:
        raise OperationalError("UPDATE", {}, Exception(TOKEN))

    monkeypatch.setattr(services.database, "run", away)
    answer = await tell(worker, "poll", polling())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json() == {"detail": "the record can't be used now"}


async def test_another_version_is_refused_in_one_clear_line(worker: Client, anonymous: Client) -> None:
    answer = await tell(worker, "poll", polling(protocol=VERSION + 1))
    assert answer.status_code == 426
    detail = answer.json()["detail"]
    assert f"This worker speaks version {VERSION + 1}" in detail and "use the same release for both" in detail
    # How workers of earlier releases spoke.
    old = ("runs/claims/", "runs/5/claim/", "runs/progress", "runs/outcomes", "runs/5/outcome", "runs/5/release")
    for path in old:
        answer = await worker.post(f"{ROOT}/{path}", json={})
        assert answer.status_code == 426, path
        assert "use the same release for both" in answer.json()["detail"] and "\n" not in answer.json()["detail"]
        assert (await anonymous.post(f"{ROOT}/{path}", json={})).status_code == 401


async def test_what_is_no_poll_is_refused_and_quoted_nowhere(worker: Client) -> None:
    good = json.loads(polling().on_the_wire())
    info = good["worker"]
    for wrong in (
        {},
        {**good, "number": 0},
        {**good, "state": TOKEN},
        {**good, "worker": {**info, "executor": f"a {TOKEN}"}},
        {**good, "worker": {**info, "calls": 0}},
        {**good, "runs": [{"run_id": TOKEN, "attempt": 1}]},
        {**good, "runs": [{"run_id": 1, "attempt": 1}] * 1_001},
        {**good, "kept": [{"run_id": 1, "attempt": 1}]},
    ):
        answer = await worker.post(f"{ROOT}/poll/", json=wrong)
        assert answer.status_code == 400, wrong
        assert TOKEN not in answer.text


async def test_whoever_hangs_up_frees_the_poll_that_is_held_for_it(
    app: FastAPI, worker_key: str, dispatching: Dispatcher
) -> None:
    async with asyncio.timeout(5):
        hung_up = anyio.Event()
        body: list[Any] = [{"type": "http.request", "body": polling(waits=True).on_the_wire(), "more_body": False}]

        async def receive() -> Any:
            if body:
                return body.pop()
            await hung_up.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        headers = [(b"content-type", b"application/json"), (b"x-cekura-api-key", worker_key.encode())]
        scope = {
            "type": "http",
            "method": "POST",
            "path": f"{ROOT}/poll",
            "raw_path": b"",
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "server": (BASE_URL, 80),
        }
        asking = asyncio.create_task(app(scope, receive, send))
        while ME not in dispatching._held:
            dispatching.wake()
            await anyio.sleep(0.01)
        hung_up.set()
        await asking
        assert dispatching._held == {}
