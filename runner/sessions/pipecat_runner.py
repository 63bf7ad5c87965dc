"""A Pipecat runner's ``/start``: the session it starts, and the room that came with it."""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import httpx
from pydantic import SecretStr, ValidationError

from bots.timeline import EndedReason
from runner.errors import RoomError
from runner.rooms.urls import public_url
from runner.settings import IceServer

START_TIMEOUT_S = 30.0
"""A bot may have to load its models first."""


@dataclass(frozen=True)
class StartedSession:
    """An agent instance that was started, and how to reach it."""

    session_id: str
    offer_url: str
    ice_servers: list[IceServer] = field(default_factory=list[IceServer])


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
    shown = public_url(url)
    headers = {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}
    request = {"transport": "webrtc", "enableDefaultIceServers": False, "body": body or {}}
    try:
        response = await http.post(url, json=request, headers=headers, timeout=START_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise RoomError(
            EndedReason.ROOM_UNREACHABLE,
            f"no session could be started: nothing answers at {shown} ({type(error).__name__}); is the agent running?",
        ) from error
    if response.status_code in (401, 403):
        raise RoomError(
            EndedReason.TOKEN_REFUSED, f"{shown} refused the token (HTTP {response.status_code}): pass a valid one"
        )
    if not response.is_success:
        raise RoomError(
            EndedReason.ROOM_UNREACHABLE,
            f"no session could be started: {shown} answered with HTTP {response.status_code}" + _detail(response),
        )
    try:
        answer: Any = response.json()
        session_id = answer["sessionId"]
        if not isinstance(session_id, str) or not session_id:
            raise ValueError("no session id")
        config = answer.get("iceConfig") or {}
        ice_servers = [IceServer.model_validate(server) for server in config.get("iceServers", [])]
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise RoomError(
            EndedReason.ROOM_UNREACHABLE,
            f"{shown} started no session: its answer names none; is it a Pipecat runner?",
        ) from error
    return StartedSession(
        session_id=session_id,
        offer_url=_below(base_url, f"/sessions/{quote(session_id, safe='')}/api/offer"),
        ice_servers=ice_servers,
    )


def _below(base_url: str, path: str) -> str:
    parts = urlsplit(base_url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + path, fragment=""))


def _detail(response: httpx.Response) -> str:
    try:
        detail = response.json().get("detail")
    except (ValueError, AttributeError):
        return ""
    return f": {detail}" if isinstance(detail, str) else ""
