"""What workers tell the record over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from obstore.exceptions import BaseError
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError
from starlette.requests import ClientDisconnect

import runner.api.routes.worker
import runner.rooms.allowed
from runner.api.services import Services
from runner.dispatch.dispatcher import Dispatcher
from runner.protocol.messages import (
    PART_BYTES,
    VERSION,
    Answer,
    Job,
    Message,
    Poll,
    Problem,
    Release,
    Report,
    RunNow,
    SessionStart,
    WorkerInfo,
)
from runner.records import runs as records
from runner.records.retention import purge
from runner.records.runs import MAX_ARTEFACTS
from runner.records.secrets import Vault
from runner.records.store import artefact_key
from runner.records.tables import Agent, RunRow, WorkerRow, utc_now
from tests.api.conftest import BASE_URL, on_every_database
from tests.records.giving import give, take
from tests.records.outcomes import agent_failed, no_call, outcome, reported

pytestmark = pytest.mark.anyio

ROOT = "/worker/v1"
WORKER = f"{ROOT}/runs"
V1 = "/test_framework/v1/scenarios/run_scenarios_pipecat/"
V2 = "/test_framework/v1/scenarios/run_scenarios_pipecat_v2/"
RUNS = "/test_framework/v1/runs"
ROOM = "http://localhost:7860/api/offer"
TOKEN = "pl4nted-t0ken"
ME = "host-1-0000"
OTHER_VAULT = Vault(b"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
"""Of another record: with another key."""

REFUSED = Problem(cause="room", reason="token-refused", detail="no")


async def run_launched(client: httpx.AsyncClient, count: int = 1, **entry: Any) -> list[int]:
    """Launch runs of scenario 1 and return their ids."""
    entries = [{"scenario": 1, "pipecat_room_url": ROOM, **entry}] * count
    answer = await client.post(V1, json={"scenarios": entries})
    assert answer.status_code == 200, answer.text
    return [run["id"] for run in answer.json()["runs"]]


def services_of(worker: httpx.AsyncClient) -> Services:
    return worker._transport.app.state.services  # type: ignore[attr-defined]


async def given(worker: httpx.AsyncClient, *run_ids: int) -> None:
    """Give runs to a worker."""
    await give(services_of(worker).database, *run_ids, executor=ME)


async def claimed(worker: httpx.AsyncClient, run_id: int, attempt: int = 1) -> dict[str, Any]:
    """Give a run to a worker, let it begin, and return the job."""
    await given(worker, run_id)
    services = services_of(worker)
    job = await services.database.run(lambda session: take(session, services.vault, run_id, attempt, ME))
    assert job is not None
    return json.loads(job.on_the_wire())


async def progress(worker: httpx.AsyncClient, run_id: int, attempt: int = 1, **more: bool) -> bool:
    """Tell how far a run has come, as a poll does; return whether that counts."""
    told = [RunNow(run_id=run_id, attempt=attempt, **more)]
    return run_id in await services_of(worker).database.run(lambda session: records.progress(session, told))


async def tell(worker: httpx.AsyncClient, path: str, message: Message) -> httpx.Response:
    headers = {"Content-Type": "application/json"}
    return await worker.post(f"{ROOT}/{path}/", content=message.on_the_wire(), headers=headers)


async def report(
    worker: httpx.AsyncClient, run_id: int, what: Any, attempt: int = 1, *, executor: str = ME, owed: Any = ()
) -> httpx.Response:
    """Report what came of a run."""
    said = {"problem": what} if isinstance(what, Problem) else {"run": reported(what)}
    return await tell(
        worker, "report", Report(run_id=run_id, attempt=attempt, executor=executor, owed=tuple(owed), **said)
    )


async def release(
    worker: httpx.AsyncClient,
    run_id: int,
    attempt: int = 1,
    *,
    said: bool = False,
    detail: str = "it stops",
    executor: str = ME,
) -> httpx.Response:
    """Give a run back."""
    back = Release(detail=detail, said=said, may_end=said)
    return await tell(worker, "report", Report(run_id=run_id, attempt=attempt, executor=executor, release=back))


def upload(run_id: int, name: str = "recording.wav") -> str:
    return f"{WORKER}/{run_id}/artefacts/{name}/"


async def put(
    worker: httpx.AsyncClient,
    run_id: int,
    name: str,
    content: Any,
    attempt: int = 1,
    *,
    offset: int = 0,
    size: int | None = None,
    executor: str = ME,
) -> httpx.Response:
    """Bring a file, or a part of it."""
    whole = len(content) if size is None else size
    params: dict[str, Any] = {"attempt": attempt, "executor": executor, "offset": offset, "size": whole}
    return await worker.put(upload(run_id, name), params=params, content=content)


async def there(worker: httpx.AsyncClient, run_id: int, name: str, attempt: int = 1) -> Any:
    """Ask how much of a file is there."""
    answer = await worker.get(upload(run_id, name), params={"attempt": attempt, "executor": ME})
    return answer.json() if answer.is_success else answer.status_code


def polling(number: int = 1, *runs: RunNow, **said: Any) -> Poll:
    info = WorkerInfo(executor=ME, name="host/1", version="1", rooms=("smallwebrtc", "daily"), calls=4)
    return Poll(**{"protocol": VERSION, "worker": info, "number": number, "runs": runs, **said})


async def artefacts(services: Services, run_id: int) -> dict[str, int | None]:
    async with services.database.reading() as session:
        return (await session.get_one(RunRow, run_id)).artefacts


# Polls.


async def test_the_record_says_who_it_is_and_takes_the_key(worker_client: httpx.AsyncClient) -> None:
    said = (await worker_client.get(f"{ROOT}/hello")).json()
    assert (said["protocol"], said["lease_s"]) == (VERSION, 20.0) and said["version"]


@on_every_database
async def test_a_poll_brings_jobs_with_all_that_the_calls_need(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, dispatching: Dispatcher
) -> None:
    (run_id,) = await run_launched(client, pipecat_token=TOKEN, publish_data_message={"type": "hi"})
    answer = await tell(worker_client, "poll", polling(waits=True))
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
    again = await tell(worker_client, "poll", polling(2, RunNow(run_id=run_id, attempt=1, joined=True)))
    order = {"run_id": run_id, "attempt": 1, "counts": True, "is_cancelled": False, "is_watched": False}
    order["is_listened_to"] = False
    assert again.json() == {"lease_s": 20.0, "jobs": [], "orders": [order]}
    run = (await client.get(f"{RUNS}/{run_id}")).json()
    assert run["status"] == "running" and run["scenario_runner"]["joined_at"] is not None
    await client.post(f"{RUNS}-external/{run_id}/end_call")
    ended = await tell(worker_client, "poll", polling(3, RunNow(run_id=run_id, attempt=1)))
    assert ended.json()["orders"] == [{**order, "is_cancelled": True}]


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
    worker_client: httpx.AsyncClient, dispatching: Dispatcher, services: Services
) -> None:
    assert (await tell(worker_client, "poll", polling())).status_code == 200
    gone = await worker_client.post(f"{ROOT}/gone/", json={"executor": ME})
    assert (gone.status_code, gone.content) == (204, b"")
    answer = await tell(worker_client, "poll", polling(2))
    assert (answer.status_code, answer.json()) == (410, {"detail": "the worker was given up for lost"})
    async with services.database.reading() as session:
        assert (await session.get_one(WorkerRow, ME)).state == "lost"


async def test_a_poll_that_the_record_did_not_take_is_a_503(
    worker_client: httpx.AsyncClient, dispatching: Dispatcher, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that its key is known.
    assert (await worker_client.get(f"{ROOT}/hello")).status_code == 200

    async def away(work: Any) -> Any:
        raise OperationalError("UPDATE", {}, Exception(TOKEN))

    monkeypatch.setattr(services.database, "run", away)
    answer = await tell(worker_client, "poll", polling())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json() == {"detail": "the record can't be used now"}


async def test_another_version_is_refused_in_one_clear_line(
    worker_client: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    answer = await tell(worker_client, "poll", polling(protocol=VERSION + 1))
    assert answer.status_code == 426
    detail = answer.json()["detail"]
    assert f"This worker speaks version {VERSION + 1}" in detail and "use the same release for both" in detail
    # How workers of earlier releases spoke.
    old = ("runs/claims/", "runs/5/claim/", "runs/progress", "runs/outcomes", "runs/5/outcome", "runs/5/release")
    for path in old:
        answer = await worker_client.post(f"{ROOT}/{path}", json={})
        assert answer.status_code == 426, path
        assert "use the same release for both" in answer.json()["detail"] and "\n" not in answer.json()["detail"]
        assert (await anonymous.post(f"{ROOT}/{path}", json={})).status_code == 401


async def test_what_is_no_poll_is_refused_and_quoted_nowhere(worker_client: httpx.AsyncClient) -> None:
    good = json.loads(polling().on_the_wire())
    worker = good["worker"]
    for wrong in (
        {},
        {**good, "number": 0},
        {**good, "state": TOKEN},
        {**good, "worker": {**worker, "executor": f"a {TOKEN}"}},
        {**good, "worker": {**worker, "calls": 0}},
        {**good, "runs": [{"run_id": TOKEN, "attempt": 1}]},
        {**good, "runs": [{"run_id": 1, "attempt": 1}] * 1_001},
        {**good, "kept": [{"run_id": 1, "attempt": 1}]},
    ):
        answer = await worker_client.post(f"{ROOT}/poll/", json=wrong)
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


# What comes of runs.


@on_every_database
async def test_an_outcome_counts_once(client: httpx.AsyncClient, worker_client: httpx.AsyncClient) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)
    reports = ((outcome(), True), (outcome(), True), (agent_failed(), False), (REFUSED, False))
    for what, counted in reports:
        answer = await report(worker_client, run_id, what)
        assert (answer.status_code, answer.json()) == (200, {"counted": counted, "waits_again": False})
    run = (await client.get(f"{RUNS}/{run_id}")).json()
    assert (run["status"], run["success"]) == ("completed", True)
    assert not await progress(worker_client, run_id, joined=True)


async def test_a_report_of_another_worker_does_not_count(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)
    not_counted = {"counted": False, "waits_again": False}
    assert (await report(worker_client, run_id, outcome(), executor="another")).json() == not_counted
    assert (await release(worker_client, run_id, executor="another", said=True)).json() == not_counted
    assert (await client.get(f"{RUNS}/{run_id}")).json()["status"] == "running"


async def every_report(worker: httpx.AsyncClient, run_id: int, attempt: int) -> list[Any]:
    """Send a report of every kind of an attempt; return what it came to."""
    answers = [
        await report(worker, run_id, outcome(), attempt),
        await report(worker, run_id, REFUSED, attempt, owed=("recording.wav",)),
        await release(worker, run_id, attempt, said=True),
    ]
    events = await worker.post(f"{WORKER}/{run_id}/events", json={"attempt": attempt, "events": []})
    artefact = await put(worker, run_id, "another.json", b"{}", attempt)
    asked = await there(worker, run_id, "another.json", attempt)
    return [*(answer.json()["counted"] for answer in answers), events.status_code, artefact.status_code, asked]


async def test_nothing_counts_of_an_attempt_that_is_not_under_way(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    (run_id,) = await run_launched(client)

    async def state() -> dict[str, Any]:
        async with services.database.reading() as session:
            run = await session.get_one(RunRow, run_id)
        return {name: value for name, value in vars(run).items() if not name.startswith("_")}

    async def refused(*attempts: int) -> None:
        before = await state()
        for attempt in attempts:
            assert await every_report(worker_client, run_id, attempt) == [False, False, False, 409, 409, 409], attempt
        assert await state() == before

    await refused(1, 2)
    await claimed(worker_client, run_id)
    await refused(2)
    assert (await release(worker_client, run_id)).json() == {"counted": True, "waits_again": True}
    await refused(1, 2, 3)
    await claimed(worker_client, run_id, 2)
    await refused(1, 3)
    assert (await report(worker_client, run_id, outcome(), 2)).json()["counted"]
    await refused(1, 3)


@on_every_database
async def test_a_released_run_waits_again_unless_something_was_said(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    safe_to_retry, told_now, told_before = await run_launched(client, 3)
    for run_id in (safe_to_retry, told_now, told_before):
        await claimed(worker_client, run_id)
    await progress(worker_client, told_before, joined=True, said=True)
    waits, ended = {"counted": True, "waits_again": True}, {"counted": True, "waits_again": False}
    assert (await release(worker_client, safe_to_retry)).json() == waits
    assert (await release(worker_client, told_now, said=True)).json() == ended
    assert (await release(worker_client, told_before, detail="it \x00 stops")).json() == ended
    runs = [(await client.get(f"{RUNS}/{run_id}")).json() for run_id in (safe_to_retry, told_now, told_before)]
    assert [run["status"] for run in runs] == ["pending", "failed", "failed"]
    assert [run["scenario_runner"]["cause"] for run in runs] == [None, "harness", "harness"]
    assert [run["error_message"] for run in runs] == ["", "it stops", "it \ufffd stops"]
    assert [run["scenario_runner"]["attempt"] for run in runs] == [2, 1, 1]
    result = (await client.get(f"/test_framework/v1/results/{runs[0]['result_id']}")).json()
    assert result["status"] == "running"
    # Its answer was lost: it is not released twice, and does not end twice.
    for run_id in (safe_to_retry, told_now):
        assert not (await release(worker_client, run_id, said=True)).json()["counted"]
    assert (await claimed(worker_client, safe_to_retry, 2))["attempt"] == 2


async def test_what_was_said_is_known_even_where_giving_back_fails(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)

    def broken(*arguments: Any, **more: Any) -> bool:
        raise RuntimeError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(runner.api.routes.worker, "release", broken)
        assert (await release(worker_client, run_id, said=True)).status_code == 500
    async with services.database.session() as session:
        assert not await session.run_sync(
            records.release, run_id, 1, detail="worker lost", safe_to_retry=True, was_lost=True
        )


async def test_a_released_run_gets_a_new_session_whatever_was_said(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    async with services.database.session() as session:
        (await session.get_one(Agent, 1)).session = {"start_url": "http://localhost:7860/start"}
    answer = await client.post(V2, json={"scenarios": [1]})
    run_id = answer.json()["runs"][0]["id"]
    assert (await claimed(worker_client, run_id))["session"] is not None
    assert (await release(worker_client, run_id, said=True)).json()["waits_again"]
    job = await claimed(worker_client, run_id, 2)
    assert job["attempt"] == 2 and job["session"] is not None


async def test_a_job_names_the_agent_as_its_run_does_or_else_its_agent(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    (named,) = await run_launched(client, participant_name="Bella")
    assert (await claimed(worker_client, named))["participant_name"] == "Bella"
    agent = (await client.get(f"{RUNS}/{named}")).json()["agent"]
    session = {"participant_name": "Luigi"}
    changed = await client.patch(f"/test_framework/v2/aiagents/{agent}/", json={"session": session})
    assert changed.json()["session"]["participant_name"] == "Luigi"
    (of_its_agent,) = await run_launched(client)
    assert (await claimed(worker_client, of_its_agent))["participant_name"] == "Luigi"


async def test_the_dispatcher_is_woken_when_a_place_becomes_free(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, woken: list[int]
) -> None:
    def since() -> int:
        count = len(woken)
        woken.clear()
        return count

    first, second = await run_launched(client, 2)
    assert since() == 1
    await claimed(worker_client, first)
    await claimed(worker_client, second)
    await progress(worker_client, first, joined=True)
    assert since() == 0
    await report(worker_client, first, outcome())
    assert since() == 1
    await report(worker_client, first, outcome())
    assert since() == 0
    await release(worker_client, second)
    assert since() == 1


async def test_many_reports_at_once_end_every_run_and_the_result(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    ids = await run_launched(client, 6)

    async def see_through(run_id: int) -> None:
        await claimed(worker_client, run_id)
        moves = [report(worker_client, run_id, outcome()) for _ in range(2)]
        for answer in await asyncio.gather(*moves):
            assert answer.json()["counted"]

    await asyncio.gather(*(see_through(run_id) for run_id in ids))
    run = (await client.get(f"{RUNS}/{ids[0]}")).json()
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
    content = json.dumps({"run_id": run_id, "attempt": 1, "executor": ME, "run": told})
    headers = {"Content-Type": "application/json"}
    for _ in range(2):
        answer = await worker_client.post(f"{ROOT}/report", content=content, headers=headers)
        assert answer.status_code == 200 and answer.json()["counted"], answer.text
    run = (await client.get(f"{RUNS}/{run_id}")).json()
    kept = run["transcript_object"][0]["data"]["arguments"]
    assert (kept["nul"], kept["half"], kept["none"]) == ("\ufffd", "\ufffd", None)
    events = json.dumps({"attempt": 1, "events": [arguments]})
    answer = await worker_client.post(f"{WORKER}/{run_id}/events", content=events, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"next": None})
    broken = await worker_client.post(f"{ROOT}/report", content="[" * 100_000, headers=headers)
    assert broken.status_code == 400


async def test_what_is_no_report_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)
    of_run = {"run_id": run_id, "attempt": 1, "executor": ME}
    run, problem = reported(outcome()), REFUSED.model_dump()
    for body in (
        {},
        of_run,
        {**of_run, "run": {}},
        {**of_run, "run": {**run, "status": TOKEN}},
        {**of_run, "run": {**run, "call_ended_reason": "x" * 81}},
        {**of_run, "run": run, "problem": problem},
        {**of_run, "problem": {"cause": "x" * 30, "reason": "y"}},
        {**of_run, "problem": problem, "owed": ["a"] * 11},
        {**of_run, "release": {"said": False, "may_end": False}},
        {**of_run, "release": {"said": False, "may_end": False, "detail": "x" * 4_001}},
        {**of_run, "attempt": 0, "problem": problem},
        {**of_run, "executor": "", "problem": problem},
        {**of_run, "run_id": 10**30, "problem": problem},
    ):
        answer = await worker_client.post(f"{ROOT}/report", json=body)
        assert answer.status_code == 400, body
        assert TOKEN not in answer.text
    assert (await client.get(f"{RUNS}/{run_id}")).json()["status"] == "running"


async def test_only_workers_report_and_only_on_what_is_there(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    (run_id,) = await run_launched(client)
    await given(worker_client, run_id)
    for asked, status in ((client, 403), (anonymous, 401)):
        answers = [
            await asked.get(f"{ROOT}/hello"),
            await tell(asked, "poll", polling()),
            await asked.post(f"{ROOT}/gone", json={"executor": ME}),
            await report(asked, run_id, REFUSED),
            await asked.post(f"{WORKER}/{run_id}/events", json={"attempt": 1, "events": []}),
            await put(asked, run_id, "recording.wav", b"x"),
        ]
        assert {answer.status_code for answer in answers} == {status}
        assert await there(asked, run_id, "recording.wav") == status
    assert not (await report(worker_client, 999, REFUSED)).json()["counted"]
    assert not (await release(worker_client, 999)).json()["counted"]
    assert (await worker_client.post(f"{WORKER}/999/events", json={"attempt": 1, "events": []})).status_code == 404
    assert (await put(worker_client, 999, "recording.wav", b"x")).status_code == 409
    assert (await client.get(f"{RUNS}/{run_id}")).json()["status"] == "pending"


async def test_a_room_whose_name_leads_inside_by_now_is_not_opened(
    client: httpx.AsyncClient,
    worker_client: httpx.AsyncClient,
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
        answer = await tell(worker_client, "poll", polling(waits=True))
        tasks.cancel_scope.cancel()
    assert [job["run_id"] for job in answer.json()["jobs"]] == [good] and TOKEN not in answer.text
    run = (await client.get(f"{RUNS}/{run_id}")).json()
    assert (run["status"], run["scenario_runner"]["cause"]) == ("failed", "room")
    assert "server.allowed_rooms" in run["error_message"]


# Files.


async def test_a_file_comes_in_parts_and_goes_on_where_it_was(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)
    assert await there(worker_client, run_id, "recording.wav") == {"size": 0, "is_whole": False}
    assert await artefacts(services, run_id) == {"recording.wav": None}
    sent = [b"RI", b"FF ", b"and the rest"]
    size, offset = sum(map(len, sent)), 0
    for part in sent:
        shown = (await client.get(f"{RUNS}/{run_id}")).json()["scenario_runner"]["artefacts"]
        assert shown == {}
        # A part that was cut off is none.
        answer = await put(worker_client, run_id, "recording.wav", broken_off(part[:1]), offset=offset, size=size)
        assert answer.status_code == 400
        for wrong in {0, offset - 1, offset + 1} - {offset, -1}:
            answer = await put(worker_client, run_id, "recording.wav", part, offset=wrong, size=size)
            assert (answer.status_code, answer.json()["detail"]) == (409, f"The next byte is number {offset}.")
        answer = await put(worker_client, run_id, "recording.wav", part, offset=offset, size=size)
        offset += len(part)
        assert answer.json() == {"size": offset, "is_whole": offset == size}
        assert await there(worker_client, run_id, "recording.wav") == answer.json()
    assert await artefacts(services, run_id) == {"recording.wav": size}
    # Each name once.
    assert (await put(worker_client, run_id, "recording.wav", b"something else")).json()["is_whole"]
    await report(worker_client, run_id, outcome())
    url = (await client.get(f"{RUNS}/{run_id}")).json()["voice_recording_url"]
    assert (await client.get(url)).content == b"".join(sent)


async def broken_off(piece: bytes) -> AsyncIterator[bytes]:
    yield piece
    raise ClientDisconnect


async def test_a_part_has_no_more_than_it_may_have_and_a_file_neither(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)
    answer = await put(worker_client, run_id, "recording.wav", b"too much", size=3)
    assert answer.status_code == 413
    answer = await put(worker_client, run_id, "recording.wav", bytes(PART_BYTES + 1), size=PART_BYTES * 2)
    assert answer.status_code == 413
    too_large = services.settings.server.max_artefact_bytes + 1
    assert (await put(worker_client, run_id, "recording.wav", b"x", size=too_large)).status_code == 413
    assert await there(worker_client, run_id, "recording.wav") == {"size": 0, "is_whole": False}
    for params in ({"offset": -1, "size": 1}, {"offset": 0}, {"offset": 0, "size": "x"}):
        answer = await worker_client.put(
            upload(run_id), params={"attempt": 1, "executor": ME, **params}, content=b"x"
        )
        assert answer.status_code == 400, params


async def test_a_file_may_be_empty(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)
    assert (await put(worker_client, run_id, "empty.log", b"")).json() == {"size": 0, "is_whole": True}
    assert await artefacts(services, run_id) == {"empty.log": 0}
    assert await services.store.size(artefact_key(run_id, "empty.log", 1)) == 0


async def test_an_attempt_brings_only_so_many_files(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)
    for number in range(MAX_ARTEFACTS):
        assert (await put(worker_client, run_id, f"n{number}", b"x")).status_code == 200
    answer = await put(worker_client, run_id, "one-more", b"x")
    assert (answer.status_code, answer.json()["detail"]) == (409, f"An attempt brings {MAX_ARTEFACTS} files at most.")
    assert await there(worker_client, run_id, "one-more") == 409
    assert (await there(worker_client, run_id, "n0"))["is_whole"]


async def test_after_a_runs_end_only_the_files_owed_are_taken(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)
    await put(worker_client, run_id, "recording.wav", b"RI", size=4)
    owed = ("recording.wav", "timeline.jsonl", "../out", "2")
    assert (await report(worker_client, run_id, outcome(), owed=owed)).json()["counted"]
    assert await artefacts(services, run_id) == {"recording.wav": None, "timeline.jsonl": None}
    assert (await put(worker_client, run_id, "run.json", b"{}")).status_code == 409
    assert (await put(worker_client, run_id, "recording.wav", b"FF", offset=2, size=4)).json()["is_whole"]
    assert (await put(worker_client, run_id, "timeline.jsonl", b"{}", executor="another")).status_code == 409
    assert await artefacts(services, run_id) == {"recording.wav": 4, "timeline.jsonl": None}


async def test_while_the_store_fails_it_is_told_and_nothing_is_lost(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)
    await put(worker_client, run_id, "recording.wav", b"RI", size=4)
    store = services.store._store

    class Full:
        async def put_async(self, key: str, data: Any) -> None:
            raise OSError(28, "No space left on device", TOKEN)

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

    class Away:
        def list(self, prefix: str) -> Any:
            raise BaseError(TOKEN)

        async def head_async(self, key: str) -> Any:
            raise BaseError(TOKEN)

    for broken in (Full(), Away()):
        with monkeypatch.context() as patch:
            patch.setattr(services.store, "_store", broken)
            answer = await put(worker_client, run_id, "recording.wav", b"FF", offset=2, size=4)
        assert answer.status_code == 507 and TOKEN not in answer.text, answer.text
    assert await there(worker_client, run_id, "recording.wav") == {"size": 2, "is_whole": False}
    assert (await put(worker_client, run_id, "recording.wav", b"FF", offset=2, size=4)).json()["is_whole"]
    with monkeypatch.context() as patch:
        patch.setattr(services.store, "_store", Away())
        for name in ("timeline.jsonl", "recording.wav"):
            assert await there(worker_client, run_id, name) == 507


async def test_attempts_keep_artefacts_apart_and_show_the_last_ones(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    (run_id,) = await run_launched(client)
    shown = f"{RUNS}/{run_id}"
    await claimed(worker_client, run_id)
    for name in ("recording.wav", "timeline.jsonl"):
        await put(worker_client, run_id, name, b"first")
    await release(worker_client, run_id)
    assert (await client.get(shown)).json()["scenario_runner"]["artefacts"] == {}
    await claimed(worker_client, run_id, 2)
    await put(worker_client, run_id, "recording.wav", b"second", 2)
    await report(worker_client, run_id, outcome(), 2)
    run = (await client.get(shown)).json()
    assert list(run["scenario_runner"]["artefacts"]) == ["recording.wav"]
    assert (await client.get(run["voice_recording_url"])).content == b"second"
    assert (await client.get(f"{shown}/artefacts/timeline.jsonl")).status_code == 404
    assert [kind for kind in (await client.get(f"{shown}/events")).text.split() if kind == "end"] == ["end"]
    assert await services.store.size(artefact_key(run_id, "recording.wav", 1)) == 5
    assert await purge(services.database, services.store, older_than=utc_now() + timedelta(days=1)) == 1
    for name, attempt in (("recording.wav", 1), ("timeline.jsonl", 1), ("recording.wav", 2)):
        assert await services.store.size(artefact_key(run_id, name, attempt)) is None


async def test_an_artefact_uploaded_during_a_release_leaves_nothing(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)

    async def slowly() -> AsyncIterator[bytes]:
        yield b"RI"
        assert (await release(worker_client, run_id)).json()["waits_again"]
        await claimed(worker_client, run_id, 2)
        yield b"FF"

    assert (await put(worker_client, run_id, "recording.wav", slowly(), size=4)).status_code == 409
    assert await services.store.size(artefact_key(run_id, "recording.wav", 1)) is None
    assert (await put(worker_client, run_id, "recording.wav", b"RIFF", 2)).json() == {"size": 4, "is_whole": True}
    assert await artefacts(services, run_id) == {"1/recording.wav": None, "recording.wav": 4}


async def test_artefacts_are_kept_under_names_that_stay_in_their_place(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)
    for name in ("..%2f..%2fx", "a%2fb", ".hidden", "%20", "x" * 150, "2", "a@0"):
        answer = await put(worker_client, run_id, name, b"x")
        assert answer.status_code in (400, 404), name
    assert await artefacts(services, run_id) == {}


async def test_a_run_that_came_to_no_call_is_told_like_any_other(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    first, second = await run_launched(client, 2)
    for run_id, what in ((first, no_call()), (second, REFUSED)):
        await claimed(worker_client, run_id)
        assert (await report(worker_client, run_id, what)).json()["counted"]
    runs = [(await client.get(f"{RUNS}/{run_id}")).json() for run_id in (first, second)]
    assert [(run["status"], run["scenario_runner"]["cause"]) for run in runs] == [("failed", "room")] * 2
