"""Pipecat Cloud: where its agents are started, how their sessions are stopped, and what it says of how they ended.

https://docs.pipecat.ai/api-reference/pipecat-cloud/rest-reference/endpoint/start and …/stop. How a session ended is
read as Pipecat Cloud's own command line reads it (pipecatcloud 1.4): a ``completionStatus`` of 500, or ``endState``.
"""

import re
from urllib.parse import quote

import anyio
import httpx
from loguru import logger
from pydantic import SecretStr

from runner.errors import RoomError
from runner.http import Answer, ask

CLOUD_URL = "https://api.pipecat.daily.co"

AGENT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"
"""An agent's name is a segment of an address, and stays one."""

END_STATE_TRIES = 3
END_STATE_AGAIN_AFTER_S = 1.0
END_STATE_TIMEOUT_S = 3.0

_ACTIVE = "active"
_FAILED_STATUS = "500"
_LONGEST_STATE = 60
_SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_PUBLIC_KEY = "pk_"


def start_url(cloud_url: str, agent_name: str) -> str:
    """Return where sessions of an agent are started."""
    return f"{cloud_url.rstrip('/')}/v1/public/{quote(agent_name, safe='')}/start"


def _session_url(cloud_url: str, agent_name: str, session_id: str) -> str:
    return f"{cloud_url.rstrip('/')}/v1/agents/{quote(agent_name, safe='')}/sessions/{session_id}"


async def session_end_state(
    http: httpx.AsyncClient, cloud_url: str, agent_name: str, session_id: str, key: SecretStr
) -> str | None:
    """Return how a session ended, such as ``completed`` or ``agent_error``; None where nobody says.

    Asked again for a few seconds while the session is said to be active: its end is known there a moment later. With
    a public key nothing is asked. Never raises for what the other side does.
    """
    if key.get_secret_value().startswith(_PUBLIC_KEY) or not _SESSION_ID.fullmatch(session_id):
        return None
    url = _session_url(cloud_url, agent_name, session_id)
    unknown = f"how session {session_id} of {agent_name} ended is not known"
    state: str | None = None
    for attempt in range(END_STATE_TRIES):
        if attempt:
            await anyio.sleep(END_STATE_AGAIN_AFTER_S)
        try:
            answered = await ask(http, "GET", url, key, timeout_s=END_STATE_TIMEOUT_S)
        except (httpx.HTTPError, RoomError) as error:
            logger.debug("{} ({})", unknown, type(error).__name__)
            return None
        if answered.status != 200:
            logger.debug("{} (HTTP {})", unknown, answered.status)
            return None
        state = _end_state(answered)
        if state != _ACTIVE:
            break
    return state


def _end_state(answered: Answer) -> str | None:
    try:
        session = answered.json()
    except ValueError:
        return None
    if not isinstance(session, dict):
        return None
    if str(session.get("completionStatus")) == _FAILED_STATUS:
        return "agent_error"
    state = session.get("endState")
    if isinstance(state, str) and state:
        return state[:_LONGEST_STATE]
    return "completed" if session.get("endedAt") else _ACTIVE


async def stop_session(
    http: httpx.AsyncClient, cloud_url: str, agent_name: str, session_id: str, key: SecretStr, *, timeout_s: float
) -> None:
    """Stop a session, at once. One that is over by then is fine; one that can't be stopped is logged.

    Pipecat Cloud takes only a private key (or a personal access token) for this. With a public key, which starts
    sessions, nothing is asked: the session then ends by itself, as every agent does that minds its caller's leaving,
    or at the agent's maximum session duration.
    """
    if key.get_secret_value().startswith(_PUBLIC_KEY):
        logger.debug("the session of {} is left to end by itself: stopping it takes a private key", agent_name)
        return
    if not _SESSION_ID.fullmatch(session_id):
        logger.warning("the session of {} can't be stopped: its id is none", agent_name)
        return
    try:
        answered = await ask(
            http, "DELETE", _session_url(cloud_url, agent_name, session_id), key, timeout_s=timeout_s
        )
    except httpx.HTTPError as error:
        problem = f" ({type(error).__name__})"
    except RoomError as error:
        problem = f": {error}"
    else:
        if 200 <= answered.status < 300 or answered.status == 404:
            return
        why = "; that takes a private key" if answered.status in (401, 403) else ""
        problem = f": HTTP {answered.status}{why}"
    logger.warning("session {} of {} could not be stopped{}", session_id, agent_name, problem)
