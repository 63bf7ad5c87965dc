"""Schedules: checked and kept, run by hand, and shown with their history."""

from typing import Any

import pytest
from sqlalchemy import func, select, update

from runner.api.routes.cron_jobs import CONFIGURED, NOBODY_TOLD
from runner.api.services import Services
from runner.dispatch.schedules import Schedules
from runner.records.tables import Agent, CronJob, ResultRow, RunRow
from tests.api.conftest import Client, on_every_database

pytestmark = pytest.mark.anyio

JOBS = "/schedules/v1/cron-jobs-external/"
AGENTS = "/test_framework/v2/aiagents/"
START: dict[str, Any] = {"session": {"start_url": "http://localhost:7860/start", "transport": "webrtc"}}
ROOM = "http://localhost:7860/api/offer"
TOKEN = "pl4nted-t0ken"
BODY: dict[str, Any] = {
    "name": "nightly",
    "agent": 1,
    "crontab_expression": "0 4 * * *",
    "timezone": "UTC",
    "scenarios": [1],
    "execution_mode": "pipecat_v2",
    "frequency": 1,
    "notify_on": "never",
}


@pytest.fixture(autouse=True)
async def startable(client: Client) -> None:
    """Agent 1 has a way to start sessions."""
    assert (await client.patch(f"{AGENTS}1/", json=START)).status_code == 200


async def test_a_schedule_is_created_as_the_clients_create_it(client: Client) -> None:
    answer = await client.post(JOBS, json=BODY, headers={"X-Client-Source": "sdk"})
    assert answer.status_code == 201
    job = answer.json()
    for name in ("name", "agent", "crontab_expression", "timezone", "execution_mode", "frequency", "notify_on"):
        assert job[name] == BODY[name]
    assert (job["scenario_ids"], job["is_active"], job["created_via"]) == ([1], True, "sdk")
    assert job["next_due_at"].endswith("T04:00:00Z")
    assert "scenarios" not in job
    assert "concurrency_limit" not in job
    assert job["scenarios_data"] == [
        {"id": 1, "agent": 1, "name": "Book a table", "personality": 1, "personality_name": "Normal"}
    ]
    assert (await client.get(f"{JOBS}{job['id']}")).json() == job


@on_every_database
async def test_lists_are_plain_and_narrowed_down(client: Client) -> None:
    job = (await client.post(JOBS, json=BODY)).json()
    assert (await client.get(JOBS)).json() == [job]
    assert (await client.get(JOBS, params={"agent_id": 1})).json() == [job]
    assert (await client.get(JOBS, params={"agent_id": 2})).json() == []
    assert (await client.get(JOBS, params={"project_id": 2})).json() == []
    assert (await client.get(JOBS, params={"organization_id": 5})).json() == [job]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"crontab_expression": None}, "crontab_expression"),
    ({"crontab_expression": ""}, "crontab_expression"),
    ({"crontab_expression": "0 4 * *"}, "crontab_expression"),
    ({"crontab_expression": "0 0 4 * * *"}, "crontab_expression"),
    ({"crontab_expression": "@daily"}, "crontab_expression"),
    ({"crontab_expression": "60 4 * * *"}, "crontab_expression"),
    ({"crontab_expression": "0 0 31 2 *"}, "crontab_expression"),
    ({"crontab_expression": "a b c d e"}, "crontab_expression"),
    ({"crontab_expression": "0 4 * * 1#9"}, "crontab_expression"),
    ({"timezone": "Berlin"}, "timezone"),
    ({"timezone": "../../etc/passwd"}, "timezone"),
    ({"timezone": ""}, "timezone"),
    ({"timezone": None}, "timezone"),
    ({"scenarios": [1, 98, 99]}, "scenarios"),
    ({"scenarios": []}, "scenarios"),
    ({"scenarios": None}, "scenarios"),
    ({"scenarios": [], "tags": ["a"], "agent": None}, "agent"),
    ({"agent": 99}, "agent"),
    ({"personalities": [1, 99]}, "personalities"),
    ({"frequency": 0}, "frequency"),
    ({"frequency": 101}, "frequency"),
    ({"concurrency_limit": 0}, "concurrency_limit"),
    ({"execution_mode": "pipecat"}, "execution_mode"),
    ({"execution_mode": "voice"}, "execution_mode"),
    ({"notify_on": "always"}, "notify_on"),
    ({"notify_on": "failure"}, "notify_on"),
    ({"run_as_text": True}, "run_as_text"),
    ({"overlap": "kill"}, "overlap"),
    ({"baseline": 99}, "baseline"),
    ({"baseline": []}, "baseline"),
    ({"tags": ["demo"]}, "tags"),
    ({"execution_mode": "pipecat"}, "execution_mode"),
    ({"scenarios": None, "rooms": [{"scenario": 99, "pipecat_room_url": ROOM}]}, "rooms"),
    ({"scenarios": None, "rooms": [{"scenario": 1}]}, "rooms"),
    ({"rooms": [{"scenario": 1, "pipecat_room_url": ROOM}]}, "rooms"),
    ({"scenarios": None, "rooms": [{"scenario": 1, "pipecat_room_url": ROOM}]}, "execution_mode"),
    ({"scenarios": None, "execution_mode": None, "rooms": [{"scenario": 1, "pipecat_room_url": "x"}]}, "rooms"),
]


