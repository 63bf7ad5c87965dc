"""Sessions on Pipecat Cloud: how they are started, and that they are stopped whatever became of the call."""

from typing import Any

import anyio
import httpx
import pytest
from pydantic import SecretStr

from bots.timeline import EndedReason
from runner.errors import RoomError
from runner.rooms.allowed import RoomGuard
from runner.sessions import pipecat_cloud
from runner.sessions.pipecat_cloud import stop_session
from runner.sessions.start import END_GRACE_S, END_TIMEOUT_S, RETRIES, SessionKind, SessionSpec, started_session
from runner.settings import Settings
from tests.sessions.side import Answer, Side

pytestmark = pytest.mark.anyio

PUBLIC, PRIVATE = "pk_s3cr3t", "sk_s3cr3t"
SESSION = "639f91d8-d511-4677-a83b-bd7564d5d92f"
DAILY = {"dailyRoom": "https://cloud-1.daily.co/abc", "dailyToken": "r00m-s3cr3t", "sessionId": SESSION}
STOP = f"DELETE https://api.pipecat.daily.co/v1/agents/luigi/sessions/{SESSION}"


def spec(**fields: Any) -> SessionSpec:
    return SessionSpec(
        **{
            "kind": SessionKind.PIPECAT_CLOUD,
            "agent_name": "luigi",
            "api_key": SecretStr(PUBLIC),
            "private_key": SecretStr(PRIVATE),
            "run_id": 7,
            **fields,
        }
    )


def cloud_with(started: dict[str, Any] = DAILY, stop: Answer = None, stop_takes_s: float = 0) -> Side:
    """Return Pipecat Cloud: it answers a start, and then a stop."""
    return Side(started, stop, takes_s=stop_takes_s, starts_s=0)


async def test_an_agent_is_started_with_the_public_key_in_a_daily_room() -> None:
    cloud = cloud_with()
    wanted = spec(data={"a": 1}, room_properties={"enable_recording": "cloud"})
    assert wanted.address == "https://api.pipecat.daily.co/v1/public/luigi/start"
    async with cloud.client() as http, started_session(wanted, http) as session:
        assert session.address.url == DAILY["dailyRoom"]
        assert session.address.token == SecretStr("r00m-s3cr3t")
        assert session.session_id == SESSION
    assert cloud.lines == [f"POST {wanted.address}", STOP]
    assert cloud.keys[0] == f"Bearer {PUBLIC}"
    assert cloud.asked == {
        "createDailyRoom": True,
        "dailyRoomProperties": {"enable_recording": "cloud"},
        "body": {"a": 1, "cekura_run_id": 7},
    }


async def test_an_agent_is_started_in_a_room_of_smallwebrtc() -> None:
    cloud = cloud_with({"sessionId": SESSION})
    async with cloud.client() as http, started_session(spec(transport="webrtc"), http) as session:
        assert session.address.url == f"https://api.pipecat.daily.co/v1/public/luigi/sessions/{SESSION}/api/offer"
        assert session.address.token == SecretStr(PUBLIC)
    assert cloud.lines[1:] == [STOP]


async def test_a_cloud_of_ones_own_is_asked_in_place_of_the_public_one() -> None:
    cloud = cloud_with()
    async with cloud.client() as http, started_session(spec(cloud_url="https://pcc.acme.com/"), http):
        pass
    assert cloud.lines == [
        "POST https://pcc.acme.com/v1/public/luigi/start",
        f"DELETE https://pcc.acme.com/v1/agents/luigi/sessions/{SESSION}",
    ]


async def test_the_private_key_stops_a_session_after_the_agents_grace() -> None:
    cloud = cloud_with()
    async with cloud.client() as http, started_session(spec(), http):
        left_s = anyio.current_time()
    assert cloud.lines[1:] == [STOP]
    assert cloud.keys[1] == f"Bearer {PRIVATE}"
    assert cloud.at_s[1] - left_s == pytest.approx(END_GRACE_S, abs=0.1)


async def test_a_session_whose_call_broke_is_stopped_at_once() -> None:
    cloud = cloud_with()
    began_s = anyio.current_time()
    async with cloud.client() as http:
        with pytest.raises(RuntimeError, match="broke"):
            async with started_session(spec(), http):
                raise RuntimeError("broke")
    assert cloud.lines[1:] == [STOP]
    assert cloud.at_s[1] - began_s < 0.1


@pytest.mark.parametrize("cancelled_after_s", [1.0, 60.0 + END_GRACE_S / 2])
async def test_a_session_whose_run_is_cancelled_is_stopped_at_once(cancelled_after_s: float) -> None:
    cloud = cloud_with(stop_takes_s=1)
    async with cloud.client() as http:
        with anyio.move_on_after(cancelled_after_s) as scope:
            async with started_session(spec(), http):
                await anyio.sleep(60)
    assert scope.cancelled_caught
    assert cloud.lines[1:] == [STOP]
    assert cloud.answered == 2
    assert cloud.at_s[1] - cloud.at_s[0] == pytest.approx(cancelled_after_s, abs=0.1)


async def test_a_session_whose_ice_servers_are_not_allowed_is_stopped() -> None:
    inside = {"urls": "turn:169.254.169.254:80?transport=tcp"}
    cloud = cloud_with({"sessionId": SESSION, "iceConfig": {"iceServers": [inside]}})
    async with cloud.client() as http:
        with pytest.raises(RoomError, match=r"server\.allowed_rooms") as caught:
            async with started_session(spec(transport="webrtc"), http, guard=RoomGuard(Settings())):
                pass
    assert caught.value.reason is EndedReason.ROOM_UNREACHABLE
    assert cloud.lines[1:] == [STOP]


