"""The unmodified SDK against a whole server: every call of the reference's minimum surface, and real calls."""

import socket
import time
import wave
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import httpx
import pytest
from cekura import AsyncCekura, Cekura
from cekura._exceptions import APIError, AuthenticationError, NotFoundError

from bots.agents.metronome import DEFAULT_TEXT
from tests.compat.conftest import API, Server, starting_agent, until
from tests.documentation import commands
from tests.patience import TRIES
from tests.recognition import sounds_like

pytestmark = pytest.mark.webrtc

ROOM_TOKEN = "a-token-for-the-room"
HELLO = {"type": "hello", "from": "the SDK"}
SLOW_ANSWER_MS = 1_700
POLL_S: Any = 0.25
"""Sooner than the client's own five seconds."""


@dataclass
class Launches:
    """What is launched at once: the tests that look at one of them find the others' calls made as well.

    Attributes:
        rooms: Two calls in rooms that were given, one of which the agent fails.
        sessions: A call in a session that is started for it.
        profile: The test profile of that.
    """

    rooms: dict[str, Any]
    sessions: dict[str, Any]
    profile: int


def launch_in_rooms(sdk: Cekura, agent: int, scenarios: dict[str, int], room: str) -> dict[str, Any]:
    return sdk.scenarios.run_pipecat(
        agent=agent,
        name="two calls",
        scenarios=[
            {
                "scenario": scenarios["answers"],
                "pipecat_room_url": room,
                "pipecat_token": ROOM_TOKEN,
                "publish_data_message": HELLO,
            },
            {"scenario": scenarios["wants a table"], "pipecat_room_url": room},
        ],
    )


@pytest.fixture(scope="module")
def launches(sdk: Cekura, agent: int, scenarios: dict[str, int], room: str) -> Launches:
    rooms = launch_in_rooms(sdk, agent, scenarios, room)
    profile = sdk.test_profiles.create(
        name="a slow agent",
        agent=agent,
        information={"main_agent_variables": {"metronome": {"answer_ms": SLOW_ANSWER_MS}}},
    )
    sessions = sdk.scenarios.run_pipecat_v2(
        agent=agent,
        name="sessions",
        scenarios=[{"scenario": scenarios["answers"], "publish_data_message": HELLO}],
        test_profile_ids=[profile["id"]],
        personality_ids=[1],
        concurrency_limit=2,
    )
    return Launches(rooms, sessions, profile["id"])


@dataclass
class Finished:
    """A launch whose calls were made."""

    launched: dict[str, Any]
    result: dict[str, Any]
    runs: dict[str, dict[str, Any]]
    """By the names of their scenarios."""


@pytest.fixture(scope="module")
def finished(sdk: Cekura, launches: Launches, agent: int, scenarios: dict[str, int], room: str) -> Finished:
    launched = launches.rooms
    for attempt in range(1, TRIES + 1):
        result = sdk.results.wait(launched["id"], poll_interval=POLL_S, timeout=60)
        runs = sdk.results.get_runs([run["id"] for run in launched["runs"]])
        if attempt == TRIES or all(run["scenario_runner"]["success"] is not None for run in runs):
            break
        # Inconclusive: the machine had too little left for the caller, and nobody is blamed.
        launched = launch_in_rooms(sdk, agent, scenarios, room)
    return Finished(launched, result, {run["scenario_name"]: run for run in runs})


@pytest.fixture
def decided(finished: Finished) -> Finished:
    """What was made, where both calls could be judged."""
    for run in finished.runs.values():
        if run["scenario_runner"]["success"] is None:
            pytest.skip(f"this machine was too busy to judge a call: {run['error_message']}")
    return finished


def of(launched: dict[str, Any]) -> int:
    """Return the only run of a launch."""
    (run,) = launched["runs"]
    return run["id"]


