"""Agents."""

import json
from typing import Any

import pytest

from runner.api.services import Services
from runner.records.tables import Agent, ScenarioRow
from tests.api.conftest import Client, on_every_database

pytestmark = pytest.mark.anyio

AGENTS = "/test_framework/v2/aiagents/"
KEY = "pk_planted_secret"
BODY: dict[str, Any] = {
    "name": "Booking bot",
    "description": "Takes bookings",
    "project": 1,
    "language": "en",
    "telephony": {"inbound": True},
    "provider": {
        "type": "pipecat",
        "agent_id": None,
        "credentials": {
            "api_key": KEY,
            "config": {"pipecat_agent_name": "booking-bot", "config": {"token": KEY}, "room_properties": {}},
        },
    },
}


async def kept(services: Services, agent_id: int) -> dict[str, Any] | None:
    """Return what is kept encrypted of an agent."""
    async with services.database.reading() as session:
        row = await session.get_one(Agent, agent_id)
    return json.loads(services.vault.open(row.credentials)) if row.credentials else None


async def test_an_agent_is_created_as_the_clients_create_it(client: Client) -> None:
    answer = await client.post(AGENTS, json=BODY)
    assert answer.status_code == 201
    agent = answer.json()
    assert agent["telephony"] == {"phone_number": None, "inbound": True}
    assert agent["provider"] == {
        "type": "pipecat",
        "agent_id": None,
        "pipecat_agent_name": "booking-bot",
        "credentials_configured": True,
    }
    assert agent["created_at"].endswith("Z")
    assert (await client.get(f"{AGENTS}{agent['id']}/")).json() == agent


async def test_secrets_are_kept_encrypted_and_never_given_back(client: Client, services: Services) -> None:
    created = await client.post(AGENTS, json=BODY)
    agent_id = created.json()["id"]
    for answer in (created, await client.get(AGENTS), await client.get(f"{AGENTS}{agent_id}")):
        assert KEY not in answer.text
    stored = b"".join(path.read_bytes() for path in services.settings.server.data_dir.glob("record.sqlite*"))
    assert b"Booking bot" in stored
    assert KEY.encode() not in stored
    assert await kept(services, agent_id) == BODY["provider"]["credentials"]


@on_every_database
async def test_credentials_stay_until_they_are_given_anew(client: Client, services: Services) -> None:
    agent_id = (await client.post(AGENTS, json=BODY)).json()["id"]
    await client.patch(f"{AGENTS}{agent_id}/", json={"provider": {"type": "pipecat"}})
    await client.put(f"{AGENTS}{agent_id}/", json={"name": "Other", "provider": {"type": "pipecat"}})
    assert await kept(services, agent_id) == BODY["provider"]["credentials"]
    await client.patch(f"{AGENTS}{agent_id}/", json={"provider": {"credentials": {"api_key": "new"}}})
    await client.patch(f"{AGENTS}{agent_id}/", json={"provider": {"credentials": {"private_api_key": "sk_1"}}})
    changed = await kept(services, agent_id)
    assert changed is not None and changed["private_api_key"] == "sk_1"
    assert (changed["api_key"], changed["config"]["pipecat_agent_name"]) == ("new", "booking-bot")
    answer = await client.patch(f"{AGENTS}{agent_id}/", json={"provider": {"credentials": None}})
    assert answer.json()["provider"]["credentials_configured"] is False
    assert answer.json()["provider"]["pipecat_agent_name"] is None
    assert await kept(services, agent_id) is None


async def test_a_change_leaves_alone_what_it_does_not_name(client: Client) -> None:
    agent = (await client.post(AGENTS, json=BODY)).json()
    answer = await client.patch(f"{AGENTS}{agent['id']}/", json={"telephony": {"phone_number": "+15550100"}})
    assert answer.json()["telephony"] == {"phone_number": "+15550100", "inbound": True}
    assert answer.json()["description"] == "Takes bookings"
    assert answer.json()["updated_at"] > agent["updated_at"]
    replaced = (await client.put(f"{AGENTS}{agent['id']}/", json={"name": "Plain"})).json()
    assert (replaced["name"], replaced["description"]) == ("Plain", "")
    assert replaced["telephony"] == {"phone_number": None, "inbound": True}


