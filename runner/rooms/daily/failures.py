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
_TOKEN = re.compile(r"token|jwt|not.?allowed|unauthori[sz]ed|forbidden|permission|do not have access|authz", re.I)
_MEDIA = re.compile(r"\bice\b|TransportCreationFailed|SendTransport|RecvTransport|Mediasoup|dtls", re.I)

_NOTATION = re.compile(r"[A-Za-z][\w:]*(\(|\s?\{)")
_TEXT = re.compile(r'(?:(?P<name>\w+)\()?"(?P<text>(?:[^"\\]|\\.)*)"')
_NAME = re.compile(r"[A-Z]\w+")

_NO_SUCH_ROOM = "The room {room} does not exist{said}. Check the address; a session's room is deleted when it ends."
_REFUSED = "Daily refused the token for {room}{said}. Make a new meeting token for this very room, not expired."
_NO_MEDIA = "No media connection to {room}{said}. Check that UDP, or TURN over TCP 443, is open to Daily."

_STATUSES = {
    401: _REFUSED,
    403: _REFUSED,
    404: _NO_SUCH_ROOM,
    429: "Daily takes no more joins from here for now: {room} could not be joined{said}. "
    "Call again later, or make fewer calls at once.",
}
"""What the status that the lookup of a room was answered with stands for."""

_OTHER_STATUS = "Daily could not look up {room}{said}. Call again later; Daily's state is on https://status.daily.co."

_JOIN_ERRORS = {
    JOIN_TIMED_OUT: "Daily did not answer the join of {room} in time. "
    "Check that this machine reaches *.daily.co over HTTPS.",
    "InvalidUrl|Failed to parse url": "{room} is not a Daily room's address. "
    "It looks like https://<domain>.daily.co/<room>.",
    "exp-token|nbf-token": _REFUSED,
    "NotYetAvailable|nbf-room|not.?before": "The room {room} is not open yet{said}. "
    "Call it later, or make it with an earlier start (nbf).",
    r"NoLongerAvailable|exp-room|room.?deleted|room[^a-z]+(has )?expired|ended|gone\b": (
        "The room {room} has expired or was closed{said}. Start a new session."
    ),
    r"meeting-full|full\b": "The room {room} is full{said}. Raise its limit of participants.",
    "no-room|not.?found|does not exist|NoWorkerForRoom": _NO_SUCH_ROOM,
    _TOKEN.pattern: _REFUSED,
    RETRIES_USED_UP: "Daily's server did not let the caller into {room}, though it asked several times{said}. "
    "Call again later; if that does not help, make a new room and token.",
    _MEDIA.pattern: _NO_MEDIA,
    "InfoFetchFailed|Failed to fetch room information|GET failed|ConnectionFailed": (
        "Daily could not be reached to join {room}{said}. "
        "Check that this machine reaches *.daily.co over HTTPS, and the room's domain."
    ),
}
"""What the library says, and what it is taken for; the first that fits counts, so what is special comes first."""


def join_failed(detail: str, room: str) -> RoomError:
    """Return the error for a join that failed. Both texts come without secrets, the address without its query."""
    if status := _HTTP_STATUS.search(detail):
        sentence = _STATUSES.get(int(status[1]), _OTHER_STATUS)
    else:
        fitting = (said for pattern, said in _JOIN_ERRORS.items() if re.search(pattern, detail, re.I))
        sentence = next(fitting, "The room {room} could not be joined{said}.")
    reason = {_REFUSED: EndedReason.TOKEN_REFUSED, _NO_MEDIA: EndedReason.ICE_FAILED}.get(
        sentence, EndedReason.ROOM_UNREACHABLE
    )
    return RoomError(reason, sentence.format(room=room, said=_quote(detail)))


def room_ended(cause: str | None, room: str) -> RoomError:
    """Return the error for a call that Daily ended under us.

    Args:
        cause: The library's last words before, without secrets; None if it said nothing.
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
    """Return the error for a connection, by Daily's name of it, that has been away for so many seconds."""
    reason = EndedReason.ROOM_UNREACHABLE if connection == "signalling" else EndedReason.ICE_FAILED
    return RoomError(
        reason,
        f"The connection to {room} ({connection}) has been down for {for_s:.0f} s. Check the network to Daily.",
    )


def message_not_sent(error: str, for_s: float, room: str) -> RoomError:
    """Return the error for a message that could not be sent for so many seconds; ``error`` is without secrets."""
    return RoomError(
        EndedReason.ROOM_UNREACHABLE,
        f"The connection to {room} is lost: a message was not sent, or not confirmed, for {for_s:.0f} s"
        f"{_quote(error)}. "
        "Check the network to Daily.",
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
