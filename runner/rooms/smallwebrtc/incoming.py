"""The agent's audio: from RTP packets as they arrive to samples on the call's clock.

aiortc's own receiving path holds every packet back for about 77 ms and stands still when one is lost. Here a
packet is decoded as it arrives; one that is missing is waited for briefly and then replaced by silence.
"""

import fractions
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import av
import numpy as np
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.rtp import RtpPacket

from bots.clock import NS_PER_MS, CallClock, ns_to_samples, samples_to_ns
from bots.levels import is_quiet
from bots.timeline import AgentAudioQuality
from runner.rooms.base import AUDIO_RATE_HZ, PIPELINE_RATE_HZ
from runner.rooms.lags import Lags
from runner.rooms.late_audio import LateAudio, LateSink, Stretches
from runner.rooms.smallwebrtc.placement import RTP_CLOCK_HZ, Placement, RtpUnwrapper

REORDER_NS = 60 * NS_PER_MS
"""How long a missing packet is waited for."""

PLAYOUT_DELAY_NS = 200 * NS_PER_MS
"""With nothing arriving, silence is put in once the stream is this far behind the clock."""

EXCUSED_NS = 500 * NS_PER_MS
"""After we stood still, what came in between is seen to arrive within this time."""

MERGED_HOLES_NS = 20 * NS_PER_MS
"""Holes this close to each other are one: at most one packet came in between."""

HOLE_NS = 5 * NS_PER_MS
"""A distance between packets that is no rounding."""

MAX_SEQUENCE_LEAP = 500
"""A leap in the sequence beyond this is no loss but a stream that began anew (10 s of packets)."""

PAUSES_OF = (50, 250)
"""What a pause under a bed sounds like is known from the last packets: at least and at most so many (1 and 5 s)."""

PAUSE_QUANTILE = 0.1
"""So much of what an agent sends over 5 s are pauses, between its words at least."""

PAUSE_POWER = 2.0
"""By what factor (3 dB) a pause may be more powerful than that quantile: a bed is not all the same."""

BED_DBFS = -30.0
BED_POWER = 0.1
"""A bed is no louder than the one, or not so powerful as this share of the loudest (10 dB below): a steady tone is
no pause."""

_SEQUENCE_MODULO = 1 << 16
_PCM_BYTES = 2

PacketSink = Callable[[RtpPacket, int], None]
AudioSink = Callable[[int, bytes], None]
HoleSink = Callable[[int, float], None]
"""(where it begins on the call's clock, how long it is in ms)."""


class Decoded(NamedTuple):
    """A packet's audio, 16-bit mono.

    Attributes:
        duration_ns: How long it is; the resamplers hold a little of it back.
    """

    recording: bytes
    pipeline: bytes
    duration_ns: int


class ArrivalBuffer(JitterBuffer):
    """Takes the place of aiortc's jitter buffer: hands every packet on at once, and decodes nothing itself.

    aiortc has no public way to reach packets as they arrive; replacing the buffer leaves its statistics and
    its RTCP reports as they are.
    """

    def __init__(self, sink: PacketSink):
        super().__init__(capacity=16, prefetch=4)
        self._sink = sink

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        """Hand the packet on with its arrival time (``time.monotonic_ns()``); never completes a frame."""
        self._sink(packet, time.monotonic_ns())
        return False, None


def resampled(resampler: av.AudioResampler, frame: av.AudioFrame) -> bytes:
    """Return what a resampler gives out for a frame."""
    return b"".join(piece.to_ndarray().tobytes() for piece in resampler.resample(frame))


class OpusDecoder:
    """Decodes Opus packets to 16-bit mono, at the recording's rate and at the pipeline's."""

    def __init__(self) -> None:
        self._codec = av.CodecContext.create("libopus", "r")
        assert isinstance(self._codec, av.AudioCodecContext)  # noqa: S101 - libopus is an audio codec
        self._codec.format = "s16"
        self._codec.layout = "mono"
        self._codec.sample_rate = RTP_CLOCK_HZ
        self._to_recording = av.AudioResampler("s16", "mono", AUDIO_RATE_HZ)
        self._to_pipeline = av.AudioResampler("s16", "mono", PIPELINE_RATE_HZ)

    def decode(self, payload: bytes) -> Decoded:
        """Return the packet's audio; raises av.FFmpegError where it is not Opus."""
        packet = av.Packet(payload)
        packet.time_base = fractions.Fraction(1, RTP_CLOCK_HZ)
        recording = pipeline = b""
        samples = 0
        for frame in self._codec.decode(packet):
            assert isinstance(frame, av.AudioFrame)  # noqa: S101 - libopus is an audio codec
            frame.pts = None
            samples += frame.samples
            recording += resampled(self._to_recording, frame)
            pipeline += resampled(self._to_pipeline, frame)
        return Decoded(recording, pipeline, samples_to_ns(samples, RTP_CLOCK_HZ))


