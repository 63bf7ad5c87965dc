"""The caller's packets leave on time whatever the event loop does: over real RTP, to an agent in another thread."""

import asyncio
import itertools
import statistics
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiortc
import anyio
import numpy as np
import pytest
from aiortc import RTCPeerConnection, clock
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtp import AnyRtcpPacket, RtcpSrPacket, RtpPacket
from anyio.from_thread import BlockingPortal, start_blocking_portal

from bots.caller.mouth import Mouth
from bots.caller.speech.voice import Line as SpokenLine
from bots.clock import NS_PER_MS, NS_PER_S
from bots.timeline import CallerUnderrun, TimelineEvent, UnderrunKind
from runner.rooms.base import AUDIO_RATE_HZ, Forward, Line
from runner.rooms.smallwebrtc import connection, sending
from runner.rooms.smallwebrtc.incoming import ArrivalBuffer
from runner.rooms.smallwebrtc.outgoing import FRAME_NS
from tests.patience import best_of_three, until
from tests.rooms.peer import Agent, Visit, opened, serving

pytestmark = [pytest.mark.anyio, pytest.mark.webrtc]

UNITS = 960
BLOCKED_S = 0.15


def tone(seconds: float) -> bytes:
    t = np.arange(round(seconds * AUDIO_RATE_HZ)) / AUDIO_RATE_HZ
    return (8_000 * np.sin(2 * np.pi * 440 * t)).astype(np.int16).tobytes()


@dataclass
class Ear:
    """An agent with an event loop of its own, which keeps packets and reports as they arrive."""

    portal: BlockingPortal
    url: str = ""
    pc: RTCPeerConnection | None = None
    packets: list[tuple[int, RtpPacket]] = field(default_factory=list)
    reports: list[tuple[int, RtcpSrPacket]] = field(default_factory=list)
    close: threading.Event = field(default_factory=threading.Event)

    async def serve(self, ready: threading.Event) -> None:
        agent = Agent()
        async with serving(agent.respond) as server:
            self.url, self.pc = server.url, agent.pc
            agent.pc.on("track", lambda track: self._tap() if track.kind == "audio" else None)
            ready.set()
            try:
                await anyio.to_thread.run_sync(self.close.wait, abandon_on_cancel=True)
            finally:
                await agent.close()

    def _tap(self) -> None:
        assert self.pc is not None
        receiver = self.pc.getTransceivers()[0].receiver
        buffer = ArrivalBuffer(lambda packet, at_ns: self.packets.append((at_ns, packet)))
        assert isinstance(getattr(receiver, "_RTCRtpReceiver__jitter_buffer"), JitterBuffer)  # noqa: B009
        setattr(receiver, "_RTCRtpReceiver__jitter_buffer", buffer)  # noqa: B010
        handle = receiver._handle_rtcp_packet

        async def keep(packet: AnyRtcpPacket) -> None:
            if isinstance(packet, RtcpSrPacket):
                self.reports.append((clock.current_ntp_time(), packet))
            await handle(packet)

        receiver._handle_rtcp_packet = keep

    @property
    def lateness_ms(self) -> list[float]:
        """How much later than the earliest, by their timestamps, packets came."""
        first = self.packets[0][1].timestamp
        transits = [
            at_ns - (packet.timestamp - first) % (1 << 32) * NS_PER_S // 48_000 for at_ns, packet in self.packets
        ]
        return [(transit - min(transits)) / NS_PER_MS for transit in transits]


@asynccontextmanager
async def call(**options: Any) -> AsyncIterator[tuple[Ear, Visit]]:
    with start_blocking_portal() as portal:
        ear, ready = Ear(portal), threading.Event()
        served = portal.start_task_soon(ear.serve, ready)
        try:
            assert await asyncio.to_thread(ready.wait, 10)
            async with opened(ear.url, **options) as visit:
                await visit.room.enter()
                await until(lambda: len(ear.packets) > 10)
                yield ear, visit
        finally:
            ear.close.set()
            await asyncio.to_thread(served.result, 10)


