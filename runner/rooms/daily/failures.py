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

RETRIES_USED_UP = "No more retries"
"""What the library says of a server that refused it again and again; the server's reason is in its log alone."""

_DETAIL_LENGTH = 160

_HTTP_STATUS = re.compile(r"HTTP error: (\d{3})")
_NO_SUCH_ROOM_STATUS = 404
_REFUSED_STATUSES = (401, 403)
_TOO_MANY_STATUS = 429

_BAD_URL = re.compile(r"InvalidUrl|Failed to parse url", re.I)
_EXPIRED_TOKEN = re.compile(r"exp-token|nbf-token", re.I)
_EXPIRED = re.compile(r"NoLongerAvailable|exp-room|room.?deleted|room[^a-z]+(has )?expired|ended|gone\b", re.I)
_NOT_YET = re.compile(r"NotYetAvailable|nbf-room|not.?before", re.I)
_FULL = re.compile(r"meeting-full|full\b", re.I)
_NO_ROOM = re.compile(r"no-room|not.?found|does not exist|NoWorkerForRoom", re.I)
_TOKEN = re.compile(r"token|jwt|not.?allowed|unauthori[sz]ed|forbidden|permission|do not have access|authz", re.I)
_MEDIA = re.compile(r"\bice\b|TransportCreationFailed|SendTransport|RecvTransport|Mediasoup|dtls", re.I)
_NO_NETWORK = re.compile(r"InfoFetchFailed|Failed to fetch room information|GET failed|ConnectionFailed", re.I)

_NOTATION = re.compile(r"[A-Za-z][\w:]*(\(|\s?\{)")
_TEXT = re.compile(r'(?:(?P<name>\w+)\()?"(?P<text>(?:[^"\\]|\\.)*)"')
_NAME = re.compile(r"[A-Z]\w+")

_NO_SUCH_ROOM = (
    EndedReason.ROOM_UNREACHABLE,
    "The room {room} does not exist{said}. Check the address; a session's room is deleted when it ends.",
)
_REFUSED = (
    EndedReason.TOKEN_REFUSED,
    "Daily refused the token for {room}{said}. Make a new meeting token for this very room, not expired.",
)

_JOIN_ERRORS: tuple[tuple[re.Pattern[str], tuple[EndedReason, str]], ...] = (
    (
        re.compile(JOIN_TIMED_OUT),
        (
            EndedReason.ROOM_UNREACHABLE,
            "Daily did not answer the join of {room} in time. Check that this machine reaches *.daily.co over HTTPS.",
        ),
    ),
    (
        _BAD_URL,
        (
            EndedReason.ROOM_UNREACHABLE,
            "{room} is not a Daily room's address. It looks like https://<domain>.daily.co/<room>.",
        ),
    ),
    (_EXPIRED_TOKEN, _REFUSED),
    (
        _NOT_YET,
        (
            EndedReason.ROOM_UNREACHABLE,
            "The room {room} is not open yet{said}. Call it later, or make it with an earlier start (nbf).",
        ),
    ),
    (
        _EXPIRED,
        (
            EndedReason.ROOM_UNREACHABLE,
            "The room {room} has expired or was closed{said}. Start a new session.",
        ),
    ),
    (
        _FULL,
        (EndedReason.ROOM_UNREACHABLE, "The room {room} is full{said}. Raise its limit of participants."),
    ),
    (_NO_ROOM, _NO_SUCH_ROOM),
    (_TOKEN, _REFUSED),
    (
        re.compile(RETRIES_USED_UP),
        (
            EndedReason.ROOM_UNREACHABLE,
            "Daily's server did not let the caller into {room}, though it asked several times{said}. "
            "Call again later; if that does not help, make a new room and token.",
        ),
    ),
    (
        _MEDIA,
        (
            EndedReason.ICE_FAILED,
            "No media connection to {room}{said}. Check that UDP, or TURN over TCP 443, is open to Daily.",
        ),
    ),
    (
        _NO_NETWORK,
        (
            EndedReason.ROOM_UNREACHABLE,
            "Daily could not be reached to join {room}{said}. "
            "Check that this machine reaches *.daily.co over HTTPS, and the room's domain.",
        ),
    ),
)
"""What the library says, and what it is taken for; the first that fits counts, so what is special comes first."""


def join_failed(detail: str, room: str) -> RoomError:
    """Return the error for a join that failed.

    Args:
        detail: The library's words, without secrets.
        room: The room's address, without credentials or query.
    """
    reason, sentence = _lookup_refused(detail) or next(
        (meaning for pattern, meaning in _JOIN_ERRORS if pattern.search(detail)),
        (EndedReason.ROOM_UNREACHABLE, "The room {room} could not be joined{said}."),
    )
    return RoomError(reason, sentence.format(room=room, said=_quote(detail)))


def _lookup_refused(detail: str) -> tuple[EndedReason, str] | None:
    """Return what the status that the lookup of a room was answered with stands for; None where there is none."""
    found = _HTTP_STATUS.search(detail)
    if found is None:
        return None
    status = int(found[1])
    if status == _NO_SUCH_ROOM_STATUS:
        return _NO_SUCH_ROOM
    if status in _REFUSED_STATUSES:
        return _REFUSED
    if status == _TOO_MANY_STATUS:
        return (
            EndedReason.ROOM_UNREACHABLE,
            "Daily takes no more joins from here for now: {room} could not be joined{said}. "
            "Call again later, or make fewer calls at once.",
        )
    return (
        EndedReason.ROOM_UNREACHABLE,
        "Daily could not look up {room}{said}. Call again later; Daily's state is on https://status.daily.co.",
    )


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


def message_not_sent(error: str, for_s: float, room: str) -> RoomError:
    """Return the error for a message that could not be sent, however often it was tried.

    Args:
        error: The library's words, without secrets.
        for_s: For how long it was tried, in seconds.
        room: The room's address, without credentials or query.
    """
    return RoomError(
        EndedReason.ROOM_UNREACHABLE,
        f"The connection to {room} is lost: a message was not sent, or not confirmed, for {for_s:.0f} s"
        f"{_quote(error)}. "
        "Check the network to Daily.",
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
