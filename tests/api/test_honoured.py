"""Every field that can be written has its effect, or is refused by name, or is named by the runs it has none in."""

from typing import Any

import pytest
from pydantic import BaseModel

from runner.api.schemas import agents, cron_jobs, launch, personalities, projects, results, scenarios, test_profiles
from runner.api.services import Services
from runner.records import fields as written
from runner.records.honoured import NOT_KNOWN
from runner.records.tables import Agent, Personality, ScenarioRow
from runner.records.written import sentences
from runner.settings import Settings
from tests.api.conftest import Client
from tests.api.telling import ROOM, V1, claimed, run_launched, show

pytestmark = pytest.mark.anyio


HONOURED: dict[type[BaseModel], str] = {
    launch.RoomLaunch: "scenarios agent agent_id name frequency concurrency_limit priority delay_s",
    written.RoomEntry: "scenario pipecat_room_url pipecat_token publish_data_message participant_name",
    launch.SessionLaunch: "scenarios agent agent_id name frequency concurrency_limit priority delay_s tags"
    " folder_path project_id pipecat_data personality_id personality_ids test_profile_id test_profile_ids",
    launch.SessionEntry: "scenario publish_data_message",
    launch.PipecatData: "pipecat_agent_name config room_properties",
    # The first message inside the conditional actions counts, and is shown in its place; instructions are refused as
    # soon as they are to be played.
    scenarios.ScenarioBody: "name agent project assistant_id personality scenario_type conditional_actions"
    " pipecat_eval expected_outcome_prompt tags test_profile folder_path max_duration first_message instructions",
    # Clients must send the voice's model: the run names it, unless the default was meant.
    personalities.PersonalityBody: "name project voice_model",
    personalities.ForkBody: "name",
    test_profiles.ProfileBody: "name agent project information",
    agents.AgentBody: "name description project telephony provider session webhook_url webhook_secret"
    " slack_webhook_url",
    written.TelephonyBody: "phone_number inbound",
    written.ProviderBody: "agent_id credentials",
    written.Credentials: "api_key private_api_key config",
    written.PipecatConfig: "pipecat_agent_name config room_properties tracing_enabled",
    written.AgentSession: "start_url transport data start_timeout_s agent_join_timeout_s bot_ready_timeout_s"
    " participant_name max_calls",
    cron_jobs.CronJobBody: "name agent crontab_expression timezone scenarios tags personality personalities"
    " test_profiles frequency concurrency_limit is_active rooms overlap baseline",
    results.RerunBody: "run_ids name runs",
    launch.RerunEntry: "run pipecat_room_url pipecat_token publish_data_message",
    projects.ProjectBody: "name",
    results.DeleteRunsBody: "run_ids",
    results.EvaluateMetricsBody: "run_ids",
    results.EndCallsBody: "run_ids",
    results.ShareBody: "expire_at",
}
"""What has its effect."""

REFUSED: dict[type[BaseModel], dict[str, Any]] = {
    launch.RoomLaunch: {"mock_tool_names": ["book_table"]},
    launch.SessionLaunch: {
        "mock_tool_names": ["book_table"],
        "agent_number": "+15550100",
        "outbound_phone_number": "+15550100",
    },
    scenarios.ScenarioBody: {
        "metrics": [2],
        "tool_ids": ["send_sms"],
        "phone_number": "+15550100",
        "generated_mock_tool_entries": [{"tool": "x"}],
        "scenario_language": "es",
        "dynamic_variable_values": {"a": 1},
    },
    personalities.PersonalityBody: {
        "language": "de",
        "prompt": "You are in a hurry.",
        "accent": "Scottish",
        "background_noise": "coffee-shop",
        "voice_id": "abc",
        "provider": "cartesia",
        "interruption_level": "high",
        "speed": 1.1,
        "generation_config": {"volume": 1},
        "network_simulation": {"packet_loss": 5},
        "message_plan": {"idle_timeout_seconds": 5},
        "start_speaking_plan": 0.4,
        "stop_speaking_plan": {"num_words": 2},
        "background_sound_volume": {"base": 1},
        "end_call_enabled": False,
    },
    agents.AgentBody: {"language": "es"},
    written.ProviderBody: {"type": "vapi"},
    cron_jobs.CronJobBody: {"run_as_text": True, "execution_mode": "voice", "notify_on": "failure"},
    results.EvaluateMetricsBody: {"metric_ids": [2]},
}
"""What is refused where it is written, in one sentence, unless what is written asks for nothing."""