def test_a_launch_answers_with_pending_runs_in_order(
    finished: Finished, agent: int, scenarios: dict[str, int]
) -> None:
    launched = finished.launched
    assert launched.keys() >= {"id", "agent", "status", "run_as_text", "created_at", "runs", "name", "success_rate"}
    assert (launched["agent"], launched["status"], launched["run_as_text"]) == (agent, "pending", False)
    first, second = launched["runs"]
    assert (
        first.items()
        >= {
            "status": "pending",
            "scenario": scenarios["answers"],
            "scenario_name": "answers",
            "number": None,
            "inbound_number": "+11234567890",
            "test_profile_data": None,
        }.items()
    )
    assert second["scenario"] == scenarios["wants a table"] and first["id"] < second["id"]


def test_a_result_counts_passed_and_failed_calls(decided: Finished, agent: int) -> None:
    result = decided.result
    counts = ("total_runs_count", "completed_runs_count", "success_runs_count", "failed_runs_count")
    assert [result[name] for name in counts] == [2, 2, 1, 1]
    assert all(type(result[name]) is int for name in counts)
    assert (result["status"], result["success_rate"], result["agent"]) == ("completed", 50.0, agent)
    assert result["name"] == "two calls" and result["is_cronjob"] is False
    passed, failed = decided.runs["answers"], decided.runs["wants a table"]
    assert result["runs"].keys() == {str(passed["id"]), str(failed["id"])}
    assert result["successful_calls"] == [passed["id"]] and result["failed_workflow_runs"] == [failed["id"]]
    (issue,) = result["failed_reasons"]["issues"]
    assert issue["run_ids"] == [failed["id"]]


def latencies_ms(run: dict[str, Any]) -> list[float]:
    """The latency that a run shows; none only where the sample was refused, with its reason."""
    found = [metric["score"] for metric in run["evaluation"]["metrics"]]
    assert found or any(turn["refused"] for turn in run["scenario_runner"]["turns"]), run["scenario_runner"]
    return found


def test_a_run_tells_what_was_said_and_what_it_came_to(decided: Finished) -> None:
    passed, failed = decided.runs["answers"], decided.runs["wants a table"]
    assert (passed["status"], passed["success"], passed["error_message"]) == ("completed", True, ""), passed
    assert passed["expected_outcome"]["score"] == 100 and failed["expected_outcome"]["score"] == 0
    said = [(line["role"], line["content"]) for line in passed["transcript_object"]]
    assert ("Testing Agent", "Hello there.") in said
    answer = next(content for role, content in said if role == "Main Agent" and sounds_like(content, DEFAULT_TEXT))
    assert f"Main Agent: {answer}" in passed["transcript"]
    ours = passed["scenario_runner"]
    # Later on a busy machine, but never sooner than the agent answers; and refused where the machine stood still.
    assert all(500 < latency_ms < 10_000 for latency_ms in latencies_ms(passed))
    assert ours["publish_data_message"]["message"] == HELLO
    assert ours["cause"] is None and failed["scenario_runner"]["cause"] == "agent"
    assert failed["success"] is False and failed["scenario_runner"]["expectations"][0]["verdict"] == "missed"


def test_a_recording_plays_from_anywhere_but_only_with_the_key(
    finished: Finished, http: httpx.Client, server: Server
) -> None:
    run = finished.runs["answers"]
    url = run["voice_recording_url"]
    assert url.startswith(f"{server.url}/")
    whole = http.get(url)
    assert whole.status_code == 200 and whole.headers["content-type"] == "audio/wav"
    with wave.open(BytesIO(whole.content)) as wav:
        assert wav.getnchannels() == 2 and run["testing_channel_index"] == 0
        assert wav.getnframes() / wav.getframerate() == pytest.approx(run["scenario_runner"]["duration_s"], abs=1)
        assert any(wav.readframes(wav.getnframes()))
    part = http.get(url, headers={"Range": "bytes=1000-1999"})
    assert part.status_code == 206 and part.content == whole.content[1000:2000]
    assert part.headers["content-range"] == f"bytes 1000-1999/{len(whole.content)}"
    assert http.get(url, headers={"Range": "bytes=-100"}).content == whole.content[-100:]
    assert http.get(url, headers={"Range": f"bytes={len(whole.content)}-"}).status_code == 416
    with server.client() as anyone:
        assert anyone.get(url).status_code == 401
        assert anyone.get(url, headers={"Authorization": f"Bearer {server.key}"}).status_code == 200


