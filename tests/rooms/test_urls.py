"""Which room an address is, what may be shown of it, and which data messages it takes."""

import json
from typing import Any

import httpx
import pytest
from aiortc.rtcsctptransport import LOCAL_MAX_MESSAGE_SIZE
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import UsageError
from runner.rooms.urls import SMALLWEBRTC_MESSAGE_BYTES, RoomKind, check_data_message, room_kind
from runner.text import public_url

DOMAINS = ["calls.example.com"]
SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("https://acme.daily.co/room", RoomKind.DAILY),
        ("https://acme.daily.co/room/", RoomKind.DAILY),
        ("https://acme.daily.co/room?t=abc", RoomKind.DAILY),
        ("https://ACME.Daily.CO/Room", RoomKind.DAILY),
        ("https://acme.daily.co:443/room", RoomKind.DAILY),
        ("https://acme.staging.daily.co/room", RoomKind.DAILY),
        ("https://acme.daily.co/api/offer", RoomKind.DAILY),
        ("https://calls.example.com/room", RoomKind.DAILY),
        ("https://Calls.Example.com/room", RoomKind.DAILY),
        ("http://localhost:7860/api/offer", RoomKind.SMALLWEBRTC),
        ("http://localhost:7860/api/offer/", RoomKind.SMALLWEBRTC),
        ("http://localhost:7860/api/offer?x=1", RoomKind.SMALLWEBRTC),
        ("https://bots.example.com/sessions/4f2a-77/api/offer", RoomKind.SMALLWEBRTC),
        ("https://bots.example.com/a/b/c/api/offer", RoomKind.SMALLWEBRTC),
        ("http://127.0.0.1/api/offer", RoomKind.SMALLWEBRTC),
        ("http://[::1]:7860/api/offer", RoomKind.SMALLWEBRTC),
        ("http://localhost:7860", RoomKind.PIPECAT_RUNNER),
        ("http://localhost:7860/", RoomKind.PIPECAT_RUNNER),
        ("https://bots.example.com", RoomKind.PIPECAT_RUNNER),
        ("http://[2001:db8::1]", RoomKind.PIPECAT_RUNNER),
        ("https://notdaily.co/api/offer", RoomKind.SMALLWEBRTC),
        ("https://daily.co.example.com/api/offer", RoomKind.SMALLWEBRTC),
        ("https://evil-calls.example.com", RoomKind.PIPECAT_RUNNER),
    ],
)
def test_the_kind_of_room_is_told_by_its_address(url: str, kind: RoomKind) -> None:
    assert room_kind(url, DOMAINS) is kind


