"""Daily's REST API: rooms that were made for a session are deleted after it.

https://docs.daily.co/reference/rest-api/rooms
"""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from loguru import logger
from pydantic import SecretStr

from runner.errors import RoomError
from runner.http import Answer, ask

DAILY_URL = "https://api.daily.co/v1"

SLACK_S = 5.0
"""Daily tells the time in whole seconds, and a little later than it is asked."""


async def delete_room(
    http: httpx.AsyncClient, room_url: str, key: SecretStr, *, made_within_s: float, timeout_s: float
) -> bool:
    """Delete a room, if it was made lately: a lasting one that the agent's side lent out stays.

    Whoever is in the room has to leave it. Never raises for what the other side does: a room that can't be deleted is
    logged, and goes when it expires.

    Args:
        http: The client to use.
        room_url: The room.
        key: The API key of the Daily domain it is in.
        made_within_s: How old it is at most, in seconds.
        timeout_s: How long each of the two requests may take.

    Returns:
        Whether the room is known to be gone.
    """
    name = urlsplit(room_url).path.strip("/")
    url = f"{DAILY_URL}/rooms/{quote(name, safe='')}"
    try:
        if not name.strip("."):
            return False
        answered = await ask(http, "GET", url, key, timeout_s=timeout_s)
        if answered.status == 200:
            if _age_s(answered) > made_within_s + SLACK_S:
                logger.debug("the room {} was there before its session, and stays", name)
                return False
            answered = await ask(http, "DELETE", url, key, timeout_s=timeout_s)
    except (ValueError, TypeError, KeyError, OverflowError):
        logger.warning("the room {} could not be deleted: Daily does not say when it was made", name)
        return False
    except httpx.HTTPError as error:
        logger.warning("the room {} could not be deleted ({})", name, type(error).__name__)
        return False
    except RoomError as error:
        logger.warning("the room {} could not be deleted: {}", name, error)
        return False
    if answered.status in (200, 204, 404):
        return True
    logger.warning("the room {} could not be deleted: HTTP {}", name, answered.status)
    return False


def _age_s(answered: Answer) -> float:
    """Return how old a room is: by Daily's own clock, where the answer tells its time."""
    room: Any = answered.json()
    made = datetime.fromisoformat(room["created_at"])
    date = answered.headers.get("Date")
    now = datetime.now(UTC) if date is None else parsedate_to_datetime(date)
    return (now - made).total_seconds()
