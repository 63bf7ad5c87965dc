"""What workers tell the record over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import anyio
import httpx
import pytest

import runner.api.routes.worker
import runner.rooms.allowed
from runner.api.services import Services
from runner.records.retention import purge
from runner.records.runs import give_back
from runner.records.secrets import Vault
from runner.records.store import artefact_key
from runner.records.tables import Agent, RunRow, utc_now
from tests.api.conftest import Dispatch, on_every_database
from tests.records.giving import give
from tests.records.outcomes import agent_failed, outcome, reported

pytestmark = pytest.mark.anyio

WORKER = "/worker/v1/runs"
V1 = "/test_framework/v1/scenarios/run_scenarios_pipecat/"
V2 = "/test_framework/v1/scenarios/run_scenarios_pipecat_v2/"
ROOM = "http://localhost:7860/api/offer"
TOKEN = "pl4nted-t0ken"
ME = "host-1-0000"
OTHER_VAULT = Vault(b"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
"""Of another record: with another key."""


async def run_launched(client: httpx.AsyncClient, count: int = 1, **entry: Any) -> list[int]:
    """Launch runs of scenario 1 and return their ids."""
    entries = [{"scenario": 1, "pipecat_room_url": ROOM, **entry}] * count
    answer = await client.post(V1, json={"scenarios": entries})
    assert answer.status_code == 200, answer.text
    return [run["id"] for run in answer.json()["runs"]]


async def given(worker: httpx.AsyncClient, *run_ids: int) -> None:
    """Give runs to a worker."""
    services: Services = worker._transport.app.state.services  # type: ignore[attr-defined]
    await give(services.database, *run_ids, executor=ME)


async def claimed(worker: httpx.AsyncClient, run_id: int, attempt: int = 1) -> dict[str, Any]:
    """Give a run to a worker, claim it, and return the job."""
    await given(worker, run_id)
    answer = await claim(worker, run_id, attempt)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def claim(worker: httpx.AsyncClient, run_id: int, attempt: int = 1, executor: str = ME) -> httpx.Response:
    return await worker.post(f"{WORKER}/{run_id}/claim", json={"attempt": attempt, "executor": executor})


async def release(
    worker: httpx.AsyncClient, run_id: int, attempt: int = 1, *, said: bool = False, detail: str = "it stops"
) -> httpx.Response:
    told = {"attempt": attempt, "detail": detail, "said": said}
    return await worker.post(f"{WORKER}/{run_id}/release", json=told)


async def progress(
    worker: httpx.AsyncClient, run_id: int, attempt: int = 1, status: str = "running", **more: bool
) -> dict[str, Any]:
    """Tell how far a run has come, and return what is wanted."""
    told = {"run_id": run_id, "attempt": attempt, "status": status, **more}
    answer = await worker.post(f"{WORKER}/progress", json={"runs": [told]})
    assert answer.status_code == 200, answer.text
    [order] = answer.json()["runs"]
    return order


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
    assert job["participant_name"] is None
    assert (await client.get(f"/test_framework/v1/runs/{run_id}")).json()["status"] == "running"


async def test_a_job_names_the_agent_as_its_run_does_or_else_its_agent(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    (named,) = await run_launched(client, participant_name="Bella")
    assert (await claimed(worker_client, named))["participant_name"] == "Bella"
    agent = (await client.get(f"/test_framework/v1/runs/{named}")).json()["agent"]
    session = {"participant_name": "Luigi"}
    changed = await client.patch(f"/test_framework/v2/aiagents/{agent}/", json={"session": session})
    assert changed.json()["session"]["participant_name"] == "Luigi"
    (of_its_agent,) = await run_launched(client)
    assert (await claimed(worker_client, of_its_agent))["participant_name"] == "Luigi"


@on_every_database
async def test_progress_of_many_runs_tells_what_to_do_about_each(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    joins, ends, waits = await run_launched(client, 3)
    for run_id in (joins, ends):
        await claimed(worker_client, run_id)
    await client.post(f"/test_framework/v1/runs-external/{ends}/end_call")
    told = [
        {"run_id": joins, "attempt": 1, "status": "running", "joined": True},
        {"run_id": ends, "attempt": 1, "status": "evaluating", "joined": True, "said": True},
        {"run_id": joins, "attempt": 2, "status": "running"},
        {"run_id": waits, "attempt": 1, "status": "running", "joined": True},
        {"run_id": 999, "attempt": 1, "status": "running"},
    ]
    for _ in range(2):
        answer = await worker_client.post(f"{WORKER}/progress", json={"runs": told})
        orders = [(o["run_id"], o["attempt"], o["counts"], o["cancel_requested"]) for o in answer.json()["runs"]]
        assert orders == [
            (joins, 1, True, False),
            (ends, 1, True, True),
            (joins, 2, False, False),
            (waits, 1, False, False),
            (999, 1, False, False),
        ]
    runs = [(await client.get(f"/test_framework/v1/runs/{run_id}")).json() for run_id in (joins, ends, waits)]
    assert [run["status"] for run in runs] == ["running", "evaluating", "pending"]
    assert [run["scenario_runner"]["joined_at"] is None for run in runs] == [False, False, True]
    assert (await worker_client.post(f"{WORKER}/progress", json={"runs": []})).json() == {"runs": []}
    for wrong in ([{"run_id": joins}], [{**told[0], "status": "completed"}], [told[0]] * 1_001):
        assert (await worker_client.post(f"{WORKER}/progress", json={"runs": wrong})).status_code == 400


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
    assert (await progress(worker_client, run_id, joined=True))["counts"] is False
    assert (await claim(worker_client, run_id)).status_code == 409


@on_every_database
async def test_several_claims_are_answered_with_the_jobs_of_those_that_can_be_taken(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    first, another_s, cancelled, waits, last = await run_launched(client, 5, pipecat_token=TOKEN)
    await given(worker_client, last, another_s, cancelled, first)
    await client.post(f"/test_framework/v1/runs-external/{cancelled}/end_call")
    claims = [
        {"run_id": last, "attempt": 1, "executor": ME},
        {"run_id": another_s, "attempt": 1, "executor": "another"},
        {"run_id": cancelled, "attempt": 1, "executor": ME},
        {"run_id": waits, "attempt": 1, "executor": ME},
        {"run_id": first, "attempt": 2, "executor": ME},
        {"run_id": first, "attempt": 1, "executor": ME},
        {"run_id": 999, "attempt": 1, "executor": ME},
    ]
    for _ in range(2):
        jobs = (await worker_client.post(f"{WORKER}/claims", json={"claims": claims})).json()["jobs"]
        assert sorted((job["run_id"], job["attempt"], job["token"]) for job in jobs) == [
            (first, 1, TOKEN),
            (last, 1, TOKEN),
        ]
        for job in jobs:
            assert (await claim(worker_client, job["run_id"])).json() == job
    statuses = [
        (await client.get(f"/test_framework/v1/runs/{run_id}")).json()["status"]
        for run_id in (first, another_s, cancelled, waits, last)
    ]
    assert statuses == ["running", "pending", "cancelled", "pending", "running"]


async def test_of_several_claims_one_that_no_worker_could_do_anything_with_ends_alone(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, sealed, refused = await run_launched(client, 3, pipecat_token=TOKEN)
    await given(worker_client, good, sealed, refused)
    async with services.database.session() as session:
        (await session.get_one(RunRow, sealed)).room_token = OTHER_VAULT.seal("?")
        (await session.get_one(RunRow, refused)).room_url = "http://moved.test/api/offer"
    check_room = runner.rooms.allowed.RoomGuard.check_room

    async def check(guard: Any, url: str) -> Any:
        if "moved" in url:
            raise runner.rooms.allowed.RoomRefused("leads elsewhere now")
        return await check_room(guard, url)

    monkeypatch.setattr(runner.rooms.allowed.RoomGuard, "check_room", check)
    claims = [{"run_id": run_id, "attempt": 1, "executor": ME} for run_id in (sealed, refused, good)]
    answer = await worker_client.post(f"{WORKER}/claims", json={"claims": claims})
    assert [job["run_id"] for job in answer.json()["jobs"]] == [good]
    runs = [(await client.get(f"/test_framework/v1/runs/{run_id}")).json() for run_id in (good, sealed, refused)]
    assert [run["status"] for run in runs] == ["running", "failed", "failed"]
    async with services.database.reading() as session:
        assert (await session.get_one(RunRow, sealed)).started_at is None
    assert [run["scenario_runner"]["cause"] for run in runs] == [None, "harness", "room"]
    assert runs[2]["error_message"] == "leads elsewhere now"


async def test_the_names_of_several_rooms_are_looked_up_at_once(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ids = await run_launched(client, 4)
    await given(worker_client, *run_ids)
    async with services.database.session() as session:
        for run_id in run_ids:
            (await session.get_one(RunRow, run_id)).room_url = f"http://bot-{run_id % 2}.test/api/offer"
    asked: list[str] = []
    all_asked = anyio.Event()

    async def resolve(host: str) -> list[str]:
        asked.append(host)
        if len(asked) == 2:
            all_asked.set()
        await all_asked.wait()
        return ["127.0.0.1"]

    monkeypatch.setattr(runner.rooms.allowed, "resolve", resolve)
    monkeypatch.setattr(services.settings.server, "allowed_rooms", ["*.test"])
    claims = [{"run_id": run_id, "attempt": 1, "executor": ME} for run_id in run_ids]
    with anyio.fail_after(20):
        answer = await worker_client.post(f"{WORKER}/claims", json={"claims": claims})
    assert [job["run_id"] for job in answer.json()["jobs"]] == run_ids
    assert sorted(asked) == ["bot-0.test", "bot-1.test"]


@on_every_database
async def test_of_several_outcomes_each_counts_once_whatever_the_others_are(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, dispatch: Dispatch
) -> None:
    first, failed, unreadable, stale, waits = await run_launched(client, 5)
    for run_id in (first, failed, unreadable, stale):
        await claimed(worker_client, run_id)
    error = {"cause": "room", "reason": "token-refused", "detail": "no"}
    outcomes = [
        {"run_id": failed, "attempt": 1, "error": error},
        {"run_id": unreadable, "attempt": 1, "run": {**reported(outcome()), "status": TOKEN}},
        {"run_id": stale, "attempt": 2, "run": reported(outcome())},
        {"run_id": first, "attempt": 1, "run": reported(outcome())},
        {"run_id": first, "attempt": 1, "run": reported(agent_failed())},
        {"run_id": waits, "attempt": 1, "run": reported(outcome())},
        {"run_id": 999, "attempt": 1, "error": error},
    ]
    woken = dispatch.woken
    for _ in range(2):
        answer = await worker_client.post(f"{WORKER}/outcomes", json={"outcomes": outcomes})
        assert answer.status_code == 200, answer.text
        answers = answer.json()["answers"]
        assert [a["accepted"] for a in answers] == [True, False, False, True, False, False, False]
        assert [a["error"] is not None for a in answers] == [False, True, False, False, False, False, False]
        assert "status" in answers[1]["error"] and TOKEN not in answer.text
        assert dispatch.woken == woken + 1
    statuses = [
        (await client.get(f"/test_framework/v1/runs/{run_id}")).json()["status"]
        for run_id in (first, failed, unreadable, stale, waits)
    ]
    assert statuses == ["completed", "failed", "running", "running", "pending"]


async def test_what_is_no_list_of_reports_is_refused_and_only_workers_may_send_one(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)
    claim_of_it = {"run_id": run_id, "attempt": 1, "executor": ME}
    outcome_of_it = {"run_id": run_id, "attempt": 1, "run": reported(outcome())}
    for path, name, good in (("claims", "claims", claim_of_it), ("outcomes", "outcomes", outcome_of_it)):
        without_run = {key: value for key, value in good.items() if key != "run_id"}
        for wrong in ([], [without_run], [good, {**good, "attempt": 0}], [good] * 1_001):
            assert (await worker_client.post(f"{WORKER}/{path}", json={name: wrong})).status_code == 400, wrong
        assert (await client.post(f"{WORKER}/{path}", json={name: [good]})).status_code == 403
    assert (await client.get(f"/test_framework/v1/runs/{run_id}")).json()["status"] == "running"


@on_every_database
async def test_what_is_told_in_the_moment_a_run_is_taken_away_does_not_count(
    client: httpx.AsyncClient,
    worker_client: httpx.AsyncClient,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)
    move = runner.api.routes.worker.progress

    def late(session: Any, told: Any) -> set[int]:
        assert give_back(session, run_id, 1, detail="worker lost", unsaid=True, was_lost=True)
        return move(session, told)

    monkeypatch.setattr(runner.api.routes.worker, "progress", late)
    assert not (await progress(worker_client, run_id, joined=True, said=True))["counts"]
    async with services.database.reading() as session:
        assert (await session.get_one(RunRow, run_id)).said_at is None


async def test_a_claim_that_is_sent_again_is_answered_with_the_same_job(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    (run_id,) = await run_launched(client, pipecat_token=TOKEN)
    job = await claimed(worker_client, run_id)
    for _ in range(2):
        assert (await claim(worker_client, run_id)).json() == job
    assert (await claim(worker_client, run_id, executor="another")).status_code == 409
    assert (await claim(worker_client, run_id, attempt=2)).status_code == 409
    assert (await claim(worker_client, run_id)).json() == job


async def every_report(worker: httpx.AsyncClient, run_id: int, attempt: int) -> list[int]:
    """Send a report of every kind of an attempt; return the statuses of the answers."""
    path = f"{WORKER}/{run_id}"
    assert not (await progress(worker, run_id, attempt, joined=True, said=True))["counts"]
    artefact = await worker.put(f"{path}/artefacts/run.json", params={"attempt": attempt}, content=b"{}")
    answers = [
        artefact,
        await claim(worker, run_id, attempt),
        await worker.post(f"{path}/events", json={"attempt": attempt, "events": []}),
        await report(worker, run_id, outcome(), attempt),
        await release(worker, run_id, attempt, said=True),
    ]
    return [answer.status_code for answer in answers]


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
            assert set(await every_report(worker_client, run_id, attempt)) == {409}, attempt
        assert await state() == before

    await refused(1, 2)
    await claimed(worker_client, run_id)
    await refused(2)
    assert (await release(worker_client, run_id)).json() == {"again": True}
    await refused(1, 2, 3)
    await claimed(worker_client, run_id, 2)
    await refused(1, 3)
    assert (await report(worker_client, run_id, outcome(), 2)).json() == {"accepted": True}
    await refused(1, 3)


@on_every_database
async def test_a_run_that_is_given_back_waits_again_unless_something_was_said(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    unsaid, told_now, told_before = await run_launched(client, 3)
    for run_id in (unsaid, told_now, told_before):
        await claimed(worker_client, run_id)
    await progress(worker_client, told_before, joined=True, said=True)
    assert (await release(worker_client, unsaid)).json() == {"again": True}
    assert (await release(worker_client, told_now, said=True)).json() == {"again": False}
    assert (await release(worker_client, told_before, detail="it \x00 stops")).json() == {"again": False}
    runs = [(await client.get(f"/test_framework/v1/runs/{i}")).json() for i in (unsaid, told_now, told_before)]
    assert [run["status"] for run in runs] == ["pending", "failed", "failed"]
    assert [run["scenario_runner"]["cause"] for run in runs] == [None, "harness", "harness"]
    assert [run["error_message"] for run in runs] == ["", "it stops", "it \ufffd stops"]
    assert [run["scenario_runner"]["attempt"] for run in runs] == [2, 1, 1]
    result = (await client.get(f"/test_framework/v1/results/{runs[0]['result_id']}")).json()
    assert result["status"] == "running"
    # Its answer was lost: it is not given back twice, and does not end twice.
    assert (await release(worker_client, unsaid)).status_code == 409
    assert (await release(worker_client, told_now, said=True)).json() == {"again": None}
    assert (await claimed(worker_client, unsaid, 2))["attempt"] == 2


async def test_what_was_said_is_known_even_where_giving_back_fails(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)

    def broken(*arguments: Any, **more: Any) -> bool:
        raise RuntimeError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(runner.api.routes.worker, "give_back", broken)
        assert (await release(worker_client, run_id, said=True)).status_code == 500
    async with services.database.session() as session:
        assert not await session.run_sync(give_back, run_id, 1, detail="worker lost", unsaid=True, was_lost=True)


async def test_a_session_is_started_anew_for_a_run_that_is_given_back_whatever_was_said(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    async with services.database.session() as session:
        (await session.get_one(Agent, 1)).session = {"start_url": "http://localhost:7860/start"}
    answer = await client.post(V2, json={"scenarios": [1]})
    run_id = answer.json()["runs"][0]["id"]
    assert (await claimed(worker_client, run_id))["session"] is not None
    assert (await release(worker_client, run_id, said=True)).json() == {"again": True}
    job = await claimed(worker_client, run_id, 2)
    assert job["attempt"] == 2 and job["session"] is not None


async def test_whoever_gives_runs_to_workers_is_woken_when_a_place_becomes_free(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, dispatch: Dispatch
) -> None:
    woken: list[int] = []

    def since() -> int:
        woken.append(dispatch.woken)
        return woken[-1] - (woken[-2] if len(woken) > 1 else 0)

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


async def test_attempts_keep_their_artefacts_apart_and_only_the_last_ones_are_shown(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    (run_id,) = await run_launched(client)
    upload, shown = f"{WORKER}/{run_id}/artefacts", f"/test_framework/v1/runs/{run_id}"
    await claimed(worker_client, run_id)
    for name in ("recording.wav", "timeline.jsonl"):
        await worker_client.put(f"{upload}/{name}", params={"attempt": 1}, content=b"first")
    await release(worker_client, run_id)
    assert (await client.get(shown)).json()["scenario_runner"]["artefacts"] == {}
    await claimed(worker_client, run_id, 2)
    await worker_client.put(f"{upload}/recording.wav", params={"attempt": 2}, content=b"second")
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


async def test_an_artefact_whose_run_is_given_back_while_it_is_uploaded_leaves_nothing(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)

    async def slowly() -> AsyncIterator[bytes]:
        yield b"RI"
        assert (await release(worker_client, run_id)).json() == {"again": True}
        await claimed(worker_client, run_id, 2)
        yield b"FF"

    path = f"{WORKER}/{run_id}/artefacts/recording.wav"
    assert (await worker_client.put(path, params={"attempt": 1}, content=slowly())).status_code == 409
    assert await services.store.size(artefact_key(run_id, "recording.wav", 1)) is None
    assert (await worker_client.put(path, params={"attempt": 2}, content=b"RIFF")).json() == {"size": 4}
    async with services.database.reading() as session:
        assert (await session.get_one(RunRow, run_id)).artefacts == {"recording.wav": 4}


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
        {"attempt": 1, "run": {**reported(outcome()), "call_ended_reason": "x" * 81}},
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
    await given(worker_client, run_id)
    assert (await claim(client, run_id)).status_code == 403
    assert (await claim(anonymous, run_id)).status_code == 401
    assert (await release(client, run_id)).status_code == 403
    assert (await claim(worker_client, 999)).status_code == 404
    assert (await release(worker_client, 999)).status_code == 404
    assert (await client.post(f"{WORKER}/progress", json={"runs": []})).status_code == 403
    assert (await report(worker_client, 999, outcome())).status_code == 404
    assert (await claim(worker_client, 10**30)).status_code == 404
    for body in ({"executor": ME}, {"attempt": 0, "executor": ME}, {"attempt": 1, "executor": ""}, {"attempt": 1}):
        assert (await worker_client.post(f"{WORKER}/{run_id}/claim", json=body)).status_code == 400, body
    for body in ({}, {"attempt": 1, "said": False}, {"attempt": 1, "said": False, "detail": "x" * 4_001}):
        assert (await worker_client.post(f"{WORKER}/{run_id}/release", json=body)).status_code == 400, body


async def test_a_room_whose_name_leads_inside_since_the_launch_is_not_opened(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "52.1.2.3"

    async def resolve(host: str) -> list[str]:
        return [address]

    monkeypatch.setattr(runner.rooms.allowed, "resolve", resolve)
    (run_id,) = await run_launched(client, pipecat_room_url="https://acme.daily.co/r1", pipecat_token=TOKEN)
    address = "169.254.169.254"
    await given(worker_client, run_id)
    answer = await claim(worker_client, run_id)
    assert answer.status_code == 409 and TOKEN not in answer.text
    run = (await client.get(f"/test_framework/v1/runs/{run_id}")).json()
    assert (run["status"], run["scenario_runner"]["cause"]) == ("failed", "room")
    assert "server.allowed_rooms" in run["error_message"]


async def test_a_run_whose_token_cant_be_decrypted_fails_and_says_so(
    client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    (run_id,) = await run_launched(client, pipecat_token=TOKEN)
    async with services.database.session() as session:
        (await session.get_one(RunRow, run_id)).room_token = OTHER_VAULT.seal("{}")
    await given(worker_client, run_id)
    assert (await claim(worker_client, run_id)).status_code == 409
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
    for name in ("..%2f..%2fx", "a%2fb", ".hidden", "%20", "x" * 150, "2"):
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