def test_custom_daily_domains_are_compared_without_case() -> None:
    assert room_kind("https://calls.example.com/room", ["Calls.Example.COM"]) is RoomKind.DAILY


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "http://"),
        ("localhost:7860", "http://"),
        ("localhost:7860/api/offer", "http://"),
        ("ftp://acme.daily.co/room", "http://"),
        ("ws://localhost/api/offer", "http://"),
        ("https://", "http://"),
        ("https:///room", "http://"),
        ("/api/offer", "http://"),
        ("http://localhost:99999/api/offer", "room URL"),
        ("http://localhost:port/api/offer", "room URL"),
        ("http://[::1/api/offer", "room URL"),
        ("https://acme.daily.co", "names no room"),
        ("https://acme.daily.co/", "names no room"),
        ("https://calls.example.com", "names no room"),
        ("https://example.com/room", "daily_domains"),
        ("https://daily.co/room", "daily_domains"),
        ("https://example.com/xapi/offer", "daily_domains"),
        ("https://example.com/api/offer/more", "daily_domains"),
        (f"https://user:{SECRET}@acme.daily.co/room", "--token"),
        (f"https://{SECRET}@localhost:7860", "--token"),
        (f"https://:{SECRET}@localhost/api/offer", "--token"),
        (f"http://user:{SECRET}/more@localhost/api/offer", "room URL"),
        (f"http://user:{SECRET}@host℀/api/offer", "room URL"),
        (f"https://example.com/room?token={SECRET}", "daily_domains"),
        ("http://exa mple.com/api/offer", "room URL"),
        ("http://localhost:7860/\x00/api/offer", "white space"),
        (" http://localhost:7860/api/offer", "white space"),
        ("http://localhost:7860/api/offer\n", "white space"),
        ("http://localhost:7860/\u00a0/api/offer", "white space"),
    ],
)
def test_what_is_no_room_is_one_line_that_shows_no_secret(url: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        room_kind(url, DOMAINS)
    text = str(caught.value)
    assert text.startswith("room URL: ")
    assert says in text
    assert "\n" not in text
    assert SECRET not in text


@given(st.one_of(st.text(max_size=40), st.builds("http://{}".format, st.text(max_size=30))))
def test_any_text_is_either_a_room_that_can_be_called_or_refused(url: str) -> None:
    try:
        room_kind(url, DOMAINS)
    except UsageError:
        return
    public_url(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://acme.daily.co/room", "https://acme.daily.co/room"),
        (f"https://acme.daily.co/room?t={SECRET}", "https://acme.daily.co/room"),
        (f"https://acme.daily.co/room#{SECRET}", "https://acme.daily.co/room"),
        (f"http://user:{SECRET}@localhost:7860/api/offer", "http://localhost:7860/api/offer"),
        (f"http://{SECRET}@localhost/api/offer", "http://localhost/api/offer"),
        (f"http://user:{SECRET}@[::1]:7860/api/offer?k={SECRET}", "http://[::1]:7860/api/offer"),
        ("http://[2001:db8::1]/api/offer", "http://[2001:db8::1]/api/offer"),
    ],
)
def test_an_address_is_shown_without_credentials_and_query(url: str, shown: str) -> None:
    assert public_url(url) == shown
    assert httpx.URL(public_url(url)).host == httpx.URL(url).host


@pytest.mark.parametrize(
    "message",
    [{"type": "hello"}, {"type": "hello", "more": [1, None, {"x": True}]}, {"label": "rtvi-ai", "type": "x"}],
)
@pytest.mark.parametrize("kind", RoomKind)
def test_an_object_with_a_type_goes_everywhere(kind: RoomKind, message: Any) -> None:
    check_data_message(kind, message)


@pytest.mark.parametrize(
    "message", [True, 0, 1.5, "", "hello", [], [{"type": "x"}], {}, {"Type": "x"}, {"type": 1}, {"type": None}]
)
def test_other_messages_go_to_daily_alone(message: Any) -> None:
    check_data_message(RoomKind.DAILY, message)
    for kind in (RoomKind.SMALLWEBRTC, RoomKind.PIPECAT_RUNNER):
        with pytest.raises(UsageError, match='"type"'):
            check_data_message(kind, message)


@pytest.mark.parametrize("kind", RoomKind)
def test_null_goes_nowhere(kind: RoomKind) -> None:
    with pytest.raises(UsageError, match=r"^data message: .*(null by itself|\"type\")"):
        check_data_message(kind, None)


def test_null_inside_a_message_goes_to_daily() -> None:
    for message in ([None], {"value": None}):
        check_data_message(RoomKind.DAILY, message)


def test_a_message_may_be_as_large_as_the_data_channel_takes() -> None:
    assert SMALLWEBRTC_MESSAGE_BYTES == LOCAL_MAX_MESSAGE_SIZE
    room = SMALLWEBRTC_MESSAGE_BYTES - len(json.dumps({"type": "x", "value": ""}))
    fits = {"type": "x", "value": "x" * (room - 2) + "é"}
    for kind in RoomKind:
        check_data_message(kind, fits)
    for kind in (RoomKind.SMALLWEBRTC, RoomKind.PIPECAT_RUNNER):
        with pytest.raises(UsageError, match=r"is 262145 bytes as JSON; .* takes at most 262144"):
            check_data_message(kind, {**fits, "value": fits["value"] + "x"})


def test_signalling_is_refused_where_the_room_itself_uses_it() -> None:
    check_data_message(RoomKind.DAILY, {"type": "signalling"})
    for kind in (RoomKind.SMALLWEBRTC, RoomKind.PIPECAT_RUNNER):
        with pytest.raises(UsageError, match="signalling"):
            check_data_message(kind, {"type": "signalling", "message": {"type": "peerLeft"}})
