"""Scenarios."""

import json
from pathlib import Path
from typing import Any

import pytest

from runner.api.services import Services
from runner.records.honoured import NO_MOCKS, NO_TELEPHONE, NOT_KNOWN, unknown_metrics
from runner.records.tables import ScenarioRow
from runner.scenarios.cekura import ScenarioFields, as_played
from runner.settings import Settings
from tests.api.conftest import Client, on_every_database

pytestmark = pytest.mark.anyio

SCENARIOS = "/test_framework/v1/scenarios/"

ACTIONS: dict[str, Any] = {
    "role": "A guest",
    "conditions": [
        {"id": 0, "condition": "FIRST_MESSAGE", "action": "", "type": "standard", "fixed_message": True},
        {
            "id": 1,
            "condition": "The agent greets the caller",
            "action": "A table for two please.",
            "type": "standard",
            "fixed_message": True,
        },
    ],
}
BODY: dict[str, Any] = {
    "name": "Table for two",
    "agent": 1,
    "personality": 693,
    "scenario_type": "conditional_actions",
    "expected_outcome_prompt": "The agent confirms a table for two.",
    "tags": ["smoke"],
    "max_duration": 120,
    "conditional_actions": ACTIONS,
}
BOOKING = Path("config/scenarios/booking.yaml").read_text(encoding="utf-8")
EVAL = """\
name: short
turns:
  - user: Hello
    expect:
      - event: response
"""


async def test_a_scenario_is_created_as_the_clients_create_it(client: Client) -> None:
    answer = await client.post(SCENARIOS, json=BODY)
    assert answer.status_code == 201
    scenario = answer.json()
    assert json.loads(scenario["instructions"]) == ACTIONS
    assert scenario["personality_name"] == "Normal Male"
    assert scenario["agent_name"] == "restaurant"
    for name in ("name", "agent", "personality", "scenario_type", "expected_outcome_prompt", "tags", "max_duration"):
        assert scenario[name] == BODY[name]
    assert (await client.get(f"{SCENARIOS}{scenario['id']}")).json() == scenario


@on_every_database
async def test_every_writable_field_is_kept(client: Client) -> None:
    profile = (await client.post("/test_framework/v1/test-profiles", json={"name": "Ann"})).json()
    fields = {
        "name": "Whole",
        "agent": 1,
        "project": 1,
        "personality": 1,
        "scenario_type": "instruction",
        "instructions": "Order a pizza.",
        "expected_outcome_prompt": "There is a pizza.",
        "metrics": [1],
        "tags": ["a", "b"],
        "tool_ids": ["TOOL_DTMF", "end_call"],
        "test_profile": profile["id"],
        "phone_number": "",
        "folder_path": "Sales.Inbound",
        "generated_mock_tool_entries": [],
        "first_message": "Hello",
        "scenario_language": "en",
        "max_duration": 10,
    }
    created = (await client.post(SCENARIOS, json=fields)).json()
    assert {name: created[name] for name in fields} == fields
    assert created["test_profile_data"]["name"] == "Ann"
    assert created["conditional_actions"] is None
    for name, value in fields.items():
        changed = await client.patch(f"{SCENARIOS}{created['id']}", json={name: value})
        assert {n: changed.json()[n] for n in fields} == fields, name


async def test_conditional_actions_may_come_as_json_in_instructions(client: Client) -> None:
    body = {**BODY, "instructions": json.dumps(ACTIONS), "conditional_actions": None}
    scenario = (await client.post(SCENARIOS, json=body)).json()
    assert scenario["conditional_actions"] == ACTIONS
    wrong = await client.post(SCENARIOS, json={**body, "instructions": "Be nice"})
    assert wrong.json() == {"instructions": ["Conditional actions in instructions must be JSON: Expecting value."]}


async def test_the_type_follows_from_what_is_given(client: Client) -> None:
    for body, kind in (
        ({}, "instruction"),
        ({"instructions": "Talk."}, "instruction"),
        ({"conditional_actions": ACTIONS, "personality": 1}, "conditional_actions"),
        ({"pipecat_eval": EVAL}, "pipecat_eval"),
    ):
        answer = await client.post(SCENARIOS, json={"name": "x", **body})
        assert answer.json()["scenario_type"] == kind


async def test_the_first_message_inside_the_conditional_actions_counts(client: Client) -> None:
    actions = {"role": "A guest", "first_message": "Hi!", "conditions": [{"when": "a", "say": "b", "then": []}]}
    scenario = (
        await client.post(SCENARIOS, json={**BODY, "conditional_actions": actions, "first_message": "Yo"})
    ).json()
    assert scenario["first_message"] == "Hi!"
    assert (await client.post(SCENARIOS, json={**BODY, "first_message": "Hello"})).json()["first_message"] == ""
    path = f"{SCENARIOS}{scenario['id']}"
    assert (await client.patch(path, json={"first_message": "Yo"})).json()["first_message"] == "Hi!"
    assert list((await client.patch(f"{SCENARIOS}1", json={"first_message": "Yo"})).json()) == ["first_message"]


