"""What Daily's library says when something fails, turned into one reason and one line for a person.

The library reports errors as free text, in the notation of its own types. What is written here about the wording
covers what it was seen to say and the names its errors carry; text it has never been seen to say falls back to the
room being unreachable, with the library's words in the message.
"""

import re

from bots.timeline import EndedReason
from runner.errors import RoomError

JOIN_TIMED_OUT = "join-timed-out"
"""What we call it when the library has not answered within our own limit."""

_DETAIL_LENGTH = 160

_NO_NETWORK = re.compile(r"InfoFetchFailed|Failed to fetch room information|GET failed|ConnectionFailed", re.I)
_BAD_URL = re.compile(r"InvalidUrl|Failed to parse url", re.I)
_TOKEN = re.compile(
    r"token|jwt|not.?allowed|unauthori[sz]ed|forbidden|permission|do not have access|authz|\b40[13]\b", re.I
)
_EXPIRED = re.compile(r"exp-room|expired|nbf-room|not.?before|room.?deleted|ended|gone\b", re.I)
_NO_ROOM = re.compile(r"RoomInfoError|no-room|not.?found|does not exist|NoWorkerForRoom|\b404\b", re.I)
_FULL = re.compile(r"meeting-full|full\b", re.I)
_MEDIA = re.compile(r"\bice\b|TransportCreationFailed|SendTransport|RecvTransport|Mediasoup|dtls", re.I)

_NOTATION = re.compile(r"[A-Za-z][\w:]*(\(|\s?\{)")
_TEXT = re.compile(r'(?:(?P<name>\w+)\()?"(?P<text>(?:[^"\\]|\\.)*)"')
_NAME = re.compile(r"[A-Z]\w+")


def join_failed(detail: str, room: str) -> RoomError:
    """Return the error for a join that failed.

    Args:
        detail: The library's words, without secrets.
        room: The room's address, without credentials or query.
    """
    said = _quote(detail)
    if detail == JOIN_TIMED_OUT:
        return RoomError(
            EndedReason.ROOM_UNREACHABLE,
            f"Daily did not answer the join of {room} in time. "
            "Check that this machine reaches *.daily.co over HTTPS.",
        )
    if _BAD_URL.search(detail):
        return RoomError(
            EndedReason.ROOM_UNREACHABLE,
            f"{room} is not a Daily room's address. It looks like https://<domain>.daily.co/<room>.",
        )
    if _NO_NETWORK.search(detail):
        return RoomError(
            EndedReason.ROOM_UNREACHABLE,
            f"Daily could not be reached to join {room}{said}. "
            "Check that this machine reaches *.daily.co over HTTPS, and the room's domain.",
        )
    if _TOKEN.search(detail):
        return RoomError(
            EndedReason.TOKEN_REFUSED,
            f"Daily refused the token for {room}{said}. Make a new meeting token for this very room, not expired.",
        )
    if _MEDIA.search(detail):
        return RoomError(
            EndedReason.ICE_FAILED,
            f"No media connection to {room}{said}. Check that UDP, or TURN over TCP 443, is open to Daily.",
        )
    if _EXPIRED.search(detail):
        return RoomError(
            EndedReason.ROOM_UNREACHABLE, f"The room {room} has expired or was closed{said}. Start a new session."
        )
    if _NO_ROOM.search(detail):
        return RoomError(
            EndedReason.ROOM_UNREACHABLE,
            f"The room {room} does not exist{said}. Check the address; a session's room is deleted when it ends.",
        )
    if _FULL.search(detail):
        return RoomError(
            EndedReason.ROOM_UNREACHABLE, f"The room {room} is full{said}. Raise its limit of participants."
        )
    return RoomError(EndedReason.ROOM_UNREACHABLE, f"The room {room} could not be joined{said}.")


def room_ended(cause: str | None, room: str) -> RoomError:
    """Return the error for a call that Daily ended under us.

    Args:
        cause: The library's last words before, without secrets; None if it said nothing.
        room: The room's address, without credentials or query.
    """
    said = _quote(cause) if cause else ""
    if cause and _TOKEN.search(cause):
        return RoomError(
            EndedReason.TOKEN_REFUSED,
            f"Daily put the caller out of {room}{said}. Make the token outlive the call.",
        )
    if cause and _MEDIA.search(cause):
        return RoomError(
            EndedReason.ICE_FAILED, f"The media connection to {room} was lost{said}. Check the network to Daily."
        )
    return RoomError(
        EndedReason.ROOM_UNREACHABLE,
        f"Daily ended the call in {room} for the caller{said}: it was removed, or the room expired or was deleted. "
        "Check the room's expiry, and whether the agent deletes it.",
    )


def connection_lost(connection: str, for_s: float, room: str) -> RoomError:
    """Return the error for a connection that was interrupted and did not come back.

    Args:
        connection: Daily's name of it: ``signalling``, ``sendTransport`` or ``recvTransport``.
        for_s: How long it has been away, in seconds.
        room: The room's address, without credentials or query.
    """
    reason = EndedReason.ROOM_UNREACHABLE if connection == "signalling" else EndedReason.ICE_FAILED
    return RoomError(
        reason,
        f"The connection to {room} ({connection}) has been down for {for_s:.0f} s. Check the network to Daily.",
    )


def agent_vanished(silent_s: float) -> RoomError:
    """Return the error for an agent of which nothing arrives any more, though it did not leave.

    Args:
        silent_s: For how long, in seconds.
    """
    return RoomError(
        EndedReason.AGENT_VANISHED,
        f"nothing has arrived from the agent for {silent_s:.1f} s: "
        "its process died, or the network in between is cut",
    )


def _quote(detail: str) -> str:
    words = " ".join(_innermost(detail).split())
    if len(words) > _DETAIL_LENGTH:
        words = words[: _DETAIL_LENGTH - 1] + "…"
    return f" ({words})" if words else ""


def _innermost(detail: str) -> str:
    """Return what an error in the library's notation, one type around the other, says at its core."""
    if not _NOTATION.match(detail):
        return detail
    texts = [match for match in _TEXT.finditer(detail) if re.search("[^\\W_]", match["text"])]
    if texts:
        name, text = texts[-1]["name"], texts[-1]["text"]
        return f"{name}: {text}" if name and " " not in text else text
    names = _NAME.findall(detail)
    return names[-1] if names else detail
