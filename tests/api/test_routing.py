"""Every path is served as Cekura's clients spell it, and described once."""

import itertools
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from tests.api.conftest import Client, on_every_database

pytestmark = pytest.mark.anyio

LISTS = [
    "/user/v1/projects",
    "/test_framework/v2/aiagents",
    "/test_framework/v1/personalities",
    "/test_framework/v1/test-profiles",
    "/test_framework/v1/test-profiles-external",
    "/test_framework/v1/scenarios",
    "/test_framework/v1/scenarios-external",
    "/schedules/v1/cron-jobs",
    "/schedules/v1/cron-jobs-external",
]


async def test_lists_are_served_under_every_spelling(client: Client) -> None:
    for path, slash in itertools.product(LISTS, ("", "/")):
        assert (await client.get(path + slash)).status_code == 200, path
        assert (await client.get(f"{path}/999{slash}")).status_code == 404, path


@pytest.mark.parametrize("slash", ["", "/"])
async def test_writing_is_never_redirected(client: Client, slash: str) -> None:
    created = await client.post(f"/test_framework/v1/personalities{slash}", json={"name": "x"})
    assert created.status_code == 201
    path = f"/test_framework/v1/personalities/{created.json()['id']}{slash}"
    assert (await client.patch(path, json={"name": "y"})).json()["name"] == "y"
    deleted = await client.delete(path)
    assert (deleted.status_code, deleted.content) == (204, b"")


async def test_unknown_paths_and_methods_have_a_detail(client: Client) -> None:
    for path in ("/nope", "/nope/", "/", "//", "/test_framework/v1/scenarios//"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not found."}), path
    answer = await client.request("TRACE", "/test_framework/v1/scenarios")
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, POST"
    answer = await client.put("/test_framework/v1/scenarios/run_scenarios_pipecat/", json={})
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    answer = await client.post("/test_framework/v1/scenarios/1/")
    assert answer.headers["Allow"] == "GET, PUT, PATCH, DELETE"


OPEN = {"/healthz", "/readyz", "/metrics"}
"""Need no key."""


def operations(app: FastAPI) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_operation_is_described_once_and_with_its_refusals(app: FastAPI) -> None:
    found = operations(app)
    ids = [operation["operationId"] for _, _, operation in found]
    assert len(ids) == len(set(ids))
    for path, method, operation in found:
        assert not path.endswith("/")
        assert "-external" not in path
        assert "422" not in operation["responses"]
        assert any(status.startswith("2") for status in operation["responses"]), (path, method)
        assert bool(operation.get("security")) == (path not in OPEN), (path, method)
        if path not in OPEN:
            assert {"400", "401", "403", "413", "415", "429"} <= set(operation["responses"]), (path, method)
            assert "{" not in path or "404" in operation["responses"], (path, method)
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    shown = {
        (route.path_format, method.lower()) for route in routes if route.include_in_schema for method in route.methods
    }
    assert shown == {(path, method) for path, method, _ in found}
    # What is not described is another spelling of what is, a HEAD of it, or what workers of earlier releases ask for.
    endpoints = {route.endpoint for route in routes if route.include_in_schema}
    hidden = [route for route in routes if route.endpoint not in endpoints and route.methods != {"HEAD"}]
    assert {route.name for route in hidden} == {"of_another_version"}
    schemes = app.openapi()["components"]["securitySchemes"].values()
    assert {scheme.get("name", scheme.get("scheme")) for scheme in schemes} == {
        *("X-CEKURA-API-KEY", "X-VOCERA-SHAREABLE-LINK-TOKEN", "bearer")
    }


def test_no_secret_input_is_described_as_given_back(app: FastAPI) -> None:
    secret = {"pipecat_token", "api_key", "credentials", "room_token", "pipecat_data"}
    schemas = app.openapi()["components"]["schemas"]
    for name in ("Agent", "Provider", "Launched", "LaunchedRun", "Result", "ResultItem", "Run", "ResultRun"):
        assert not secret.intersection(schemas[name]["properties"]), name


def test_all_json_but_that_of_artefacts_has_a_schema(app: FastAPI) -> None:
    for path, method, operation in operations(app):
        if "/artefacts/" in path:
            continue
        for status, answer in operation["responses"].items():
            for kind, content in answer.get("content", {}).items():
                assert content.get("schema") or "json" not in kind, (path, method, status)


async def test_the_description_is_served(anonymous: Client) -> None:
    document = (await anonymous.get("/openapi.json")).json()
    assert "/test_framework/v1/scenarios" in document["paths"]
    assert "HTTPValidationError" not in document["components"]["schemas"]


@on_every_database
async def test_pages_lead_to_each_other_by_absolute_addresses(client: Client) -> None:
    path = "/test_framework/v1/test-profiles"
    for number in range(5):
        assert (await client.post(path, json={"name": f"profile {number}"})).status_code == 201
    seen: list[str] = []
    url = f"{path}?page_size=2&search=profile"
    while url:
        page = (await client.get(url)).json()
        assert set(page) == {"count", "next", "previous", "results"}
        assert page["count"] == 5
        seen += [item["name"] for item in page["results"]]
        url = page["next"]
        assert url is None or url.startswith("http://testserver/")
    assert seen == [f"profile {number}" for number in (4, 3, 2, 1, 0)]
    assert page["previous"].endswith("page_size=2&search=profile&page=2")
    beyond = await client.get(path, params={"page": 9})
    assert (beyond.status_code, beyond.json()) == (404, {"detail": "Invalid page."})
    assert (await client.get(path, params={"page": 0})).json() == {
        "page": ["Ensure this value is greater than or equal to 1."]
    }
    assert (await client.get(path, params={"page_size": 10**9})).status_code == 200


@on_every_database
async def test_search_takes_wildcards_as_what_they_are(client: Client) -> None:
    path = "/test_framework/v1/test-profiles"
    for name in ("100%", "1000", "a_b"):
        await client.post(path, json={"name": name})
    assert [p["name"] for p in (await client.get(path, params={"search": "0%"})).json()["results"]] == ["100%"]
    assert [p["name"] for p in (await client.get(path, params={"search": "A_B"})).json()["results"]] == ["a_b"]