WRONG: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"name": None}, {"name": ["This field may not be null."]}),
    ({"name": "x" * 81}, {"name": ["Ensure this field has no more than 80 characters."]}),
    ({"personality": 9}, {"personality": ['Invalid pk "9" - object does not exist.']}),
    (
        {"agent": 9, "test_profile": 9},
        {f: ['Invalid pk "9" - object does not exist.'] for f in ("agent", "test_profile")},
    ),
    ({"max_duration": 9}, {"max_duration": ["Ensure this value is greater than or equal to 10."]}),
    ({"max_duration": 3601}, {"max_duration": ["Ensure this value is less than or equal to 3600."]}),
    ({"tags": ["a", 1]}, {"tags": {"1": ["Not a valid string."]}}),
    (
        {"dynamic_variable_values": {}},
        {"dynamic_variable_values": ["dynamic_variable_values was removed; use a test profile."]},
    ),
    (
        {"instructions": "Talk."},
        {"instructions": ["A scenario has conditional_actions or instructions, not both."]},
    ),
    ({"conditional_actions": None}, {"conditional_actions": ["This field is required."]}),
    (
        {"scenario_type": "instruction"},
        {"conditional_actions": ["It belongs to the scenario_type conditional_actions."]},
    ),
    ({"scenario_type": "pipecat_eval", "conditional_actions": None}, {"pipecat_eval": ["This field is required."]}),
    ({"personality": None}, {"scenario_language": ["scenario_language is required"]}),
    ({"metrics": [1, 2, 3]}, {"metrics": [unknown_metrics([2, 3], Settings())]}),
    (
        {"tool_ids": ["dtmf", "receive_dtmf"]},
        {"tool_ids": ["the caller can't use receive_dtmf; it can use dtmf and end_call."]},
    ),
    ({"phone_number": "+15550100"}, {"phone_number": [NO_TELEPHONE]}),
    ({"generated_mock_tool_entries": [{"tool": "x"}]}, {"generated_mock_tool_entries": [NO_MOCKS]}),
    (
        {"scenario_language": "es"},
        {
            "scenario_language": [
                "'es' can't be had: the caller speaks 'en' (speech.tts.settings.language); send 'en'."
            ]
        },
    ),
    ({"webhook_url": "https://example.com"}, {"webhook_url": [NOT_KNOWN]}),
    (
        {"conditional_actions": {"conditions": [{"when": "a", "say": "Ha [laughter]", "then": []}]}},
        {
            "conditional_actions": [
                "conditions[0].say: [laughter] is no markup that is played here, and would be read aloud; "
                '<silence time="2s"/>, <dtmf digits="123#"/> and <endcall/> are played'
            ]
        },
    ),
    (
        {"conditional_actions": {"conditions": [{"when": " ", "say": "Hi", "then": [], "x": 1}]}},
        {
            "conditional_actions": [
                "conditions[0]: unknown field(s) 'x'. Allowed: when, say, then.",
                "conditions[0].when: is required.",
            ]
        },
    ),
]


async def test_what_is_wrong_is_named_and_nothing_is_created(client: Client) -> None:
    before = (await client.get(SCENARIOS)).json()["count"]
    for change, errors in WRONG:
        answer = await client.post(SCENARIOS, json={**BODY, **change})
        assert (answer.status_code, answer.json()) == (400, errors), change
    unknown = await client.post(SCENARIOS, json={**BODY, "scenario_type": "real_world", "scenario_language": "xx"})
    assert set(unknown.json()) == {"scenario_type", "scenario_language"}
    assert (await client.get(SCENARIOS)).json()["count"] == before


@on_every_database
async def test_a_refused_change_changes_nothing(client: Client) -> None:
    path = f"{SCENARIOS}{(await client.post(SCENARIOS, json=BODY)).json()['id']}"
    scenario = (await client.get(path)).json()
    for body in ({"name": "new", "agent": 99}, {"conditional_actions": {"conditions": []}}, {"personality": None}):
        assert (await client.patch(path, json=body)).status_code == 400
    everything = {"name": "x", "agent": 99, "personality": 99, "test_profile": 99}
    assert set((await client.put(path, json=everything)).json()) == {"agent", "personality", "test_profile"}
    assert (await client.get(path)).json() == scenario


async def test_a_new_kind_replaces_the_old_one(client: Client) -> None:
    path = f"{SCENARIOS}{(await client.post(SCENARIOS, json=BODY)).json()['id']}"
    played = (await client.patch(path, json={"pipecat_eval": EVAL})).json()
    assert (played["scenario_type"], played["pipecat_eval"]) == ("pipecat_eval", EVAL)
    back = (await client.patch(path, json={"conditional_actions": ACTIONS})).json()
    assert (back["scenario_type"], back["pipecat_eval"]) == ("conditional_actions", None)
    plain = (await client.patch(path, json={"scenario_type": "instruction", "instructions": "Talk."})).json()
    assert (plain["instructions"], plain["conditional_actions"]) == ("Talk.", None)