def test_runs_are_read_alone_in_lists_and_in_bulk(sdk: Cekura, finished: Finished, agent: int) -> None:
    ids = [run["id"] for run in finished.launched["runs"]]
    text = ",".join(str(run_id) for run_id in ids)
    assert [run["id"] for run in sdk.runs.bulk(run_ids=text)] == ids
    assert [run["id"] for run in sdk.runs.bulk(ids=text)] == ids
    one = sdk.runs.get(ids[0])
    assert one == finished.runs["answers"] and one["result_id"] == finished.launched["id"]
    listed = sdk.runs.list(result_id=finished.launched["id"])
    assert listed["count"] == 2 and {run["id"] for run in listed["results"]} == set(ids)
    assert sdk.runs.list(agent_id=agent, status="failed")["count"] == 0
    assert sdk.runs.list(result_id=finished.launched["id"], success=True)["results"] == [one]
    with pytest.raises(NotFoundError):
        sdk.runs.get_trace(ids[0])


def test_results_are_listed_for_their_agent(sdk: Cekura, decided: Finished, agent: int) -> None:
    listed = sdk.results.list(agent_id=agent, page_size=200)
    assert listed.keys() == {"count", "next", "previous", "results"}
    (item,) = [item for item in listed["results"] if item["id"] == decided.launched["id"]]
    assert (item["status"], item["success_rate"], item["agent_name"]) == ("completed", 50.0, "metronome")
    assert [run["status"] for run in item["runs"]] == ["completed", "completed"]
    assert sdk.results.list(agent_id=1)["count"] == 0


def test_whoever_has_the_link_reads_that_result_and_nothing_else(
    sdk: Cekura, finished: Finished, server: Server
) -> None:
    result_id = finished.launched["id"]
    shared = sdk.results.create_shareable_link_token(result_id)
    assert shared["token"] in shared["shareable_link"]
    with server.client(**{"X-VOCERA-SHAREABLE-LINK-TOKEN": shared["token"]}) as reader:
        assert reader.get(f"{API}/results/{result_id}/").json()["id"] == result_id
        assert reader.get(finished.runs["answers"]["voice_recording_url"]).status_code == 200
        assert reader.get(f"{API}/results/").status_code == 401
        assert reader.post(f"{API}/results/{result_id}/end_calls/").status_code == 401


def test_metrics_can_be_asked_for_again(sdk: Cekura, finished: Finished) -> None:
    ids = [run["id"] for run in finished.launched["runs"]]
    assert sdk.results.evaluate_metrics(finished.launched["id"], run_ids=ids, metric_ids=[1])["run_ids"] == ids


