"""Starting a session at an address of its own: what is asked, and what every kind of answer comes to."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from bots.timeline import EndedReason
from runner.errors import RoomError
from runner.rooms.urls import RoomKind
from runner.sessions.pipecat_runner import StartedDailySession, StartedSession, start_session

pytestmark = pytest.mark.anyio

TOKEN = "pk_s3cr3t"
URL = "https://api.example.com/v1/public/my-agent/start"

Handler = Callable[[httpx.Request], httpx.Response]


async def start(handler: Handler, url: str = URL, **options: Any) -> StartedSession | StartedDailySession:
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as http:
        return await start_session(http, url, SecretStr(TOKEN), **options)


def answering(status: int = 200, **content: Any) -> Handler:
    return lambda request: httpx.Response(status, **content)


@pytest.mark.parametrize(
    ("kind", "asks"),
    [
        (None, {}),
        (RoomKind.DAILY, {"createDailyRoom": True}),
        (RoomKind.SMALLWEBRTC, {"transport": "webrtc", "enableDefaultIceServers": True}),
    ],
)
async def test_the_address_is_posted_to_as_it_is(kind: RoomKind | None, asks: dict[str, Any]) -> None:
    requests: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json={"sessionId": "ab-12"})

    await start(handler, f"{URL}?key=1", kind=kind, body={"a": 1})
    (request,) = requests
    assert (request.method, str(request.url)) == ("POST", f"{URL}?key=1")
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert json.loads(request.content) == {**asks, "body": {"a": 1}}


@pytest.mark.parametrize(
    "answer",
    [
        {"dailyRoom": "https://a.daily.co/r", "dailyToken": "room-s3cr3t", "sessionId": "x"},
        {"daily_room": "https://a.daily.co/r", "daily_token": "room-s3cr3t"},
        {"room_url": "https://a.daily.co/r", "token": "room-s3cr3t"},
    ],
)
async def test_a_daily_room_comes_with_its_token(answer: dict[str, Any]) -> None:
    session = await start(answering(json=answer))
    assert session == StartedDailySession("https://a.daily.co/r", SecretStr("room-s3cr3t"), answer.get("sessionId"))
    assert "s3cr3t" not in repr(session)


@pytest.mark.parametrize("token", [{}, {"dailyToken": None}, {"token": "of-a-websocket"}])
async def test_a_daily_room_may_have_no_token(token: dict[str, Any]) -> None:
    session = await start(answering(json={"dailyRoom": "https://a.daily.co/r", **token}))
    assert session == StartedDailySession("https://a.daily.co/r", None)


@pytest.mark.parametrize("answer", [{"sessionId": "a/b"}, {"session_id": "a/b", "dailyRoom": None}])
@pytest.mark.parametrize(
    ("url", "offer"),
    [
        (URL, "https://api.example.com/v1/public/my-agent/sessions/a%2Fb/api/offer"),
        ("http://localhost:7860/start/", "http://localhost:7860/sessions/a%2Fb/api/offer"),
        ("http://localhost:7860/start?key=1", "http://localhost:7860/sessions/a%2Fb/api/offer?key=1"),
    ],
)
async def test_a_session_id_stands_for_the_room_beside_the_address(
    answer: dict[str, Any], url: str, offer: str
) -> None:
    session = await start(answering(json=answer), url)
    assert isinstance(session, StartedSession)
    assert session.offer_url == offer


@pytest.mark.parametrize(
    "content",
    [
        {"text": "<html>"},
        {"json": None},
        {"json": []},
        {"json": {}},
        {"json": {"sessionId": ""}},
        {"json": {"sessionId": 7}},
        {"json": {"dailyRoom": 7, "sessionId": "x"}},
        {"json": {"dailyRoom": "https://a.daily.co/r", "dailyToken": ["room-s3cr3t"]}},
    ],
)
async def test_an_answer_that_names_no_room_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(RoomError) as caught:
        await start(answering(**content), f"{URL}?key={TOKEN}")
    assert caught.value.reason is EndedReason.ROOM_UNREACHABLE
    assert "neither a dailyRoom nor a sessionId" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "reason"), [(401, EndedReason.TOKEN_REFUSED), (503, EndedReason.ROOM_UNREACHABLE)]
)
async def test_a_refusal_names_the_address_and_no_token(status: int, reason: EndedReason) -> None:
    with pytest.raises(RoomError) as caught:
        await start(answering(status, json={"detail": "busy"}), f"{URL}?key={TOKEN}")
    assert caught.value.reason is reason
    assert URL in str(caught.value)
    assert TOKEN not in str(caught.value)
