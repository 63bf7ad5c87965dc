"""A room in memory: the transport, the network and the agent's side of a simulated call."""

import asyncio
import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import av
import numpy as np
from aiortc.rtp import RtpPacket
from loguru import logger

from bots.clock import NS_PER_MS, NS_PER_S, CallClock
from bots.timeline import AgentAudioQuality, CallerAudioQuality, EndedReason
from runner.errors import RoomError
from runner.rooms.base import AUDIO_RATE_HZ, PIPELINE_RATE_HZ, RoomListener, Timeliness
from runner.rooms.smallwebrtc.incoming import AgentStream, Decoded, resampled
from runner.rooms.smallwebrtc.outgoing import Punctuality
from runner.rooms.smallwebrtc.room import STOOD_STILL_NS
from runner.rooms.smallwebrtc.sending import SKIP_NS
from runner.rooms.smallwebrtc.transport import OfferingTransport
from tests.simulated.agent import FRAME_NS, Behaviour, SimulatedAgent
from tests.simulated.speech import FRAME_SAMPLES, Pcm
from tests.simulated.virtual_time import Stall, Stalls

FRAME_BYTES = FRAME_SAMPLES * 2
REPORT_NS = NS_PER_S
MESSAGE_NS = NS_PER_MS // 5

CONNECT_NS = 300 * NS_PER_MS
MEDIA_TIMEOUT_NS = int(2.5 * NS_PER_S)
GONE_TIMEOUT_NS = int(3.5 * NS_PER_S)
LEAVE_NS = 50 * NS_PER_MS


@dataclass(frozen=True)
class Network:
    """What happens to packets on their way. Loss comes in bursts, as it does.

    Attributes:
        delay_ms: How long every packet takes.
        jitter_ms: How much longer it takes on average; drawn from an exponential distribution.
        loss: Which share of the agent's packets never arrives.
        caller_loss: Which share of the caller's packets never arrives.
        burst: How many packets are lost in a row on average.
    """

    delay_ms: float = 10
    jitter_ms: float = 0.3
    loss: float = 0
    caller_loss: float = 0
    burst: float = 2


class _Way:
    """One direction of the network."""

    def __init__(self, network: Network, loss: float, random: np.random.Generator):
        self._network = network
        self._random = random
        self._losing = False
        self._leave = 1 / max(network.burst, 1)
        self._enter = self._leave * loss / max(1 - loss, 0.01)
        self._last_ns = 0

    def arrival_ns(self, sent_ns: int) -> int | None:
        """Return when a packet arrives that is sent then; None: never. Packets keep their order."""
        chance, late = self._random.random(), self._random.exponential(self._network.jitter_ms)
        self._losing = chance >= self._leave if self._losing else chance < self._enter
        if self._losing:
            return None
        self._last_ns = max(self._last_ns, sent_ns + int((self._network.delay_ms + late) * NS_PER_MS))
        return self._last_ns


def _plain_decoder() -> Callable[[bytes], Decoded]:
    """Take packets that hold samples as they are: what a codec does to speech is not simulated."""
    to_pipeline = av.AudioResampler("s16", "mono", PIPELINE_RATE_HZ)

    def decode(payload: bytes) -> Decoded:
        samples = np.frombuffer(payload, np.int16)[np.newaxis, :]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = AUDIO_RATE_HZ
        return Decoded(payload, resampled(to_pipeline, frame), FRAME_NS)

    return decode


class _Track:
    """Takes the caller's lines as a whole, and gives them out 20 ms at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._live = True

    def write(self, pcm: bytes) -> None:
        if self._live:
            self._buffer += pcm

    def clear(self) -> None:
        self._buffer.clear()

    def take(self) -> bytes:
        """Return the next 20 ms, silence where nothing is there."""
        frame = bytes(self._buffer[:FRAME_BYTES])
        del self._buffer[:FRAME_BYTES]
        return frame + bytes(FRAME_BYTES - len(frame))

    def stop(self) -> None:
        self._live = False
        self.clear()


@dataclass
class _Report:
    """What the agent reports of the caller's packets (RTCP): since when, and of how many."""

    since_ns: int
    packets: int = 0
    lost: int = 0


