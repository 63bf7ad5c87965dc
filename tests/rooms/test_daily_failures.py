"""Why a join failed, by what Daily's library says."""

import pytest

from bots.timeline import EndedReason
from runner.rooms.daily import failures
from tests.rooms.in_daily import URL


@pytest.mark.parametrize(
    ("detail", "reason"),
    [
        (
            "Connection(Api(RoomLookup(RoomInfoFetchFailed(Get(hyper_util::client::legacy::Error(Connect, Custom { "
            'kind: Uncategorized, error: "failed to lookup address information: Name or service not known" }))))))',
            EndedReason.ROOM_UNREACHABLE,
        ),
        ('Failed to parse url: InvalidUrl("not a url", RelativeUrlWithoutBase)', EndedReason.ROOM_UNREACHABLE),
        ('Connection(Api(RoomLookup(RoomInfoError("not-found"))))', EndedReason.ROOM_UNREACHABLE),
        ("exp-room", EndedReason.ROOM_UNREACHABLE),
        ("meeting-full", EndedReason.ROOM_UNREACHABLE),
        ("something never heard", EndedReason.ROOM_UNREACHABLE),
        ("exp-token", EndedReason.TOKEN_REFUSED),
        ("Permissions(InvalidMeetingToken)", EndedReason.TOKEN_REFUSED),
        ("You do not have access to this room", EndedReason.TOKEN_REFUSED),
        ("TransportCreationFailed", EndedReason.ICE_FAILED),
        (failures.JOIN_TIMED_OUT, EndedReason.ROOM_UNREACHABLE),
    ],
)
def test_join_failures_are_mapped(detail: str, reason: EndedReason):
    error = failures.join_failed(detail, URL)
    assert error.reason is reason
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("detail", "quoted"),
    [
        (
            "Connection(Api(RoomLookup(RoomInfoFetchFailed(Get(hyper_util::client::legacy::Error(Connect, Custom { "
            'kind: Uncategorized, error: "failed to lookup address information: Name or service not known" }))))))',
            "failed to lookup address information: Name or service not known",
        ),
        ('Connection(Api(RoomLookup(RoomInfoError("not-found"))))', "RoomInfoError: not-found"),
        ('Connection(Permissions(InvalidMeetingToken("***")))', "InvalidMeetingToken"),
        ("Custom { kind: TimedOut }", "TimedOut"),
        ('The room "x" (the first) is full', 'The room "x" (the first) is full'),
        ("exp-room", "exp-room"),
        ("some\n  words " + 300 * "x", "some words " + 148 * "x" + "…"),
        ("()", "()"),
    ],
)
def test_of_the_librarys_words_the_innermost_are_quoted(detail: str, quoted: str):
    assert f" ({quoted})" in str(failures.join_failed(detail, URL))