async def test_a_session_of_our_own_is_kept(client: Client) -> None:
    session = {"start_url": "http://localhost:7860/start", "transport": "webrtc", "data": {"tier": "gold"}}
    agent = (await client.post(AGENTS, json={"name": "Own", "session": session})).json()
    assert agent["session"] == {
        **session,
        "start_timeout_s": 60.0,
        "agent_join_timeout_s": None,
        "bot_ready_timeout_s": None,
        "participant_name": None,
        "max_calls": None,
    }
    limited = await client.patch(f"{AGENTS}{agent['id']}/", json={"session": {"max_calls": 3}})
    assert (limited.json()["session"]["max_calls"], limited.json()["session"]["start_url"]) == (
        3,
        session["start_url"],
    )
    changed = await client.patch(f"{AGENTS}{agent['id']}/", json={"session": {"agent_join_timeout_s": 5}})
    assert changed.json()["session"]["start_url"] == session["start_url"]
    assert changed.json()["session"]["agent_join_timeout_s"] == 5
    erased = await client.patch(f"{AGENTS}{agent['id']}/", json={"session": None})
    assert erased.json()["session"]["start_url"] is None


WRONG_SESSIONS: list[tuple[dict[str, Any], str]] = [
    ({"start_url": "ftp://x/start"}, "start_url"),
    ({"start_url": "http://localhost:7860"}, "start_url"),
    ({"start_url": "http://user:tok_planted@host/start"}, "start_url"),
    ({"transport": "livekit"}, "transport"),
    ({"start_timeout_s": 0}, "start_timeout_s"),
    ({"agent_join_timeout_s": -1}, "agent_join_timeout_s"),
    ({"data": []}, "data"),
    ({"max_calls": 0}, "max_calls"),
    ({"max_calls": 1.5}, "max_calls"),
    ({"max_calls": "3"}, "max_calls"),
]


async def test_a_wrong_session_is_refused_by_its_field(client: Client) -> None:
    for session, field in WRONG_SESSIONS:
        answer = await client.post(AGENTS, json={"name": "x", "session": session})
        assert answer.status_code == 400, session
        assert list(answer.json()["session"]) == [field]
        assert "tok_planted" not in answer.text


WRONG_FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"name": ["This field is required."]}),
    ({"name": " "}, {"name": ["This field may not be blank."]}),
    ({"name": None}, {"name": ["This field may not be null."]}),
    ({"name": "x", "project": 7}, {"project": ['Invalid pk "7" - object does not exist.']}),
    ({"name": "x", "telephony": {"inbound": "yes"}}, {"telephony": {"inbound": ["Must be a valid boolean."]}}),
]


async def test_wrong_fields_are_named(client: Client) -> None:
    for body, errors in WRONG_FIELDS:
        answer = await client.post(AGENTS, json=body)
        assert (answer.status_code, answer.json()) == (400, errors)


async def test_lists_are_narrowed_down(client: Client) -> None:
    await client.post(AGENTS, json={"name": "Outbound", "telephony": {"inbound": False}})

    async def names(**filters: Any) -> list[str]:
        return [agent["name"] for agent in (await client.get(AGENTS, params=filters)).json()["results"]]

    assert await names() == ["Outbound", "restaurant"]
    assert await names(search="REST") == ["restaurant"]
    assert await names(inbound="false") == ["Outbound"]
    assert await names(project_id=1) == ["Outbound", "restaurant"]
    assert await names(project_id=2) == []


@on_every_database
async def test_what_belonged_to_a_deleted_agent_stays(client: Client, services: Services) -> None:
    assert (await client.delete(f"{AGENTS}1/")).status_code == 204
    assert (await client.get(f"{AGENTS}1/")).status_code == 404
    assert (await client.delete(f"{AGENTS}1/")).status_code == 404
    async with services.database.reading() as session:
        assert (await session.get_one(ScenarioRow, 1)).agent_id is None
