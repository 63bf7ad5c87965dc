"""Starting a session, on a Pipecat runner or at an address of its own: what is asked, and what each answer is."""

from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from bots.timeline import EndedReason
from runner.errors import RoomError
from runner.rooms.allowed import RoomGuard
from runner.rooms.urls import RoomKind
from runner.sessions.pipecat_runner import (
    StartedDailySession,
    StartedSession,
    start_session,
    start_smallwebrtc_session,
)
from runner.settings import ServerSettings, Settings
from tests.sessions.side import SECRET, Answer, Side, fit_to_show

pytestmark = pytest.mark.anyio

TOKEN = f"{SECRET}-t0ken"
BASE = "http://bots.example.com:7860"
URL = "https://api.example.com/v1/public/my-agent/start"
STARTED = {"sessionId": "ab-12"}


async def on_runner(side: Side, base: str = BASE, token: str | None = TOKEN, **options: Any) -> StartedSession:
    async with side.client() as http:
        return await start_smallwebrtc_session(http, base, None if token is None else SecretStr(token), **options)


async def at_address(side: Side, url: str = URL, **options: Any) -> StartedSession | StartedDailySession:
    async with side.client() as http:
        return await start_session(http, url, SecretStr(TOKEN), **options)


def with_servers(*servers: Any) -> dict[str, Any]:
    return {**STARTED, "iceConfig": {"iceServers": list(servers)}}


def guard(*allowed: str) -> RoomGuard:
    async def resolve(host: str) -> list[str]:
        return ["52.1.2.3"]

    return RoomGuard(Settings(server=ServerSettings(allowed_rooms=["bots.example.com", *allowed])), resolve)


@pytest.mark.parametrize("base", [BASE, f"{BASE}/"])
async def test_a_runner_is_asked_for_a_session_and_its_room_returned(base: str) -> None:
    side = Side(STARTED)
    session = await on_runner(side, base, body={"restaurant": "Luigi"})
    assert session == StartedSession("ab-12", f"{BASE}/sessions/ab-12/api/offer", [])
    assert side.lines == [f"POST {BASE}/start"]
    assert side.keys == [f"Bearer {TOKEN}"]
    assert side.asked == {"transport": "webrtc", "enableDefaultIceServers": True, "body": {"restaurant": "Luigi"}}


async def test_without_a_token_there_is_no_authorization_header() -> None:
    side = Side(STARTED)
    await on_runner(side, token=None)
    assert side.keys == [None] and side.asked["body"] == {}


@pytest.mark.parametrize(
    ("kind", "asks"),
    [
        (None, {}),
        (RoomKind.DAILY, {"createDailyRoom": True}),
        (RoomKind.SMALLWEBRTC, {"transport": "webrtc", "enableDefaultIceServers": True}),
    ],
)
async def test_an_address_is_posted_to_as_it_is(kind: RoomKind | None, asks: dict[str, Any]) -> None:
    side = Side(STARTED)
    await at_address(side, f"{URL}?key=1", kind=kind, body={"a": 1})
    assert side.lines == [f"POST {URL}?key=1"]
    assert side.keys == [f"Bearer {TOKEN}"]
    assert side.asked == {**asks, "body": {"a": 1}}


async def test_the_ice_servers_of_the_session_come_along_as_browsers_write_them() -> None:
    turn = {"urls": "turn:turn.example.com", "username": "u", "credential": "c", "credentialType": "password"}
    session = await on_runner(Side(with_servers({"urls": ["stun:stun.example.com"]}, turn)))
    assert [server.urls for server in session.ice_servers] == [["stun:stun.example.com"], "turn:turn.example.com"]
    credential = session.ice_servers[1].credential
    assert credential is not None and credential.get_secret_value() == "c"
    assert "'c'" not in repr(session)


async def test_ice_servers_of_the_session_are_held_to_what_is_allowed() -> None:
    urls = ["stun:stun.example.com", "turn:10.0.0.1:22?transport=tcp"]
    side = Side(with_servers({"urls": urls, "username": "u", "credential": "c"}))
    session = await on_runner(side, guard=guard("stun.example.com", "10.0.0.0/8"))
    assert session.ice_servers[0].urls == urls
    with pytest.raises(RoomError, match=r"10\.0\.0\.1 is not allowed; .*server\.allowed_rooms") as caught:
        await on_runner(side, guard=guard("stun.example.com"))
    assert fit_to_show(caught).reason is EndedReason.ROOM_UNREACHABLE
    # Nobody holds the commands of this machine to a server's list.
    assert (await on_runner(side)).ice_servers == session.ice_servers


