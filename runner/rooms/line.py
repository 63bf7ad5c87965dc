"""The line: what lies between the caller and the agent. Nothing, unless somebody puts something there for a call."""

from collections.abc import Callable
from dataclasses import dataclass

SampleFilter = Callable[[bytes], bytes]
"""Takes the caller's audio in its order, 16-bit mono at :data:`runner.rooms.base.AUDIO_RATE_HZ`; returns as much."""

Forward = Callable[[bytes], object]

PacketFault = Callable[[bytes, Forward], object]
"""Takes a packet as it goes over the network, and hands it on: at once, later, twice or never. Must not block."""


@dataclass(frozen=True)
class Line:
    """What lies on one call's line. Where there is nothing, nothing is called.

    Attributes:
        samples: Between the caller and the room. Where a room encodes the silence between lines itself (SmallWebRTC),
            that goes through it too; Daily's library sends it on its own.
        to_agent: Between our socket and the agent's, for each packet of the caller's audio (SmallWebRTC alone). It is
            called on the thread that sends, or on the event loop where packets go over a TURN server.
        from_agent: Between the sockets, for each packet of the agent's audio, on the event loop (SmallWebRTC alone).
    """

    samples: SampleFilter | None = None
    to_agent: PacketFault | None = None
    from_agent: PacketFault | None = None


EMPTY = Line()
