"""Messages in a Daily room: those that come from the agent, and those that the caller sends."""

import asyncio
import threading
from typing import Any

import pytest

from bots.timeline import EndedReason
from runner.errors import RoomError
from runner.rooms.daily import room as room_module
from runner.rooms.daily.client import NOT_CONFIRMED
from tests.doubles.daily import Meeting
from tests.patience import until
from tests.rooms.in_daily import entered, running

VALUES: list[Any] = [{"a": [1, None, {"b": "ü"}]}, "text", 7, 2.5, True, [], {}, ""]

pytestmark = pytest.mark.anyio


async def test_any_json_is_published_once_unchanged(meeting: Meeting):
    async with entered() as call:
        for value in VALUES:
            await call.room.publish(value)
        await call.room.send_client_message({"label": "rtvi-ai", "type": "client-ready", "id": "1", "data": {}})
        for refused in (None, {1, 2}, float("nan")):
            with pytest.raises(RoomError) as caught:
                await call.room.publish(refused)
            assert caught.value.reason is EndedReason.RUNNER_ERROR
    expected = [*VALUES, {"label": "rtvi-ai", "type": "client-ready", "id": "1", "data": {}}]
    assert [sent.message for sent in meeting.sent] == expected
    assert {sent.participant_id for sent in meeting.sent} == {None}
    assert meeting.dropped == []


async def test_message_larger_than_documented_is_sent_with_a_warning(meeting: Meeting, log_text: list[str]):
    async with entered() as call:
        await call.room.publish({"text": "x" * 4084})
        assert not any("WARNING" in line for line in log_text)
        await call.room.publish({"text": "é" * 2043})
        assert any("a message of 4098 bytes" in line for line in log_text if "WARNING" in line)
    assert [sent.message for sent in meeting.sent] == [{"text": "x" * 4084}, {"text": "é" * 2043}]


async def test_a_message_rtvi_stumbles_over_is_sent_with_a_warning(meeting: Meeting, log_text: list[str]):
    async with entered() as call:
        await call.room.publish([1, "two"])
    assert any("is no object" in line for line in log_text if "WARNING" in line)
    assert [sent.message for sent in meeting.sent] == [[1, "two"]]


async def test_message_before_the_join_is_refused_not_sent(meeting: Meeting):
    meeting.opens = threading.Event()
    async with running() as call:
        await until(lambda: any(client.asked for client in meeting.clients))
        with pytest.raises(RoomError, match="not in the room"):
            await call.room.publish({"too": "early"})
        meeting.opens.set()
        await call.room.enter()
        await asyncio.sleep(0.1)
    assert meeting.sent == []
    assert meeting.dropped == []


async def test_an_unsent_message_is_sent_once_the_socket_is_back(meeting: Meeting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(room_module, "SEND_AGAIN_FOR_S", 5.0)
    async with entered() as call:
        meeting.socket_is_closed = True
        sending = asyncio.create_task(call.room.publish({"type": "hello"}))
        await asyncio.sleep(0.7)
        assert not sending.done() and meeting.sent == []
        meeting.socket_is_closed = False
        await sending
        assert [sent.message for sent in meeting.sent] == [{"type": "hello"}]
        assert call.listener.lost == []


async def test_a_message_that_was_not_confirmed_is_not_sent_twice(meeting: Meeting, monkeypatch: pytest.MonkeyPatch):
    async def unconfirmed(message: Any) -> str:
        tried.append(message)
        return NOT_CONFIRMED

    tried: list[Any] = []
    async with entered() as call:
        monkeypatch.setattr(call.room.transport.client, "send", unconfirmed)
        with pytest.raises(RoomError, match="not confirmed"):
            await call.room.publish({"type": "hello"})
    assert tried == [{"type": "hello"}]
