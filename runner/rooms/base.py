"""What every room offers: one protocol, whatever carries the media."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pipecat.transports.base_transport import BaseTransport

from bots.timeline import AgentAudioQuality, CallerAudioQuality, EndedReason
from runner.errors import RoomError

AUDIO_RATE_HZ = 24_000
"""Sample rate of the audio a room hands over, and of the recording."""

PIPELINE_RATE_HZ = 16_000
"""Sample rate of the audio that goes into the caller's pipeline: what Silero and Whisper take."""


SampleFilter = Callable[[bytes], bytes]
"""Takes the caller's audio in its order, 16-bit mono at :data:`AUDIO_RATE_HZ`; returns as much."""

Forward = Callable[[bytes], object]

PacketFault = Callable[[bytes, Forward], object]
"""Takes a packet as it goes over the network, and hands it on: at once, later, twice or never. Must not block."""


@dataclass(frozen=True)
class Line:
    """What lies between the caller and the agent in one call. Where there is nothing, nothing is called.

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


@dataclass(frozen=True)
class Timeliness:
    """How punctual packets were so far, each the 95th percentile; 0 where there were none yet, or nobody can know.

    Attributes:
        send_lag_ms: How late the caller's packets left.
        arrival_jitter_ms: How much later than the earliest the agent's packets came, measured by their timestamps.
        library_ms: How far off a place may be because a library hands audio over without saying when it came.
    """

    send_lag_ms: float
    arrival_jitter_ms: float
    library_ms: float = 0.0


class RoomListener(Protocol):
    """What a room reports while it is open. Called on the event loop; must not block and must not raise.

    Times are nanoseconds on the call's clock. Audio is 16-bit mono PCM at :data:`AUDIO_RATE_HZ`.
    """

    def caller_audio(self, at_ns: int, pcm: bytes, *, late_ns: int | None = 0) -> None:
        """Take audio that left for the network, silence included.

        Args:
            at_ns: When its first sample was to leave: what its timestamp says. A leap means that nothing left.
            pcm: The audio.
            late_ns: How much later than that it really left, where that is known; None: it could not leave at all.
        """

    def agent_audio(self, at_ns: int, pcm: bytes) -> None:
        """Take audio that arrived. ``at_ns`` places its first sample, by packet timestamps or device clock."""

    def agent_audio_lost(self, at_ns: int, duration_ms: float) -> None:
        """Note that silence stands in place of audio of the agent that never arrived, or whose place is in doubt."""

    def agent_audio_late(self, at_ns: int, duration_ms: float, late_ms: float) -> None:
        """Note that a stretch of the agent's audio came up to ``late_ms`` later than its place says."""

    def caller_audio_lost(self, at_ns: int, *, since_ns: int, lost: int, packets: int) -> None:
        """Note that the agent missed packets of ours, by its own report.

        Args:
            at_ns: When the report came.
            since_ns: When the report before it came: in between they were lost.
            lost: How many were lost.
            packets: How many were sent in between.
        """

    def agent_joined(self, at_ns: int, participant: str | None) -> None:
        """Note that the agent is there, with audio we receive."""

    def media_not_connected(self, at_ns: int, *, waited_ms: float, sending: bool, receiving: bool) -> None:
        """Note that the call goes on although media connections were waited for in vain.

        Args:
            at_ns: When the wait was given up.
            waited_ms: How long it was.
            sending: Whether ours is connected.
            receiving: Whether the agent's audio can be received.
        """

    def agent_left(self, at_ns: int, detail: str | None) -> None:
        """Note that the agent left in an orderly way."""

    def agent_media_stopped(self, at_ns: int) -> None:
        """Note that nothing arrives any more; ``at_ns`` is the last arrival."""

    def agent_media_resumed(self, at_ns: int) -> None:
        """Note that packets arrive again."""

    def agent_probed(self, at_ns: int, *, answers: bool | None) -> None:
        """Note whether the address of an agent that nothing arrives from any more takes connections."""

    def message_received(self, at_ns: int, message: Any) -> None:
        """Take a message of the agent: a decoded JSON value."""

    def room_lost(self, error: RoomError) -> None:
        """Note that the room cannot be used any more (the agent vanished, the connection failed)."""


def agent_vanished(silent_s: float) -> RoomError:
    """Return the error for an agent of which nothing has arrived for so long, though it did not leave."""
    return RoomError(
        EndedReason.AGENT_VANISHED,
        f"nothing has arrived from the agent for {silent_s:.1f} s: "
        "its process died, or the network in between is cut",
    )


class Room(Protocol):
    """A place where one call takes place. Use each room once: enter, then leave."""

    @property
    def transport(self) -> BaseTransport:
        """Pipecat's transport: its ``input()`` and ``output()`` go into the caller's pipeline.

        Input frames carry ``pts``: the place of their first sample on the call's clock, in nanoseconds.
        """
        ...

    async def enter(self) -> None:
        """Enter the room. The pipeline around :attr:`transport` must be running.

        Raises:
            RoomError: The room can't be entered; within the room's own time limit.
        """

    async def wait_for_agent(self) -> None:
        """Wait until the agent is there. Waits for ever: the call sets the limit."""

    async def wait_for_media(self) -> None:
        """Wait until audio can go both ways, within the room's own limit; the listener is told if it can't."""

    async def publish(self, message: Any) -> None:
        """Send a message to everyone in the room, unchanged.

        Raises:
            RoomError: The message could not be handed to the network.
        """

    async def send_client_message(self, message: dict[str, Any]) -> None:
        """Send an RTVI message to the agent.

        Raises:
            RoomError: The message could not be handed to the network.
        """

    def participants(self) -> list[str]:
        """Return who else is in the room, by the names they gave themselves."""
        ...

    def agent_audio_quality(self, at_ns: int) -> AgentAudioQuality | None:
        """Return how the agent's audio was delivered so far; None where the room cannot know."""
        ...

    def caller_audio_quality(self, at_ns: int) -> CallerAudioQuality | None:
        """Return how the caller's audio was sent and delivered so far; None where nothing was sent."""
        ...

    def timeliness(self) -> Timeliness:
        """Return how punctual packets were so far, in both directions."""
        ...

    async def leave(self) -> None:
        """Leave the room. Does nothing the second time; never raises; takes at most a few seconds."""
