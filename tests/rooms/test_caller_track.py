"""The caller's track: what it says it sent is what it sent, in real time."""

import asyncio
import itertools
import math
import statistics
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError

from bots.clock import NS_PER_MS, NS_PER_S, CallClock
from runner.rooms.base import AUDIO_RATE_HZ
from runner.rooms.smallwebrtc import outgoing
from runner.rooms.smallwebrtc.outgoing import FRAME_BYTES, FRAME_NS, FRAME_SAMPLES, LATE_NS, LEAD_NS, CallerTrack

pytestmark = pytest.mark.anyio


@dataclass
class VirtualClock:
    """A call's clock that only ever moves when someone sleeps, or when told to."""

    at_ns: int = 5 * NS_PER_S
    slept_s: list[float] = field(default_factory=list)

    def now_ns(self) -> int:
        return self.at_ns

    async def sleep(self, delay_s: float) -> None:
        self.slept_s.append(delay_s)
        self.at_ns += math.ceil(delay_s * NS_PER_S)


class Sending:
    """A track on a virtual clock, and what it reported."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = VirtualClock()
        self.sent: list[tuple[int, bytes]] = []
        self.track = CallerTrack(self.clock, lambda at_ns, pcm: self.sent.append((at_ns, pcm)))  # type: ignore[arg-type]
        monkeypatch.setattr(outgoing.asyncio, "sleep", self.clock.sleep)
        self.packets: list[av.Packet] = []

    async def frames(self, count: int) -> None:
        for _ in range(count):
            self.packets.append(await self.track.recv())

    @property
    def audio(self) -> bytes:
        return b"".join(pcm for _, pcm in self.sent)


@pytest.fixture
def sending(monkeypatch: pytest.MonkeyPatch) -> Sending:
    return Sending(monkeypatch)


def ramp(frames: int, start: int = 1) -> bytes:
    """Samples that can be told apart."""
    return (np.arange(frames * FRAME_SAMPLES) % 30_000 + start).astype(np.int16).tobytes()


async def test_with_nothing_written_silence_leaves_every_20_ms(sending: Sending) -> None:
    await sending.frames(5)
    assert sending.audio == bytes(5 * FRAME_BYTES)
    first_ns = sending.sent[0][0]
    assert [at_ns - first_ns for at_ns, _ in sending.sent] == [index * FRAME_NS for index in range(5)]
    assert sum(sending.clock.slept_s) == pytest.approx(4 * 0.02)


async def test_what_is_reported_as_sent_is_what_was_written_in_its_order(sending: Sending) -> None:
    await sending.frames(2)
    first, second = ramp(3), ramp(2, start=7)
    await sending.track.write(first)
    await sending.track.write(second)
    await sending.frames(7)
    assert sending.audio == bytes(2 * FRAME_BYTES) + first + second + bytes(2 * FRAME_BYTES)


async def test_an_incomplete_frame_is_filled_up_with_silence(sending: Sending) -> None:
    await sending.track.write(ramp(1)[:300])
    await sending.frames(2)
    assert sending.audio == ramp(1)[:300] + bytes(2 * FRAME_BYTES - 300)


async def test_the_decoded_packets_reproduce_the_audio(sending: Sending) -> None:
    t = np.arange(20 * FRAME_SAMPLES) / AUDIO_RATE_HZ
    said = (10_000 * np.sin(2 * np.pi * 500 * t) * (t > 0.1)).astype(np.int16)
    for index in range(20):
        await sending.track.write(said[index * FRAME_SAMPLES :][:FRAME_SAMPLES].tobytes())
        await sending.frames(1)
    decoder = av.CodecContext.create("libopus", "r")
    assert isinstance(decoder, av.AudioCodecContext)
    decoder.format, decoder.layout, decoder.sample_rate = "s16", "mono", 48_000
    heard = np.concatenate(
        [frame.to_ndarray()[0] for packet in sending.packets for frame in decoder.decode(av.Packet(bytes(packet)))]
    ).astype(float)
    assert heard.size == 20 * 960
    expected = np.repeat(said, 2).astype(float)
    # The encoder looks ahead 6.5 ms.
    assert max(np.corrcoef(heard[lag + 6_000 :], expected[6_000:-lag])[0, 1] for lag in range(250, 380)) > 0.98
    assert np.abs(heard[:4_700]).max() < 500
    onset = int(np.argmax(np.abs(heard) > 2_000))
    assert abs(onset - 0.1 * 48_000) < 8 * 48


async def test_timestamps_rise_by_960(sending: Sending) -> None:
    await sending.frames(10)
    assert [packet.pts for packet in sending.packets] == [index * 960 for index in range(10)]
    assert {packet.time_base for packet in sending.packets} == {Fraction(1, 48_000)}


@pytest.mark.parametrize("late_ms", [250, 1_000, 10_000])
async def test_a_loop_that_was_late_leaves_out_the_time_it_missed(sending: Sending, late_ms: int) -> None:
    await sending.frames(5)
    said = ramp(4)
    await sending.track.write(said)
    sending.clock.at_ns += late_ms * NS_PER_MS
    woke_ns = sending.clock.at_ns
    slept = len(sending.clock.slept_s)
    await sending.frames(4)
    assert len(sending.clock.slept_s) - slept >= 3, "frames left in a burst"
    assert sending.audio == bytes(5 * FRAME_BYTES) + said, "audio was lost or torn"
    places = [at_ns for at_ns, _ in sending.sent]
    assert woke_ns - FRAME_NS <= places[5] <= woke_ns
    distances = [after - before for before, after in itertools.pairwise(places)]
    stamps = [packet.pts for packet in sending.packets]
    assert [b - a for a, b in itertools.pairwise(stamps)] == [d * 48 // NS_PER_MS for d in distances]


async def test_a_loop_that_was_a_little_late_catches_up_without_a_gap(sending: Sending) -> None:
    await sending.frames(2)
    sending.clock.at_ns += 130 * NS_PER_MS
    await sending.frames(10)
    places = [at_ns for at_ns, _ in sending.sent]
    assert {after - before for before, after in itertools.pairwise(places)} == {FRAME_NS}
    assert abs(sending.clock.at_ns - places[-1]) <= FRAME_NS


async def test_a_writer_waits_while_enough_is_ahead(sending: Sending) -> None:
    ahead = LEAD_NS // FRAME_NS
    await sending.track.write(ramp(ahead))
    writing = asyncio.create_task(sending.track.write(ramp(2)))
    for _ in range(3):
        await asyncio.tasks.sleep(0)
    assert not writing.done()
    await sending.frames(1)
    await asyncio.wait({writing}, timeout=0.05)
    assert not writing.done()
    await sending.frames(1)
    await asyncio.wait_for(writing, 1)
    await sending.frames(ahead)
    assert sending.audio == ramp(ahead) + ramp(2)


async def test_clearing_drops_what_has_not_left_and_lets_the_writer_go(sending: Sending) -> None:
    writing = asyncio.create_task(sending.track.write(ramp(50)))
    await asyncio.wait({writing}, timeout=0.01)
    await sending.frames(3)
    assert not writing.done()
    sending.track.clear()
    await asyncio.wait_for(writing, 1)
    await sending.frames(2)
    assert sending.audio == ramp(50)[: 3 * FRAME_BYTES] + bytes(2 * FRAME_BYTES)


async def test_a_stopped_track_sends_nothing_and_lets_the_writer_go(sending: Sending) -> None:
    writing = asyncio.create_task(sending.track.write(ramp(50)))
    await asyncio.wait({writing}, timeout=0.01)
    sending.track.stop()
    await asyncio.wait_for(writing, 1)
    with pytest.raises(MediaStreamError):
        await sending.track.recv()
    assert sending.sent == []


async def test_in_real_time_a_second_takes_a_second() -> None:
    clock = CallClock()
    began_ns = clock.now_ns()
    sent: list[tuple[int, int]] = []
    track = CallerTrack(clock, lambda at_ns, pcm: sent.append((at_ns, clock.now_ns())))
    for _ in range(51):
        await track.recv()
    steps_ns = [after - before for (before, _), (after, _) in itertools.pairwise(sent)]
    # A machine that was too late leaves out whole frames.
    assert all(step_ns > 0 and step_ns % FRAME_NS == 0 for step_ns in steps_ns)
    assert NS_PER_S - NS_PER_MS <= sent[-1][1] - began_ns < 10 * NS_PER_S
    assert all(placed_ns <= really_ns + NS_PER_MS for placed_ns, really_ns in sent)
    assert statistics.median(really_ns - placed_ns for placed_ns, really_ns in sent) <= LATE_NS
