"""Starting a session on a Pipecat runner: what is asked, and what every kind of answer comes to."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from bots.timeline import EndedReason
from runner.errors import RoomError
from runner.rooms.allowed import RoomGuard
from runner.sessions.pipecat_runner import StartedSession, start_smallwebrtc_session
from runner.settings import ServerSettings, Settings

pytestmark = pytest.mark.anyio

TOKEN = "s3cr3t-t0ken"
BASE = "http://bots.example.com:7860"

Handler = Callable[[httpx.Request], httpx.Response]


async def start(handler: Handler, url: str = BASE, token: str | None = TOKEN, **kwargs: Any) -> StartedSession:
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as http:
        return await start_smallwebrtc_session(http, url, None if token is None else SecretStr(token), **kwargs)


def answering(status: int = 200, **content: Any) -> Handler:
    return lambda request: httpx.Response(status, **content)


async def refusal(handler: Handler, url: str = BASE) -> RoomError:
    with pytest.raises(RoomError) as caught:
        await start(handler, url)
    text = str(caught.value)
    assert TOKEN not in text
    assert "\n" not in text
    return caught.value


@pytest.mark.parametrize("base", [BASE, f"{BASE}/"])
async def test_a_session_is_started_and_its_room_returned(base: str) -> None:
    requests: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json={"sessionId": "ab-12"})

    session = await start(handler, base, body={"restaurant": "Luigi"})
    assert session == StartedSession("ab-12", f"{BASE}/sessions/ab-12/api/offer", [])
    (request,) = requests
    assert (request.method, str(request.url)) == ("POST", f"{BASE}/start")
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert json.loads(request.content) == {
        "transport": "webrtc",
        "enableDefaultIceServers": True,
        "body": {"restaurant": "Luigi"},
    }


async def test_without_a_token_there_is_no_authorization_header() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert "Authorization" not in request.headers
        assert json.loads(request.content)["body"] == {}
        return httpx.Response(200, json={"sessionId": "x"})

    assert (await start(handler, token=None)).session_id == "x"


async def test_the_ice_servers_of_the_session_come_along() -> None:
    servers = [
        {"urls": ["stun:stun.example.com"]},
        {"urls": "turn:turn.example.com", "username": "u", "credential": "c"},
    ]
    session = await start(answering(json={"sessionId": "x", "iceConfig": {"iceServers": servers}}))
    assert [server.urls for server in session.ice_servers] == [["stun:stun.example.com"], "turn:turn.example.com"]
    credential = session.ice_servers[1].credential
    assert credential is not None and credential.get_secret_value() == "c"
    assert "'c'" not in repr(session)


def guard(*allowed: str) -> RoomGuard:
    async def resolve(host: str) -> list[str]:
        return ["52.1.2.3"]

    return RoomGuard(Settings(server=ServerSettings(allowed_rooms=["bots.example.com", *allowed])), resolve)


async def test_ice_servers_of_the_session_are_held_to_what_is_allowed() -> None:
    inside = {"urls": ["stun:stun.example.com", "turn:10.0.0.1:22?transport=tcp"], "username": "u", "credential": "c"}
    handler = answering(json={"sessionId": "x", "iceConfig": {"iceServers": [inside]}})
    session = await start(handler, guard=guard("stun.example.com", "10.0.0.0/8"))
    assert session.ice_servers[0].urls == inside["urls"]
    with pytest.raises(RoomError, match=r"10\.0\.0\.1 is not allowed; .*server\.allowed_rooms") as caught:
        await start(handler, guard=guard("stun.example.com"))
    assert caught.value.reason is EndedReason.ROOM_UNREACHABLE and "\n" not in str(caught.value)
    # Nobody holds the commands of this machine to a server's list.
    assert (await start(handler)).ice_servers == session.ice_servers


@pytest.mark.parametrize(("allowed", "asked"), [((), False), (("stun.l.google.com",), True)])
async def test_public_ice_servers_are_used_only_where_allowed(allowed: tuple[str, ...], asked: bool) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.content)["enableDefaultIceServers"] is asked
        return httpx.Response(200, json={"sessionId": "x"})

    await start(handler, guard=guard(*allowed))


@pytest.mark.parametrize(
    "config", [{}, {"iceConfig": None}, {"iceConfig": {}}, {"iceConfig": []}, {"iceConfig": {"iceServers": []}}]
)
async def test_a_session_without_ice_servers_is_one(config: dict[str, Any]) -> None:
    assert (await start(answering(json={"sessionId": "x"} | config))).ice_servers == []


async def test_a_session_id_stays_within_its_place_in_the_address() -> None:
    session = await start(answering(json={"sessionId": "a/b?c"}))
    assert session.offer_url == f"{BASE}/sessions/a%2Fb%3Fc/api/offer"


async def test_a_query_of_the_address_goes_along_and_is_never_shown() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(200, json={"sessionId": "x"})

    session = await start(handler, f"{BASE}/?key={TOKEN}")
    assert seen == [f"{BASE}/start?key={TOKEN}"]
    assert session.offer_url == f"{BASE}/sessions/x/api/offer?key={TOKEN}"
    await refusal(answering(500), f"{BASE}?key={TOKEN}")
    await refusal(answering(401), f"{BASE}?key={TOKEN}")
    await refusal(answering(json=[]), f"{BASE}?key={TOKEN}")


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_token_is_named_as_such(status: int) -> None:
    error = await refusal(answering(status, json={"detail": "no"}))
    assert error.reason is EndedReason.TOKEN_REFUSED
    assert str(status) in str(error) and f"{BASE}/start" in str(error)


@pytest.mark.parametrize("status", [307, 400, 404, 500, 503])
async def test_other_refusals_mean_that_the_room_is_unreachable(status: int) -> None:
    error = await refusal(answering(status, headers={"Location": "http://elsewhere"}))
    assert error.reason is EndedReason.ROOM_UNREACHABLE
    assert f"HTTP {status}" in str(error)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"json": {"detail": "all bots are busy"}}, ": all bots are busy"),
        ({"json": {"detail": [{"loc": ["body"]}]}}, "HTTP 500"),
        ({"json": ["x"]}, "HTTP 500"),
        ({"text": "<html>"}, "HTTP 500"),
    ],
)
async def test_what_the_runner_says_about_it_is_passed_on(content: dict[str, Any], says: str) -> None:
    assert str(await refusal(answering(500, **content))).endswith(says)


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError, httpx.ReadError])
async def test_a_runner_that_does_not_answer_is_unreachable(error: type[httpx.HTTPError]) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise error(f"with {TOKEN}")

    caught = await refusal(handler)
    assert caught.reason is EndedReason.ROOM_UNREACHABLE
    assert error.__name__ in str(caught)


@pytest.mark.parametrize(
    "content",
    [
        {"text": ""},
        {"text": "<html>"},
        {"content": b"\xff\xfe\x00"},
        {"json": None},
        {"json": []},
        {"json": "x"},
        {"json": {}},
        {"json": {"sessionId": None}},
        {"json": {"sessionId": ""}},
        {"json": {"sessionId": {}}},
        {"json": {"sessionId": "x", "iceConfig": "y"}},
        {"json": {"sessionId": "x", "iceConfig": {"iceServers": [{}]}}},
        {"json": {"sessionId": "x", "iceConfig": {"iceServers": "y"}}},
        {"json": {"detail": "no"}},
        {"json": {"room_url": "https://acme.daily.co/x", "token": "y"}},
    ],
)
async def test_an_answer_that_names_no_session_is_refused(content: dict[str, Any]) -> None:
    error = await refusal(answering(**content))
    assert error.reason is EndedReason.ROOM_UNREACHABLE
    assert "Pipecat runner" in str(error)


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1:7860", "127.9.9.9", "[::1]:7860", "bot.localhost"])
async def test_no_public_stun_server_is_asked_for_on_this_machine(host: str) -> None:
    requests: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json={"sessionId": "ab-12"})

    await start(handler, f"http://{host}")
    assert json.loads(requests[0].content)["enableDefaultIceServers"] is False


async def test_an_ice_server_is_taken_as_browsers_write_it() -> None:
    server = {"urls": ["turn:t.example.com:3478"], "username": "u", "credential": "c", "credentialType": "password"}
    answer = {"sessionId": "ab-12", "iceConfig": {"iceServers": [server]}}
    session = await start(lambda _: httpx.Response(200, json=answer), BASE)
    assert [s.urls for s in session.ice_servers] == [["turn:t.example.com:3478"]]
