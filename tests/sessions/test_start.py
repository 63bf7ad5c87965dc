"""A run's session: what starting it asks and answers, how often it is tried, and what a refusal comes to."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from pydantic import SecretStr, ValidationError

from bots.caller.script import Expectation, Listen, Script, Turn
from bots.timeline import CallEnded, EndedReason
from runner.calls.call import Call
from runner.calls.request import CallRequest
from runner.errors import RoomError
from runner.evaluation.ending import CEKURA_ENDED_REASON
from runner.evaluation.outcome import decide
from runner.evaluation.verdicts import Cause
from runner.rooms.allowed import RoomGuard
from runner.rooms.open import RoomAddress
from runner.sessions.local_agent import free_port, local_agent, reference_agent_command
from runner.sessions.opening import open_address
from runner.sessions.start import RETRIES, Session, SessionKind, SessionSpec, started_session
from runner.settings import ServerSettings, Settings
from tests.sessions.side import SECRET, Side, fit_to_show

pytestmark = pytest.mark.anyio

TOKEN = f"{SECRET}-t0ken"
URL = "http://bots.example.com:7860/start"
STARTED = {"sessionId": "ab-12"}
DAILY = {"dailyRoom": "https://acme.daily.co/room-1", "dailyToken": "r00m-s3cr3t", "sessionId": "ab-12"}


def spec(**fields: Any) -> SessionSpec:
    return SessionSpec(
        **{"kind": SessionKind.START_URL, "start_url": URL, "token": SecretStr(TOKEN), "run_id": 7, **fields}
    )


async def start(side: Side, session_spec: SessionSpec | None = None, **options: Any) -> Session:
    async with side.client() as http, started_session(session_spec or spec(), http, **options) as session:
        return session


async def refusal(side: Side, session_spec: SessionSpec | None = None) -> RoomError:
    with pytest.raises(RoomError) as caught:
        await start(side, session_spec)
    return fit_to_show(caught)


# The spec.


@pytest.mark.parametrize(
    "fields",
    [
        {"start_url": None},
        {"url": "http://localhost/api/offer"},
        {"agent_name": "luigi"},
        {"start_url": "http://localhost:7860"},
        {"start_url": f"http://user:{TOKEN}@localhost/start"},
        {"start_url": "file:///etc/passwd"},
        {"kind": "room"},
        {"kind": "pipecat_cloud", "start_url": None, "agent_name": "luigi"},
        {"kind": "pipecat_cloud", "start_url": None, "agent_name": "..", "api_key": TOKEN},
        {"kind": "pipecat_cloud", "start_url": None, "agent_name": "a/b", "api_key": TOKEN},
        {"transport": "carrier pigeon"},
        {"data": {"x": float("nan")}},
        {"data": {"x": object()}},
        {"unknown": TOKEN},
        {"start_timeout_s": 0},
    ],
)
def test_a_senseless_spec_is_refused_without_quoting_it(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        spec(**fields)
    assert "s3cr3t" not in str(caught.value)


def test_a_spec_shows_neither_secrets_nor_data() -> None:
    made = spec(data={"pin": "s3cr3t"}, token=SecretStr("s3cr3t"))
    assert "s3cr3t" not in repr(made) + str(made)


def test_the_run_wins_over_the_data() -> None:
    made = spec(data={"name": "Ann", "tier": {"a": 1}, "cekura_run_id": 1})
    assert made.body == {"name": "Ann", "tier": {"a": 1}, "cekura_run_id": 7}


# What is asked, and what comes of it.


@pytest.mark.parametrize(
    ("url", "gets_data"),
    [
        ("https://acme.daily.co/room", True),
        ("http://localhost:7860", True),
        ("http://localhost:7860/api/offer", True),
        ("http://localhost:7860/sessions/ab-12/api/offer", False),
    ],
)
async def test_a_fixed_room_is_what_was_given_and_nobody_is_asked(url: str, gets_data: bool) -> None:
    side = Side(httpx.Response(500))
    fixed = spec(kind="room", url=url, start_url=None, data={"a": 1})
    session = await start(side, fixed)
    data = {"a": 1, "cekura_run_id": 7} if gets_data else None
    assert session == Session(RoomAddress(url, SecretStr(TOKEN), data))
    assert side.requests == []


async def test_what_starts_when_the_room_opens_is_held_to_the_list() -> None:
    side = Side({**STARTED, "iceConfig": {"iceServers": [{"urls": "stun:10.1.2.3"}]}})
    settings = Settings(server=ServerSettings(allowed_rooms=["bots.example.com"]))
    fixed = spec(kind="room", url="http://bots.example.com:7860", start_url=None)
    session = await start(side, fixed, guard=RoomGuard(settings))
    async with side.client() as http, anyio.create_task_group() as tasks:
        with pytest.raises(RoomError, match=r"10\.1\.2\.3 is not allowed") as caught:
            unused: Any = None
            await open_address(session.address, settings.room, clock=unused, listener=unused, http=http, tasks=tasks)
    assert caught.value.reason is EndedReason.ROOM_UNREACHABLE


async def test_a_session_in_a_room_of_smallwebrtc() -> None:
    servers = [{"urls": ["stun:stun.example.com"]}]
    side = Side({**STARTED, "iceConfig": {"iceServers": servers}})
    session = await start(side, spec(transport="webrtc", data={"a": 1}, room_properties={"exp": 1}))
    assert str(side.requests[0].url) == URL
    assert side.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"
    assert side.asked == {
        "transport": "webrtc",
        "enableDefaultIceServers": True,
        "body": {"a": 1, "cekura_run_id": 7},
    }
    assert session.session_id == "ab-12"
    assert session.address.url == "http://bots.example.com:7860/sessions/ab-12/api/offer"
    assert session.address.token == SecretStr(TOKEN)
    assert session.address.request_data is None
    assert [server.urls for server in session.address.ice_servers] == [["stun:stun.example.com"]]


async def test_a_session_in_a_daily_room_has_the_properties_asked_for() -> None:
    side = Side(DAILY)
    session = await start(side, spec(transport="daily", room_properties={"enable_recording": "cloud"}))
    assert side.asked == {
        "createDailyRoom": True,
        "dailyRoomProperties": {"enable_recording": "cloud"},
        "body": {"cekura_run_id": 7},
    }
    assert session == Session(RoomAddress(DAILY["dailyRoom"], SecretStr("r00m-s3cr3t")), "ab-12")


async def test_an_agent_that_is_started_here_runs_here() -> None:
    here = await start(Side(DAILY), spec(transport="daily", start_url="http://localhost:7860/start"))
    assert here.address.runs_here


async def test_without_a_transport_the_agents_side_chooses() -> None:
    side = Side(DAILY)
    session = await start(side, spec(token=None))
    assert side.asked == {"body": {"cekura_run_id": 7}}
    assert "Authorization" not in side.requests[0].headers
    assert session.address.url == DAILY["dailyRoom"]


@pytest.mark.parametrize(
    "room", ["https://acme.daily.co/room", "https://rooms.acme.com/room", "http://bots.example.com:7860/api/offer"]
)
async def test_a_room_may_be_with_daily_or_with_whom_was_asked(room: str) -> None:
    session = await start(Side({"room_url": room}), daily_domains=["rooms.acme.com"])
    assert session.address.url == room


@pytest.mark.parametrize(
    "room",
    [
        "http://169.254.169.254/api/offer",
        "http://169.254.169.254",
        "http://bots.example.com/api/offer",
        "http://acme.daily.co/room",
        "https://rooms.elsewhere.com/room",
        "ftp://acme.daily.co/room",
        f"https://user:{TOKEN}@acme.daily.co/room",
        "nonsense",
    ],
)
async def test_an_answer_leads_nowhere_else(room: str) -> None:
    error = await refusal(Side({"room_url": room}))
    assert error.reason is EndedReason.ROOM_UNREACHABLE


# Trying again.


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError,
        httpx.ConnectTimeout,
        httpx.ReadError,
        httpx.RemoteProtocolError,
        httpx.Response(429),
        httpx.Response(502),
        httpx.Response(503),
        httpx.Response(504),
    ],
)
async def test_what_may_pass_is_tried_again_with_the_same_request(
    failure: httpx.Response | type[httpx.HTTPError],
) -> None:
    side = Side(failure, failure, STARTED)
    session = await start(side, spec(data={"a": 1}))
    assert session.session_id == "ab-12"
    assert len(side.requests) == 3
    assert len({request.content for request in side.requests}) == 1
    first_s, second_s = side.waits_s
    assert 0.5 <= first_s <= 1.01
    assert 1.0 <= second_s <= 2.01


@pytest.mark.parametrize("status", [200, 307, 400, 401, 402, 403, 404, 413, 422, 500])
async def test_what_will_not_pass_is_not(status: int) -> None:
    headers = {"Location": "http://elsewhere.example.com", "Retry-After": "1"}
    side = Side(httpx.Response(status, headers=headers, content=b"x" * (2_000_000 if status == 200 else 0)))
    await refusal(side)
    assert len(side.requests) == 1


async def test_runs_refused_together_do_not_come_back_together() -> None:
    sides = [Side(httpx.Response(503), STARTED) for _ in range(8)]
    for side in sides:
        await start(side)
    assert len({round(side.waits_s[0], 3) for side in sides}) > 4


async def test_it_waits_as_long_as_it_is_told() -> None:
    in_20_s = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    side = Side(
        httpx.Response(429, headers={"Retry-After": "7"}),
        httpx.Response(503, headers={"Retry-After": in_20_s}),
        STARTED,
    )
    await start(side)
    assert side.waits_s[0] == pytest.approx(7, abs=0.1)
    assert side.waits_s[1] == pytest.approx(19.5, abs=1)


@pytest.mark.parametrize(
    "told", ["soon", "-1", "1.5", "", "Mon, 01 Jan 99999999999 00:00:00 GMT", "Mon, 01 Jan 2001 00:00:00 +9999999"]
)
async def test_it_waits_as_always_where_what_it_is_told_says_nothing(told: str) -> None:
    side = Side(httpx.Response(429, headers={"Retry-After": told}), STARTED)
    await start(side)
    assert 0.5 <= side.waits_s[0] <= 1.01


async def test_it_gives_up_at_once_if_told_to_come_back_too_late() -> None:
    side = Side(httpx.Response(429, headers={"Retry-After": "3600"}))
    began_s = anyio.current_time()
    error = await refusal(side)
    assert error.reason is EndedReason.AGENT_AT_CAPACITY
    assert anyio.current_time() - began_s < 1


async def test_it_tries_no_more_often_than_it_may() -> None:
    side = Side(httpx.Response(503))
    error = await refusal(side)
    assert len(side.requests) == 1 + RETRIES
    assert f"tried {1 + RETRIES} times" in str(error)


async def test_all_tries_together_take_no_longer_than_they_may() -> None:
    began_s = anyio.current_time()
    error = await refusal(Side(httpx.Response(503), takes_s=4), spec(start_timeout_s=20))
    assert 10 < anyio.current_time() - began_s <= 20.01
    assert error.reason is EndedReason.ROOM_UNREACHABLE


async def test_a_cold_start_gets_all_the_time_and_is_then_named() -> None:
    patient = spec(start_timeout_s=60)
    assert (await start(Side(STARTED, takes_s=59), patient)).session_id == "ab-12"
    began_s = anyio.current_time()
    error = await refusal(Side(STARTED, takes_s=61), patient)
    assert anyio.current_time() - began_s == pytest.approx(60, abs=0.1)
    assert error.reason is EndedReason.ROOM_UNREACHABLE
    assert "in 60 s" in str(error) and "cold" in str(error)


# What a refusal comes to.


@pytest.mark.parametrize(
    ("answer", "reason", "says"),
    [
        (httpx.Response(429), EndedReason.AGENT_AT_CAPACITY, "fewer calls at once"),
        (
            httpx.Response(503, json={"code": "PCC-AGENT-AT-CAPACITY", "error": "maximum instances reached"}),
            EndedReason.AGENT_AT_CAPACITY,
            ": maximum instances reached; as many sessions",
        ),
        (httpx.Response(402), EndedReason.ROOM_UNREACHABLE, "payment"),
        (
            httpx.Response(403, json={"code": "PCC-1004", "error": "Billing credentials not set."}),
            EndedReason.ROOM_UNREACHABLE,
            "payment",
        ),
        (httpx.Response(401), EndedReason.TOKEN_REFUSED, "refused the token (HTTP 401)"),
        (httpx.Response(403), EndedReason.TOKEN_REFUSED, "refused the token (HTTP 403)"),
        (httpx.Response(400, json={"code": "PCC-1002"}), EndedReason.TOKEN_REFUSED, "refused the token"),
        (httpx.Response(404), EndedReason.ROOM_UNREACHABLE, "no such agent"),
        (httpx.Response(413), EndedReason.ROOM_UNREACHABLE, "too large"),
        (httpx.Response(307), EndedReason.ROOM_UNREACHABLE, "redirects are not followed"),
        (httpx.Response(500, json={"detail": f"no {TOKEN}"}), EndedReason.ROOM_UNREACHABLE, "HTTP 500"),
        (httpx.Response(500, json={"message": "oh\n dear"}), EndedReason.ROOM_UNREACHABLE, ": oh dear"),
        (httpx.Response(500, json={"detail": [{"loc": ["body"]}]}), EndedReason.ROOM_UNREACHABLE, "HTTP 500"),
        (httpx.Response(500, json=["x"]), EndedReason.ROOM_UNREACHABLE, "HTTP 500"),
        (httpx.Response(500, text="<html>"), EndedReason.ROOM_UNREACHABLE, "HTTP 500"),
        (httpx.ConnectError, EndedReason.ROOM_UNREACHABLE, "is the agent running?"),
        (httpx.Response(200, json={}), EndedReason.ROOM_UNREACHABLE, "names neither a dailyRoom nor a sessionId"),
        (httpx.Response(200, content=b"x" * 2_000_000), EndedReason.ROOM_UNREACHABLE, "AnswerTooLarge"),
    ],
)
async def test_a_refusal_says_what_happened_and_blames_no_agent(
    answer: httpx.Response | type[httpx.HTTPError], reason: EndedReason, says: str
) -> None:
    error = await refusal(Side(answer), spec(start_url=f"{URL}?key={TOKEN}"))
    assert error.reason is reason
    assert says in str(error)
    ended = CallEnded(at_ns=0, reason=error.reason, detail=str(error))
    outcome = decide(Script(name="x", turns=(Turn(action=Listen()),)), [ended], [])
    assert (outcome.success, outcome.cause) == (None, Cause.ROOM)


def test_a_full_agent_is_what_scripts_for_cekura_know_it_as() -> None:
    assert CEKURA_ENDED_REASON[EndedReason.AGENT_AT_CAPACITY] == "pipecat-agent-concurrency-limit-reached"


async def test_a_token_no_header_can_hold_is_refused_before_sending() -> None:
    side = Side(STARTED)
    error = await refusal(side, spec(token=SecretStr(f"{TOKEN}\nX-Evil: 1")))
    assert error.reason is EndedReason.TOKEN_REFUSED
    assert side.requests == []


# Ending.


@pytest.mark.parametrize("answer", [STARTED, DAILY])
async def test_a_session_of_a_pipecat_runner_ends_by_itself(answer: dict[str, Any]) -> None:
    side = Side(answer)
    began_s = anyio.current_time()
    await start(side)
    assert len(side.requests) == 1
    assert anyio.current_time() - began_s < 0.1


# A real one.


@pytest.mark.webrtc
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.slow
async def test_a_local_runners_session_gets_its_data_and_ends(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "truth.jsonl"

    def events() -> dict[str, dict[str, Any]]:
        return {event["event"]: event for event in map(json.loads, log.read_text().splitlines())}

    async with (
        local_agent(reference_agent_command("metronome", port), port, env={"METRONOME_LOG": str(log)}) as base_url,
        httpx.AsyncClient() as http,
    ):
        wanted = spec(start_url=f"{base_url}/start", transport="webrtc", data={"metronome": {"answer_ms": 1_234}})
        async with started_session(wanted, http) as session:
            script = Script(name="test", turns=(Turn(action=Listen(), expect=(Expectation(within_ms=10_000),)),))
            request = CallRequest(script, session.address, transcribe=False)
            run = await Call(request, Settings(), tmp_path / "run").make()
        assert run.success, run.detail
        with anyio.fail_after(5):
            while "session_ended" not in events():
                await anyio.sleep(0.05)
    assert "1234" in json.dumps(events()["session_started"]["answer_ms"])