V2 = "/test_framework/v1/scenarios/run_scenarios_pipecat_v2/"
AGENTS = "/test_framework/v2/aiagents/"
SCENARIOS = "/test_framework/v1/scenarios/"
PERSONALITIES = "/test_framework/v1/personalities/"
JOB = {"crontab_expression": "0 4 * * *", "scenarios": [1], "is_active": False}


def test_nothing_can_be_written_that_the_table_does_not_know() -> None:
    for model, honoured in HONOURED.items():
        assert set(model.model_fields) == {*honoured.split(), *REFUSED.get(model, {})}, model.__name__
    for module in (agents, cron_jobs, launch, personalities, projects, results, scenarios, test_profiles, written):
        for name, model in vars(module).items():
            if isinstance(model, type) and issubclass(model, BaseModel) and model.model_config.get("strict"):
                is_base = any(issubclass(known, model) for known in HONOURED)
                is_change = model.__name__.endswith("Patch") or name in (
                    *("Personality", "MessagePlan", "_Head", "WrittenBody"),
                    *("WebhookFields", "Toggles"),
                )
                assert is_base or is_change, name


async def test_every_field_without_an_effect_is_refused_by_its_name(client: Client) -> None:
    (run_id,) = await run_launched(client)
    result_id = (await show(client, run_id))["result_id"]
    bodies: dict[type[BaseModel], tuple[str, dict[str, Any], tuple[str, ...]]] = {
        launch.RoomLaunch: (V1, {"scenarios": [{"scenario": 1, "pipecat_room_url": ROOM}]}, ()),
        launch.SessionLaunch: (V2, {"scenarios": [1]}, ()),
        scenarios.ScenarioBody: (SCENARIOS, {"name": "x"}, ()),
        personalities.PersonalityBody: (PERSONALITIES, {"name": "x"}, ()),
        agents.AgentBody: (AGENTS, {"name": "x"}, ()),
        written.ProviderBody: (AGENTS, {"name": "x"}, ("provider",)),
        cron_jobs.CronJobBody: ("/schedules/v1/cron-jobs/", JOB, ()),
        results.EvaluateMetricsBody: (
            f"/test_framework/v1/results/{result_id}/evaluate_metrics",
            {"run_ids": [run_id], "metric_ids": [1]},
            (),
        ),
    }
    made = [
        (PERSONALITIES, personalities.PersonalityBody, {"name": "plain"}),
        (SCENARIOS, scenarios.ScenarioBody, {"name": "plain"}),
    ]
    changes = {model: f"{path}{(await client.post(path, json=body)).json()['id']}" for path, model, body in made}
    for model, fields in REFUSED.items():
        path, body, inside = bodies[model]
        for name, value in fields.items():
            sent: Any = {name: value}
            for part in inside:
                sent = {part: sent}
            answers = [await client.post(path, json={**body, **sent})]
            if model in changes:
                answers.append(await client.patch(changes[model], json=sent))
            for answer in answers:
                assert answer.status_code == 400, (model, name, answer.text)
                found = answer.json()
                for part in inside:
                    found = found[part]
                assert len(found[name]) == 1 and found[name][0].endswith("."), (model, name, found)


async def test_unknown_fields_are_refused_by_name_unless_empty(client: Client) -> None:
    entry = {"scenario": 1, "pipecat_room_url": ROOM}
    for path, body, unknown in (
        (AGENTS, {"name": "x"}, ("mock_tools", "dynamic_variables")),
        (SCENARIOS, {"name": "x"}, ("information_fields_x", "evaluation")),
        (PERSONALITIES, {"name": "x"}, ("moods",)),
        ("/test_framework/v1/test-profiles/", {"name": "x"}, ("variables",)),
        ("/schedules/v1/cron-jobs/", JOB, ("webhook_url",)),
        (V1, {"scenarios": [entry]}, ("personality_ids", "test_profile_ids", "evaluate_metrics")),
        (V2, {"scenarios": [1]}, ("evaluate_metrics",)),
    ):
        for name in unknown:
            answer = await client.post(path, json={**body, name: ["x"]})
            assert answer.status_code == 400 and answer.json()[name] == [NOT_KNOWN]
        for nothing in (None, "", [], {}):
            answer = await client.post(path, json={**body, **dict.fromkeys(unknown, nothing)})
            assert "not known here" not in answer.text
    nested = {"name": "x", "provider": {"credentials": {"config": {"webhook_url": "https://example.com"}}}}
    answer = await client.post(AGENTS, json=nested)
    assert list(answer.json()["provider"]["credentials"]["config"]) == ["webhook_url"]


