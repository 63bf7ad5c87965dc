"""The Daily room with the real daily-python, in rooms on this machine: joins, media, messages, agents, endings."""

import asyncio
import importlib.metadata
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from pydantic import SecretStr

from bots.caller.script import Listen, Script, Turn
from bots.timeline import EndedReason
from runner.calls.call import Call as WholeCall
from runner.calls.request import CallRequest
from runner.errors import RoomError
from runner.evaluation.verdicts import Cause
from runner.rooms.base import AUDIO_RATE_HZ
from runner.rooms.daily import session
from runner.rooms.open import RoomAddress
from runner.settings import Settings
from tests.daily_rooms import DailyRooms, daily_rooms, library_sent_to
from tests.daily_rooms.guest import Guest
from tests.daily_rooms.server import SERVED_VERSION
from tests.patience import until
from tests.rooms.in_daily import Call, entered
from tests.rooms.listener import Listener

pytestmark = [pytest.mark.anyio, pytest.mark.webrtc]

TOKEN = "header.very-secret-claims.signature"
PATIENCE_S = 20.0
LOUD = 8_000
LISTENS = Script(name="listens", turns=(Turn(action=Listen()),))


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DailyRooms]:
    with daily_rooms(tmp_path_factory.mktemp("daily")) as server, library_sent_to(server):
        yield server


@pytest.fixture(autouse=True)
def knows_everything(rooms: DailyRooms) -> Iterator[None]:
    yield
    rooms.check()


@pytest.fixture
def room(request: pytest.FixtureRequest) -> str:
    """A room of the test's own."""
    return "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[:60]


@asynccontextmanager
async def somebody(url: str, name: str, **how: Any) -> AsyncIterator[Guest]:
    someone = await asyncio.to_thread(Guest, url, name, **how)
    try:
        yield someone
    finally:
        await asyncio.to_thread(someone.leave)


