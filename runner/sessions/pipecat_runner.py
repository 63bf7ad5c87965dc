"""A Pipecat runner's ``/start``: the session it starts, and the room that came with it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import quote, urlsplit, urlunsplit

import httpx
from pydantic import SecretStr, ValidationError

from bots.masking import masked
from bots.timeline import EndedReason
from runner.errors import RoomError, UsageError
from runner.hosts import leads_here
from runner.http import Answer, post_json
from runner.rooms.allowed import RoomGuard, RoomRefused
from runner.rooms.urls import RoomKind
from runner.settings import IceServer
from runner.text import public_url

START_TIMEOUT_S = 30.0
"""A bot may have to load its models first."""

MAX_DETAIL_CHARACTERS = 200
"""How much of a runner's own words goes into an error."""

SHORTEST_SECRET_CHARACTERS = 8
"""Texts of a session's data that are shorter may be quoted back in an error."""


DEFAULT_ICE_SERVER = "stun:stun.l.google.com:19302"
"""What a Pipecat runner gives out where it is asked for default ICE servers."""


class SessionNotStarted(RoomError):
    """No session was started.

    Args:
        message: What happened and what to do, in one line for a person; holds no token.
        transient: Whether the same request may succeed a little later.
        retry_after_s: How long to wait until then, where the agent's side said so, in seconds.
    """

    def __init__(
        self, reason: EndedReason, message: str, *, transient: bool = False, retry_after_s: float | None = None
    ):
        super().__init__(reason, message)
        self.transient = transient
        self.retry_after_s = retry_after_s


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
    session_id: str | None = None


_ASKING_FOR: dict[RoomKind | None, dict[str, Any]] = {
    None: {},
    RoomKind.SMALLWEBRTC: {"transport": "webrtc"},
    RoomKind.DAILY: {"createDailyRoom": True},
}
"""How Pipecat's own runner and Pipecat Cloud are told; other servers may not care."""


async def start_smallwebrtc_session(
    http: httpx.AsyncClient,
    base_url: str,
    token: SecretStr | None,
    *,
    body: dict[str, Any] | None = None,
    guard: RoomGuard | None = None,
) -> StartedSession:
    """Start a SmallWebRTC session on a Pipecat runner, by its base address.

    Otherwise as :func:`start_session`, but that the ICE servers of the answer are held to the guard.
    """
    url = _below(base_url, "/start")
    answered = await _post(http, url, token, RoomKind.SMALLWEBRTC, body, guard)
    try:
        session = _smallwebrtc_session(answered.json(), base_url)
    except _NO_SESSION as error:
        raise _not_started(url, "its answer names none; is it a Pipecat runner?") from error
    await check_ice_servers(session, url, guard)
    return session


async def start_session(
    http: httpx.AsyncClient,
    start_url: str,
    token: SecretStr | None,
    *,
    kind: RoomKind | None = None,
    body: dict[str, Any] | None = None,
    room_properties: Mapping[str, Any] | None = None,
    timeout_s: float = START_TIMEOUT_S,
    guard: RoomGuard | None = None,
) -> StartedSession | StartedDailySession:
    """Start a session by posting to an address that starts one.

    The answer is that of a Pipecat runner or of Pipecat Cloud: ``dailyRoom`` and ``dailyToken`` (also
    ``daily_room`` and ``daily_token``, ``room_url`` and ``token``), or a ``sessionId`` (also ``session_id``), whose
    room is then at ``sessions/<id>/api/offer`` beside the address.

    Args:
        http: The client to use.
        start_url: Where to post, such as ``https://api.pipecat.daily.co/v1/public/<agent>/start``.
        token: Goes along as a bearer header, if there is one.
        kind: What kind of room to ask for, Daily or SmallWebRTC; None leaves it to the other side.
        body: Reaches the bot as its runner arguments' ``body``.
        room_properties: How the Daily room is to be, as Daily's REST API has it; only where one is asked for.
        timeout_s: How long it may take.
        guard: Decides whether public ICE servers are asked for; None: they are. Those of the answer are not held to
            it: the session is there by then, and :func:`check_ice_servers` is for whoever can end it.

    Raises:
        SessionNotStarted: Nothing answers there, or no session was started.
        RoomError: The token or the address can't be sent as it is.
    """
    answered = await _post(http, start_url, token, kind, body, guard, room_properties, timeout_s)
    try:
        answer: Any = answered.json()
        room_url = _first(answer, "dailyRoom", "daily_room", "room_url")
        if room_url is None:
            return _smallwebrtc_session(answer, _parent(start_url))
        room_token = _first(answer, "dailyToken", "daily_token")
        if room_token is None and _first(answer, "dailyRoom", "daily_room") is None:
            # Beside a dailyRoom a bare token is that of Pipecat Cloud's websocket.
            room_token = _first(answer, "token")
        session_id = _first(answer, "sessionId", "session_id")
        return StartedDailySession(room_url, None if room_token is None else SecretStr(room_token), session_id)
    except _NO_SESSION as error:
        raise _not_started(start_url, "its answer names neither a dailyRoom nor a sessionId") from error


_NO_SESSION = (ValueError, KeyError, TypeError, AttributeError, ValidationError)
"""What comes of reading an answer that is none."""


def _not_started(url: str, why: str) -> SessionNotStarted:
    return SessionNotStarted(EndedReason.ROOM_UNREACHABLE, f"{public_url(url)} started no session: {why}")


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


