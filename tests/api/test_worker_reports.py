"""What workers report of runs over HTTP: outcomes, problems, and runs given back."""

import asyncio
import json
from typing import Any

import pytest

import runner.api.routes.worker
from runner.api.services import Services
from runner.records import runs as records
from runner.records.tables import Agent, RunRow
from tests.api.conftest import Client, on_every_database
from tests.api.telling import (
    ME,
    REFUSED,
    ROOT,
    TOKEN,
    V2,
    WORKER,
    begun,
    claimed,
    given,
    polling,
    progress,
    put,
    release,
    report,
    run_launched,
    show,
    tell,
    there,
)
from tests.records.outcomes import agent_failed, no_call, outcome, reported

pytestmark = pytest.mark.anyio


@on_every_database
async def test_an_outcome_counts_once(client: Client, worker: Client) -> None:
    run_id = await begun(client, worker)
    reports = ((outcome(), True), (outcome(), True), (agent_failed(), False), (REFUSED, False))
    for what, counted in reports:
        answer = await report(worker, run_id, what)
        assert (answer.status_code, answer.json()) == (200, {"counted": counted, "waits_again": False})
    run = await show(client, run_id)
    assert (run["status"], run["success"]) == ("completed", True)
    assert not await progress(worker, run_id, joined=True)


async def test_a_run_that_came_to_no_call_is_told_like_any_other(client: Client, worker: Client) -> None:
    first, second = await run_launched(client, 2)
    for run_id, what in ((first, no_call()), (second, REFUSED)):
        await claimed(worker, run_id)
        assert (await report(worker, run_id, what)).json()["counted"]
    runs = [await show(client, run_id) for run_id in (first, second)]
    assert [(run["status"], run["scenario_runner"]["cause"]) for run in runs] == [("failed", "room")] * 2


async def test_many_reports_at_once_end_every_run_and_the_result(client: Client, worker: Client) -> None:
    ids = await run_launched(client, 6)

    async def see_through(run_id: int) -> None:
        await claimed(worker, run_id)
        moves = [report(worker, run_id, outcome()) for _ in range(2)]
        for answer in await asyncio.gather(*moves):
            assert answer.json()["counted"]

    await asyncio.gather(*(see_through(run_id) for run_id in ids))
    run = await show(client, ids[0])
    result = (await client.get(f"/test_framework/v1/results/{run['result_id']}")).json()
    assert (result["status"], result["success_runs_count"], result["success_rate"]) == ("completed", 6, 100.0)


async def test_an_outcome_is_not_refused_for_what_the_agent_said(client: Client, worker: Client) -> None:
    run_id = await begun(client, worker)
    nested: Any = 1
    for _ in range(300):
        nested = [nested]
    arguments = {"nul": "\x00", "half": "\ud800", "large": 10**40, "none": float("nan"), "nested": nested}
    told = reported(outcome())
    told["transcript_object"][0]["data"] = {"arguments": arguments}
    content = json.dumps({"run_id": run_id, "attempt": 1, "executor": ME, "run": told})
    headers = {"Content-Type": "application/json"}
    for _ in range(2):
        answer = await worker.post(f"{ROOT}/report", content=content, headers=headers)
        assert answer.status_code == 200 and answer.json()["counted"], answer.text
    run = await show(client, run_id)
    kept = run["transcript_object"][0]["data"]["arguments"]
    assert (kept["nul"], kept["half"], kept["none"]) == ("\ufffd", "\ufffd", None)
    events = json.dumps({"attempt": 1, "events": [arguments]})
    answer = await worker.post(f"{WORKER}/{run_id}/events", content=events, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"next": None})
    broken = await worker.post(f"{ROOT}/report", content="[" * 100_000, headers=headers)
    assert broken.status_code == 400


async def test_what_is_no_report_is_refused_and_changes_nothing(client: Client, worker: Client) -> None:
    run_id = await begun(client, worker)
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
        answer = await worker.post(f"{ROOT}/report", json=body)
        assert answer.status_code == 400, body
        assert TOKEN not in answer.text
    assert (await show(client, run_id))["status"] == "running"


async def test_only_workers_report_and_only_on_what_is_there(
    client: Client, anonymous: Client, worker: Client
) -> None:
    (run_id,) = await run_launched(client)
    await given(worker, run_id)
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
    assert not (await report(worker, 999, REFUSED)).json()["counted"]
    assert not (await release(worker, 999)).json()["counted"]
    assert (await worker.post(f"{WORKER}/999/events", json={"attempt": 1, "events": []})).status_code == 404
    assert (await put(worker, 999, "recording.wav", b"x")).status_code == 409
    assert (await show(client, run_id))["status"] == "pending"


