"""The caller's audio: a track that sends in real time, silence included, and reports what it sent and when."""

import asyncio
import fractions
from typing import Any

import av
import numpy as np
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from bots.clock import NS_PER_MS, NS_PER_S, CallClock
from runner.rooms.base import AUDIO_RATE_HZ
from runner.rooms.smallwebrtc.incoming import AudioSink
from runner.rooms.smallwebrtc.placement import RTP_CLOCK_HZ

FRAME_NS = 20 * NS_PER_MS
FRAME_SAMPLES = AUDIO_RATE_HZ // 50
FRAME_BYTES = FRAME_SAMPLES * 2
_RTP_UNITS_PER_FRAME = RTP_CLOCK_HZ // 50

LEAD_NS = 200 * NS_PER_MS
"""How far ahead of the network audio may be written: what a busy event loop can be late without a gap."""

LATE_NS = 200 * NS_PER_MS
"""A track this much behind the clock does not catch up in a burst: it leaves out the time it missed."""

BIT_RATE = 32_000
"""Opus for wideband speech in mono (RFC 7587 section 3.1.1 suggests 28-40 kbit/s for fullband)."""


class CallerTrack(MediaStreamTrack):
    """Sends what was written to it, 20 ms at a time, and silence when there is nothing.

    Frames are encoded here and handed to aiortc ready-made: its own encoder works at 48 kHz stereo in another
    thread, which costs several times as much.

    Args:
        clock: The call's clock.
        sent: Takes every frame as it leaves, with its place on the call's clock.
    """

    kind = "audio"

    def __init__(self, clock: CallClock, sent: AudioSink):
        super().__init__()
        self._clock = clock
        self._sent = sent
        self._buffer = bytearray()
        self._room = asyncio.Event()
        self._room.set()
        self._start_ns: int | None = None
        self._frames = 0
        codec = av.CodecContext.create("libopus", "w")
        assert isinstance(codec, av.AudioCodecContext)  # noqa: S101 - libopus is an audio codec
        codec.bit_rate = BIT_RATE
        codec.format = "s16"
        codec.layout = "mono"
        codec.sample_rate = AUDIO_RATE_HZ
        codec.time_base = fractions.Fraction(1, AUDIO_RATE_HZ)
        codec.options = {"application": "voip"}
        self._codec = codec

    async def write(self, pcm: bytes) -> None:
        """Queue 16-bit mono audio at :data:`AUDIO_RATE_HZ`; waits while there is more than enough ahead.

        A track that was stopped takes nothing any more, and waits for nothing.
        """
        if self.readyState != "live":
            return
        self._buffer += pcm
        while len(self._buffer) > FRAME_BYTES * (LEAD_NS // FRAME_NS):
            self._room.clear()
            await self._room.wait()

    def clear(self) -> None:
        """Drop what has not left yet."""
        self._buffer.clear()
        self._room.set()

    async def recv(self) -> "av.Packet[Any]":
        """Return the next 20 ms, encoded, when they are due (called by aiortc's sender)."""
        if self.readyState != "live":
            raise MediaStreamError
        now_ns = self._clock.now_ns()
        if self._start_ns is None:
            self._start_ns = now_ns
        due_ns = self._start_ns + self._frames * FRAME_NS
        if now_ns < due_ns:
            await asyncio.sleep((due_ns - now_ns) / NS_PER_S)
        elif now_ns - due_ns > LATE_NS:
            self._frames += (now_ns - due_ns) // FRAME_NS
            due_ns = self._start_ns + self._frames * FRAME_NS
        frame = bytes(self._buffer[:FRAME_BYTES])
        del self._buffer[:FRAME_BYTES]
        self._room.set()
        frame += bytes(FRAME_BYTES - len(frame))
        packet = self._encode(frame)
        self._sent(due_ns, frame)
        self._frames += 1
        return packet

    def stop(self) -> None:
        """Stop sending."""
        super().stop()
        self.clear()

    def _encode(self, pcm: bytes) -> "av.Packet[Any]":
        frame = av.AudioFrame.from_ndarray(
            np.frombuffer(pcm, dtype=np.int16)[np.newaxis, :], format="s16", layout="mono"
        )
        frame.sample_rate = AUDIO_RATE_HZ
        frame.time_base = fractions.Fraction(1, AUDIO_RATE_HZ)
        frame.pts = self._frames * FRAME_SAMPLES
        (packet,) = self._codec.encode(frame)
        # The encoder counts from its look-ahead on; the receiver needs only the distance between packets.
        packet.pts = self._frames * _RTP_UNITS_PER_FRAME
        packet.time_base = fractions.Fraction(1, RTP_CLOCK_HZ)
        return packet