async def test_pipecat_eval_is_checked_as_it_is_written(client: Client, services: Services) -> None:
    scenario = (await client.post(SCENARIOS, json={"name": "Ours", "pipecat_eval": EVAL})).json()
    async with services.database.reading() as session:
        row = await session.get_one(ScenarioRow, scenario["id"])
    script = as_played(ScenarioFields.of(row), services.settings).script
    assert (script.name, len(script.turns)) == ("Ours", 1)
    for text, error in (
        (
            EVAL.replace("user", "usr"),
            "pipecat_eval: line 3: unknown key 'usr' in turns #1; did you mean 'user'?",
        ),
        ("name: [", "pipecat_eval: line 2: not valid YAML: did not find expected node content"),
        (
            "name: x\nturns: !include /etc/passwd\n",
            "pipecat_eval: line 2: !include: files can't be taken in here; this is a text of its own",
        ),
        (
            "name: x\nturns:\n  - user: a\n    audio: x.wav\n",
            "pipecat_eval: line 4: audio: files can't be taken in here; this is a text of its own",
        ),
        (
            "name: x\npersona: a guest\n",
            "pipecat_eval: line 1: can't be played in a room: it is a simulation (persona:); only scripted scenarios "
            "(turns:) are played so far",
        ),
        (
            "name: x\nscenarios:\n  - name: a\n    turns: [user: a]\n  - name: b\n    turns: [user: b]\n",
            "pipecat_eval: line 5: holds 2 scenarios (a, b); give one",
        ),
    ):
        answer = await client.post(SCENARIOS, json={"name": "Ours", "pipecat_eval": text})
        assert answer.status_code == 400
        (said,) = answer.json()["pipecat_eval"]
        assert said == error


async def test_the_seeded_scenario_can_be_read_and_played(client: Client, services: Services) -> None:
    scenario = (await client.get(f"{SCENARIOS}1")).json()
    assert (scenario["name"], scenario["instructions"]) == ("Book a table", "")
    assert scenario["pipecat_eval"] == BOOKING
    async with services.database.reading() as session:
        row = await session.get_one(ScenarioRow, 1)
    assert as_played(ScenarioFields.of(row), services.settings).script.name == "Book a table"


@on_every_database
async def test_lists_are_narrowed_down(client: Client) -> None:
    for name, more in (
        ("a", {"tags": ["smoke", "50%"], "folder_path": "Sales"}),
        ("b", {"tags": ["smoke test"], "folder_path": "Sales.Inbound", "agent": None}),
        ("c", {"tags": ["ünï"], "folder_path": "Sales2"}),
    ):
        assert (await client.post(SCENARIOS, json={**BODY, "name": name, **more})).status_code == 201

    async def names(**filters: Any) -> list[str]:
        found = (await client.get(SCENARIOS, params=filters)).json()["results"]
        return [scenario["name"] for scenario in found if scenario["id"] != 1]

    assert await names() == ["c", "b", "a"]
    assert await names(agent_id=1) == ["c", "a"]
    assert await names(tags="smoke") == ["a"]
    assert await names(tags="smoke, ünï") == ["c", "a"]
    assert await names(tags="50%") == ["a"]
    assert await names(tags="none") == []
    assert await names(tags=",".join(f"{number:x}" for number in range(2_200))) == []
    assert await names(tags=",".join([*(f"{number:x}" for number in range(2_000)), "smoke"])) == ["a"]
    assert await names(folder_path="Sales") == ["b", "a"]
    assert await names(search="B") == ["b"]
    assert await names(project_id=2) == []
    assert await names(scenario_type="instruction") == []


async def test_an_agent_may_be_named_by_its_id_at_its_provider(client: Client) -> None:
    agent = await client.post("/test_framework/v2/aiagents", json={"name": "x", "provider": {"agent_id": "abc"}})
    scenario = await client.post(SCENARIOS, json={"name": "x", "assistant_id": "abc"})
    assert scenario.json()["agent"] == agent.json()["id"]
    assert "assistant_id" in (await client.post(SCENARIOS, json={"name": "x", "assistant_id": "other"})).json()


async def test_a_scenario_is_replaced_and_deleted(client: Client) -> None:
    path = f"{SCENARIOS}{(await client.post(SCENARIOS, json=BODY)).json()['id']}"
    replaced = (await client.put(path, json={"name": "Bare"})).json()
    assert (replaced["scenario_type"], replaced["tags"], replaced["max_duration"]) == ("instruction", [], None)
    assert (await client.delete(path)).status_code == 204
    assert (await client.get(path)).status_code == 404
