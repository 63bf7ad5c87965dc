"""Schedules: checked and kept."""

from typing import Any

import httpx
import pytest

from runner.api.routes.cron_jobs import NOTHING_FIRES
from tests.api.conftest import on_every_database

pytestmark = pytest.mark.anyio

JOBS = "/schedules/v1/cron-jobs-external/"
BODY: dict[str, Any] = {
    "name": "nightly",
    "agent": 1,
    "crontab_expression": "0 4 * * *",
    "timezone": "UTC",
    "scenarios": [1],
    "execution_mode": "pipecat_v2",
    "frequency": 1,
    "notify_on": "never",
    "is_active": False,
}


async def test_a_schedule_is_created_as_the_clients_create_it(client: httpx.AsyncClient) -> None:
    answer = await client.post(JOBS, json=BODY, headers={"X-Client-Source": "sdk"})
    assert answer.status_code == 201
    job = answer.json()
    for name in ("name", "agent", "crontab_expression", "timezone", "execution_mode", "frequency", "notify_on"):
        assert job[name] == BODY[name]
    assert (job["scenario_ids"], job["is_active"], job["created_via"]) == ([1], False, "sdk")
    assert "scenarios" not in job
    assert "concurrency_limit" not in job
    assert job["scenarios_data"] == [
        {"id": 1, "agent": 1, "name": "Book a table", "personality": 1, "personality_name": "Normal"}
    ]
    assert (await client.get(f"{JOBS}{job['id']}")).json() == job


@on_every_database
async def test_lists_are_plain_and_narrowed_down(client: httpx.AsyncClient) -> None:
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
    ({"is_active": True}, "is_active"),
]


async def test_a_schedule_that_nothing_fires_is_refused_by_default(client: httpx.AsyncClient) -> None:
    without = {name: value for name, value in BODY.items() if name != "is_active"}
    refused = await client.post(JOBS, json=without)
    assert (refused.status_code, refused.json()) == (400, {"is_active": [NOTHING_FIRES]})
    path = f"{JOBS}{(await client.post(JOBS, json=BODY)).json()['id']}"
    assert (await client.patch(path, json={"is_active": True})).json() == {"is_active": [NOTHING_FIRES]}
    assert (await client.patch(path, json={"name": "weekly"})).status_code == 200


async def test_what_is_wrong_is_named_and_nothing_is_created(client: httpx.AsyncClient) -> None:
    for change, field in WRONG:
        answer = await client.post(JOBS, json={**BODY, **change})
        assert answer.status_code == 400, change
        assert list(answer.json()) == [field], change
    assert (await client.get(JOBS)).json() == []


async def test_usual_expressions_and_zones_are_taken(client: httpx.AsyncClient) -> None:
    for expression in ("*/15 9-17 * * 1-5", "0 0 1 1 *", "30 6 * jan,jul mon", "0 0 29 2 *", "  0  4 * * 0 "):
        job = (await client.post(JOBS, json={**BODY, "crontab_expression": expression})).json()
        assert job["crontab_expression"] == expression.strip()
    for zone in ("Asia/Calcutta", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5"):
        assert (await client.post(JOBS, json={**BODY, "timezone": zone})).json()["timezone"] == zone


@on_every_database
async def test_the_agent_is_that_of_the_scenarios_unless_named(client: httpx.AsyncClient) -> None:
    body = {"crontab_expression": "0 4 * * *", "scenarios": [1], "is_active": False}
    job = (await client.post(JOBS, json=body)).json()
    assert (job["agent"], job["name"], job["created_via"]) == (1, "", "api")
    tagged = await client.post(JOBS, json={**body, "scenarios": [], "tags": ["smoke"], "agent": 1})
    assert (tagged.status_code, tagged.json()["tags"]) == (201, ["smoke"])


async def test_a_schedule_is_changed_replaced_and_deleted(client: httpx.AsyncClient) -> None:
    path = f"{JOBS}{(await client.post(JOBS, json=BODY)).json()['id']}"
    changed = (await client.patch(path, json={"crontab_expression": "5 5 * * *", "is_active": False})).json()
    assert (changed["crontab_expression"], changed["is_active"]) == ("5 5 * * *", False)
    assert (changed["execution_mode"], changed["scenario_ids"]) == ("pipecat_v2", [1])
    assert (await client.patch(path, json={"scenarios": []})).status_code == 400
    whole = {"crontab_expression": "0 1 * * *", "scenarios": [1], "is_active": False}
    replaced = (await client.put(path, json=whole)).json()
    assert (replaced["name"], replaced["is_active"], replaced["notify_on"]) == ("", False, "never")
    assert (await client.delete(path)).status_code == 204
    assert (await client.get(path)).status_code == 404
