"""Pipecat Cloud: where its agents are started, and how their sessions are stopped.

https://docs.pipecat.ai/api-reference/pipecat-cloud/rest-reference/endpoint/start and …/stop
"""

import re
from urllib.parse import quote

import httpx
from loguru import logger
from pydantic import SecretStr

from runner.errors import RoomError
from runner.rooms.posting import ask

CLOUD_URL = "https://api.pipecat.daily.co"

AGENT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"
"""An agent's name is a segment of an address, and stays one."""

_SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_PUBLIC_KEY = "pk_"


def start_url(cloud_url: str, agent_name: str) -> str:
    """Return where sessions of an agent are started."""
    return f"{cloud_url.rstrip('/')}/v1/public/{quote(agent_name, safe='')}/start"


async def stop_session(
    http: httpx.AsyncClient,
    cloud_url: str,
    agent_name: str,
    session_id: str,
    key: SecretStr,
    *,
    timeout_s: float,
) -> bool:
    """Stop a session, at once. One that is over by then is fine.

    Pipecat Cloud takes only a private key (or a personal access token) for this. With a public key, which starts
    sessions, nothing is asked: the session then ends by itself, as every agent does that minds its caller's leaving,
    or at the agent's maximum session duration.

    Never raises for what the other side does: a session that can't be stopped is logged.

    Args:
        http: The client to use.
        cloud_url: The API's base address.
        agent_name: The agent.
        session_id: What its start answered.
        key: A private key.
        timeout_s: How long it may take.

    Returns:
        Whether the session is known to be over.
    """
    if key.get_secret_value().startswith(_PUBLIC_KEY):
        logger.debug("the session of {} is left to end by itself: stopping it takes a private key", agent_name)
        return False
    if not _SESSION_ID.fullmatch(session_id):
        logger.warning("the session of {} can't be stopped: its id is none", agent_name)
        return False
    url = f"{cloud_url.rstrip('/')}/v1/agents/{quote(agent_name, safe='')}/sessions/{session_id}"
    try:
        answered = await ask(http, "DELETE", url, key, timeout_s=timeout_s)
    except httpx.HTTPError as error:
        logger.warning("session {} of {} could not be stopped ({})", session_id, agent_name, type(error).__name__)
        return False
    except RoomError as error:
        logger.warning("session {} of {} could not be stopped: {}", session_id, agent_name, error)
        return False
    if 200 <= answered.status < 300 or answered.status == 404:
        return True
    why = "; that takes a private key" if answered.status in (401, 403) else ""
    logger.warning("session {} of {} could not be stopped: HTTP {}{}", session_id, agent_name, answered.status, why)
    return False
