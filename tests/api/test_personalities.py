"""Personalities."""

import pytest

from tests.api.conftest import Client, on_every_database

pytestmark = pytest.mark.anyio

PERSONALITIES = "/test_framework/v1/personalities/"


async def test_the_ids_that_users_write_down_are_there(client: Client) -> None:
    for number, language in ((693, "en"), (362, "es"), (4710, "multi")):
        answer = await client.get(f"{PERSONALITIES}{number}")
        assert (answer.json()["id"], answer.json()["language"]) == (number, language)
        assert answer.json()["project"] is None


@on_every_database
async def test_lists_have_the_built_in_ones_and_ones_own(client: Client) -> None:
    await client.post(PERSONALITIES, json={"name": "Hurried", "language": "en-GB"})

    async def names(**filters: object) -> set[str]:
        answer = await client.get(PERSONALITIES, params=filters)  # type: ignore[arg-type]
        return {item["name"] for item in answer.json()["results"]}

    assert {"Normal", "Hurried"} <= await names()
    assert await names(language="en-GB") == {"Hurried"}
    assert await names(search="hurr") == {"Hurried"}
    assert "Hurried" not in await names(project_id=99)
    assert "Normal" in await names(project_id=99)


async def test_built_in_ones_can_not_be_changed(client: Client) -> None:
    for method in ("PATCH", "PUT", "DELETE"):
        body = None if method == "DELETE" else {"name": "Mine"}
        answer = await client.request(method, f"{PERSONALITIES}693/", json=body)
        assert answer.status_code == 403
        assert "fork" in answer.json()["detail"]
    assert (await client.get(f"{PERSONALITIES}693/")).json()["name"] == "Normal Male"


@on_every_database
async def test_a_fork_is_ones_own(client: Client) -> None:
    for body in (None, {}, {"name": "Mine"}):
        answer = await client.post(f"{PERSONALITIES}693/fork/", json=body)
        assert answer.status_code == 201, answer.text
    fork = answer.json()
    assert (fork["name"], fork["forked_from"], fork["project"], fork["gender"]) == ("Mine", 693, 1, "male")
    changed = await client.patch(f"{PERSONALITIES}{fork['id']}/", json={"speed": 1})
    assert (changed.json()["speed"], changed.json()["forked_from"]) == (1.0, 693)
    assert (await client.put(f"{PERSONALITIES}{fork['id']}/", json=changed.json())).status_code == 200
    assert (await client.delete(f"{PERSONALITIES}{fork['id']}/")).status_code == 204


async def test_empty_requests_and_clients_obligatory_fields_are_taken(client: Client) -> None:
    traits = {
        "background_noise": "off",
        "voice_model": "sonic-3.5",
        "interruption_level": "off",
        "speed": 1,
        "accent": "",
        "message_plan": {"idle_timeout_seconds": None},
        "network_simulation": {},
        "end_call_enabled": True,
    }
    answer = await client.post(PERSONALITIES, json={"name": "Whole", "language": "en", **traits})
    assert answer.status_code == 201, answer.text
    assert answer.json()["voice_model"] == "sonic-3.5"


async def test_idle_prompts_can_not_be_turned_off(client: Client) -> None:
    answer = await client.post(PERSONALITIES, json={"name": "x", "message_plan": {"idle_timeout_seconds": 0}})
    assert answer.json() == {
        "message_plan": {"idle_timeout_seconds": ["Ensure this value is greater than or equal to 1.0."]}
    }
