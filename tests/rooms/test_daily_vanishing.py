"""An agent in a Daily room whose audio stops: has it vanished, is it muted, or is it our own fault?"""

import asyncio
import itertools
import re
import time

import pytest

from bots.clock import NS_PER_S
from bots.timeline import EndedReason
from runner.rooms.daily import session as session_module
from runner.rooms.daily.placement import DRIFT_TOLERANCE_NS
from tests.doubles.daily import Meeting, loud, silence
from tests.patience import until
from tests.rooms.in_daily import PATIENCE_S, entered

MEDIA_STOPPED_AFTER_S = 1.5
GONE_AFTER_S = 2.0
"""Both are above the second a room may stand still without taking the blame itself."""

PAST_GONE_S = 2.5
VANISHED = r"^nothing has arrived from the agent for (\d\.\d) s: its process died, or the network in between is cut$"


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