async def test_a_session_in_a_room_that_can_not_be_entered_is_stopped() -> None:
    cloud = cloud_with({"dailyRoom": "http://169.254.169.254/api/offer", "sessionId": SESSION})
    async with cloud.client() as http:
        with pytest.raises(RoomError):
            async with started_session(spec(), http):
                pass
    assert cloud.lines[1:] == [STOP]


@pytest.mark.parametrize(
    ("keys", "presented"),
    [
        ({"private_key": None}, None),
        ({"private_key": None, "api_key": SecretStr(PRIVATE)}, PRIVATE),
        ({"private_key": SecretStr(f"{PRIVATE}\n")}, None),
    ],
)
async def test_only_a_key_that_may_stop_a_session_is_presented(keys: dict[str, Any], presented: str | None) -> None:
    cloud = cloud_with()
    async with cloud.client() as http, started_session(spec(**keys), http):
        pass
    assert cloud.keys[1:] == ([] if presented is None else [f"Bearer {presented}"])


@pytest.mark.parametrize(
    ("stop", "says"),
    [
        (httpx.Response(200), None),
        (httpx.Response(204), None),
        (httpx.Response(404), None),
        (httpx.Response(401), "takes a private key"),
        (httpx.Response(500, text=PRIVATE), "HTTP 500"),
        (httpx.Response(307, headers={"Location": "https://elsewhere.example.com"}), "HTTP 307"),
        (httpx.Response(200, content=b"x" * 2_000_000), "AnswerTooLarge"),
        (httpx.ReadError, "ReadError"),
    ],
)
async def test_a_stop_that_fails_is_logged_and_does_no_harm(
    stop: Answer, says: str | None, logged: list[str]
) -> None:
    cloud = cloud_with(stop=stop)
    async with cloud.client() as http, started_session(spec(), http):
        pass
    assert cloud.lines[1:] == [STOP]
    warnings = [line for line in logged if "could not be stopped" in line]
    assert len(warnings) == (0 if says is None else 1)
    assert says is None or says in warnings[0]


async def test_a_stop_that_hangs_holds_nobody_up() -> None:
    cloud = cloud_with(stop_takes_s=3_600)
    async with cloud.client() as http, started_session(spec(), http):
        left_s = anyio.current_time()
    assert anyio.current_time() - left_s == pytest.approx(END_GRACE_S + END_TIMEOUT_S, abs=0.2)


@pytest.mark.parametrize("session_id", ["..", "a/../../secrets", "a?b", "", "x" * 200])
async def test_a_session_id_that_is_none_leads_to_no_request(session_id: str) -> None:
    cloud = cloud_with()
    async with cloud.client() as http:
        key = SecretStr(PRIVATE)
        await stop_session(http, "https://x", "luigi", session_id, key, timeout_s=1)
    assert cloud.requests == []


async def test_a_session_without_an_id_is_called_but_not_stopped() -> None:
    cloud = cloud_with({"dailyRoom": DAILY["dailyRoom"]})
    async with cloud.client() as http, started_session(spec(), http) as session:
        assert session.address.url == DAILY["dailyRoom"]
    assert len(cloud.requests) == 1


async def test_nothing_is_stopped_where_nothing_was_started() -> None:
    full = Side(httpx.Response(429, json={"status": 429, "code": "429", "message": "Rate limit exceeded."}))
    async with full.client() as http:
        with pytest.raises(RoomError, match=r"Rate limit exceeded\.") as caught:
            async with started_session(spec(), http):
                pass
    assert caught.value.reason is EndedReason.AGENT_AT_CAPACITY
    assert [request.method for request in full.requests] == ["POST"] * (1 + RETRIES)


@pytest.mark.parametrize(
    ("answers", "state"),
    [
        ([{"endState": "agent_error", "endedAt": "2026-01-01T00:00:00Z"}], "agent_error"),
        ([{"endState": "completed", "completionStatus": "500"}], "agent_error"),
        ([{"endedAt": "2026-01-01T00:00:00Z"}], "completed"),
        ([{"endState": "active"}, {"endState": "completed"}], "completed"),
        ([{"endedAt": None}] * 3, "active"),
        (["not an object"], None),
        ([], None),
    ],
)
async def test_how_a_session_ended_is_asked_with_a_private_key(
    answers: list[Any], state: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipecat_cloud, "END_STATE_AGAIN_AFTER_S", 0.0)
    cloud = Side(*answers, httpx.Response(404))
    async with cloud.client() as http:
        key = SecretStr("sk_1")
        assert await pipecat_cloud.session_end_state(http, pipecat_cloud.CLOUD_URL, "luigi", SESSION, key) == state
    assert cloud.lines[0] == f"GET https://api.pipecat.daily.co/v1/agents/luigi/sessions/{SESSION}"
    assert cloud.keys[0] == "Bearer sk_1"


async def test_nobody_is_asked_how_a_session_ended_with_a_public_key() -> None:
    cloud = cloud_with()
    async with cloud.client() as http, started_session(spec(private_key=None), http) as session:
        assert session.end_state is not None
        assert await session.end_state() is None
    assert not any(line.startswith("GET") for line in cloud.lines)
