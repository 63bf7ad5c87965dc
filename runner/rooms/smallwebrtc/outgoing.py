"""The caller's audio: encoded ahead, so that what is to leave next is always ready; silence when there is nothing."""

import fractions
import functools
import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from bots.clock import NS_PER_MS
from runner.rooms.base import AUDIO_RATE_HZ
from runner.rooms.lags import Lags

FRAME_NS = 20 * NS_PER_MS
FRAME_SAMPLES = AUDIO_RATE_HZ // 50
FRAME_BYTES = FRAME_SAMPLES * 2

BATCH_FRAMES = 25
"""So much is encoded before the first of it may leave: half a second, in some 5 ms."""

SETTLING_FRAMES = 4
"""After so much silence the encoder and the decoder are in the same state, whatever came before."""

TAIL_FRAMES = 2
"""The encoder looks ahead: the last of a line comes out with the silence behind it."""

TOLERATED_LATE_NS = 20 * NS_PER_MS

BIT_RATE = 32_000
"""Opus for wideband speech in mono (RFC 7587 section 3.1.1 suggests 28-40 kbit/s for fullband)."""

_ENCODING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode lines")


@dataclass(frozen=True)
class Frame:
    """20 ms of audio.

    Attributes:
        pcm: 16-bit mono at :data:`AUDIO_RATE_HZ`.
        payload: The same as Opus.
    """

    pcm: bytes
    payload: bytes


@dataclass
class Punctuality:
    """How the packets left so far."""

    packets: int = 0
    late: int = 0
    latest_ns: int = 0
    lags: Lags = field(default_factory=Lags)

    def add(self, late_ns: int) -> None:
        """Take one packet that left ``late_ns`` after its time."""
        self.packets += 1
        self.lags.add(late_ns)
        if late_ns > TOLERATED_LATE_NS:
            self.late += 1
            self.latest_ns = max(self.latest_ns, late_ns)


class _Encoder:
    """Opus, 20 ms a packet."""

    def __init__(self) -> None:
        codec = av.CodecContext.create("libopus", "w")
        assert isinstance(codec, av.AudioCodecContext)  # noqa: S101 - libopus is an audio codec
        codec.bit_rate = BIT_RATE
        codec.format = "s16"
        codec.layout = "mono"
        codec.sample_rate = AUDIO_RATE_HZ
        codec.time_base = fractions.Fraction(1, AUDIO_RATE_HZ)
        codec.options = {"application": "voip"}
        self._codec = codec
        self._samples = 0

    def encode(self, pcm: bytes) -> list[Frame]:
        """Encode whole frames."""
        samples = np.frombuffer(pcm, dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis, :], format="s16", layout="mono")
        frame.sample_rate = AUDIO_RATE_HZ
        frame.time_base = fractions.Fraction(1, AUDIO_RATE_HZ)
        frame.pts = self._samples
        self._samples += samples.size
        packets = self._codec.encode(frame)
        pieces = (pcm[start : start + FRAME_BYTES] for start in range(0, len(pcm), FRAME_BYTES))
        return [Frame(piece, bytes(packet)) for piece, packet in zip(pieces, packets, strict=True)]


@functools.cache
def silence() -> Frame:
    """Return the packet that an encoder sends, over and over, once it has had nothing but silence for a while."""
    return _Encoder().encode(bytes(FRAME_BYTES * SETTLING_FRAMES))[-1]


class CallerTrack(MediaStreamTrack):
    """Gives out what was written to it, 20 ms at a time, and silence when there is nothing.

    Nothing of it waits: a line is written as a whole, encoded ahead by a thread, and taken by another.
    """

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._to_encode = bytearray()
        self._encoding = False
        self._encoder = _Encoder()
        self._ready: deque[Frame] = deque()
        self._tail: deque[Frame] = deque()
        self._cleared = 0
        self.punctuality = Punctuality()
        silence()

    def write(self, pcm: bytes) -> None:
        """Queue 16-bit mono audio at :data:`AUDIO_RATE_HZ`. A track that was stopped takes nothing any more."""
        if self.readyState != "live":
            return
        with self._lock:
            self._to_encode += pcm
            if not self._to_encode or self._encoding:
                return
            self._encoding = True
        _ENCODING.submit(self._encode_what_waits)

    def clear(self) -> None:
        """Drop what has not left yet."""
        with self._lock:
            self._cleared += 1
            self._to_encode.clear()
            self._ready.clear()
            self._tail.clear()

    def take(self) -> Frame:
        """Return the 20 ms that are to leave next (on whatever thread sends them)."""
        with self._lock:
            for frames in (self._ready, self._tail):
                if frames:
                    return frames.popleft()
        return silence()

    async def recv(self) -> Any:
        """Give nothing: what sends this track takes its frames ready-made."""
        raise MediaStreamError

    def stop(self) -> None:
        """Give out silence only from now on."""
        super().stop()
        self.clear()

    def _encode_what_waits(self) -> None:
        self._encoder.encode(bytes(FRAME_BYTES * SETTLING_FRAMES))
        while True:
            with self._lock:
                pcm = bytes(self._to_encode[: BATCH_FRAMES * FRAME_BYTES])
                if not pcm:
                    self._encoding = False
                    return
                del self._to_encode[: len(pcm)]
                cleared = self._cleared
                is_last = not self._to_encode
            pcm += bytes(-len(pcm) % FRAME_BYTES)
            frames = self._encoder.encode(pcm)
            tail = self._encoder.encode(bytes(FRAME_BYTES * TAIL_FRAMES)) if is_last else []
            self._add(frames, tail, cleared)

    def _add(self, frames: Iterable[Frame], tail: Iterable[Frame], cleared: int) -> None:
        with self._lock:
            if cleared == self._cleared:
                self._ready += frames
                self._tail = deque(tail)