async def check_ice_servers(session: StartedSession, url: str, guard: RoomGuard | None) -> None:
    """Refuse a session whose ICE servers must not be asked: they are where the agent's side says, whoever that is.

    Args:
        session: The session.
        url: Where it was started.
        guard: What they are held to; None allows all.

    Raises:
        SessionNotStarted: One of them is not allowed; says which, and the setting that would allow it.
    """
    if guard is None:
        return
    for server in session.ice_servers:
        for address in [server.urls] if isinstance(server.urls, str) else server.urls:
            try:
                await guard.check_ice_server(address)
            except (RoomRefused, UsageError) as error:
                raise SessionNotStarted(
                    EndedReason.ROOM_UNREACHABLE,
                    f"{public_url(url)} started a session whose ICE server must not be asked: {error}",
                ) from None


async def _allows_default_servers(guard: RoomGuard | None) -> bool:
    """Return whether the ICE servers that a Pipecat runner gives out by default may be asked."""
    try:
        if guard is not None:
            await guard.check_ice_server(DEFAULT_ICE_SERVER)
    except RoomRefused:
        return False
    return True


def _first(answer: Any, *keys: str) -> str | None:
    """Return the text that stands under the first of some keys that is there."""
    for key in keys:
        value = answer.get(key)
        if value is not None:
            if not isinstance(value, str):
                raise TypeError(f"{key} is no text")
            return value
    return None


_LOST = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
"""The connection failed or broke: the next may not."""


async def _post(
    http: httpx.AsyncClient,
    url: str,
    token: SecretStr | None,
    kind: RoomKind | None,
    body: dict[str, Any] | None,
    guard: RoomGuard | None,
    room_properties: Mapping[str, Any] | None = None,
    timeout_s: float = START_TIMEOUT_S,
) -> Answer:
    shown = public_url(url)
    request = {**_ASKING_FOR[kind], "body": body or {}}
    if kind is RoomKind.SMALLWEBRTC:
        # On this machine a public STUN server is of no use, and asking it costs seconds where there is no network.
        request["enableDefaultIceServers"] = not leads_here(url) and await _allows_default_servers(guard)
    if room_properties and kind is RoomKind.DAILY:
        request["dailyRoomProperties"] = dict(room_properties)
    try:
        answered = await post_json(http, url, token, request, timeout_s=timeout_s)
    except httpx.ReadTimeout as error:
        raise SessionNotStarted(
            EndedReason.ROOM_UNREACHABLE,
            f"no session could be started: no answer from {shown} in {timeout_s:.3g} s (ReadTimeout); if the agent "
            "starts from cold, keep an instance warm or let its start take longer",
        ) from error
    except httpx.HTTPError as error:
        raise SessionNotStarted(
            EndedReason.ROOM_UNREACHABLE,
            f"no session could be started: no answer from {shown} ({type(error).__name__}); is the agent running?",
            transient=isinstance(error, _LOST),
        ) from error
    if not 200 <= answered.status < 300:
        raise _refusal(shown, answered, token, request)
    return answered


_TRANSIENT = frozenset({429, 502, 503, 504})

_CLOUD_CODES = {"PCC-1002": 401, "PCC-1004": 402, "PCC-AGENT-AT-CAPACITY": 429}
"""Pipecat Cloud's own error codes, and the HTTP status that means the same.

https://docs.pipecat.ai/pipecat-cloud/fundamentals/error-codes
"""

_WHAT_TO_DO = {
    402: "; it wants payment first: see to the account's billing and credits",
    404: "; there is no such agent: check its name and the address",
    413: "; the session's data is too large (Pipecat Cloud takes 1 MB)",
    429: "; as many sessions as may run at a time are running: make fewer calls at once, or raise the agent's limit",
}


def _refusal(shown: str, answered: Answer, token: SecretStr | None, request: dict[str, Any]) -> SessionNotStarted:
    status = answered.status
    meaning = _CLOUD_CODES.get(_said(answered, "code") or "", status)
    if meaning in (401, 403):
        return SessionNotStarted(
            EndedReason.TOKEN_REFUSED, f"{shown} refused the token (HTTP {status}): pass a valid one"
        )
    advice = _WHAT_TO_DO.get(meaning, "")
    if 300 <= status < 400:
        advice = "; redirects are not followed: give the address it leads to"
    said = _detail(answered, token, request)
    return SessionNotStarted(
        EndedReason.AGENT_AT_CAPACITY if meaning == 429 else EndedReason.ROOM_UNREACHABLE,
        f"no session could be started: {shown} answered with HTTP {status}{said}{advice}",
        transient=meaning in _TRANSIENT,
        retry_after_s=_retry_after_s(answered),
    )


def _retry_after_s(answered: Answer) -> float | None:
    """Return what the header ``Retry-After`` says (RFC 9110, 10.2.3): seconds, or a date."""
    text = answered.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())


def _below(base_url: str, path: str) -> str:
    parts = urlsplit(base_url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + path, fragment=""))


def _parent(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/").rpartition("/")[0]))


def _detail(answered: Answer, token: SecretStr | None, request: dict[str, Any]) -> str:
    """Return what the other side says of its refusal: one short line that quotes nothing back that can be secret."""
    detail = next(filter(None, (_said(answered, key) for key in ("detail", "error", "message"))), None)
    if detail is None or masked(detail, [token]) != detail:
        return ""
    detail = masked(detail, [text for text in _texts(request) if len(text) >= SHORTEST_SECRET_CHARACTERS])
    return ": " + " ".join(detail.split())[:MAX_DETAIL_CHARACTERS]


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a JSON value: whatever of a session's data can be secret."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        items = cast(dict[str, Any], value).values() if isinstance(value, dict) else cast(list[Any], value)
        for item in items:
            yield from _texts(item)


def _said(answered: Answer, key: str) -> str | None:
    """Return the text under a key of an answer, where there is one."""
    try:
        text = answered.json().get(key)
    except (ValueError, AttributeError):
        return None
    return text if isinstance(text, str) else None