def test_calls_that_are_on_are_ended_soon_and_deleted_only_then(
    sdk: Cekura, http: httpx.Client, agent: int, scenarios: dict[str, int], room: str, server: Server
) -> None:
    entry = {"scenario": scenarios["waits"], "pipecat_room_url": room}
    launched = sdk.scenarios.run_pipecat(agent=agent, name="to be ended", scenarios=[entry, entry])
    ids = [run["id"] for run in launched["runs"]]
    until(lambda: sdk.results.get_runs(ids), lambda runs: all(run["scenario_runner"]["joined_at"] for run in runs))
    assert sdk.results.get(launched["id"])["status"] == "running"
    with pytest.raises(APIError, match="End them first"):
        sdk.results.delete_runs(launched["id"], run_ids=ids[:1])

    began_s = time.monotonic()
    assert sdk.results.end_calls(launched["id"]) == {}
    runs = until(
        lambda: sdk.results.get_runs(ids), lambda runs: all(run["status"] == "cancelled" for run in runs), 20
    )
    # Two on an idle machine; left alone they would last 60.
    assert time.monotonic() - began_s < 10
    result = sdk.results.wait(launched["id"], poll_interval=POLL_S, timeout=10)
    assert (result["status"], result["completed_runs_count"], result["success_rate"]) == ("cancelled", 2, 0.0)
    for run in runs:
        assert run["metadata"]["ended_reason"] == "run-cancelled-by-user"
        # The facts stay.
        assert run["voice_recording_url"] and "timeline.jsonl" in run["scenario_runner"]["artefacts"]
    assert sdk.runs.end_call(ids[0]) == {} and sdk.runs.get(ids[0]) == runs[0]

    kept = [server.data / "artefacts" / "runs" / str(run_id) for run_id in ids]
    assert all(folder.is_dir() for folder in kept)
    assert sdk.results.delete_runs(launched["id"], run_ids=ids[:1]) == {}
    with pytest.raises(NotFoundError):
        sdk.runs.get(ids[0])
    assert http.get(runs[0]["voice_recording_url"]).status_code == 404
    assert [folder.exists() for folder in kept] == [False, True]
    result = sdk.results.get(launched["id"])
    assert result["total_runs_count"] == 1 and list(result["runs"]) == [str(ids[1])]


def test_a_result_is_run_again_unless_its_room_token_is_gone(
    sdk: Cekura, finished: Finished, agent: int, scenarios: dict[str, int], room: str
) -> None:
    failed = finished.runs["wants a table"]
    again = sdk.results.rerun(finished.launched["id"], run_ids=[failed["id"]])
    assert again["id"] != finished.launched["id"] and again["name"] == "two calls"
    with pytest.raises(APIError, match="token was erased") as refused:
        sdk.results.rerun(finished.launched["id"])
    assert refused.value.status_code == 400
    assert list(refused.value.response_body["runs"]) == [str(finished.runs["answers"]["id"])]
    assert list(refused.value.response_body["runs"][str(finished.runs["answers"]["id"])]) == ["pipecat_token"]
    result = sdk.results.wait(again["id"], poll_interval=POLL_S, timeout=60)
    assert (result["status"], result["failed_runs_count"]) == ("completed", 1)


def test_sessions_are_started_with_the_data_of_the_test_profile(sdk: Cekura, launches: Launches) -> None:
    launched = launches.sessions
    result = sdk.results.wait(launched["id"], poll_interval=POLL_S, timeout=60)
    assert (result["status"], result["success_rate"], result["run_type"]) == ("completed", 100.0, "pipecat_v2"), (
        result
    )
    run = sdk.runs.get(of(launched))
    assert run["test_profile_data"]["id"] == launches.profile and run["personality"] == 1
    # The agent got what the test profile has for it: it answered so much later.
    assert all(1_400 < latency_ms < 10_000 for latency_ms in latencies_ms(run))