async def test_a_schedule_that_could_not_start_a_call_is_refused(client: Client) -> None:
    await client.patch(f"{AGENTS}1/", json={"session": {"start_url": None, "transport": None}})
    refused = await client.post(JOBS, json=BODY)
    assert (refused.status_code, list(refused.json())) == (400, ["agent"])
    path = f"{JOBS}{(await client.post(JOBS, json={**BODY, 'is_active': False})).json()['id']}"
    assert list((await client.patch(path, json={"is_active": True})).json()) == ["agent"]
    assert (await client.patch(path, json={"name": "weekly"})).status_code == 200


async def test_pausing_and_changing_moves_when_it_is_due(client: Client) -> None:
    job = (await client.post(JOBS, json=BODY)).json()
    path = f"{JOBS}{job['id']}"
    assert (await client.patch(path, json={"name": "n"})).json()["next_due_at"] == job["next_due_at"]
    moved = (await client.patch(path, json={"timezone": "Asia/Kolkata"})).json()
    assert moved["next_due_at"].endswith("T22:30:00Z")
    assert (await client.patch(path, json={"is_active": False})).json()["next_due_at"] is None
    assert (await client.patch(path, json={"is_active": True})).json()["next_due_at"] == moved["next_due_at"]


async def test_what_an_older_version_kept_can_not_be_switched_on(client: Client, services: Services) -> None:
    path = f"{JOBS}{(await client.post(JOBS, json={**BODY, 'is_active': False})).json()['id']}"
    async with services.database.session() as session:
        await session.execute(update(CronJob).values(data={"execution_mode": "voice"}))
    assert (await client.get(path)).json()["execution_mode"] == "voice"
    assert (await client.patch(path, json={"name": "still paused"})).status_code == 200
    assert list((await client.patch(path, json={"is_active": True})).json()) == ["execution_mode"]
    assert (await client.put(path, json=BODY)).json()["execution_mode"] == "pipecat_v2"


@on_every_database
async def test_a_schedule_is_run_now_and_tells_what_became_of_it(client: Client, services: Services) -> None:
    job = (await client.post(JOBS, json={**BODY, "is_active": False, "frequency": 2})).json()
    fired = await client.post(f"{JOBS}{job['id']}/run_now/")
    assert fired.status_code == 200, fired.text
    firing = fired.json()
    assert (firing["trigger"], firing["state"], firing["cron_job"]) == ("manual", "running", job["id"])
    result = (await client.get(f"/test_framework/v1/results/{firing['result']}")).json()
    assert (result["is_cronjob"], result["name"], result["total_runs_count"]) == (True, "nightly", 2)
    assert result["run_settings"]["cron_job"] == job["id"]
    async with services.database.session() as session:
        await session.execute(update(RunRow).values(success=True, status="completed"))
        await session.execute(update(ResultRow).values(status="completed"))
    await Schedules(services).look()
    history = (await client.get(f"{JOBS}{job['id']}/history/")).json()
    assert (history["count"], history["results"][0]["state"]) == (1, "passed")
    assert history["results"][0]["reason"] == "2 of 2 runs passed"
    assert (await client.get(f"{JOBS}{job['id']}")).json()["last_firing"] == history["results"][0]
    assert (await client.get(f"{JOBS}99/history/")).status_code == 404
    assert (await client.post(f"{JOBS}99/run_now/")).status_code == 404


async def test_what_can_not_be_run_now_says_why(client: Client, services: Services) -> None:
    body = {**BODY, "scenarios": None, "tags": ["no such tag"]}
    job = (await client.post(JOBS, json=body)).json()
    refused = await client.post(f"{JOBS}{job['id']}/run_now/")
    assert (refused.status_code, refused.json()) == (400, {"tags": ["No scenario of agent 1 has any of them."]})
    async with services.database.reading() as session:
        assert await session.scalar(select(func.count(ResultRow.id))) == 0


