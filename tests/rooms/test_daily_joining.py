"""Joining a Daily room: with the real library, which gets nowhere, and with the stand-in for it."""

import asyncio
import time

import pytest

from bots.timeline import EndedReason
from runner.errors import RoomError
from tests.doubles.daily import Meeting
from tests.rooms.in_daily import URL, entered, running

TOKEN = "eyJhbGciOi.very-secret.token"

pytestmark = pytest.mark.anyio


@pytest.mark.usefixtures("impatient")
async def test_real_join_without_network_is_bounded(log_text: list[str], capfd: pytest.CaptureFixture[str]):
    started = time.monotonic()
    room_url = f"https://no-such-domain.invalid/room?t={TOKEN}"
    async with running(room_url, join_timeout_s=1.5) as call:
        with pytest.raises(RoomError) as caught:
            await call.room.enter()
        entering_s = time.monotonic() - started
        with pytest.raises(RoomError):
            await call.room.publish({"early": True})
        assert TOKEN not in repr(vars(call.room)) + repr(caught.value)
    assert caught.value.reason is EndedReason.ROOM_UNREACHABLE
    assert entering_s < 8
    assert time.monotonic() - started < 14  # the library itself would take 19 s to let go
    out, err = capfd.readouterr()
    assert TOKEN not in "".join(log_text) + out + err + str(caught.value)
    assert "no-such-domain.invalid/room" in str(caught.value)


async def test_real_join_with_a_wrong_url():
    async with running("not a url", TOKEN, join_timeout_s=5) as call:
        with pytest.raises(RoomError, match="is not a Daily room's address") as caught:
            await call.room.enter()
    assert caught.value.reason is EndedReason.ROOM_UNREACHABLE


@pytest.mark.slow
async def test_real_join_without_network_in_the_librarys_own_time():
    async with running("https://no-such-domain.invalid/room", join_timeout_s=30) as call:
        with pytest.raises(RoomError, match="Daily could not be reached") as caught:
            await call.room.enter()
    assert caught.value.reason is EndedReason.ROOM_UNREACHABLE


async def test_bad_token_is_refused_and_never_shown(meeting: Meeting, log_text: list[str]):
    meeting.token = "another"
    async with running(token=TOKEN) as call:
        with pytest.raises(RoomError, match="refused the token") as caught:
            await call.room.enter()
        await asyncio.sleep(0.05)
    assert caught.value.reason is EndedReason.TOKEN_REFUSED
    assert "401 Unauthorized" in str(caught.value)
    assert TOKEN not in str(caught.value) + "".join(log_text)
    assert any("401 Unauthorized" in line for line in log_text)


async def test_good_token_of_the_url_is_used(meeting: Meeting):
    meeting.token = TOKEN
    async with entered(url=f"{URL}?t={TOKEN}") as call:
        assert call.room.participants() == []


async def test_a_failed_join_is_told_once_and_without_errors_of_pipecat(meeting: Meeting, log_text: list[str]):
    async with running("https://example.daily.co/gone") as call:
        with pytest.raises(RoomError, match=r"The room https://example\.daily\.co/gone does not exist") as caught:
            await call.room.enter()
        await asyncio.sleep(0.1)
    assert caught.value.reason is EndedReason.ROOM_UNREACHABLE
    assert [line for line in log_text if "ERROR" in line or "WARNING" in line] == []
