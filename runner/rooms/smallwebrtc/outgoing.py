"""The caller's audio: encoded ahead, so that what is to leave next is always ready; silence when there is nothing."""

import fractions
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from bots.clock import NS_PER_MS
from runner.rooms.base import AUDIO_RATE_HZ, SampleFilter
from runner.rooms.lags import Lags

FRAME_NS = 20 * NS_PER_MS
FRAME_SAMPLES = AUDIO_RATE_HZ // 50
FRAME_BYTES = FRAME_SAMPLES * 2

BATCH_FRAMES = 25
"""So much is encoded before the first of it may leave: half a second, in some 5 ms."""

SETTLED_FRAMES = 25
"""After so much silence an Opus encoder repeats its packet (14 frames were the most that it was seen to take)."""

TOLERATED_LATE_NS = 20 * NS_PER_MS

BIT_RATE = 32_000
"""Opus for wideband speech in mono (RFC 7587 section 3.1.1 suggests 28-40 kbit/s for fullband)."""

_ENCODING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode lines")


@dataclass(frozen=True)
class Frame:
    """20 ms of audio."""

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
        samples = np.frombuffer(pcm, dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis, :], format="s16", layout="mono")
        frame.sample_rate = AUDIO_RATE_HZ
        frame.time_base = fractions.Fraction(1, AUDIO_RATE_HZ)
        frame.pts = self._samples
        self._samples += samples.size
        packets = self._codec.encode(frame)
        pieces = (pcm[start : start + FRAME_BYTES] for start in range(0, len(pcm), FRAME_BYTES))
        return [Frame(piece, bytes(packet)) for piece, packet in zip(pieces, packets, strict=True)]


class CallerTrack(MediaStreamTrack):
    """Gives out what was written to it, 20 ms at a time, and silence when there is nothing.

    Nothing of it waits: a line is written as a whole, encoded ahead by one thread, taken by another. To the encoder
    all of it is one stream, as it is to the decoder: packets build on those before, and one from elsewhere clicks.

    Args:
        samples: What all of it goes through before it is encoded.
    """

    kind = "audio"

    def __init__(self, samples: SampleFilter | None = None) -> None:
        super().__init__()
        self._samples = samples
        self._lock = threading.Lock()
        self._to_encode = bytearray()
        self._encoding = False
        self._encoder = _Encoder()
        self._ready: deque[Frame] = deque()
        self._silence = self._encoder.encode(bytes(FRAME_BYTES * SETTLED_FRAMES))[-1]
        self._silent_frames = SETTLED_FRAMES
        self._cleared = 0
        self._error: Exception | None = None
        self.punctuality = Punctuality()

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
        with self._lock:
            self._cleared += 1
            self._to_encode.clear()
            self._ready.clear()

    def take(self) -> Frame:
        """Return the 20 ms that are to leave next (on whatever thread sends them)."""
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._ready:
                return self._ready.popleft()
            if self._samples is not None and not self._encoding:
                self._silence = self._encoder.encode(self._samples(bytes(FRAME_BYTES)))[0]
            elif self._silent_frames < SETTLED_FRAMES and not self._encoding:
                self._silence = self._encoder.encode(bytes(FRAME_BYTES))[0]
                self._silent_frames += 1
            return self._silence

    async def recv(self) -> Any:
        """Give nothing: what sends this track takes its frames ready-made."""
        raise MediaStreamError

    def stop(self) -> None:
        """Give out silence only from now on."""
        super().stop()
        self.clear()

    def _encode_what_waits(self) -> None:
        while True:
            with self._lock:
                pcm = bytes(self._to_encode[: BATCH_FRAMES * FRAME_BYTES])
                if not pcm:
                    self._encoding = False
                    return
                del self._to_encode[: len(pcm)]
                self._silent_frames = 0
                cleared = self._cleared
            try:
                pcm += bytes(-len(pcm) % FRAME_BYTES)
                frames = self._encoder.encode(pcm if self._samples is None else self._samples(pcm))
            except Exception as error:
                # Told where the next frame is taken: there it ends the call as our own fault.
                with self._lock:
                    self._error = error
                return
            with self._lock:
                if cleared == self._cleared:
                    self._ready += frames
