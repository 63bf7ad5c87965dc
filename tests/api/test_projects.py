"""Projects over HTTP."""

from typing import Any

import pytest

from runner.api.services import Services
from tests.api.conftest import Client, client_of, new_key, on_every_database, other_project
from tests.api.telling import run_launched

pytestmark = pytest.mark.anyio

PROJECTS = "/user/v1/projects/"


@on_every_database
async def test_a_project_that_was_made_is_a_world_of_its_own(client: Client, services: Services, app: Any) -> None:
    made = await client.post(PROJECTS, json={"name": " Billing "})
    assert made.status_code == 201
    project = made.json()
    assert (project["id"], project["name"]) == (2, "Billing") and project["created_at"].endswith("Z")
    await run_launched(client)
    async with client_of(app, await new_key(services, project_id=2)) as theirs:
        assert (await theirs.get(PROJECTS)).json()["results"] == [project]
        for path in ("/test_framework/v1/results", "/test_framework/v1/scenarios", "/test_framework/v2/aiagents"):
            assert (await theirs.get(path)).json()["count"] == 0, path
        assert (await theirs.post("/test_framework/v2/aiagents/", json={"name": "bot"})).json()["project"] == 2
    # Whoever made it sees no more of it than others do.
    assert (await client.get(f"{PROJECTS}2/")).status_code == 404
    assert [one["id"] for one in (await client.get(PROJECTS)).json()["results"]] == [1]


async def test_only_a_key_of_the_first_project_makes_others(
    client: Client,
    worker: Client,
    anonymous: Client,
    services: Services,
    app: Any,
) -> None:
    _, key = await other_project(services)
    body = {"name": "mine"}
    async with client_of(app, key) as theirs:
        refused = await theirs.post(PROJECTS, json=body)
    assert (refused.status_code, refused.json()) == (403, {"detail": "Only a key of project 1 makes projects."})
    assert (await worker.post(PROJECTS, json=body)).status_code == 403
    assert (await anonymous.post(PROJECTS, json=body)).status_code == 401
    assert (await client.post(PROJECTS, json=body)).status_code == 201


@pytest.mark.parametrize(
    "body", [{}, {"name": ""}, {"name": " "}, {"name": 5}, {"name": "x" * 201}, {"name": "default"}]
)
async def test_a_wrong_name_is_named(client: Client, body: dict[str, Any]) -> None:
    answer = await client.post(PROJECTS, json=body)
    assert answer.status_code == 400 and list(answer.json()) == ["name"]
