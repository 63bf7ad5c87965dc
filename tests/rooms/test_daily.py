"""A whole call in a Daily room, against a stand-in for the library."""

import asyncio
import inspect

import daily
import numpy as np
import pytest

from bots.clock import NS_PER_MS, samples_to_ns
from runner.rooms.base import AUDIO_RATE_HZ, Room
from tests.doubles.daily import TONE_FIRST_S, FakeCallClient, Meeting, loud, tone
from tests.patience import until
from tests.rooms.in_daily import PATIENCE_S, Call, entered


def onset_ns(chunks: list[tuple[int, bytes]], rate_hz: int = AUDIO_RATE_HZ, threshold: int = 3000) -> int:
    for at_ns, pcm in chunks:
        over = np.flatnonzero(np.abs(np.frombuffer(pcm, np.int16).astype(int)) > threshold)
        if len(over):
            return at_ns + samples_to_ns(int(over[0]), rate_hz)
    raise AssertionError("no sound")


def laid_out_ns(call: Call) -> int:
    """How much of the caller's track was told."""
    return samples_to_ns(sum(len(pcm) // 2 for _, pcm in call.listener.caller), AUDIO_RATE_HZ)


def spoken_samples(call: Call) -> int:
    return sum(np.count_nonzero(np.frombuffer(pcm, np.int16)) for _, pcm in call.listener.caller)


def test_double_has_the_librarys_signatures():
    names = [name for name in vars(FakeCallClient) if not name.startswith("_")]
    offered = [name for name in names if name not in {"emit", "stop"}]
    assert len(offered) > 8
    for name in offered:
        real = inspect.signature(getattr(daily.CallClient, name))
        fake = inspect.signature(getattr(FakeCallClient, name))
        assert list(fake.parameters) == list(real.parameters)[: len(fake.parameters)], name


@pytest.mark.anyio
async def test_whole_call_places_both_sides(meeting: Meeting):
    agent = meeting.add("agent", source=tone)
    async with entered() as call:
        assert isinstance(call.room.transport.input()._client._client._client, FakeCallClient)
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
