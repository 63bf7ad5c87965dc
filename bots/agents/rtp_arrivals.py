"""When the packet that carried a decoded audio frame arrived.

aiortc hands audio over about 80 ms after it arrived (its jitter buffer holds a few packets back), and says nothing
of the arrival. Its receivers are therefore tapped where packets enter the jitter buffer.
"""

import time
from collections import deque
from typing import Any, cast

from aiortc import RTCRtpReceiver
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.rtp import RtpPacket

JITTER_BUFFER_ATTRIBUTE = "_RTCRtpReceiver__jitter_buffer"
"""aiortc's private name for a receiver's jitter buffer. Pipecat relies on the same name."""

REMEMBERED = 512
"""Packets and frames kept: far more than a jitter buffer holds."""


class RtpArrivals:
    """Notes the arrival of every packet of one receiver from now on, and tells it for the frames decoded from them.

    Raises:
        AttributeError: This version of aiortc keeps its jitter buffer elsewhere.
    """

    def __init__(self, receiver: RTCRtpReceiver) -> None:
        buffer = cast(JitterBuffer, getattr(receiver, JITTER_BUFFER_ATTRIBUTE))
        self._add = buffer.add
        self._by_timestamp: dict[int, int] = {}
        self._frames: deque[tuple[JitterFrame, int]] = deque(maxlen=REMEMBERED)
        self.packets = 0
        """Packets that arrived since the receiver was tapped."""
        cast(Any, buffer).add = self._tapped_add

    def arrival_ns(self, pts: int) -> int | None:
        """Return when the packet of a decoded frame came (``time.monotonic_ns()``), by its timestamp."""
        # aiortc rewrites a frame's timestamp to the one its decoded audio will carry, after the buffer has let it
        # go: so the frame itself is kept, and its timestamp read only now.
        for frame, arrived_ns in reversed(self._frames):
            if frame.timestamp == pts:
                return arrived_ns
        return None

    def _tapped_add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        self.packets += 1
        by_timestamp = self._by_timestamp
        by_timestamp.setdefault(packet.timestamp, time.monotonic_ns())
        if len(by_timestamp) > REMEMBERED:
            del by_timestamp[next(iter(by_timestamp))]
        pli, frame = self._add(packet)
        if frame is not None:
            arrived_ns = by_timestamp.pop(frame.timestamp, None)
            if arrived_ns is not None:
                self._frames.append((frame, arrived_ns))
        return pli, frame