async def test_a_report_of_another_worker_does_not_count(client: Client, worker: Client) -> None:
    run_id = await begun(client, worker)
    not_counted = {"counted": False, "waits_again": False}
    assert (await report(worker, run_id, outcome(), executor="another")).json() == not_counted
    assert (await release(worker, run_id, executor="another", said=True)).json() == not_counted
    assert (await show(client, run_id))["status"] == "running"


async def every_report(worker: Client, run_id: int, attempt: int) -> list[Any]:
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
    client: Client, worker: Client, services: Services
) -> None:
    (run_id,) = await run_launched(client)

    async def state() -> dict[str, Any]:
        async with services.database.reading() as session:
            run = await session.get_one(RunRow, run_id)
        return {name: value for name, value in vars(run).items() if not name.startswith("_")}

    async def refused(*attempts: int) -> None:
        before = await state()
        for attempt in attempts:
            assert await every_report(worker, run_id, attempt) == [False, False, False, 409, 409, 409], attempt
        assert await state() == before

    await refused(1, 2)
    await claimed(worker, run_id)
    await refused(2)
    assert (await release(worker, run_id)).json() == {"counted": True, "waits_again": True}
    await refused(1, 2, 3)
    await claimed(worker, run_id, 2)
    await refused(1, 3)
    assert (await report(worker, run_id, outcome(), 2)).json()["counted"]
    await refused(1, 3)


@on_every_database
async def test_a_released_run_waits_again_unless_something_was_said(client: Client, worker: Client) -> None:
    safe_to_retry, told_now, told_before = await run_launched(client, 3)
    for run_id in (safe_to_retry, told_now, told_before):
        await claimed(worker, run_id)
    await progress(worker, told_before, joined=True, said=True)
    waits, ended = {"counted": True, "waits_again": True}, {"counted": True, "waits_again": False}
    assert (await release(worker, safe_to_retry)).json() == waits
    assert (await release(worker, told_now, said=True)).json() == ended
    assert (await release(worker, told_before, detail="it \x00 stops")).json() == ended
    runs = [await show(client, run_id) for run_id in (safe_to_retry, told_now, told_before)]
    assert [run["status"] for run in runs] == ["pending", "failed", "failed"]
    assert [run["scenario_runner"]["cause"] for run in runs] == [None, "harness", "harness"]
    assert [run["error_message"] for run in runs] == ["", "it stops", "it \ufffd stops"]
    assert [run["scenario_runner"]["attempt"] for run in runs] == [2, 1, 1]
    result = (await client.get(f"/test_framework/v1/results/{runs[0]['result_id']}")).json()
    assert result["status"] == "running"
    # Its answer was lost: it is not released twice, and does not end twice.
    for run_id in (safe_to_retry, told_now):
        assert not (await release(worker, run_id, said=True)).json()["counted"]
    assert (await claimed(worker, safe_to_retry, 2))["attempt"] == 2


async def test_what_was_said_is_known_even_where_giving_back_fails(
    client: Client, worker: Client, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await begun(client, worker)

    def broken(*arguments: Any, **more: Any) -> bool:
        raise RuntimeError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(runner.api.routes.worker, "release", broken)
        assert (await release(worker, run_id, said=True)).status_code == 500
    async with services.database.session() as session:
        assert not await session.run_sync(
            records.release, run_id, 1, detail="worker lost", safe_to_retry=True, was_lost=True
        )


async def test_a_released_run_gets_a_new_session_whatever_was_said(
    client: Client, worker: Client, services: Services
) -> None:
    async with services.database.session() as session:
        (await session.get_one(Agent, 1)).session = {"start_url": "http://localhost:7860/start"}
    answer = await client.post(V2, json={"scenarios": [1]})
    run_id = answer.json()["runs"][0]["id"]
    assert (await claimed(worker, run_id))["session"] is not None
    assert (await release(worker, run_id, said=True)).json()["waits_again"]
    job = await claimed(worker, run_id, 2)
    assert job["attempt"] == 2 and job["session"] is not None


async def test_the_dispatcher_is_woken_when_a_place_becomes_free(
    client: Client, worker: Client, woken: list[int]
) -> None:
    def since() -> int:
        count = len(woken)
        woken.clear()
        return count

    first, second = await run_launched(client, 2)
    assert since() == 1
    await claimed(worker, first)
    await claimed(worker, second)
    await progress(worker, first, joined=True)
    assert since() == 0
    await report(worker, first, outcome())
    assert since() == 1
    await report(worker, first, outcome())
    assert since() == 0
    await release(worker, second)
    assert since() == 1
