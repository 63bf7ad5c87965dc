"""A Pipecat runner's ``/start``: the session it starts, and the room that came with it."""

import ipaddress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import httpx
from pydantic import SecretStr, ValidationError

from bots.timeline import EndedReason
from runner.errors import RoomError
from runner.rooms.smallwebrtc.posting import Answer, post_json
from runner.rooms.urls import RoomKind, public_url
from runner.settings import IceServer

START_TIMEOUT_S = 30.0
"""A bot may have to load its models first."""

MAX_DETAIL_CHARACTERS = 200
"""How much of a runner's own words goes into an error."""


@dataclass(frozen=True)
class StartedSession:
    """An agent instance that was started, and how to reach it."""

    session_id: str
    offer_url: str
    ice_servers: list[IceServer] = field(default_factory=list[IceServer])


@dataclass(frozen=True)
class StartedDailySession:
    """An agent instance that was started in a Daily room of its own."""

    room_url: str
    token: SecretStr | None


_ASKING_FOR: dict[RoomKind | None, dict[str, Any]] = {
    None: {},
    RoomKind.SMALLWEBRTC: {"transport": "webrtc"},
    RoomKind.DAILY: {"createDailyRoom": True},
}
"""How Pipecat's own runner and Pipecat Cloud are told; other servers may not care."""


async def start_smallwebrtc_session(
    http: httpx.AsyncClient, base_url: str, token: SecretStr | None, *, body: dict[str, Any] | None = None
) -> StartedSession:
    """Start a SmallWebRTC session on a Pipecat runner.

    Args:
        http: The client to use.
        base_url: The runner's base address.
        token: Goes along as a bearer header, if there is one.
        body: Reaches the bot as its runner arguments' ``body``.

    Raises:
        RoomError: The runner can't be reached, or refuses.
    """
    url = _below(base_url, "/start")
    answered = await _post(http, url, token, _request(url, RoomKind.SMALLWEBRTC, body))
    try:
        return _smallwebrtc_session(answered.json(), base_url)
    except _NO_SESSION as error:
        raise RoomError(
            EndedReason.ROOM_UNREACHABLE,
            f"{public_url(url)} started no session: its answer names none; is it a Pipecat runner?",
        ) from error


async def start_session(
    http: httpx.AsyncClient,
    start_url: str,
    token: SecretStr | None,
    *,
    kind: RoomKind | None = None,
    body: dict[str, Any] | None = None,
) -> StartedSession | StartedDailySession:
    """Start a session by posting to an address that starts one.

    The answer is that of a Pipecat runner or of Pipecat Cloud: ``dailyRoom`` and ``dailyToken`` (also
    ``daily_room``, ``daily_token``, ``room_url``, ``token``), or a ``sessionId`` (also ``session_id``), whose room is
    then at ``sessions/<id>/api/offer`` beside the address.

    Args:
        http: The client to use.
        start_url: Where to post, such as ``https://api.pipecat.daily.co/v1/public/<agent>/start``.
        token: Goes along as a bearer header, if there is one.
        kind: What kind of room to ask for, Daily or SmallWebRTC; None leaves it to the other side.
        body: Reaches the bot as its runner arguments' ``body``.

    Raises:
        RoomError: Nothing answers there, or no session was started.
    """
    answered = await _post(http, start_url, token, _request(start_url, kind, body))
    try:
        answer: Any = answered.json()
        room_url = _first(answer, "dailyRoom", "daily_room", "room_url")
        if room_url is not None:
            room_token = _first(answer, "dailyToken", "daily_token", "token")
            return StartedDailySession(room_url, None if room_token is None else SecretStr(room_token))
        return _smallwebrtc_session(answer, _parent(start_url))
    except _NO_SESSION as error:
        raise RoomError(
            EndedReason.ROOM_UNREACHABLE,
            f"{public_url(start_url)} started no session: its answer names neither a dailyRoom nor a sessionId",
        ) from error


_NO_SESSION = (ValueError, KeyError, TypeError, AttributeError, ValidationError)
"""What comes of reading an answer that is none."""


def _smallwebrtc_session(answer: Any, base_url: str) -> StartedSession:
    session_id = _first(answer, "sessionId", "session_id")
    if not session_id:
        raise ValueError("no session id")
    config = answer.get("iceConfig") or {}
    return StartedSession(
        session_id=session_id,
        offer_url=_below(base_url, f"/sessions/{quote(session_id, safe='')}/api/offer"),
        ice_servers=[
            # A browser's RTCIceServer, of which what does not concern us is left out (credentialType).
            IceServer.model_validate({key: server[key] for key in IceServer.model_fields if key in server})
            for server in config.get("iceServers", [])
        ],
    )


def _request(url: str, kind: RoomKind | None, body: dict[str, Any] | None) -> dict[str, Any]:
    request = {**_ASKING_FOR[kind], "body": body or {}}
    if kind is RoomKind.SMALLWEBRTC:
        # On this machine a public STUN server is of no use, and asking it costs seconds where there is no network.
        request["enableDefaultIceServers"] = not _is_loopback(url)
    return request


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _first(answer: Any, *keys: str) -> str | None:
    """Return the text that stands under the first of some keys that is there."""
    for key in keys:
        value = answer.get(key)
        if value is not None:
            if not isinstance(value, str):
                raise TypeError(f"{key} is no text")
            return value
    return None


async def _post(http: httpx.AsyncClient, url: str, token: SecretStr | None, request: dict[str, Any]) -> Answer:
    shown = public_url(url)
    try:
        answered = await post_json(http, url, token, request, timeout_s=START_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise RoomError(
            EndedReason.ROOM_UNREACHABLE,
            f"no session could be started: no answer from {shown} ({type(error).__name__}); is the agent running?",
        ) from error
    if answered.status in (401, 403):
        raise RoomError(
            EndedReason.TOKEN_REFUSED, f"{shown} refused the token (HTTP {answered.status}): pass a valid one"
        )
    if not 200 <= answered.status < 300:
        raise RoomError(
            EndedReason.ROOM_UNREACHABLE,
            f"no session could be started: {shown} answered with HTTP {answered.status}" + _detail(answered, token),
        )
    return answered


def _below(base_url: str, path: str) -> str:
    parts = urlsplit(base_url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + path, fragment=""))


def _parent(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/").rpartition("/")[0]))


def _detail(answered: Answer, token: SecretStr | None) -> str:
    """Return what the runner says of its refusal: one short line that quotes no token back."""
    try:
        detail = answered.json().get("detail")
    except (ValueError, AttributeError):
        return ""
    if not isinstance(detail, str) or (token and token.get_secret_value() in detail):
        return ""
    return ": " + " ".join(detail.split())[:MAX_DETAIL_CHARACTERS]
