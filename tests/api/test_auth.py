"""Who is let in, and to what."""

import pytest
from fastapi import FastAPI

from runner.api.services import Services
from runner.records.keys import revoke_key
from tests.api.conftest import Client, client_of, other_project
from tests.api.telling import RUNS, begun, put, show

pytestmark = pytest.mark.anyio

PROJECTS = "/user/v1/projects/"


async def test_both_headers_are_taken(anonymous: Client, user_key: str) -> None:
    for headers in (
        {"X-CEKURA-API-KEY": user_key},
        {"x-cekura-api-key": user_key},
        {"Authorization": f"Bearer {user_key}"},
        {"Authorization": f"bearer {user_key}"},
    ):
        assert (await anonymous.get(PROJECTS, headers=headers)).status_code == 200


UNKNOWN: list[dict[str, str]] = [
    {},
    {"X-CEKURA-API-KEY": ""},
    {"X-CEKURA-API-KEY": "psr_wrong"},
    {"X-CEKURA-API-KEY": "sk-somebody-elses"},
    {"Authorization": "Bearer psr_wrong"},
    {"Authorization": "Basic dXNlcjpwYXNz"},
    {"X-CEKURA-API-KEY": "psr_\xe9"},
]


async def test_without_a_known_key_the_answer_is_401(anonymous: Client) -> None:
    for headers in UNKNOWN:
        answer = await anonymous.get(
            PROJECTS, headers=[(k.encode(), v.encode("latin-1")) for k, v in headers.items()]
        )
        assert answer.status_code == 401, headers
        assert list(answer.json()) == ["detail"]
        assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_a_revoked_key_opens_nothing_from_that_moment(
    client: Client, services: Services, user_key: str
) -> None:
    assert (await client.get(PROJECTS)).status_code == 200
    async with services.database.session() as session:
        assert await revoke_key(session, user_key)
    assert (await client.get(PROJECTS)).status_code == 401


async def test_a_workers_key_can_only_report(worker: Client, client: Client) -> None:
    refused = await worker.get(PROJECTS)
    assert refused.status_code == 403
    assert "worker" in refused.json()["detail"]
    assert (await client.get("/worker/v1/hello/")).status_code == 403


async def test_nothing_is_seen_from_another_project(client: Client, services: Services) -> None:
    project, key = await other_project(services)
    created = [
        ("/test_framework/v2/aiagents/", {"name": "mine"}),
        ("/test_framework/v1/personalities/", {"name": "mine"}),
        ("/test_framework/v1/test-profiles/", {"name": "mine"}),
        ("/test_framework/v1/scenarios/", {"name": "mine", "instructions": "Talk."}),
        ("/schedules/v1/cron-jobs/", {"crontab_expression": "0 4 * * *", "scenarios": [1], "is_active": False}),
    ]
    async with client_of(client._transport.app, key) as stranger:  # type: ignore[attr-defined]
        assert [p["id"] for p in (await stranger.get(PROJECTS)).json()["results"]] == [project]
        assert (await stranger.get(f"{PROJECTS}1/")).status_code == 404
        for path, body in created:
            answer = await client.post(path, json=body)
            assert answer.status_code == 201, answer.text
            own = f"{path}{answer.json()['id']}/"
            for method in ("GET", "PATCH", "DELETE"):
                hidden = await stranger.request(method, own, json={} if method == "PATCH" else None)
                assert hidden.status_code == 404, (method, own)
            listed = (await stranger.get(path)).json()
            names = [item["name"] for item in (listed if isinstance(listed, list) else listed["results"])]
            assert "mine" not in names
            assert (await client.get(own)).status_code == 200
        refused = await stranger.post(created[3][0], json={"name": "x", "agent": 1})
        assert refused.json() == {"agent": ['Invalid pk "1" - object does not exist.']}
        refused = await stranger.post(created[3][0], json={"name": "x", "project": 1})
        assert refused.json() == {"project": ['Invalid pk "1" - object does not exist.']}


async def test_a_run_and_its_result_are_not_there_for_another_project(
    client: Client, worker: Client, services: Services, app: FastAPI
) -> None:
    run_id = await begun(client, worker)
    assert (await put(worker, run_id, "recording.wav", b"RIFF")).status_code == 200
    run, results = f"{RUNS}/{run_id}", "/test_framework/v1/results"
    result = f"{results}/{(await show(client, run_id))['result_id']}"
    ids = {"run_ids": [run_id]}
    _, key = await other_project(services)
    async with client_of(app, key) as theirs:
        for path in (RUNS, results):
            assert (await theirs.get(path)).json()["count"] == 0
        assert (await theirs.get(f"{RUNS}/bulk", params={"ids": str(run_id)})).json() == []
        for path in (run, f"{run}/trace/", f"{run}/events", f"{run}/artefacts/recording.wav", result):
            answer = await theirs.get(path)
            assert (answer.status_code, list(answer.json())) == (404, ["detail"]), path
        for path, body in (
            (f"{run}/end_call", None),
            (f"{result}/rerun", {}),
            (f"{result}/end_calls", {}),
            (f"{result}/delete_runs", ids),
            (f"{result}/evaluate_metrics", {**ids, "metric_ids": [1]}),
            (f"{result}/create_shareable_link_token", {}),
        ):
            answer = await theirs.post(path, json=body)
            assert (answer.status_code, answer.json()) == (404, {"detail": "Not found."}), path
    assert (await worker.get(run)).status_code == 403
    assert (await show(client, run_id))["status"] == "running"
    for path in (f"{RUNS}/x", f"{results}/{10**25}"):
        assert (await client.get(path)).status_code == 404