async def test_what_was_read_can_be_written_back(client: Client) -> None:
    profile = (await client.post("/test_framework/v1/test-profiles/", json={"name": "x"})).json()
    job = (await client.post("/schedules/v1/cron-jobs/", json=JOB)).json()
    mine = (await client.post(f"{PERSONALITIES}362/fork/")).json()
    for path in (
        f"{AGENTS}1/",
        f"{SCENARIOS}1/",
        f"/test_framework/v1/test-profiles/{profile['id']}/",
        f"/schedules/v1/cron-jobs/{job['id']}/",
        f"{PERSONALITIES}{mine['id']}/",
    ):
        answer = await client.patch(path, json=(await client.get(path)).json())
        assert answer.status_code == 200, (path, answer.text)


async def asked_of(client: Client, worker: Client, **entry: Any) -> dict[str, Any]:
    (run_id,) = await run_launched(client, **entry)
    return (await claimed(worker, run_id))["asked"]


async def test_a_run_names_what_of_its_request_it_can_not_have(
    client: Client, worker: Client, services: Services
) -> None:
    assert (await asked_of(client, worker))["not_honoured"] == []
    made = (await client.post(PERSONALITIES, json={"name": "x", "voice_model": "sonic-3.5"})).json()
    for personality, named in (
        (1, []),
        # An id that users write down: what describes it asks for nothing.
        (693, []),
        (362, ["personality.language"]),
        (made["id"], ["personality.voice_model"]),
    ):
        await client.patch(f"{SCENARIOS}1", json={"personality": personality})
        sentences = (await asked_of(client, worker))["not_honoured"]
        assert [sentence.partition(":")[0] for sentence in sentences] == named
    async with services.database.session() as session:
        # As an older version kept them.
        (await session.get_one(Agent, 1)).language = "es"
        row = await session.get_one(ScenarioRow, 1)
        row.data = {**row.data, "metrics": [1, 7], "generated_mock_tool_entries": [{"tool": "x"}]}
        (await session.get_one(Personality, made["id"])).data = {"background_noise": "coffee-shop", "speed": 1.2}
    assert (await asked_of(client, worker))["not_honoured"] == [
        "scenario.metrics: there is no metric 7; there is 1 (Latency (in ms)), measured of every run",
        "scenario.generated_mock_tool_entries: tools are not mocked here; leave it out",
        "agent.language: 'es' can't be had: the agent's words are recognised as 'en' "
        "(speech.stt.settings.language); send 'en'",
        'personality.background_noise: no background is played behind the caller; send "off"',
        "personality.speed: the caller speaks at the speed of the settings' voice; send 1",
    ]


async def test_what_an_older_version_kept_can_be_saved_with_changes(client: Client, services: Services) -> None:
    made = (await client.post(PERSONALITIES, json={"name": "x"})).json()
    async with services.database.session() as session:
        row = await session.get_one(ScenarioRow, 1)
        row.data = {**row.data, "metrics": [1, 7], "scenario_language": "es"}
        (await session.get_one(Personality, made["id"])).data = {"background_noise": "coffee-shop", "speed": 1.2}
    for path, name, other in (
        (f"{SCENARIOS}1/", "metrics", [8]),
        (f"{PERSONALITIES}{made['id']}/", "background_noise", "kitchen-noise"),
    ):
        body = (await client.get(path)).json()
        answer = await client.patch(path, json={**body, "name": "y"})
        assert (answer.status_code, answer.json()[name]) == (200, body[name])
        assert list((await client.patch(path, json={name: other})).json()) == [name]


async def test_conditions_go_to_the_worker_with_the_turns_that_wait(client: Client, worker: Client) -> None:
    actions = {
        "role": "A guest",
        "first_message": "Hello!",
        "conditions": [
            {"when": 'contains "name"', "say": "John <dtmf digits='1'/>", "then": ["And spell it."]},
            {"when": "The agent says goodbye", "say": "<endcall/>", "then": []},
        ],
    }
    body = {"name": "c", "personality": 1, "scenario_type": "conditional_actions", "conditional_actions": actions}
    scenario = (await client.post(SCENARIOS, json=body)).json()
    asked = await asked_of(client, worker, scenario=scenario["id"])
    assert asked["conditions"] == [
        {"turn": 1, "where": "conditions[0].when", "when": 'contains "name"', "hangs_up": False},
        {"turn": 4, "where": "conditions[1].when", "when": "The agent says goodbye", "hangs_up": True},
    ]