class _Lane:
    """One output of the stream: contiguous audio at one rate, from the first packet on."""

    def __init__(self, rate_hz: int, sink: AudioSink):
        self._rate_hz = rate_hz
        self._sink = sink
        self._start_ns: int | None = None
        self._samples = 0

    def put(self, at_ns: int, pcm: bytes) -> None:
        """Put audio at its place: fill the gap before it, or leave out what is already taken."""
        if self._start_ns is None:
            self._start_ns = at_ns
        gap = self._missing(at_ns, self._start_ns)
        # The resampler holds a few samples back: a rounding error is no gap.
        if abs(gap) <= self._rate_hz // 500:
            gap = 0
        if gap > 0:
            self._emit(bytes(gap * _PCM_BYTES))
        elif gap < 0:
            pcm = pcm[-gap * _PCM_BYTES :]
        if pcm:
            self._emit(pcm)

    def fill_to(self, at_ns: int) -> None:
        if self._start_ns is not None and (missing := self._missing(at_ns, self._start_ns)) > 0:
            self._emit(bytes(missing * _PCM_BYTES))

    def _missing(self, at_ns: int, start_ns: int) -> int:
        return ns_to_samples(at_ns - start_ns, self._rate_hz) - self._samples

    def _emit(self, pcm: bytes) -> None:
        assert self._start_ns is not None  # noqa: S101 - put() set it
        at_ns = self._start_ns + samples_to_ns(self._samples, self._rate_hz)
        self._samples += len(pcm) // _PCM_BYTES
        self._sink(at_ns, pcm)


class _Pauses:
    """Tells where nothing is said: in silence, and where the agent sends no more than the bed under its voice."""

    def __init__(self) -> None:
        self._powers: deque[float] = deque(maxlen=PAUSES_OF[1])
        self._bed_power = 10 ** (BED_DBFS / 10)

    def add(self, pcm: bytes) -> bool:
        """Take the next packet's audio, 16-bit; return whether nothing is said in it."""
        samples = np.frombuffer(pcm, np.int16) / np.float32(1 << 15)
        power = float(np.square(samples).mean()) if samples.size else 0.0
        self._powers.append(power)
        self._bed_power = max(self._bed_power, BED_POWER * power)
        if len(self._powers) < PAUSES_OF[0] or power > self._bed_power:
            return False
        return power <= PAUSE_POWER * sorted(self._powers)[int(PAUSE_QUANTILE * len(self._powers))]


