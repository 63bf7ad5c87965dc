"""What every room offers: one protocol, whatever carries the media."""

from typing import Any, Protocol

from pipecat.transports.base_transport import BaseTransport

from bots.timeline import AgentAudioQuality
from runner.errors import RoomError

AUDIO_RATE_HZ = 24_000
"""Sample rate of the audio a room hands over, and of the recording."""


class RoomListener(Protocol):
    """What a room reports while it is open. Called on the event loop; must not block and must not raise.

    Times are nanoseconds on the call's clock. Audio is 16-bit mono PCM at :data:`AUDIO_RATE_HZ`.
    """

    def caller_audio(self, at_ns: int, pcm: bytes) -> None:
        """Take audio that left for the network, silence included. ``at_ns`` is when its first sample left."""
        ...

    def agent_audio(self, at_ns: int, pcm: bytes) -> None:
        """Take audio that arrived. ``at_ns`` places its first sample, by packet timestamps or device clock."""
        ...

    def agent_joined(self, at_ns: int, participant: str | None) -> None:
        """Note that the agent is there, with audio we receive."""
        ...

    def agent_left(self, at_ns: int, detail: str | None) -> None:
        """Note that the agent left in an orderly way."""
        ...

    def agent_media_stopped(self, at_ns: int) -> None:
        """Note that nothing arrives any more; ``at_ns`` is the last arrival."""
        ...

    def agent_media_resumed(self, at_ns: int) -> None:
        """Note that packets arrive again."""
        ...

    def message_received(self, at_ns: int, message: Any) -> None:
        """Take a message of the agent: a decoded JSON value."""
        ...

    def room_lost(self, error: RoomError) -> None:
        """Note that the room cannot be used any more (the agent vanished, the connection failed)."""
        ...


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
        ...

    async def wait_for_agent(self) -> None:
        """Wait until the agent is there with audio. Waits for ever: the call sets the limit."""
        ...

    async def publish(self, message: Any) -> None:
        """Send a message to everyone in the room, unchanged.

        Raises:
            RoomError: The message could not be handed to the network.
        """
        ...

    async def send_client_message(self, message: dict[str, Any]) -> None:
        """Send an RTVI message to the agent.

        Raises:
            RoomError: The message could not be handed to the network.
        """
        ...

    def participants(self) -> list[str]:
        """Return who else is in the room, by the names they gave themselves."""
        ...

    def agent_audio_quality(self, at_ns: int) -> AgentAudioQuality | None:
        """Return how the agent's audio was delivered so far; None where the room cannot know."""
        ...

    async def leave(self) -> None:
        """Leave the room. Does nothing the second time; never raises; takes at most a few seconds."""
        ...
