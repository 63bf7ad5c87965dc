"""What pages show in the cases that are rare."""

from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import insert, update

from runner.api.errors import BadRequest
from runner.api.services import Services
from runner.records.tables import CronJob, Firing, ResultRow, RunRow, ScenarioRow, utc_now
from runner.web import trends
from runner.web.answers import render
from runner.web.live import Row
from tests.api.conftest import client_of, other_project
from tests.api.telling import claimed, run_launched
from tests.api.test_results import ended
from tests.records.giving import add, worker
from tests.records.outcomes import agent_failed, outcome
from tests.web.conftest import send, sign_in
from tests.web.test_pages import SCHEDULE, SHOWN_ROOM

pytestmark = pytest.mark.anyio


async def test_a_comparison_says_what_it_lacks(
    visitor: httpx.AsyncClient, client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    first, _ = await ended(client, worker_client, outcome())
    assert "This agent has no other result" in (await visitor.get(f"/compare?result={first}")).text
    second, _ = await ended(client, worker_client, outcome(), outcome())
    async with services.database.session() as session:
        await session.execute(update(ResultRow).where(ResultRow.id == second).values(status="running"))
    page = (await visitor.get(f"/compare?result={first}&result={second}")).text
    assert "runs that have not ended are left out" in page
    await run_launched(client)
    third = (await visitor.get(f"/compare?result={first}&result={second + 1}")).text
    assert "One of the two has no run that has ended" in third


async def test_a_result_by_a_schedule_names_its_calls_and_why_it_cant_be_made_again(
    visitor: httpx.AsyncClient, client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    ids = await run_launched(client, 2)
    for run_id in ids:
        await claimed(worker_client, run_id)
    async with services.database.session() as session:
        await session.execute(update(RunRow).values(status="running"))
        await session.execute(update(ResultRow).values(is_cronjob=True))
    page = (await visitor.get("/results/1")).text
    assert "by a schedule" in page and "Under way: " in page
    assert all(f'href="/runs/{run_id}"' in page for run_id in ids) and "</a>, <a" in page
    listed = (await visitor.get("/?agent=1")).text
    assert '<span class="tag">scheduled</span>' in listed and '<option value="1" selected>' in listed
    assert "No run is like that" in (await visitor.get("/runs?search=nothing")).text
    for run_id in ids:
        await send(visitor, f"/runs/{run_id}/end-call")
    # The room's token is erased with the run's end, and a result without runs has nothing to make again.
    async with services.database.session() as session:
        await session.execute(update(RunRow).values(snapshot={}, scenario_id=None))
    again = await send(visitor, "/results/1/again")
    assert again.status_code == 409 and 'class="problem" role="alert"' in again.text


async def test_a_call_without_an_outcome_names_all_its_files(
    visitor: httpx.AsyncClient, client: httpx.AsyncClient, services: Services
) -> None:
    (run_id,) = await run_launched(client)
    await send(visitor, f"/runs/{run_id}/end-call")
    async with services.database.session() as session:
        kept = {"recording.wav": 44, "timeline.jsonl": 20}
        await session.execute(update(RunRow).values(artefacts=kept))
    page = (await visitor.get(f"/runs/{run_id}")).text
    assert "recording.wav</a> · <a" in page and "timeline.jsonl</a></dd>" in page


async def test_a_form_that_is_wrong_keeps_what_was_chosen(visitor: httpx.AsyncClient) -> None:
    page = (await send(visitor, "/launch", agent="1")).text
    assert '<option value="1" selected>' in page


async def test_scenarios_are_paged_and_found_by_name(visitor: httpx.AsyncClient, services: Services) -> None:
    assert "No scenario is like that" in (await visitor.get("/scenarios?search=nothing")).text
    assert "Saved." in (await visitor.get("/scenarios/1?saved=1")).text
    row = {"project_id": 1, "scenario_type": "pipecat_eval"}
    async with services.database.session() as session:
        await session.execute(insert(ScenarioRow), [{**row, "name": f"many {n}"} for n in range(500)])
    first, second = [(await visitor.get(f"/scenarios?page={page}")).text for page in (1, 2)]
    assert "After →" in first and "← Before" not in first and "← Before" in second


async def test_a_schedule_leads_to_its_results_and_says_why_it_cant_run(
    visitor: httpx.AsyncClient, client: httpx.AsyncClient, services: Services
) -> None:
    now = utc_now()
    await run_launched(client)
    rooms = [SHOWN_ROOM, *({**SHOWN_ROOM, "pipecat_room_url": f"http://localhost:{n}/api/offer"} for n in range(7))]
    values: dict[str, Any] = {"project_id": 1, "agent_id": 1, "crontab_expression": "0 2 * * *", "scenario_ids": [1]}
    job = CronJob(name="night", is_active=True, next_due_at=now, data={"rooms": rooms}, **values)
    await add(services.database, [job, CronJob(name="paused", is_active=False, **values)])
    made = Firing(job_id=job.id, trigger="clock", due_at=now, state="passed", result_id=1)
    await add(services.database, [made])
    listed = (await visitor.get("/schedules")).text
    assert '<a href="/results/1">' in listed and "paused</span>" in listed and "never</span>" in listed
    page = (await visitor.get(f"/schedules/{job.id}")).text
    assert '<a href="/results/1">' in page and "and 7 more rooms" in page
    assert "and 3 more. Rooms" in (await visitor.get(f"/schedules/{job.id}/edit")).text
    async with services.database.session() as session:
        await session.execute(update(CronJob).values(scenario_ids=[999], data={}))
    refused = await send(visitor, f"/schedules/{job.id}/run")
    assert refused.status_code == 409 and "999" in refused.text


async def test_what_belongs_to_no_field_of_a_schedule_is_said_above(
    visitor: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise BadRequest({"project": ["There is no project 1."]})

    monkeypatch.setattr("runner.web.schedules.create_cron_job", refuse)
    answer = await send(visitor, "/schedules/new", **SCHEDULE)
    assert answer.status_code == 400 and "It was not saved. There is no project 1." in answer.text


async def test_trends_join_the_days_and_say_when_some_were_left_out(
    visitor: httpx.AsyncClient,
    client: httpx.AsyncClient,
    worker_client: httpx.AsyncClient,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, (first, _) = await ended(client, worker_client, outcome(), agent_failed())
    async with services.database.session() as session:
        before = utc_now() - timedelta(days=2)
        await session.execute(update(RunRow).where(RunRow.id == first).values(ended_at=before))
    assert 'class="way rate-line"' in (await visitor.get("/trends")).text
    monkeypatch.setattr(trends, "MAX_RUNS", 1)
    assert "There were more runs than are read" in (await visitor.get("/trends")).text


async def test_workers_say_what_waits_and_what_is_stuck(
    visitor: httpx.AsyncClient, client: httpx.AsyncClient, services: Services
) -> None:
    ids = await run_launched(client, 2)
    async with services.database.session() as session:
        await session.execute(update(RunRow).values(created_at=utc_now() - timedelta(minutes=5)))
    page = (await visitor.get("/workers")).text
    assert "for up to" in page and "2 runs can't go on: there is no worker" in page
    assert all(f'href="/runs/{run_id}"' in page for run_id in ids)
    paused = worker(state="paused", why="it is overloaded", runs={"live": [], "kept": [[ids[0], 1, True]]})
    await add(services.database, [paused])
    page = (await visitor.get("/workers")).text
    assert "it is overloaded" in page and "1 outcome to report" in page


async def test_a_long_queue_is_shown_in_part(visitor: httpx.AsyncClient, client: httpx.AsyncClient) -> None:
    await run_launched(client, 100)
    assert "100 or more" in (await visitor.get("/live")).text


def test_a_note_of_a_call_is_a_line_of_its_own() -> None:
    assert '<p class="note">The agent joined.</p>' in render(
        "live_row.html", row=Row("", "The agent joined.", "0:01")
    )


async def test_who_is_signed_in_opens_a_link_as_well(
    app: FastAPI, client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    result_id, _ = await ended(client, worker_client, outcome())
    _, key = await other_project(services)
    async with client_of(app) as other:
        await sign_in(other, key)
        page = await other.get(f"/test_framework/v1/results/{result_id}/", headers={"Accept": "text/html"})
        assert "form_token" in page.text and "Paste the whole link" in page.text
