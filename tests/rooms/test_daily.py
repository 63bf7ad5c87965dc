"""The Daily room: a real failing join, and whole calls against a stand-in for the library."""

import asyncio
import gc
import inspect
import itertools
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import daily
import numpy as np
import pytest
from loguru import logger
from pipecat.frames.frames import EndFrame

from bots.clock import NS_PER_MS, NS_PER_S, CallClock, samples_to_ns
from bots.timeline import EndedReason
from runner.errors import RoomError
from runner.rooms.base import AUDIO_RATE_HZ, Room
from runner.rooms.daily import DailyRoom, people
from runner.rooms.daily import room as room_module
from runner.rooms.daily import session as session_module
from runner.rooms.daily.client import NOT_CONFIRMED
from runner.rooms.daily.placement import DRIFT_TOLERANCE_NS
from tests.doubles.daily import FakeCallClient, Meeting, fake_daily, silence
from tests.rooms.in_daily import URL, Call, entered, running
from tests.rooms.listener import Listener

TOKEN = "eyJhbGciOi.very-secret.token"
CHUNK_MS = 20
TONE_FIRST_S = 0.5
TONE_S = 0.3
PATIENCE_S = 10.0
"""How long anything that is to happen may take on a machine that is busy."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here waits for a message that can't be sent, but where it is said."""
    monkeypatch.setattr(room_module, "SEND_AGAIN_FOR_S", 0.2)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    with fake_daily(monkeypatch, Meeting(url=URL)) as meeting:
        yield meeting


async def until(condition: Any, timeout_s: float = PATIENCE_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def tone(first: int, count: int, rate_hz: int) -> bytes:
    """Silence with a tone from TONE_FIRST_S on; its first sample is not zero."""
    t = (first + np.arange(count)) / rate_hz - TONE_FIRST_S
    wave = 12000 * np.cos(2 * np.pi * 440 * t)
    return np.where((t >= 0) & (t < TONE_S), wave, 0).astype(np.int16).tobytes()


def loud(first: int, count: int, rate_hz: int) -> bytes:
    return np.full(count, 20000, dtype=np.int16).tobytes()


def onset_ns(chunks: list[tuple[int, bytes]], rate_hz: int = AUDIO_RATE_HZ, threshold: int = 3000) -> int:
    for at_ns, pcm in chunks:
        over = np.flatnonzero(np.abs(np.frombuffer(pcm, np.int16).astype(int)) > threshold)
        if len(over):
            return at_ns + samples_to_ns(int(over[0]), rate_hz)
    raise AssertionError("no sound")


# The real library


@pytest.fixture
def log_text() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)), level="TRACE")
    yield lines
    logger.remove(sink)


@pytest.mark.anyio
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


@pytest.mark.anyio
async def test_real_join_with_a_wrong_url():
    async with running("not a url", TOKEN, join_timeout_s=5) as call:
        with pytest.raises(RoomError, match="is not a Daily room's address") as caught:
            await call.room.enter()
    assert caught.value.reason is EndedReason.ROOM_UNREACHABLE


@pytest.mark.parametrize(("level", "shown"), [("WARNING", False), ("DEBUG", True)])
def test_the_library_logs_to_stderr_only_if_verbose(level: str, shown: bool):
    code = f"""
import asyncio, sys
from loguru import logger
logger.remove()
logger.add(sys.stderr, level="{level}")
from bots.clock import CallClock
from runner.rooms.daily import DailyRoom
async def main():
    room = DailyRoom("https://example.daily.co/room", None, clock=CallClock(), listener=None)
    room.transport.client._client.send_app_message("before the join: an error")
    await room.leave()
asyncio.run(main())
"""
    environment = {name: value for name, value in os.environ.items() if name != "RUST_LOG"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60, env=environment
    )
    assert ('"level":"ERROR"' in done.stderr) is shown