class AgentStream:
    """Turns the agent's RTP packets into audio on the call's clock.

    Args:
        hole: Takes every place where silence stands for audio that never came, or whose place is in doubt.
        late: Takes every stretch that came late.
        decode: Makes audio of the packets, in the order they were sent: of Opus by default. Raises av.FFmpegError.
    """

    def __init__(
        self,
        clock: CallClock,
        *,
        recording: AudioSink,
        pipeline: AudioSink,
        hole: HoleSink,
        late: LateSink,
        decode: Callable[[bytes], Decoded] | None = None,
    ):
        self._clock = clock
        self._holes = Stretches(MERGED_HOLES_NS, PLAYOUT_DELAY_NS, lambda at_ns, ms, _: hole(at_ns, ms))
        self._late_audio = LateAudio(late)
        self._recording = _Lane(AUDIO_RATE_HZ, recording)
        self._pipeline = _Lane(PIPELINE_RATE_HZ, pipeline)
        self._decode = decode or OpusDecoder().decode
        self._unwrapper = RtpUnwrapper()
        self._placement = Placement()
        self._pauses = _Pauses()
        self._ssrc: int | None = None
        self._next_sequence: int | None = None
        self._held: dict[int, tuple[bytes, int, int]] = {}
        self._packets = 0
        self._lost = 0
        self._late = 0
        self._last_transit: float | None = None
        self._jitter_ns = 0.0
        self._transits = Lags()
        self._end_ns: int | None = None
        self._lost_before_next = False
        self._was_quiet = True
        self._excused_until_ns = 0

    @property
    def arrival_jitter_ms(self) -> float:
        """How much later than the earliest packets came, by their timestamps: the 95th percentile."""
        return self._transits.spread_ms

    def packet_arrived(self, packet: RtpPacket, monotonic_ns: int) -> None:
        """Take a packet of the agent's audio, in the order of arrival."""
        arrival_ns = self._clock.at_ns(monotonic_ns)
        self._packets += 1
        if self._next_sequence is None or packet.ssrc != self._ssrc:
            self._begin(packet)
        ahead = self._ahead(packet)
        if MAX_SEQUENCE_LEAP < ahead < _SEQUENCE_MODULO - MAX_SEQUENCE_LEAP:
            self._begin(packet)
            ahead = 0
        timestamp = self._unwrapper.unwrap(packet.timestamp)
        self._note_jitter(timestamp, arrival_ns)
        if ahead > MAX_SEQUENCE_LEAP:
            self._late += 1
            return
        self._held[packet.sequence_number] = (packet.payload, timestamp, arrival_ns)
        self._release(arrival_ns)

    def tick(self, now_ns: int) -> None:
        """Keep the stream going while nothing arrives. Called a few times a second or more."""
        self._release(now_ns)
        self._holes.tick(now_ns)
        self._late_audio.tick(now_ns)
        if now_ns < self._excused_until_ns:
            return
        self._recording.fill_to(now_ns - PLAYOUT_DELAY_NS)
        self._pipeline.fill_to(now_ns - PLAYOUT_DELAY_NS)

    def stood_still(self, now_ns: int) -> None:
        """Note that this process took nothing in until now: what it sees next may have arrived long ago."""
        self._excused_until_ns = now_ns + EXCUSED_NS

    def close(self) -> None:
        self._holes.flush()
        self._late_audio.flush()

    def quality(self, at_ns: int) -> AgentAudioQuality:
        return AgentAudioQuality(
            at_ns=at_ns,
            packets=self._packets,
            lost=self._lost,
            late=self._late,
            jitter_ms=round(self._jitter_ns / NS_PER_MS, 3),
            reanchored=self._placement.reanchored,
        )

    def _begin(self, packet: RtpPacket) -> None:
        """Start on a new stream: the first, or one whose sequence or source began anew."""
        self._ssrc = packet.ssrc
        self._next_sequence = packet.sequence_number
        self._held.clear()
        self._unwrapper = RtpUnwrapper()
        self._last_transit = None
        self._transits.clear()
        self._end_ns = None
        self._lost_before_next = False
        if self._packets > 1:
            self._placement.restart()

    def _ahead(self, packet: RtpPacket) -> int:
        assert self._next_sequence is not None  # noqa: S101 - set with the first packet
        return (packet.sequence_number - self._next_sequence) % _SEQUENCE_MODULO

    def _release(self, now_ns: int) -> None:
        while self._held:
            assert self._next_sequence is not None  # noqa: S101 - set with the first packet
            entry = self._held.pop(self._next_sequence, None)
            if entry is None:
                oldest_arrival_ns = min(arrival_ns for _, _, arrival_ns in self._held.values())
                if now_ns - oldest_arrival_ns < REORDER_NS:
                    return
                self._lose()
            else:
                self._play(*entry)
            self._next_sequence = (self._next_sequence + 1) % _SEQUENCE_MODULO

    def _lose(self) -> None:
        self._lost += 1
        self._lost_before_next = True

    def _play(self, payload: bytes, timestamp: int, arrival_ns: int) -> None:
        if not payload:
            # To the decoder an empty packet is the end of the stream: it would take nothing after it.
            self._lose()
            return
        try:
            decoded = self._decode(payload)
        except av.FFmpegError:
            # A packet that is no Opus is a lost packet: its place is filled with silence.
            self._lose()
            return
        quiet = is_quiet(decoded.recording)
        pauses = self._pauses.add(decoded.recording)
        reanchored = self._placement.reanchored
        at_ns = self._placement.place(
            timestamp, arrival_ns, quiet=quiet or pauses, arrival_known=arrival_ns >= self._excused_until_ns
        )
        if self._placement.moved_ns:
            self._late_audio.moved(at_ns - self._placement.moved_ns, at_ns)
        else:
            self._late_audio.add(at_ns, at_ns + decoded.duration_ns, self._placement.late_ns)
        # Moved in mid-speech, what stands in between is not what the agent said, even if all of it came.
        torn = self._placement.reanchored != reanchored and not quiet and not self._was_quiet
        if self._end_ns is not None and (self._lost_before_next or torn) and at_ns - self._end_ns > HOLE_NS:
            self._holes.add(self._end_ns, at_ns)
        self._end_ns = at_ns + decoded.duration_ns
        self._lost_before_next = False
        self._was_quiet = quiet
        self._recording.put(at_ns, decoded.recording)
        self._pipeline.put(at_ns, decoded.pipeline)

    def _note_jitter(self, timestamp: int, arrival_ns: int) -> None:
        # RFC 3550 section 6.4.1.
        transit = arrival_ns - timestamp * 1_000_000_000 / RTP_CLOCK_HZ
        if self._last_transit is not None:
            self._jitter_ns += (abs(transit - self._last_transit) - self._jitter_ns) / 16
        self._last_transit = transit
        self._transits.add(int(transit))
