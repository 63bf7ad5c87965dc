"""Who in a Daily room is the agent, and who is none of the caller's business."""

import asyncio
import time
from typing import Any

import pytest

from runner.rooms.daily import people
from tests.doubles.daily import Meeting, loud, tone
from tests.patience import until
from tests.rooms.in_daily import PATIENCE_S, entered


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


@pytest.mark.parametrize("joined_at", [["1700000005", 1700000001], ["2023-11-14T22:13:25Z", 1700000001], [None, 5]])
def test_who_came_first_is_told_however_the_time_is_written(joined_at: list[Any]):
    raw = [{"id": str(n), "info": {"joinedAt": at}} for n, at in enumerate(joined_at)]
    times = [people.Participant.parse(participant).joined_at_s for participant in raw]
    assert times == [0.0 if joined_at[0] is None else 1700000005.0, float(joined_at[1])]


@pytest.mark.anyio
async def test_participant_that_left_while_the_join_ended_is_not_there(meeting: Meeting):
    async with entered() as call:
        session = call.room._session
        gone = meeting.add("gone", audio=False)
        gone.leave()
        await until(lambda: gone.id in session.people._gone)
        session.joined(time.monotonic_ns(), {gone.id: gone.describe()})
        assert call.room.participants() == []


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
