"""What kind of room an address is."""

import json
from enum import StrEnum
from typing import Any
from urllib.parse import SplitResult, urlsplit

from runner.errors import UsageError

OFFER_PATH = "/api/offer"
DAILY_HOST = "daily.co"

SMALLWEBRTC_MESSAGE_BYTES = 256 * 1024
"""The largest message a Pipecat bot offers to take over its data channel (aiortc)."""


class RoomKind(StrEnum):
    """The kinds of room there are."""

    DAILY = "daily"
    SMALLWEBRTC = "smallwebrtc"
    PIPECAT_RUNNER = "pipecat-runner"
    """No room yet: a Pipecat runner that starts one."""


def room_kind(url: str, daily_domains: list[str]) -> RoomKind:
    """Return what kind of room an address is.

    Raises:
        UsageError: It is no address of a room.
    """
    parts = _parse(url, "room URL", "https://acme.daily.co/room or http://localhost:7860/api/offer")
    host = parts.hostname or ""
    path = parts.path.rstrip("/")
    if host.endswith(f".{DAILY_HOST}") or host in {domain.lower() for domain in daily_domains}:
        if not path:
            raise UsageError(f"room URL: names no room; a Daily room is https://{host}/<room>")
        return RoomKind.DAILY
    if path.endswith(OFFER_PATH):
        return RoomKind.SMALLWEBRTC
    if not path:
        return RoomKind.PIPECAT_RUNNER
    raise UsageError(
        f"room URL: {parts.path!r} is not a room; a SmallWebRTC room ends in /api/offer, a Pipecat runner is its "
        "base address alone, and custom Daily domains are listed in the setting room.daily_domains"
    )


def check_start_url(url: str) -> None:
    """Refuse what is no address that a session can be started at.

    Raises:
        UsageError: It is none.
    """
    parts = _parse(url, "start URL", "https://api.pipecat.daily.co/v1/public/<agent>/start")
    if not parts.path.strip("/"):
        raise UsageError(
            "start URL: has no path; it is the whole address to post to, such as http://localhost:7860/start"
        )


def _parse(url: str, label: str, example: str) -> SplitResult:
    if not url.isprintable() or " " in url:
        raise UsageError(f"{label}: holds white space, or something that can't be printed")
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        # What urlsplit says can quote a password.
        raise UsageError(f"{label}: its host or port is not written as a URL has it") from None
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(f"{label}: must begin with http:// or https:// and name a host, for example {example}")
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"{label}: holds a user name or password; pass the token with --token instead")
    return parts


def check_data_message(kind: RoomKind, message: Any) -> None:
    """Refuse a data message that a room of this kind can't deliver.

    Raises:
        UsageError: The message can't be delivered; says which rule it breaks.
    """
    try:
        size_bytes = len(json.dumps(message, ensure_ascii=False, allow_nan=False).encode())
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"data message: is not valid JSON ({error})") from error
    if kind is RoomKind.DAILY:
        if message is None:
            raise UsageError(
                "data message: Daily's library can't send null by itself; send any other JSON, "
                'for example {"value": null}'
            )
        return
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise UsageError(
            'data message: over SmallWebRTC a Pipecat bot receives only JSON objects with a "type" (a text); '
            'send for example {"type": "hello", …}'
        )
    if message["type"] == "signalling":
        raise UsageError('data message: the type "signalling" belongs to SmallWebRTC itself; choose another')
    if size_bytes > SMALLWEBRTC_MESSAGE_BYTES:
        raise UsageError(
            f"data message: is {size_bytes} bytes as JSON; over SmallWebRTC a Pipecat bot takes at most "
            f"{SMALLWEBRTC_MESSAGE_BYTES} in one message"
        )
