"""How to get into a room."""

from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from runner.rooms.allowed import RoomGuard
from runner.settings import IceServer


@dataclass(frozen=True)
class RoomAddress:
    """The way into a room.

    Attributes:
        url: A Daily room, an ``/api/offer`` address, or the base address of a Pipecat runner, which starts a session
            and with it the room (:func:`runner.sessions.opening.open_address`).
        token: A meeting token for Daily; elsewhere it goes along as a bearer header.
        request_data: Reaches a SmallWebRTC bot as its runner arguments' ``body``.
        ice_servers: STUN and TURN servers that came with the room, besides those of the settings.
        participant_name: The agent's user name in a Daily room; None: as the settings have it.
        runs_here: Whether the agent is known to run on this machine, wherever the room is.
    """

    url: str
    token: SecretStr | None = None
    request_data: Any = None
    ice_servers: tuple[IceServer, ...] = ()
    participant_name: str | None = None
    runs_here: bool = False
    guard: RoomGuard | None = field(default=None, repr=False, compare=False)