async def test_what_takes_an_improvising_caller_is_refused_at_launch(
    client: Client,
) -> None:
    scenario = (await client.post(SCENARIOS, json={"name": "x", "instructions": "Order a pizza."})).json()
    answer = await client.post(V1, json={"scenarios": [{"scenario": scenario["id"], "pipecat_room_url": ROOM}]})
    assert answer.status_code == 400
    assert "needs a caller that improvises" in answer.json()["scenarios"][0]["scenario"][0]


async def test_what_a_session_would_not_get_of_a_launch_is_refused(client: Client) -> None:
    given = {"pipecat_agent_name": "x", "room_properties": {"exp": 1}, "config": {"a": 1}}
    session = {"start_url": "http://localhost:7860/start", "transport": "webrtc"}
    agent = (await client.post(AGENTS, json={"name": "own", "session": session})).json()["id"]
    body = {"agent": agent, "scenarios": [1], "pipecat_data": given}
    answer = await client.post(V2, json=body)
    assert answer.status_code == 400
    assert set(answer.json()["pipecat_data"]) == {"pipecat_agent_name", "room_properties"}
    await client.patch(f"{AGENTS}{agent}/", json={"session": {"transport": "daily"}})
    assert set((await client.post(V2, json=body)).json()["pipecat_data"]) == {"pipecat_agent_name"}
    answer = await client.post(V2, json={**body, "pipecat_data": {"config": {"a": 1}}})
    assert answer.status_code == 200, answer.text


async def test_an_older_scenario_is_launched_only_once_mended(client: Client, services: Services) -> None:
    actions = {"role": "", "first_message": "Hi [laughter]", "conditions": []}
    body = {"name": "c", "personality": 1, "scenario_type": "conditional_actions", "conditional_actions": actions}
    plain = {**actions, "first_message": "Hi"}
    scenario = (await client.post(SCENARIOS, json={**body, "conditional_actions": plain})).json()
    async with services.database.session() as session:
        row = await session.get_one(ScenarioRow, scenario["id"])
        row.data = {**row.data, "conditional_actions": actions}
    path = f"{SCENARIOS}{scenario['id']}"
    assert (await client.patch(path, json={"name": "d", "first_message": "x"})).json()["first_message"] == "Hi"
    entry = {"scenario": scenario["id"], "pipecat_room_url": ROOM}
    refused = await client.post(V1, json={"scenarios": [entry]})
    assert "[laughter]" in refused.json()["scenarios"][0]["scenario"][0]
    assert (await client.patch(path, json={"conditional_actions": plain})).status_code == 200
    assert (await client.post(V1, json={"scenarios": [entry]})).status_code == 200


async def test_variables_for_an_agent_started_elsewhere_are_noted(client: Client, worker: Client) -> None:
    async def notes(information: dict[str, Any], room: str = ROOM) -> list[str]:
        body = {"name": "x", "information": information}
        profile = (await client.post("/test_framework/v1/test-profiles/", json=body)).json()
        await client.patch(f"{SCENARIOS}1", json={"test_profile": profile["id"]})
        (run_id,) = await run_launched(client, pipecat_room_url=room)
        return (await claimed(worker, run_id))["notes"]

    sided = {"main_agent_variables": {"tier": "gold"}, "testing_agent_variables": {}}
    (note,) = await notes(sided)
    assert note.startswith("test_profile: the agent in this room was started elsewhere")
    assert await notes({"name": "Ann"}) == [] == await notes({"testing_agent_variables": {"name": "Ann"}})
    assert await notes(sided, "http://localhost:7860") == []


@pytest.mark.parametrize(
    ("language", "spoken", "is_had"),
    [("en", None, True), ("en-GB", None, True), ("es", None, False), ("es", "es-ES", True), ("fr", "multi", True)],
)
def test_a_language_is_had_where_the_settings_speak_it(language: str, spoken: str | None, is_had: bool) -> None:
    given = {} if spoken is None else {"service": "a.Service", "settings": {"language": spoken}}
    settings = Settings.model_validate({"speech": {"tts": given, "stt": given}})
    for model, name in (
        (written.PersonalityFields, "language"),
        (written.ScenarioFields, "scenario_language"),
        (written.AgentFields, "language"),
    ):
        assert (sentences(model, {name: language}, settings) == {}) is is_had