@pytest.mark.slow
@pytest.mark.anyio
async def test_real_join_without_network_in_the_librarys_own_time():
    async with running("https://no-such-domain.invalid/room", join_timeout_s=30) as call:
        with pytest.raises(RoomError, match="Daily could not be reached") as caught:
            await call.room.enter()
    assert caught.value.reason is EndedReason.ROOM_UNREACHABLE


def test_double_has_the_librarys_signatures():
    names = [name for name in vars(FakeCallClient) if not name.startswith("_")]
    offered = [name for name in names if name not in {"emit", "stop"}]
    assert len(offered) > 8
    for name in offered:
        real = inspect.signature(getattr(daily.CallClient, name))
        fake = inspect.signature(getattr(FakeCallClient, name))
        assert list(fake.parameters) == list(real.parameters)[: len(fake.parameters)], name


# Whole calls


def laid_out_ns(call: Call) -> int:
    """How much of the caller's track was told."""
    return samples_to_ns(sum(len(pcm) // 2 for _, pcm in call.listener.caller), AUDIO_RATE_HZ)


def spoken_samples(call: Call) -> int:
    return sum(np.count_nonzero(np.frombuffer(pcm, np.int16)) for _, pcm in call.listener.caller)


@pytest.mark.anyio
async def test_whole_call_places_both_sides(meeting: Meeting):
    agent = meeting.add("agent", source=tone)
    async with entered() as call:
        assert isinstance(call.room.transport.input()._client._client, FakeCallClient)
        room: Room = call.room
        await asyncio.wait_for(room.wait_for_agent(), PATIENCE_S)
        assert room.participants() == ["agent"]
        assert room.agent_audio_quality(0) is None
        await until(lambda: laid_out_ns(call) > 100 * NS_PER_MS)  # silence is told while it leaves
        assert call.listener.caller[0][0] + laid_out_ns(call) < call.clock.now_ns()
        for _ in range(5):
            await call.say(loud(0, AUDIO_RATE_HZ // 25, AUDIO_RATE_HZ))
        await until(lambda: len(call.listener.agent) > 45 and len(call.tap.audio) > 30)
        await until(lambda: spoken_samples(call) >= AUDIO_RATE_HZ // 5)
        await asyncio.sleep(0.2)
    listener = call.listener
    slack_ns = 25 * NS_PER_MS + meeting.late_ns

    assert agent.started_ns is not None
    true_ns = call.clock.at_ns(agent.started_ns) + round(TONE_FIRST_S * 1e9)
    assert abs(onset_ns(listener.agent) - true_ns) < slack_ns
    frames = call.tap.audio
    assert {frame.sample_rate for frame in frames} == {16_000}
    chunks = [(frame.pts, frame.audio) for frame in frames if frame.pts is not None]
    assert len(chunks) == len(frames) > 30
    assert abs(onset_ns(chunks, 16_000) - true_ns) < slack_ns

    left_ns = onset_ns([(call.clock.at_ns(block.at_monotonic_ns), block.pcm) for block in meeting.heard])
    assert abs(onset_ns(listener.caller) - left_ns) < slack_ns
    assert spoken_samples(call) == AUDIO_RATE_HZ // 5
    next_ns = listener.caller[0][0]
    for at_ns, pcm in listener.caller:  # unbroken: the silence between is there
        assert abs(at_ns - next_ns) < 2000
        next_ns = at_ns + samples_to_ns(len(pcm) // 2, AUDIO_RATE_HZ)
    assert next_ns - listener.caller[0][0] > 700 * NS_PER_MS
    assert listener.lost == []
    assert listener.left == []


@pytest.mark.anyio
async def test_agent_is_found_without_events_of_its_joining(meeting: Meeting):
    meeting.announce_existing = False
    meeting.add("agent")
    async with entered() as call:
        await asyncio.wait_for(call.room.wait_for_agent(), PATIENCE_S)
        await until(lambda: call.listener.agent)


@pytest.mark.anyio
async def test_agent_joins_late_and_others_are_ignored(meeting: Meeting):
    meeting.add("observer", audio=False)
    meeting.add("recorder", hidden=True, source=loud)
    async with entered() as call:
        await asyncio.sleep(0.15)
        assert call.listener.joined == []
        agent = meeting.add("agent", audio=False)
        await asyncio.sleep(0.1)
        assert call.listener.joined == []
        agent.set_microphone("playable")
        await asyncio.wait_for(call.room.wait_for_agent(), PATIENCE_S)
        intruder = meeting.add("another", source=loud)
        intruder.send({"not": "the agent's"})
        agent.send({"label": "rtvi-ai", "type": "bot-ready"})
        await until(lambda: call.listener.messages and len(call.listener.agent) > 10)
        intruder.leave()
        await asyncio.sleep(0.1)
    assert [name for _, name in call.listener.joined] == ["agent"]
    assert call.listener.messages == [{"label": "rtvi-ai", "type": "bot-ready"}]
    assert not any(any(pcm) for _, pcm in call.listener.agent)
    assert not any(any(frame.audio) for frame in call.tap.audio)
    assert call.listener.left == []
    clients = [client for client in meeting.clients if client.renderers]
    assert [list(client.renderers) for client in clients] == [[agent.id]]


@pytest.mark.anyio
async def test_agent_is_chosen_by_name(meeting: Meeting):
    meeting.add("somebody", source=loud).send("ignored")
    agent = meeting.add("the agent")
    async with entered(participant_name="the agent") as call:
        await asyncio.wait_for(call.room.wait_for_agent(), PATIENCE_S)
        await until(lambda: len(call.listener.agent) > 5)
        assert set(call.room.participants()) == {"somebody", "the agent"}
        agent.send(["any", {"json": None}])
        await until(lambda: call.listener.messages)
    assert [name for _, name in call.listener.joined] == ["the agent"]
    assert not any(any(pcm) for _, pcm in call.listener.agent)
    assert call.listener.messages == [["any", {"json": None}]]


@pytest.mark.anyio
async def test_messages_before_the_agent_is_known_are_kept(meeting: Meeting):
    async with entered() as call:
        agent = meeting.add("agent", audio=False)
        agent.send({"type": "early"})
        await asyncio.sleep(0.1)
        assert call.listener.messages == []
        agent.set_microphone("playable")
        await until(lambda: call.listener.messages == [{"type": "early"}])


@pytest.mark.anyio
async def test_messages_beyond_the_bound_are_left_out_with_one_warning(
    meeting: Meeting, log_text: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(people, "MESSAGES_KEPT", 3)
    async with entered() as call:
        agent = meeting.add("agent", audio=False)
        for number in range(6):
            agent.send(number)
        await asyncio.sleep(0.1)
        agent.set_microphone("playable")
        await until(lambda: call.listener.messages == [0, 1, 2])
    warnings = [line for line in log_text if "WARNING" in line]
    assert len(warnings) == 1
    assert "more than 3 messages came before it was clear who the agent in" in warnings[0]


@pytest.mark.anyio
async def test_participant_that_left_while_the_join_ended_is_not_there(meeting: Meeting):
    async with entered() as call:
        session = call.room._session
        gone = meeting.add("gone", audio=False)
        gone.leave()
        await until(lambda: gone.id in session._people._gone)
        session.joined(time.monotonic_ns(), {gone.id: gone.describe()})
        assert call.room.participants() == []


@pytest.mark.parametrize("joined_at", [["1700000005", 1700000001], ["2023-11-14T22:13:25Z", 1700000001], [None, 5]])
def test_who_came_first_is_told_however_the_time_is_written(joined_at: list[Any]):
    raw = [{"id": str(n), "info": {"joinedAt": at}} for n, at in enumerate(joined_at)]
    times = [people.Participant.parse(participant).joined_at_s for participant in raw]
    assert times == [0.0 if joined_at[0] is None else 1700000005.0, float(joined_at[1])]


@pytest.mark.anyio
async def test_agent_left_is_told_once(meeting: Meeting):
    agent = meeting.add("agent")
    async with entered() as call:
        await until(lambda: len(call.listener.agent) > 3)
        leaving_ns = call.clock.now_ns()
        agent.leave()
        await until(lambda: call.listener.left)
        assert leaving_ns <= call.listener.left[0][0] <= call.clock.now_ns()
        call.listener.agent.clear()
        await asyncio.sleep(0.1)
    assert len(call.listener.left) == 1
    assert call.listener.left[0][1] == "left the call"
    assert call.listener.agent == []
    assert call.listener.lost == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, EndedReason.ROOM_UNREACHABLE),
        ("Meeting has ended", EndedReason.ROOM_UNREACHABLE),
        ("exp-token", EndedReason.TOKEN_REFUSED),
    ],
)
@pytest.mark.anyio
async def test_being_put_out_loses_the_room(meeting: Meeting, error: str | None, reason: EndedReason):
    async with entered() as call:
        meeting.eject(error)
        await until(lambda: call.listener.lost)
        await asyncio.sleep(0.05)
        with pytest.raises(RoomError, match="not in the room"):
            await call.room.publish("too late")
    assert [lost.reason for lost in call.listener.lost] == [reason]
    assert (error or "Daily ended the call") in str(call.listener.lost[0])
    assert meeting.dropped == []


@pytest.mark.anyio
async def test_connection_that_stays_away_loses_the_room(meeting: Meeting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(session_module, "CONNECTION_LOST_AFTER_S", 1.5)
    async with entered() as call:
        meeting.tell("on_network_connection_status_updated", {"connection": "signalling", "event": "interrupted"})
        await until(lambda: not call.room.transport.client.can_send())
        with pytest.raises(RoomError, match="reconnecting"):
            await call.room.publish("while away")
        meeting.tell("on_network_connection_status_updated", {"connection": "signalling", "event": "connected"})
        await asyncio.sleep(2.0)
        assert call.listener.lost == []
        await call.room.publish("back")
        meeting.tell("on_network_connection_status_updated", {"connection": "recvTransport", "event": "interrupted"})
        await until(lambda: call.listener.lost)
    assert call.listener.lost[0].reason is EndedReason.ICE_FAILED
    assert [sent.message for sent in meeting.sent] == ["back"]


MEDIA_STOPPED_AFTER_S = 1.5
GONE_AFTER_S = 2.0
"""Both are above the second a room may stand still without taking the blame itself."""

PAST_GONE_S = 2.5


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents are given up after two seconds."""
    monkeypatch.setattr(session_module, "MEDIA_STOPPED_AFTER_S", MEDIA_STOPPED_AFTER_S)
    monkeypatch.setattr(session_module, "GONE_AFTER_S", GONE_AFTER_S)


@pytest.mark.anyio
async def test_media_stops_and_resumes(meeting: Meeting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(session_module, "MEDIA_STOPPED_AFTER_S", MEDIA_STOPPED_AFTER_S)
    agent = meeting.add("agent")
    async with entered() as call:
        listener = call.listener
        await until(lambda: len(listener.agent) > 10)
        agent.delivering = False
        await until(lambda: listener.stopped)
        # The last sign of life, not when it was missed.
        assert listener.stopped[0] > listener.agent[-1][0] - DRIFT_TOLERANCE_NS
        assert call.clock.now_ns() - listener.stopped[0] > MEDIA_STOPPED_AFTER_S * NS_PER_S
        agent.delivering = True
        await until(lambda: listener.resumed)
        # The gap is kept: audio after it is placed after it.
        await until(lambda: any(b - a > NS_PER_S for (a, _), (b, _) in itertools.pairwise(listener.agent)))
    assert len(listener.stopped) == len(listener.resumed) == 1
    assert listener.lost == []


VANISHED = r"^nothing has arrived from the agent for (\d\.\d) s: its process died, or the network in between is cut$"


@pytest.mark.usefixtures("hasty")
@pytest.mark.anyio
async def test_agent_of_which_nothing_arrives_has_vanished(meeting: Meeting):
    agent = meeting.add("agent")
    async with entered() as call:
        await until(lambda: len(call.listener.agent) > 3)
        agent.delivering = False
        await until(lambda: call.listener.lost)
        assert call.clock.now_ns() - call.listener.stopped[0] > GONE_AFTER_S * NS_PER_S
        await asyncio.sleep(0.3)
        agent.leave()
        await asyncio.sleep(0.1)
    assert [lost.reason for lost in call.listener.lost] == [EndedReason.AGENT_VANISHED]
    told = re.match(VANISHED, str(call.listener.lost[0]))
    assert told and GONE_AFTER_S <= float(told[1]) <= GONE_AFTER_S + 1  # later than that, it would be our own fault
    assert len(call.listener.stopped) == 1
    assert call.listener.left == []


@pytest.mark.usefixtures("hasty")
@pytest.mark.anyio
async def test_an_agent_dropped_after_its_audio_stopped_has_vanished(meeting: Meeting):
    agent = meeting.add("agent")
    async with entered() as call:
        await until(lambda: len(call.listener.agent) > 3)
        agent.delivering = False
        await until(lambda: call.listener.stopped)
        agent.leave()
        await until(lambda: call.listener.lost)
    assert call.listener.lost[0].reason is EndedReason.AGENT_VANISHED
    assert re.match(VANISHED, str(call.listener.lost[0]))
    assert call.listener.left == []


@pytest.mark.parametrize("delivering", [True, False])
@pytest.mark.usefixtures("hasty")
@pytest.mark.anyio
async def test_muted_agent_has_not_vanished(meeting: Meeting, delivering: bool):
    agent = meeting.add("agent")
    async with entered() as call:
        await until(lambda: len(call.listener.agent) > 3)
        agent.set_microphone("off")
        agent.delivering = delivering
        await asyncio.sleep(PAST_GONE_S)
        assert call.listener.lost == []
        agent.set_microphone("playable")
        await asyncio.sleep(0.2)
        assert call.listener.lost == []  # time counts from when it is on again
        if delivering:
            agent.leave()
        await until(lambda: call.listener.left or call.listener.lost)
    assert [lost.reason for lost in call.listener.lost] == ([] if delivering else [EndedReason.AGENT_VANISHED])


@pytest.mark.usefixtures("hasty")
@pytest.mark.anyio
async def test_muted_agent_that_leaves_has_left(meeting: Meeting):
    agent = meeting.add("agent")
    async with entered() as call:
        await until(lambda: len(call.listener.agent) > 3)
        agent.set_microphone("off")
        agent.delivering = False
        await until(lambda: call.listener.stopped)
        await asyncio.sleep(PAST_GONE_S - MEDIA_STOPPED_AFTER_S)
        agent.leave()
        await until(lambda: call.listener.left)
    assert str(call.listener.left[0][1]).startswith("left the call, ")
    assert call.listener.lost == []


@pytest.mark.usefixtures("hasty")
@pytest.mark.anyio
async def test_silence_of_a_microphone_without_network_is_no_life(meeting: Meeting):
    meeting.add("agent").set_microphone("interrupted")
    sound = meeting.add("another agent", source=loud)
    async with entered(participant_name="agent") as silent, entered(participant_name="another agent") as heard:
        await until(lambda: len(silent.listener.agent) > 3 and len(heard.listener.agent) > 3)
        sound.set_microphone("interrupted")
        await asyncio.sleep(PAST_GONE_S)
        assert silent.listener.lost == []  # nothing can be missed before the first audio
        assert heard.listener.lost == []  # it is heard, whatever Daily says
        sound.source = silence
        await until(lambda: heard.listener.lost)
    assert heard.listener.lost[0].reason is EndedReason.AGENT_VANISHED


@pytest.mark.usefixtures("hasty")
@pytest.mark.anyio
async def test_own_connection_that_is_away_is_not_the_agents_fault(meeting: Meeting):
    agent = meeting.add("agent")
    status = {"connection": "recvTransport", "event": "interrupted"}
    async with entered() as call:
        await until(lambda: len(call.listener.agent) > 3)
        meeting.tell("on_network_connection_status_updated", status)
        agent.delivering = False
        await until(lambda: call.listener.stopped)
        await asyncio.sleep(PAST_GONE_S - MEDIA_STOPPED_AFTER_S)
        assert call.listener.lost == []
        meeting.tell("on_network_connection_status_updated", {**status, "event": "connected"})
        await asyncio.sleep(0.2)
        agent.delivering = True
        await until(lambda: call.listener.resumed)
    assert call.listener.lost == []


@pytest.mark.usefixtures("hasty")
@pytest.mark.anyio
async def test_agent_is_not_blamed_for_a_stop_of_our_own(meeting: Meeting):
    meeting.add("agent")
    async with entered() as call:
        await until(lambda: len(call.listener.agent) > 3)
        session = call.room._session
        stamp_ns = time.monotonic_ns() + 5_000_000_000  # as if the process had been stopped for 5 s
        session.tick(stamp_ns)
        session.tick(stamp_ns + 100_000_000)
        assert call.listener.lost == []
        assert call.listener.stopped == []


@pytest.mark.usefixtures("hasty")
@pytest.mark.anyio
async def test_agent_whose_audio_never_began_has_not_vanished(meeting: Meeting):
    agent = meeting.add("agent")
    agent.delivering = False
    async with entered() as call:
        await asyncio.wait_for(call.room.wait_for_agent(), PATIENCE_S)
        await asyncio.sleep(PAST_GONE_S)
        assert call.listener.lost == []
        agent.leave()
        await until(lambda: call.listener.left)


VALUES: list[Any] = [{"a": [1, None, {"b": "ü"}]}, "text", 7, 2.5, True, [], {}, ""]


@pytest.mark.anyio
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


@pytest.mark.anyio
async def test_message_larger_than_documented_is_sent_with_a_warning(meeting: Meeting, log_text: list[str]):
    async with entered() as call:
        await call.room.publish({"text": "x" * 4084})
        assert not any("WARNING" in line for line in log_text)
        await call.room.publish({"text": "é" * 2043})
        assert any("a message of 4098 bytes" in line for line in log_text if "WARNING" in line)
    assert [sent.message for sent in meeting.sent] == [{"text": "x" * 4084}, {"text": "é" * 2043}]


@pytest.mark.anyio
async def test_a_message_rtvi_stumbles_over_is_sent_with_a_warning(meeting: Meeting, log_text: list[str]):
    async with entered() as call:
        await call.room.publish([1, "two"])
    assert any("is no object" in line for line in log_text if "WARNING" in line)
    assert [sent.message for sent in meeting.sent] == [[1, "two"]]


@pytest.mark.anyio
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


@pytest.mark.anyio
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


@pytest.mark.anyio
async def test_who_daily_says_speaks_is_the_agent_if_none_was_heard(meeting: Meeting):
    meeting.add("tester")
    agent = meeting.add("agent")
    async with entered() as call:
        await call.room.wait_for_media()
        await call.room.publish({"type": "hello"})
        meeting.tell("on_active_speaker_changed", agent.describe())
        await until(lambda: [name for _, name in call.listener.joined] == ["tester", "agent"])
        # It may not have been there when this was sent.
        await until(lambda: [sent.participant_id for sent in meeting.sent] == [None, agent.id])
        assert [sent.message for sent in meeting.sent] == [{"type": "hello"}] * 2


@pytest.mark.anyio
async def test_sound_alone_proves_no_agent_against_one_with_rtvi(meeting: Meeting):
    """A tester's microphone has noise."""
    ready = {"label": "rtvi-ai", "type": "bot-ready", "data": {"version": "2.0.0"}}
    meeting.add("tester", source=tone)
    agent = meeting.add("agent")
    async with entered() as call:
        await until(lambda: call.listener.agent and any(any(pcm) for _, pcm in call.listener.agent))
        meeting.tell("on_active_speaker_changed", agent.describe())
        await asyncio.sleep(0.1)
        assert [name for _, name in call.listener.joined] == ["tester"]
        agent.send(ready)
        await until(lambda: [name for _, name in call.listener.joined] == ["tester", "agent"])
        assert call.listener.messages == [ready]


@pytest.mark.anyio
async def test_an_agent_muted_until_it_speaks_is_not_waited_for(meeting: Meeting):
    meeting.microphone_delay_s = 60.0
    agent = meeting.add("agent")
    async with entered() as call:
        await call.room.wait_for_agent()
        assert call.listener.joined == []
        agent.set_microphone("off")
        await asyncio.wait_for(call.room.wait_for_media(), 5)
        assert call.listener.not_connected == []


@pytest.mark.anyio
async def test_where_the_first_leaves_silently_the_next_is_the_agent(meeting: Meeting):
    tester = meeting.add("tester")
    meeting.add("agent")
    async with entered() as call:
        await call.room.wait_for_media()
        tester.leave()
        await until(lambda: [name for _, name in call.listener.joined] == ["tester", "agent"])
        assert call.listener.left == []


@pytest.mark.anyio
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


@pytest.mark.anyio
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


@pytest.mark.anyio
async def test_good_token_of_the_url_is_used(meeting: Meeting):
    meeting.token = TOKEN
    async with entered(url=f"{URL}?t={TOKEN}") as call:
        assert call.room.participants() == []


@pytest.mark.anyio
async def test_bad_room(meeting: Meeting):
    async with running("https://example.daily.co/gone") as call:
        with pytest.raises(RoomError, match=r"The room https://example\.daily\.co/gone does not exist") as caught:
            await call.room.enter()
    assert caught.value.reason is EndedReason.ROOM_UNREACHABLE


@pytest.mark.anyio
async def test_failed_join_is_told_once_and_without_errors_of_pipecat(meeting: Meeting, log_text: list[str]):
    async with running("https://example.daily.co/gone") as call:
        with pytest.raises(RoomError):
            await call.room.enter()
        await asyncio.sleep(0.1)
    assert [line for line in log_text if "ERROR" in line or "WARNING" in line] == []


@pytest.mark.anyio
async def test_being_put_out_brings_no_errors_of_pipecat(meeting: Meeting, log_text: list[str]):
    async with entered() as call:
        meeting.eject("exp-token")
        await until(lambda: call.listener.lost)
        await asyncio.sleep(0.1)
    assert [line for line in log_text if "ERROR" in line or "WARNING" in line] == []


@pytest.mark.anyio
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


@pytest.mark.anyio
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


@pytest.mark.anyio
async def test_pipeline_that_ends_first_is_no_loss(meeting: Meeting):
    async with entered() as call:
        await call.worker.queue_frame(EndFrame())
        await until(lambda: not any(client.joined for client in meeting.clients))
        with pytest.raises(RoomError, match="not in the room"):
            await call.room.publish("too late")
        await asyncio.sleep(0.1)
    assert call.listener.lost == []


@pytest.mark.anyio
async def test_leaving_is_bounded_when_the_library_says_nothing(meeting: Meeting, monkeypatch: pytest.MonkeyPatch):
    async with entered() as call:
        monkeypatch.setattr(FakeCallClient, "leave", lambda self, completion=None: None)
        started = time.monotonic()
        await call.room.leave()
        assert time.monotonic() - started < 4


@pytest.mark.anyio
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