@pytest.mark.parametrize(("allowed", "asked"), [((), False), (("stun.l.google.com",), True)])
async def test_public_ice_servers_are_used_only_where_allowed(allowed: tuple[str, ...], asked: bool) -> None:
    side = Side(STARTED)
    await on_runner(side, guard=guard(*allowed))
    assert side.asked["enableDefaultIceServers"] is asked


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1:7860", "127.9.9.9", "[::1]:7860", "bot.localhost"])
async def test_no_public_stun_server_is_asked_for_on_this_machine(host: str) -> None:
    side = Side(STARTED)
    await on_runner(side, f"http://{host}")
    assert side.asked["enableDefaultIceServers"] is False


@pytest.mark.parametrize("config", [None, {}, [], {"iceServers": []}])
async def test_a_session_without_ice_servers_is_one(config: Any) -> None:
    assert (await on_runner(Side(STARTED | {"iceConfig": config}))).ice_servers == []


@pytest.mark.parametrize("answer", [{"sessionId": "a/b?c"}, {"session_id": "a/b?c", "dailyRoom": None}])
@pytest.mark.parametrize(
    ("url", "beside"),
    [
        (URL, "https://api.example.com/v1/public/my-agent"),
        ("http://localhost:7860/start/", "http://localhost:7860"),
        ("http://localhost:7860/start?key=1", "http://localhost:7860"),
    ],
)
async def test_a_session_id_stands_for_the_room_beside_the_address(
    answer: dict[str, Any], url: str, beside: str
) -> None:
    session = await at_address(Side(answer), url)
    assert isinstance(session, StartedSession)
    query = "?key=1" if url.endswith("?key=1") else ""
    assert session.offer_url == f"{beside}/sessions/a%2Fb%3Fc/api/offer{query}"


@pytest.mark.parametrize("answer", [httpx.Response(500), httpx.Response(401), []])
async def test_a_query_of_the_address_goes_along_and_is_never_shown(answer: Answer) -> None:
    side = Side(STARTED, answer)
    session = await on_runner(side, f"{BASE}/?key={TOKEN}")
    assert side.lines == [f"POST {BASE}/start?key={TOKEN}"]
    assert session.offer_url == f"{BASE}/sessions/ab-12/api/offer?key={TOKEN}"
    with pytest.raises(RoomError) as caught:
        await on_runner(side, f"{BASE}?key={TOKEN}")
    assert f"{BASE}/start" in str(fit_to_show(caught))


@pytest.mark.parametrize(
    "answer",
    [
        {"dailyRoom": "https://a.daily.co/r", "dailyToken": "room-s3cr3t", "sessionId": "x"},
        {"daily_room": "https://a.daily.co/r", "daily_token": "room-s3cr3t"},
        {"room_url": "https://a.daily.co/r", "token": "room-s3cr3t"},
        {"dailyRoom": "https://a.daily.co/r"},
        {"dailyRoom": "https://a.daily.co/r", "dailyToken": None},
        {"dailyRoom": "https://a.daily.co/r", "token": "of-a-websocket"},
    ],
)
async def test_a_daily_room_comes_with_its_token_if_it_has_one(answer: dict[str, Any]) -> None:
    session = await at_address(Side(answer))
    token = SecretStr("room-s3cr3t") if "room-s3cr3t" in answer.values() else None
    assert session == StartedDailySession("https://a.daily.co/r", token, answer.get("sessionId"))
    assert SECRET not in repr(session)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text=""),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, content=b"\xff\xfe\x00"),
        None,
        [],
        "x",
        {},
        {"sessionId": None},
        {"sessionId": ""},
        {"sessionId": 7},
        {"sessionId": {}},
        {"sessionId": "x", "iceConfig": "y"},
        {"sessionId": "x", "iceConfig": {"iceServers": [{}]}},
        {"sessionId": "x", "iceConfig": {"iceServers": "y"}},
        {"detail": "no"},
    ],
)
async def test_an_answer_that_names_no_session_is_refused(answer: Answer) -> None:
    for start, says in ((on_runner, "Pipecat runner"), (at_address, "neither a dailyRoom nor a sessionId")):
        with pytest.raises(RoomError, match=says) as caught:
            await start(Side(answer))
        assert fit_to_show(caught).reason is EndedReason.ROOM_UNREACHABLE


@pytest.mark.parametrize(
    "answer", [{"dailyRoom": 7, "sessionId": "x"}, {"dailyRoom": "https://a.daily.co/r", "dailyToken": [SECRET]}]
)
async def test_a_daily_room_that_is_none_is_refused(answer: Answer) -> None:
    with pytest.raises(RoomError, match="neither a dailyRoom nor a sessionId") as caught:
        await at_address(Side(answer), f"{URL}?key={TOKEN}")
    fit_to_show(caught)


async def test_a_daily_room_is_none_where_a_room_of_smallwebrtc_was_asked_for() -> None:
    with pytest.raises(RoomError, match="Pipecat runner"):
        await on_runner(Side({"room_url": "https://acme.daily.co/x", "token": "y"}))