def say(visit: Visit, pcm: bytes) -> None:
    visit.room._track.write(pcm)  # pyright: ignore[reportPrivateUsage]


def sent(visit: Visit) -> bytes:
    return b"".join(pcm for _, pcm in visit.listener.caller)


async def block(seconds: float, *, free_s: float = 0.005) -> None:
    """Keep the event loop from doing anything for a while, again and again."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        time.sleep(BLOCKED_S)  # noqa: ASYNC251 - that is the point
        await asyncio.sleep(free_s)


@best_of_three
async def test_a_line_has_no_hole_while_the_event_loop_is_blocked() -> None:
    line = tone(2.4)
    async with call() as (ear, visit):
        began = len(ear.packets)
        say(visit, line)
        await block(3.5)
        await until(lambda: line in sent(visit))
        arrived = [packet for _, packet in ear.packets[began:]]
        lateness_ms = ear.lateness_ms[began:]
        reported = list(visit.listener.caller)
    assert len(arrived) > 150
    for before, after in itertools.pairwise(arrived):
        assert (after.sequence_number - before.sequence_number) % (1 << 16) == 1
        assert (after.timestamp - before.timestamp) % (1 << 32) == UNITS, "time was left out"
    # From the loop they would come in heaps of seven, the first of each 150 ms late: half of them over 60.
    assert statistics.median(lateness_ms) < 30
    assert sum(late_ms > 60 for late_ms in lateness_ms) < len(lateness_ms) / 4
    assert {after - before for (before, _), (after, _) in itertools.pairwise(reported)} == {FRAME_NS}


@best_of_three
async def test_a_process_halted_in_mid_line_leaves_a_noted_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = tone(1.0)
    noted: list[TimelineEvent] = []
    mouth = Mouth(AUDIO_RATE_HZ, noted.append)
    async with call() as (ear, visit):
        mouth.begin(0, SpokenLine("Hello", line, 1, len(line) // 2 - 2))
        say(visit, line)
        await until(lambda: any(any(pcm) for _, pcm in visit.listener.caller))
        # All threads of ours stand still, as under SIGSTOP; the agent's would too.
        held = sending.PACER._lock  # pyright: ignore[reportPrivateUsage]
        with held:
            time.sleep(0.5)  # noqa: ASYNC251
        await until(lambda: line in sent(visit))
        for (at_ns, pcm), late_ns in zip(visit.listener.caller, visit.listener.late_ns, strict=True):
            mouth.sent(at_ns, pcm, late_ns=late_ns)
        arrived = [packet for _, packet in ear.packets]
    (gap,) = [e for e in noted if isinstance(e, CallerUnderrun) and e.kind is UnderrunKind.GAP]
    assert 400 <= gap.duration_ms < 2_000
    leaps = [
        (after.timestamp - before.timestamp) % (1 << 32) // UNITS for before, after in itertools.pairwise(arrived)
    ]
    # Nothing of the line is left out: to the agent the caller paused, by the timestamps as well.
    assert max(leaps) * 20 == pytest.approx(gap.duration_ms + 20, abs=20)


@best_of_three
async def test_sender_reports_tell_what_was_sent_and_when() -> None:
    async with call() as (ear, visit):
        say(visit, tone(1.0))
        await block(2.5)
        await until(lambda: len(ear.reports) >= 2)
        await asyncio.sleep(0.1)
        _, report = ear.reports[-1]
        packets = [(at_ns, packet) for at_ns, packet in ear.packets]
        now_ns, now_ntp = time.monotonic_ns(), clock.current_ntp_time()
    info = report.sender_info
    index = next(i for i, (_, packet) in enumerate(packets) if packet.timestamp == info.rtp_timestamp)
    # The first may have come before the agent could decrypt them.
    assert 0 <= info.packet_count - (index + 1) < 20
    sizes = sum(len(packet.payload) for _, packet in packets[: index + 1])
    assert sizes <= info.octet_count < sizes + 20 * 100
    arrived_ago_s = (now_ns - packets[index][0]) / NS_PER_S
    left_ago_s = (now_ntp - info.ntp_timestamp) / (1 << 32)
    assert abs(left_ago_s - arrived_ago_s) < 0.03


async def test_what_the_agent_did_not_get_is_told_once_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    to_lose = 0

    def lossy(data: bytes, forward: Forward) -> None:
        nonlocal to_lose
        if to_lose:
            to_lose -= 1
        else:
            forward(data)

    monkeypatch.setattr(connection, "REPORT_INTERVAL_S", 0.05)
    async with call(line=Line(to_agent=lossy)) as (_, visit):
        to_lose = 7
        await until(lambda: sum(lost for _, _, lost, _ in visit.listener.missed) >= 7, 15)
        quality = visit.room.caller_audio_quality(9)
    assert sum(lost for _, _, lost, _ in visit.listener.missed) == 7
    for since_ns, at_ns, lost, packets in visit.listener.missed:
        assert since_ns < at_ns and 0 < lost <= packets
    assert quality is not None and quality.lost == 7
    assert quality.packets > 7 and quality.jitter_ms is not None


async def test_over_a_turn_server_packets_leave_from_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def relayed(pair: Any) -> Any:
        return sending._Way(pair, pair.remote_addr, None)  # pyright: ignore[reportPrivateUsage]

    monkeypatch.setattr(sending._Way, "over", relayed)  # pyright: ignore[reportPrivateUsage]
    async with call() as (ear, visit):
        say(visit, tone(0.5))
        await until(lambda: any(any(pcm) for _, pcm in visit.listener.caller))
        await until(lambda: len(ear.packets) > 40)
        assert {p.sequence_number - q.sequence_number for (_, q), (_, p) in itertools.pairwise(ear.packets)} <= {
            1,
            1 - (1 << 16),
        }
        time.sleep(0.3)  # noqa: ASYNC251
        await until(lambda: max(visit.listener.late_ns) > 100 * NS_PER_MS)


async def test_what_could_not_be_sent_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with call() as (_, visit):
        monkeypatch.setattr(sending._Way, "send", lambda self, data: False)  # pyright: ignore[reportPrivateUsage]
        await asyncio.sleep(0.3)
        monkeypatch.undo()
        before = len(visit.listener.caller)
        await until(lambda: len(visit.listener.caller) > before + 5)
        places = [at_ns for at_ns, _ in visit.listener.caller]
        assert max(after - before for before, after in itertools.pairwise(places)) >= 10 * FRAME_NS


async def test_an_error_while_sending_ends_the_call_as_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async with call() as (_, visit):

        def failing(self: Any, data: bytes) -> bool:
            raise MemoryError("no more")

        monkeypatch.setattr(sending._Way, "send", failing)  # pyright: ignore[reportPrivateUsage]
        await until(lambda: visit.listener.lost)
        assert str(visit.listener.lost[0]) == "our own error: MemoryError: no more"
        await asyncio.sleep(0.1)
        assert len(visit.listener.lost) == 1


async def test_the_thread_ends_with_the_last_call() -> None:
    async with call():
        assert any(thread.name == "send the callers' audio" for thread in threading.enumerate())
    await until(lambda: not any(thread.name == "send the callers' audio" for thread in threading.enumerate()))


async def test_this_version_of_aiortc_is_built_as_the_sender_expects() -> None:
    assert aiortc.__version__ == sending.AIORTC_VERSION, (
        f"The caller's audio is sent past aiortc, with private parts of version {sending.AIORTC_VERSION}. Read what "
        "changed in RTCRtpSender and RTCDtlsTransport, run this file, then raise AIORTC_VERSION and the lock file."
    )
    pc = RTCPeerConnection()
    sender = pc.addTransceiver("audio").sender
    sending.check_aiortc(sender)
    del sender._RTCRtpSender__mid
    with pytest.raises(RuntimeError, match=f"mid.*install aiortc=={sending.AIORTC_VERSION}"):
        sending.check_aiortc(sender)
    await pc.close()