async def test_tokens_of_fixed_rooms_are_never_shown(client: Client, services: Services) -> None:
    room = {"scenario": 1, "pipecat_room_url": ROOM, "pipecat_token": TOKEN, "publish_data_message": {"type": "x"}}
    body = {"crontab_expression": "0 4 * * *", "rooms": [room]}
    made = await client.post(JOBS, json=body)
    assert made.status_code == 201 and TOKEN not in made.text
    job = made.json()
    assert (job["execution_mode"], job["scenario_ids"], job["agent"]) == ("pipecat", [1], 1)
    assert job["rooms_data"] == [
        {
            "scenario": 1,
            "pipecat_room_url": ROOM,
            "has_token": True,
            "has_data_message": True,
            "participant_name": None,
        }
    ]
    async with services.database.reading() as session:
        row = await session.get_one(CronJob, job["id"])
        assert row.rooms is not None and TOKEN not in f"{row.rooms!r}{row.data}"
    # Whoever writes back what was read does not send its rooms along: that is refused, and nothing is lost.
    assert (await client.put(f"{JOBS}{job['id']}", json=job)).status_code == 400
    firing = (await client.post(f"{JOBS}{job['id']}/run_now/")).json()
    runs = (await client.get("/test_framework/v1/runs/", params={"result_id": firing["result"]})).json()
    assert runs["count"] == 1
    emptied = await client.patch(f"{JOBS}{job['id']}", json={"rooms": []})
    assert list(emptied.json()) == ["scenarios"]
    back = await client.patch(f"{JOBS}{job['id']}", json={"rooms": [], "scenarios": [1]})
    assert (back.json()["execution_mode"], back.json()["rooms_data"]) == ("pipecat_v2", [])


async def test_a_schedule_of_the_file_is_changed_there_alone(client: Client, services: Services) -> None:
    path = f"{JOBS}{(await client.post(JOBS, json=BODY)).json()['id']}"
    async with services.database.session() as session:
        await session.execute(update(CronJob).values(configured_as="nightly"))
    for refused in (
        await client.patch(path, json={"name": "x"}),
        await client.put(path, json=BODY),
        await client.delete(path),
    ):
        assert (refused.status_code, refused.json()) == (403, {"detail": CONFIGURED})
    assert (await client.get(path)).json()["configured"] is True


async def test_a_notification_needs_somebody_who_is_told(client: Client, services: Services) -> None:
    refused = await client.post(JOBS, json={**BODY, "notify_on": "both"})
    assert refused.json() == {"notify_on": [NOBODY_TOLD]}
    async with services.database.session() as session:
        await session.execute(update(Agent).values(webhooks={"webhook_url": "https://example.com/hook"}))
    assert (await client.post(JOBS, json={**BODY, "notify_on": "both"})).json()["notify_on"] == "both"


async def test_what_is_wrong_is_named_and_nothing_is_created(client: Client) -> None:
    for change, field in WRONG:
        answer = await client.post(JOBS, json={**BODY, **change})
        assert answer.status_code == 400, change
        assert list(answer.json()) == [field], change
    assert (await client.get(JOBS)).json() == []


async def test_usual_expressions_and_zones_are_taken(client: Client) -> None:
    for expression in ("*/15 9-17 * * 1-5", "0 0 1 1 *", "30 6 * jan,jul mon", "0 0 29 2 *", "  0  4 * * 0 "):
        job = (await client.post(JOBS, json={**BODY, "crontab_expression": expression})).json()
        assert job["crontab_expression"] == expression.strip()
    for zone in ("Asia/Calcutta", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5"):
        assert (await client.post(JOBS, json={**BODY, "timezone": zone})).json()["timezone"] == zone


@on_every_database
async def test_the_agent_is_that_of_the_scenarios_unless_named(client: Client) -> None:
    body = {"crontab_expression": "0 4 * * *", "scenarios": [1]}
    job = (await client.post(JOBS, json=body)).json()
    assert (job["agent"], job["name"], job["created_via"]) == (1, "", "api")
    tagged = await client.post(JOBS, json={**body, "scenarios": [], "tags": ["smoke"], "agent": 1})
    assert (tagged.status_code, tagged.json()["tags"]) == (201, ["smoke"])


async def test_a_schedule_is_changed_replaced_and_deleted(client: Client) -> None:
    path = f"{JOBS}{(await client.post(JOBS, json=BODY)).json()['id']}"
    changed = (await client.patch(path, json={"crontab_expression": "5 5 * * *", "is_active": False})).json()
    assert (changed["crontab_expression"], changed["is_active"]) == ("5 5 * * *", False)
    assert (changed["execution_mode"], changed["scenario_ids"]) == ("pipecat_v2", [1])
    assert (await client.patch(path, json={"scenarios": []})).status_code == 400
    whole = {"crontab_expression": "0 1 * * *", "scenarios": [1]}
    replaced = (await client.put(path, json=whole)).json()
    assert (replaced["name"], replaced["is_active"], replaced["notify_on"]) == ("", True, "never")
    assert (await client.delete(path)).status_code == 204
    assert (await client.get(path)).status_code == 404