@asynccontextmanager
async def met(rooms: DailyRooms, room: str, **how: Any) -> AsyncIterator[tuple[Guest, Call]]:
    """Bella in a room, and a call that she is heard in."""
    async with somebody(rooms.url(room), "Bella", **how) as agent, entered(url=rooms.url(room)) as call:
        await call.room.wait_for_media()
        await until(lambda: not agent.level or peak(call.listener) > LOUD // 2)
        yield agent, call


def peak(listener: Listener) -> int:
    return max((int(np.abs(np.frombuffer(pcm, np.int16).astype(int)).max()) for _, pcm in listener.agent), default=0)


def test_the_rooms_are_made_for_the_library_that_is_installed() -> None:
    installed = importlib.metadata.version("daily-python")
    assert installed == SERVED_VERSION, (
        f"daily-python {installed} is installed, and the rooms of the tests speak the protocol of {SERVED_VERSION}: "
        "see what it says to them now (tests/daily_rooms/server.py), then set SERVED_VERSION"
    )


JOIN_ERRORS = {
    "no such room": ({"lookup_status": 404}, EndedReason.ROOM_UNREACHABLE, "does not exist (HTTP error: 404"),
    "wrong token": ({"token": "another"}, EndedReason.TOKEN_REFUSED, "Daily refused the token for"),
    "not allowed": ({"lookup_status": 403}, EndedReason.TOKEN_REFUSED, "(HTTP error: 403 Forbidden)"),
    "too many joins": ({"lookup_status": 429}, EndedReason.ROOM_UNREACHABLE, "takes no more joins from here for now"),
    "trouble at Daily": ({"lookup_status": 500}, EndedReason.ROOM_UNREACHABLE, "could not look up"),
    "expired room": ({"lookup_error": "exp-room"}, EndedReason.ROOM_UNREACHABLE, "has expired or was closed"),
    "room not open": ({"lookup_error": "nbf-room"}, EndedReason.ROOM_UNREACHABLE, "is not open yet"),
    "full room": ({"most": 0}, EndedReason.ROOM_UNREACHABLE, "is full (Unhandled: meeting-full)"),
    "expired token": ({"lookup_error": "exp-token"}, EndedReason.TOKEN_REFUSED, "(Unhandled: exp-token)"),
}


@pytest.mark.parametrize("case", JOIN_ERRORS)
async def test_a_join_that_the_lookup_refuses_says_why(
    case: str, rooms: DailyRooms, room: str, tmp_path: Path
) -> None:
    orders, reason, words = JOIN_ERRORS[case]
    rooms.order(room, **orders)
    began_s = time.monotonic()
    address = RoomAddress(rooms.url(room), SecretStr(TOKEN))
    run = await WholeCall(CallRequest(LISTENS, address), Settings(), tmp_path / "run").make()
    assert (run.ended_reason, run.cause, run.success, run.exit_code) == (reason, Cause.ROOM, None, 2)
    assert run.detail is not None and words in run.detail and rooms.url(room) in run.detail
    assert time.monotonic() - began_s < PATIENCE_S
    assert not any(b"very-secret" in file.read_bytes() for file in (tmp_path / "run").iterdir())


async def test_a_call_after_a_failed_one_in_the_same_process(rooms: DailyRooms, room: str) -> None:
    rooms.order(room, lookup_status=404)
    with pytest.raises(RoomError):
        async with entered(url=rooms.url(room)):
            pass
    rooms.order(room, lookup_status=200)
    async with met(rooms, room, level=LOUD):
        pass


async def test_leaving_takes_the_caller_out_and_ends_its_threads(rooms: DailyRooms, room: str) -> None:
    async with somebody(rooms.url(room), "Bella"):
        process = psutil.Process()
        threads: list[int] = []
        for _ in range(3):
            async with entered(url=rooms.url(room)) as call:
                await call.room.wait_for_media()
                assert "Testing Agent" in rooms.state(room)["peers"]
            await until(lambda: list(rooms.state(room)["peers"]) == ["Bella"])
            threads.append(process.num_threads())
        # The library's own are among them: the first call starts what all share.
        await until(lambda: process.num_threads() <= threads[0] + 2)


class TestMedia:
    async def test_the_agent_joined_only_once_the_callers_audio_can_leave(self, rooms: DailyRooms, room: str) -> None:
        """A join is complete long before: what is written then is lost."""
        rooms.order(room, dtls_delay_s=1.0)
        async with somebody(rooms.url(room), "Bella"), entered(url=rooms.url(room)) as call:
            await call.room.wait_for_agent()
            assert call.listener.joined == []
            assert rooms.state(room)["peers"]["Testing Agent"]["packets"] == 0
            await call.room.wait_for_media()
            assert [name for _, name in call.listener.joined] == ["Bella"]
            assert call.listener.not_connected == []
            await until(lambda: rooms.state(room)["peers"]["Testing Agent"]["packets"] > 0)

    async def test_the_agents_microphone_must_be_there(self, rooms: DailyRooms, room: str) -> None:
        rooms.order(room, microphone_delay_s=1.0)
        async with (
            entered(url=rooms.url(room)) as call,
            somebody(rooms.url(room), "Bella", level=LOUD),
        ):
            await until(lambda: rooms.state(room)["peers"]["Bella"]["sends"] == ["cam-audio"])
            assert call.listener.joined == []
            await call.room.wait_for_media()
            await until(lambda: peak(call.listener) > LOUD // 2)

    async def test_the_wait_is_bounded_and_the_call_says_so(
        self, rooms: DailyRooms, room: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(session, "MEDIA_LIMIT_S", 1.0)
        async with somebody(rooms.url(room), "Bella"):
            rooms.order(room, dtls_delay_s=60.0)
            async with entered(url=rooms.url(room)) as call:
                await call.room.wait_for_media()
                assert call.listener.not_connected == [(False, False)]

    @pytest.mark.slow
    async def test_four_calls_in_one_process_each_hear_their_own_agent(self, rooms: DailyRooms, room: str) -> None:
        async def call_one(number: int) -> None:
            url, hz = rooms.url(f"{room}-{number}"), 300 + 200 * number
            async with somebody(url, f"agent {number}", level=LOUD, tone_hz=hz), entered(url=url) as call:
                await call.room.wait_for_media()
                await until(lambda: peak(call.listener) > LOUD // 2)
                await asyncio.sleep(1)
                heard = np.frombuffer(b"".join(pcm for _, pcm in call.listener.agent), np.int16)[
                    -AUDIO_RATE_HZ // 2 :
                ]
                spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
                assert abs(int(spectrum.argmax()) * AUDIO_RATE_HZ / len(heard) - hz) < 10

        await asyncio.gather(*(call_one(number) for number in range(4)))


class TestMessages:
    async def test_every_json_value_arrives_once_and_unchanged(self, rooms: DailyRooms, room: str) -> None:
        values: list[Any] = [{"a": {"b": [1, 2.5, None, True]}}, "text", 12, 0.5, True, [1, "zwei"], "ü" * 10_000]
        async with met(rooms, room) as (agent, call):
            for value in values:
                await call.room.publish(value)
            await until(lambda: len(agent.messages) >= len(values))
            await asyncio.sleep(0.3)
            assert agent.messages == values

    async def test_a_lost_websocket_shows_when_something_is_sent(
        self, rooms: DailyRooms, room: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The library itself reports it 17 s later."""
        async with met(rooms, room) as (_, call):
            rooms.order(room, lookup_status=500)
            rooms.act(room, "close", "Testing Agent")
            await asyncio.sleep(0.2)
            began_s = time.monotonic()
            with pytest.raises(RoomError) as lost:
                await call.room.publish({"type": "hello"})
            assert lost.value.reason is EndedReason.ROOM_UNREACHABLE
            assert "is lost: a message was not sent, or not confirmed, for 5 s" in str(lost.value)
            assert time.monotonic() - began_s < PATIENCE_S


class TestWhoTheAgentIs:
    async def test_the_agent_speaks_rtvi_and_is_not_the_tab_open_before(self, rooms: DailyRooms, room: str) -> None:
        metrics = {"label": "rtvi-ai", "type": "metrics", "data": {}}
        async with somebody(rooms.url(room), "Tester"), entered(url=rooms.url(room)) as call:
            await call.room.wait_for_media()
            assert [name for _, name in call.listener.joined] == ["Tester"]
            async with somebody(rooms.url(room), "Bella", level=LOUD) as agent:
                agent.say(metrics)
                await until(lambda: peak(call.listener) > LOUD // 2)
                assert [name for _, name in call.listener.joined] == ["Tester", "Bella"]
                assert call.listener.messages == [metrics]

    async def test_a_name_says_it_from_the_beginning(self, rooms: DailyRooms, room: str) -> None:
        async with (
            somebody(rooms.url(room), "Tester", level=LOUD),
            somebody(rooms.url(room), "Bella", level=LOUD),
            entered(url=rooms.url(room), participant_name="Bella") as call,
        ):
            await call.room.wait_for_media()
            await until(lambda: peak(call.listener) > LOUD // 2)
            assert [name for _, name in call.listener.joined] == ["Bella"]
            assert rooms.state(room)["peers"]["Testing Agent"]["receives"] == ["Bella"]

    async def test_where_the_first_leaves_silently_the_next_one_is_it(self, rooms: DailyRooms, room: str) -> None:
        async with (
            somebody(rooms.url(room), "Tester") as tester,
            somebody(rooms.url(room), "Bella") as agent,
            entered(url=rooms.url(room)) as call,
        ):
            await call.room.wait_for_media()
            await call.room.publish({"type": "hello"})
            await asyncio.to_thread(tester.leave)
            await until(lambda: [name for _, name in call.listener.joined] == ["Tester", "Bella"])
            await until(lambda: agent.messages == [{"type": "hello"}] * 2)
            agent.level = LOUD
            await until(lambda: peak(call.listener) > LOUD // 2)
            assert call.listener.lost == [] and call.listener.left == []

    async def test_nobody_without_a_microphone_is_it(self, rooms: DailyRooms, room: str) -> None:
        async with (
            somebody(rooms.url(room), "Observer", microphone=False),
            entered(url=rooms.url(room)) as call,
        ):
            await asyncio.sleep(0.5)
            assert call.listener.joined == []
            async with somebody(rooms.url(room), "Bella"):
                await call.room.wait_for_media()
                assert [name for _, name in call.listener.joined] == ["Bella"]


class TestEnds:
    async def test_an_agent_that_daily_drops_reads_as_one_that_left(self, rooms: DailyRooms, room: str) -> None:
        async with met(rooms, room, level=LOUD) as (_, call):
            rooms.act(room, "drop", "Bella")
            await until(lambda: bool(call.listener.left))
            assert call.listener.left[0][1] == "left the call"

    async def test_a_killed_agents_zeros_are_told_with_its_leaving(
        self, rooms: DailyRooms, room: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(session, "MEDIA_STOPPED_AFTER_S", 0.5)
        async with met(rooms, room, level=LOUD) as (_, call):
            rooms.act(room, "silence", "Bella")
            await asyncio.sleep(2.0)
            # The library goes on with zeros of its own: nothing has stopped, as far as anybody can tell.
            assert call.listener.stopped == []
            assert call.listener.lost == []
            rooms.act(room, "drop", "Bella")
            await until(lambda: bool(call.listener.left))
            assert "s of digital silence" in (call.listener.left[0][1] or "")

    async def test_packets_cut_are_not_heard_until_they_come_again(self, rooms: DailyRooms, room: str) -> None:
        async with met(rooms, room, level=LOUD) as (_, call):
            rooms.act(room, "cut", "Bella")
            await asyncio.sleep(0.5)
            call.listener.agent.clear()
            await asyncio.sleep(0.5)
            # What conceals the last packet that came dies away.
            assert peak(call.listener) < LOUD // 50
            rooms.act(room, "mend", "Bella")
            await until(lambda: peak(call.listener) > LOUD // 2)

    async def test_a_dead_agent_is_present_until_daily_drops_it(self, rooms: DailyRooms, room: str) -> None:
        rooms.order(room, forget_after_s=1.0)
        async with met(rooms, room, level=LOUD) as (_, call):
            rooms.act(room, "close", "Bella")
            await asyncio.sleep(0.5)
            assert call.listener.left == []
            await until(lambda: bool(call.listener.left))

    async def test_a_deleted_room_ends_the_call(self, rooms: DailyRooms, room: str) -> None:
        async with met(rooms, room) as (_, call):
            rooms.act(room, "delete", "Testing Agent")
            await until(lambda: bool(call.listener.lost), 40)
            assert call.listener.lost[0].reason is EndedReason.ROOM_UNREACHABLE