def test_an_agent_that_does_not_start_in_its_time_fails_its_run(sdk: Cekura, scenarios: dict[str, int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start_url = f"http://127.0.0.1:{silent.getsockname()[1]}/start"
        agent = sdk.agents.create(
            name="never starts", session={"start_url": start_url, "transport": "webrtc", "start_timeout_s": 0.5}
        )
        launched = sdk.scenarios.run_pipecat_v2(agent=agent["id"], scenarios=[scenarios["listens"]])
        result = sdk.results.wait(launched["id"], poll_interval=POLL_S, timeout=20)
    assert (result["status"], result["failed_runs_count"], result["success_rate"]) == ("failed", 1, 0.0)
    run = sdk.runs.get(of(launched))
    assert run["status"] == "failed" and run["scenario_runner"]["cause"] == "room"
    assert "no answer from" in run["error_message"]


@pytest.mark.slow
def test_lines_whose_conditions_never_came_true_pass_nothing(sdk: Cekura, agent: int, room: str) -> None:
    actions = {
        "role": "A guest",
        "first_message": "",
        "conditions": [
            {"when": 'contains "xylophone"', "say": "I play it too.", "then": []},
            {"when": "The agent sings an opera", "say": "Bravo! <endcall/>", "then": []},
        ],
    }
    waits = sdk.scenarios.create(
        name="never true",
        agent=agent,
        personality=693,
        scenario_type="conditional_actions",
        conditional_actions=actions,
    )
    entry = {"scenario": waits["id"], "pipecat_room_url": room}
    launched = sdk.scenarios.run_pipecat(agent=agent, name="conditions", scenarios=[entry])
    result = sdk.results.wait(launched["id"], poll_interval=POLL_S, timeout=60)
    assert (result["status"], result["success_rate"], result["inconclusive_runs_count"]) == ("completed", 0.0, 1)
    run = sdk.runs.get(of(launched))
    assert (run["success"], run["scenario_runner"]["success"], run["expected_outcome"]["score"]) == (False, None, 50)
    spoken, sung = run["scenario_runner"]["not_honoured"]
    assert spoken.startswith("conditions[0].when: 'contains \"xylophone\"' had not come true when its line was said")
    assert sung.startswith("conditions[1].when: 'The agent sings an opera' takes a judge")
    assert run["expected_outcome"]["explanation"][1:] == [spoken, sung]


def test_the_same_launch_sent_several_times_is_one(
    sdk: Cekura, agent: int, scenarios: dict[str, int], room: str
) -> None:
    body = {
        "agent": agent,
        "name": "sent several times",
        "scenarios": [{"scenario": scenarios["waits"], "pipecat_room_url": room}],
    }
    # The client posts again when an answer is late: the first one may still be at it.
    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(lambda _: sdk.scenarios.run_pipecat(**body), range(4))
    others.append(sdk.scenarios.run_pipecat(**body))
    assert {(other["id"], of(other)) for other in others} == {(first["id"], of(first))}
    sdk.results.end_calls(first["id"])
    assert sdk.results.wait(first["id"], poll_interval=POLL_S, timeout=30)["status"] == "cancelled"


def kept(resource: Any, fields: dict[str, Any], change: dict[str, Any], **listed_by: Any) -> tuple[Any, Any]:
    """Create, change, read, list and delete something; return it as it was made and as it was changed."""
    made = resource.create(**fields)
    assert resource.get(made["id"]) == made
    changed = resource.update(made["id"], **change)
    assert resource.get(made["id"]) == changed and changed.items() >= change.items()
    listed = resource.list(**listed_by)
    assert made["id"] in [item["id"] for item in (listed if isinstance(listed, list) else listed["results"])]
    assert resource.delete(made["id"]) == {}
    with pytest.raises(NotFoundError):
        resource.get(made["id"])
    return made, changed


def test_agents_are_kept_without_giving_their_secrets_back(sdk: Cekura) -> None:
    credentials = {"api_key": "pk_of-the-cloud", "config": {"pipecat_agent_name": "booking-bot"}}
    fields = {
        "name": "Booking bot",
        "description": "Takes bookings",
        "project": 1,
        "language": "en",
        "telephony": {"inbound": True},
        "provider": {"type": "pipecat", "agent_id": None, "credentials": credentials},
    }
    made, changed = kept(sdk.agents, fields, {"name": "Booker"}, project_id=1)
    assert made["provider"]["type"] == "pipecat" and made["telephony"] == {"phone_number": None, "inbound": True}
    assert "pk_of-the-cloud" not in str((made, changed))
    again = sdk.agents.create(name="Booker", description="x", telephony={"inbound": False})
    replaced = sdk.agents.replace(again["id"], name="Booker")
    assert replaced["description"] == "" and replaced["telephony"]["inbound"] is True
    sdk.agents.delete(again["id"])


def test_personalities_and_test_profiles_are_kept(sdk: Cekura, agent: int) -> None:
    assert "Normal Male" in [item["name"] for item in sdk.personalities.list()["results"]]
    made = sdk.personalities.create(name="Hurried", language="en", project=1)
    assert sdk.personalities.get(made["id"])["name"] == "Hurried"
    fields = {"name": "Miller", "agent": agent, "information": {"name": "Miller"}}
    profile, changed = kept(sdk.test_profiles, fields, {"name": "Smith"}, agent_id=agent)
    assert changed["information"] == profile["information"]


def test_conditional_actions_are_kept_as_the_reference_shows(sdk: Cekura, agent: int) -> None:
    standard = {"type": "standard", "fixed_message": True}
    actions = {
        "role": "A guest",
        "conditions": [
            {"id": 0, "condition": "FIRST_MESSAGE", "action": "", **standard},
            {"id": 1, "condition": "The agent greets the caller", "action": "A table for two please.", **standard},
        ],
    }
    fields = {
        "name": "Table for two",
        "agent": agent,
        "personality": 1,
        "scenario_type": "conditional_actions",
        "expected_outcome_prompt": "The agent confirms a table for two.",
        "tags": ["smoke"],
        "max_duration": 120,
        "conditional_actions": actions,
    }
    made, changed = kept(sdk.scenarios, fields, {"name": "Table for three"}, agent_id=agent)
    assert (made["personality_name"], made["tags"], made["max_duration"]) == ("Normal", ["smoke"], 120)
    assert isinstance(made["instructions"], str) and "A table for two please." in made["instructions"]
    assert changed["instructions"] == made["instructions"]


def test_schedules_are_kept(sdk: Cekura, agent: int, scenarios: dict[str, int]) -> None:
    job: dict[str, Any] = {
        "name": "nightly",
        "agent": agent,
        "crontab_expression": "0 4 * * *",
        "timezone": "UTC",
        "scenarios": [scenarios["listens"]],
        "execution_mode": "pipecat_v2",
        "frequency": 1,
    }
    # Nobody would be told.
    with pytest.raises(APIError) as refused:
        sdk.cron_jobs.create(**job, notify_on="failure")
    assert refused.value.response_body.keys() == {"notify_on"}
    made, changed = kept(sdk.cron_jobs, job, {"name": "weekly", "is_active": False}, agent_id=agent)
    assert made.items() >= {"scenario_ids": [scenarios["listens"]], "is_active": True, "created_via": "sdk"}.items()
    assert made["next_due_at"] is not None and changed["next_due_at"] is None
    # A key is of one project: that is scope enough.
    assert isinstance(sdk.cron_jobs.list(), list)


def test_projects_are_listed(sdk: Cekura) -> None:
    listed = sdk.projects.list()
    items = listed["results"] if isinstance(listed, dict) else listed
    assert [item["id"] for item in items] == [1]


def test_a_trace_from_inside_the_agent_is_found_with_its_run(
    sdk: Cekura, http: httpx.Client, finished: Finished
) -> None:
    run_id = finished.runs["wants a table"]["id"]
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    body = {
        "session_start": "2026-01-01T10:00:00Z",
        "session_end": "2026-01-01T10:01:00Z",
        "transcript": [{"role": "assistant", "content": "Hello"}],
        "agent_id": 1,
        "session_id": "s",
        "sdk_version": "1.6.7",
        "sdk_language": "python",
        "provider_data": {"session_id": "s", "session_params": {"cekura_run_id": run_id}, "custom_metadata": {}},
        "trace_id": trace_id,
    }
    assert http.post(f"{API}/pipecat/webhook/", json=body).status_code in (200, 201)
    assert sdk.runs.get_trace(run_id)["trace_id"] == trace_id == sdk.runs.get(run_id)["trace_id"]


def test_errors_are_the_exceptions_that_the_client_knows(
    sdk: Cekura, server: Server, agent: int, scenarios: dict[str, int], room: str
) -> None:
    with Cekura(api_key="psr_not-a-key", base_url=server.url) as stranger, pytest.raises(AuthenticationError):
        stranger.agents.list()
    with Cekura(bearer_token=server.key, base_url=f"{server.url}/") as bearer:
        assert bearer.agents.get(agent)["id"] == agent
    with pytest.raises(NotFoundError) as missing:
        sdk.results.get(987654)
    assert missing.value.response_body == {"detail": "Not found."}
    with pytest.raises(APIError) as nameless:
        sdk.scenarios.create(agent=agent, personality=1)
    assert (nameless.value.status_code, nameless.value.response_body["name"]) == (400, ["This field is required."])
    with pytest.raises(APIError) as refused:
        sdk.scenarios.run_pipecat(
            agent=agent,
            scenarios=[
                {"scenario": scenarios["listens"], "pipecat_room_url": room},
                {"scenario": 987654, "pipecat_room_url": "https://rooms.example.com/api/offer"},
            ],
        )
    assert refused.value.status_code == 400
    first, second = refused.value.response_body["scenarios"]
    assert first == {} and second.keys() == {"scenario", "pipecat_room_url"}
    assert "server.allowed_rooms" in second["pipecat_room_url"][0]


@pytest.mark.slow
@pytest.mark.anyio
async def test_the_asynchronous_client_does_the_same(
    server: Server, agent: int, scenarios: dict[str, int], room: str
) -> None:
    async with AsyncCekura(api_key=server.key, base_url=server.url) as client:
        entry = {"scenario": scenarios["listens"], "pipecat_room_url": room}
        launched = await client.scenarios.run_pipecat(agent=agent, name="asynchronous", scenarios=[entry])
        result = await client.results.wait(launched["id"], poll_interval=POLL_S, timeout=60)
        assert (result["status"], result["success_rate"]) == ("completed", 100.0), result
        (run,) = await client.results.get_runs([of(launched)])
        assert run["success"] is True


@pytest.mark.slow
def test_a_thousand_entries_are_launched_and_read_back_promptly(
    http: httpx.Client, agent: int, scenarios: dict[str, int], room: str
) -> None:
    entry = {"scenario": scenarios["waits"], "pipecat_room_url": room, "pipecat_token": ROOM_TOKEN}
    body = {"agent": agent, "name": "a thousand", "scenarios": [entry] * 1_000}
    began_s = time.monotonic()
    launched = http.post(f"{API}/scenarios/run_scenarios_pipecat/", json=body)
    assert time.monotonic() - began_s < 2 and launched.status_code == 200
    path = f"{API}/results/{launched.json()['id']}/"
    assert len(launched.json()["runs"]) == 1_000
    assert http.post(f"{path}end_calls/").status_code == 200
    until(lambda: http.get(path).json(), lambda result: result["status"] == "cancelled")
    began_s = time.monotonic()
    result = http.get(path).json()
    assert time.monotonic() - began_s < 1
    assert result["completed_runs_count"] == len(result["runs"]) == 1_000


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_launch_in_the_documentation_books_a_table(server: Server, http: httpx.Client) -> None:
    with starting_agent("restaurant") as ready:
        (shown,) = [words for _, words in commands() if any("run_scenarios_pipecat/" in word for word in words)]
        body = shown[shown.index("--data") + 1]
        assert "http://localhost:7860/api/offer" in body
        launched = httpx.post(
            f"{server.url}{API}/scenarios/run_scenarios_pipecat/",
            content=body.replace("http://localhost:7860", ready()),
            headers={"Content-Type": "application/json", "X-CEKURA-API-KEY": server.key},
        ).json()
        path = f"{API}/results/{launched['id']}/"
        result = until(lambda: http.get(path).json(), lambda r: r["status"] not in ("pending", "running"), 180)
    assert (result["status"], result["success_rate"]) == ("completed", 100.0), result
    run = http.get(f"{API}/runs/{of(launched)}/").json()
    assert "Testing Agent: My name is Miller." in run["transcript"]
    assert [line["data"]["name"] for line in run["transcript_object"] if line["role"] == "Function Call"] == [
        "check_availability",
        "book_table",
    ]
    assert http.get(run["voice_recording_url"]).status_code == 200
