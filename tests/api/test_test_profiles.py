"""Test profiles."""

from typing import Any

import pytest

from tests.api.conftest import Client

pytestmark = pytest.mark.anyio

PROFILES = "/test_framework/v1/test-profiles-external/"


async def test_values_are_kept_by_side(client: Client) -> None:
    information = {
        "main_agent_variables": {"tier": "gold"},
        "testing_agent_variables": {"name": "Ann", "n": [1, None]},
    }
    created = await client.post(PROFILES, json={"name": "Ann", "agent": 1, "information": information})
    assert created.status_code == 201
    profile = created.json()
    assert (profile["information"], profile["agent"], profile["agent_name"]) == (information, 1, "restaurant")
    assert (await client.get(f"{PROFILES}{profile['id']}")).json() == profile
    changed = (await client.patch(f"{PROFILES}{profile['id']}", json={"agent": None})).json()
    assert (changed["information"], changed["agent"], changed["agent_name"]) == (information, None, None)


async def test_flat_values_go_to_both_sides(client: Client) -> None:
    profile = (await client.post(PROFILES, json={"name": "Ann", "information": {"name": "Ann"}})).json()
    assert profile["information"] == {
        "main_agent_variables": {"name": "Ann"},
        "testing_agent_variables": {"name": "Ann"},
    }


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"information": {"main_agent_variables": []}}, "information"),
    ({"information": []}, "information"),
    ({"agent": 99}, "agent"),
    ({"agent": "1"}, "agent"),
    ({"project": 99}, "project"),
    ({"name": ""}, "name"),
]


async def test_wrong_fields_are_named(client: Client) -> None:
    for body, field in WRONG:
        answer = await client.post(PROFILES, json={"name": "x", **body})
        assert answer.status_code == 400
        assert list(answer.json()) == [field]


async def test_lists_are_narrowed_down(client: Client) -> None:
    await client.post(PROFILES, json={"name": "of the agent", "agent": 1})
    await client.post(PROFILES, json={"name": "of nobody"})
    found = (await client.get(PROFILES, params={"agent_id": 1})).json()
    assert [(p["name"], p["agent_name"]) for p in found["results"]] == [("of the agent", "restaurant")]
    found = (await client.get(PROFILES, params={"search": "NOBODY"})).json()
    assert [p["name"] for p in found["results"]] == ["of nobody"]


async def test_a_profile_is_replaced_and_deleted(client: Client) -> None:
    created = (await client.post(PROFILES, json={"name": "x", "agent": 1, "information": {"a": 1}})).json()
    replaced = (await client.put(f"{PROFILES}{created['id']}", json={"name": "y"})).json()
    assert (replaced["name"], replaced["agent"]) == ("y", None)
    assert replaced["information"]["main_agent_variables"] == {}
    assert (await client.delete(f"{PROFILES}{created['id']}")).status_code == 204
    assert (await client.get(f"{PROFILES}{created['id']}")).status_code == 404
