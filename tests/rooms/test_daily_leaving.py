"""How the caller leaves a Daily room, and how it loses one."""

import asyncio
import gc
import threading
import time
from typing import Any

import pytest
from pipecat.frames.frames import EndFrame

from bots.clock import CallClock
from bots.timeline import EndedReason
from runner.errors import RoomError
from runner.rooms.daily import client as client_module
from runner.rooms.daily.room import DailyRoom
from tests.doubles.daily import FakeCallClient, Meeting
from tests.patience import until
from tests.rooms.in_daily import URL, entered, running
from tests.rooms.listener import Listener

pytestmark = pytest.mark.anyio


async def test_leaving_while_joining_leaves_the_room(meeting: Meeting):
    meeting.opens = threading.Event()
    async with running() as call:
        await until(lambda: any(client.asked for client in meeting.clients))
        started = time.monotonic()
        await call.room.leave()
        assert time.monotonic() - started < 1.5
        assert not any(client.left for client in meeting.clients)
        meeting.opens.set()
        await until(lambda: any(client.left for client in meeting.clients))
    assert not any(client.joined for client in meeting.clients)
    assert call.listener == Listener()


async def test_leaving_is_idempotent_and_no_loss(meeting: Meeting):
    meeting.add("agent")
    async with entered() as call:
        await until(lambda: call.listener.agent)
        await call.room.leave()
        await call.room.leave()
        count = len(call.listener.agent)
        await asyncio.sleep(0.1)
        assert len(call.listener.agent) == count
        with pytest.raises(RoomError):
            await call.room.publish(1)
    assert call.listener.lost == []
    assert call.listener.left == []
    assert not any(client.joined for client in meeting.clients)


async def test_leaving_is_bounded_when_the_library_says_nothing(meeting: Meeting, monkeypatch: pytest.MonkeyPatch):
    async with entered() as call:
        monkeypatch.setattr(FakeCallClient, "leave", lambda self, completion=None: None)
        started = time.monotonic()
        await call.room.leave()
        assert time.monotonic() - started < 4


async def test_leaving_a_room_whose_pipeline_never_ran(meeting: Meeting):
    room = DailyRoom(URL, None, clock=CallClock(), listener=Listener(), join_timeout_s=0.1)
    with pytest.raises(RoomError) as caught:
        await room.enter()
    assert caught.value.reason is EndedReason.ROOM_UNREACHABLE
    await room.leave()
    await room.leave()
    for client in meeting.clients:
        with pytest.raises(RuntimeError, match="released"):
            client.leave()
    del room
    gc.collect()


async def test_pipeline_that_ends_first_is_no_loss(meeting: Meeting):
    async with entered() as call:
        await call.worker.queue_frame(EndFrame())
        await until(lambda: not any(client.joined for client in meeting.clients))
        with pytest.raises(RoomError, match="not in the room"):
            await call.room.publish("too late")
        await asyncio.sleep(0.1)
    assert call.listener.lost == []


@pytest.mark.parametrize("what", ["join", "leave"])
def test_what_the_library_completes_after_the_end_of_the_loop_comes_to_nothing(
    meeting: Meeting, monkeypatch: pytest.MonkeyPatch, what: str
):
    completions: list[Any] = []

    async def call() -> None:
        async with running(join_timeout_s=0.1) as call:
            if what == "leave":
                await call.room.enter()
                await call.room.leave()
                return
            with pytest.raises(RoomError):
                await call.room.enter()

    def keep(self: FakeCallClient, *args: Any, completion: Any = None, **kwargs: Any) -> None:
        completions.append(completion)

    monkeypatch.setattr(client_module, "LEAVE_LIMIT_S", 0.1)
    monkeypatch.setattr(FakeCallClient, what, keep)
    asyncio.run(call())
    (completion,) = filter(None, completions)
    completion(*((None, "too late") if what == "join" else ("too late",)))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, EndedReason.ROOM_UNREACHABLE),
        ("Meeting has ended", EndedReason.ROOM_UNREACHABLE),
        ("exp-token", EndedReason.TOKEN_REFUSED),
    ],
)
async def test_being_put_out_loses_the_room(
    meeting: Meeting, log_text: list[str], error: str | None, reason: EndedReason
):
    async with entered() as call:
        meeting.eject(error)
        await until(lambda: call.listener.lost)
        await asyncio.sleep(0.1)
        assert [line for line in log_text if "ERROR" in line or "WARNING" in line] == []  # nor of Pipecat
        with pytest.raises(RoomError, match="not in the room"):
            await call.room.publish("too late")
    assert [lost.reason for lost in call.listener.lost] == [reason]
    assert (error or "Daily ended the call") in str(call.listener.lost[0])
    assert meeting.dropped == []


async def test_nothing_is_published_while_the_room_connects_again(meeting: Meeting):
    async with entered() as call:
        meeting.tell("on_network_connection_status_updated", {"connection": "signalling", "event": "interrupted"})
        await until(lambda: not call.room.transport.client.can_send())
        with pytest.raises(RoomError, match="reconnecting"):
            await call.room.publish("while away")
        meeting.tell("on_network_connection_status_updated", {"connection": "signalling", "event": "connected"})
        await until(call.room.transport.client.can_send)
        await call.room.publish("back")
    assert [sent.message for sent in meeting.sent] == ["back"]