class SimulatedRoom:
    """A room with one agent in it.

    Everything that happens beyond our own side has its own exact time; our side sees it when it gets round to it.
    """

    def __init__(
        self,
        clock: CallClock,
        listener: RoomListener,
        *,
        behaviour: Behaviour,
        network: Network,
        random: np.random.Generator,
        stalls: Sequence[Stall] = (),
        background: Pcm | None = None,
    ):
        for_agent, for_way_in, for_way_out, for_phase = random.spawn(4)
        self._clock = clock
        self._listener = listener
        self._behaviour = behaviour
        self._network = network
        self.agent = SimulatedAgent(behaviour, for_agent, self, background)
        self._way_in = _Way(network, network.loss, for_way_in)
        self._way_out = _Way(network, network.caller_loss, for_way_out)
        self._phase_ns = int(for_phase.integers(FRAME_NS))
        self._sequence = int(for_phase.integers(1 << 16))
        self._timestamp = int(for_phase.integers(1 << 32))
        self._track: Any = _Track()
        self._transport = OfferingTransport(self._track, self.publish)
        self._stream = AgentStream(
            clock,
            recording=listener.agent_audio,
            pipeline=self._transport.input().put,
            hole=listener.agent_audio_lost,
            late=listener.agent_audio_late,
            decode=_plain_decoder(),
        )
        self._due: list[tuple[int, int, Callable[[int], None]]] = []
        self._counter = itertools.count()
        self._wake_up: asyncio.TimerHandle | None = None
        self._wakes_at_ns = 0
        self._going_on = False
        self._sender_stalls = Stalls(stall for stall in stalls if stall.is_whole)
        self._punctuality = Punctuality()
        self._report: _Report | None = None
        self._awake_ns = 0
        self._lost = 0
        self._last_message_ns = 0
        self._agent_here = anyio.Event()
        self._left = False

    @property
    def transport(self) -> OfferingTransport:
        return self._transport

    async def enter(self) -> None:
        await anyio.sleep(CONNECT_NS / NS_PER_S)
        now_ns = self._clock.now_ns()
        self._awake_ns = now_ns
        self._at(now_ns, self._caller_frame)
        if self._behaviour.joins:
            self.agent.connected(now_ns)
            self._at(now_ns + self._phase_ns, self._agent_frame)
            self._report = _Report(now_ns)
            self._at(now_ns + REPORT_NS, self._agent_reports)

    async def wait_for_agent(self) -> None:
        await self._agent_here.wait()

    async def wait_for_media(self) -> None:
        pass

    async def publish(self, message: Any) -> None:
        if self._left:
            raise RoomError(EndedReason.RUNNER_ERROR, "a message was sent outside the call")
        arrival_ns = self._clock.now_ns() + int(self._network.delay_ms * NS_PER_MS)
        self._at(arrival_ns, lambda at_ns: self.agent.takes(at_ns, message))

    async def send_client_message(self, message: dict[str, Any]) -> None:
        await self.publish(message)

    def participants(self) -> list[str]:
        return ["agent"] if self._agent_here.is_set() else []

    def agent_audio_quality(self, at_ns: int) -> AgentAudioQuality | None:
        return self._stream.quality(at_ns)

    def caller_audio_quality(self, at_ns: int) -> CallerAudioQuality | None:
        sent = self._punctuality
        if not sent.packets:
            return None
        latest_ms = round(sent.latest_ns / NS_PER_MS, 3)
        return CallerAudioQuality(
            at_ns=at_ns, packets=sent.packets, lost=self._lost, late=sent.late, latest_ms=latest_ms
        )

    def timeliness(self) -> Timeliness:
        return Timeliness(self._punctuality.lags.worst_ms, self._stream.arrival_jitter_ms)

    async def leave(self) -> None:
        if self._left:
            return
        self._left = True
        if self._wake_up is not None:
            self._wake_up.cancel()
        self._track.stop()
        self._stream.close()

    # What the agent does, at its own time.

    def agent_sends(self, at_ns: int, message: dict[str, Any]) -> None:
        """Carry a message of the agent; none is lost."""
        # One after the other, as they are written: some go by which came first.
        arrival_ns = max(at_ns + int(self._network.delay_ms * NS_PER_MS), self._last_message_ns + MESSAGE_NS)
        self._last_message_ns = arrival_ns
        self._at(arrival_ns, lambda _: self._listener.message_received(self._clock.now_ns(), message))

    def agent_leaves(self, at_ns: int) -> None:
        left = "it said that it leaves"
        self._at(at_ns + LEAVE_NS, lambda _: self._listener.agent_left(self._clock.now_ns(), left))

    def agent_dies(self, at_ns: int) -> None:
        """Let the caller find out that nothing arrives any more."""
        lost = RoomError(EndedReason.AGENT_VANISHED, "nothing has arrived from the agent for 3.5 s")
        self._at(at_ns + MEDIA_TIMEOUT_NS, lambda _: self._listener.agent_media_stopped(at_ns))
        gone_ns = at_ns + GONE_TIMEOUT_NS
        self._at(gone_ns, lambda _: self._listener.agent_probed(self._clock.now_ns(), answers=False))
        self._at(gone_ns, lambda _: self._listener.room_lost(lost))

    # Time.

    def _at(self, at_ns: int, action: Callable[[int], None]) -> None:
        heapq.heappush(self._due, (at_ns, next(self._counter), action))
        self._wake()

    def _wake(self) -> None:
        """Come back when the next thing is due."""
        if self._left or self._going_on or not self._due:
            return
        at_ns = self._due[0][0]
        if self._wake_up is not None:
            if self._wakes_at_ns <= at_ns:
                return
            self._wake_up.cancel()
        self._wakes_at_ns = at_ns
        wait_ns = max(at_ns - self._clock.now_ns(), 0)
        self._wake_up = asyncio.get_running_loop().call_later(wait_ns / NS_PER_S, self._go_on)

    def _go_on(self) -> None:
        """Let everything happen in the order of its time; late where our own side is late."""
        now_ns = self._clock.now_ns()
        self._wake_up, self._going_on = None, True
        try:
            while self._due and self._due[0][0] <= now_ns and not self._left:
                at_ns, _, action = heapq.heappop(self._due)
                action(at_ns)
        except Exception as error:
            logger.exception("the simulation failed")
            self._left = True
            self._listener.room_lost(RoomError(EndedReason.RUNNER_ERROR, f"the simulation failed: {error!r}"))
        finally:
            self._going_on = False
        self._wake()

    def _caller_frame(self, due_ns: int) -> None:
        left_ns = self._sender_stalls.awake_ns(due_ns)
        if left_ns - due_ns > SKIP_NS:
            due_ns += (left_ns - due_ns) // FRAME_NS * FRAME_NS
        frame = self._track.take()
        self._punctuality.add(left_ns - due_ns)
        arrival_ns = self._way_out.arrival_ns(left_ns)
        if arrival_ns is None:
            self._lost += 1
        else:
            pcm = np.frombuffer(frame, np.int16)
            self._at(arrival_ns, lambda at_ns: self.agent.hears(at_ns, pcm))
        if self._report is not None:
            self._report.packets += 1
            self._report.lost += arrival_ns is None
        self._listener.caller_audio(due_ns, frame, late_ns=left_ns - due_ns)
        self._stream.tick(self._note_awake())
        self._at(due_ns + FRAME_NS, self._caller_frame)

    def _note_awake(self) -> int:
        """Notice that we stood still, as the real room does."""
        now_ns = self._clock.now_ns()
        if now_ns - self._awake_ns > STOOD_STILL_NS:
            self._stream.stood_still(now_ns)
        self._awake_ns = now_ns
        return now_ns

    def _agent_reports(self, at_ns: int) -> None:
        report, self._report = self._report, _Report(at_ns)
        if report is not None and report.lost:
            self._listener.caller_audio_lost(
                self._clock.now_ns(), since_ns=report.since_ns, lost=report.lost, packets=report.packets
            )
        self._at(at_ns + REPORT_NS, self._agent_reports)

    def _agent_frame(self, at_ns: int) -> None:
        payload = self.agent.plays(at_ns)
        if payload is not None:
            arrival_ns = self._way_in.arrival_ns(at_ns)
            if arrival_ns is not None:
                packet = RtpPacket(payload_type=96, sequence_number=self._sequence, timestamp=self._timestamp)
                packet.payload = payload
                self._at(arrival_ns, lambda _: self._packet_arrives(packet))
            self._sequence = (self._sequence + 1) % (1 << 16)
            self._timestamp = (self._timestamp + 960) % (1 << 32)
            self._at(at_ns + FRAME_NS, self._agent_frame)

    def _packet_arrives(self, packet: RtpPacket) -> None:
        self._note_awake()
        if not self._agent_here.is_set():
            self._agent_here.set()
            self._listener.agent_joined(self._clock.now_ns(), None)
        self._stream.packet_arrived(packet, self._clock.now_ns() + self._clock.origin_ns)
