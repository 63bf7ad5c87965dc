"""Opens the room an address stands for, where there is one already."""

from dataclasses import dataclass, field
from typing import Any

import httpx
from anyio.abc import TaskGroup
from pydantic import SecretStr

from bots.clock import CallClock
from runner.errors import UsageError
from runner.rooms.allowed import RoomGuard
from runner.rooms.base import Room, RoomListener
from runner.rooms.line import EMPTY, Line
from runner.rooms.urls import RoomKind, room_kind
from runner.settings import IceServer, RoomSettings


@dataclass(frozen=True)
class RoomAddress:
    """How to get into a room.

    Attributes:
        url: A Daily room, an ``/api/offer`` address, or the base address of a Pipecat runner, which starts a session
            and with it the room (:func:`runner.sessions.opening.open_address`).
        token: A meeting token for Daily; elsewhere it goes along as a bearer header.
        request_data: Reaches a SmallWebRTC bot as its runner arguments' ``body``.
        ice_servers: STUN and TURN servers that came with the room, besides those of the settings.
        participant_name: The agent's user name in a Daily room; None: as the settings have it.
        runs_here: Whether the agent is known to run on this machine, wherever the room is.
        guard: What ICE servers that come with a session are held to, where one is started here; None allows all.
    """

    url: str
    token: SecretStr | None = None
    request_data: Any = None
    ice_servers: tuple[IceServer, ...] = ()
    participant_name: str | None = None
    runs_here: bool = False
    guard: RoomGuard | None = field(default=None, repr=False, compare=False)


async def open_room(
    address: RoomAddress,
    settings: RoomSettings,
    *,
    clock: CallClock,
    listener: RoomListener,
    http: httpx.AsyncClient,
    tasks: TaskGroup,
    line: Line = EMPTY,
) -> Room:
    """Return the room an address stands for, ready to be entered.

    Args:
        address: How to get in.
        settings: How rooms are entered.
        clock: The call's clock.
        listener: Takes what happens in the room.
        http: Client for requests to the agent's side.
        tasks: Task group that owns the room's tasks.
        line: What lies between the caller and the agent.

    Raises:
        UsageError: The address is not that of a room, or that of a Pipecat runner, which has none yet; or packets are
            to be disturbed on Daily.
    """
    kind = room_kind(address.url, settings.daily_domains)
    if kind is RoomKind.PIPECAT_RUNNER:
        raise UsageError("room URL: a Pipecat runner has no room before it has started a session")
    if kind is RoomKind.DAILY:
        if line.to_agent or line.from_agent:
            raise UsageError("line: the packets of a Daily room can't be disturbed, only those of SmallWebRTC")
        from runner.rooms.daily import DailyRoom

        return DailyRoom(
            address.url,
            address.token,
            clock=clock,
            listener=listener,
            caller_name=settings.caller_name,
            participant_name=address.participant_name or settings.participant_name,
            join_timeout_s=settings.join_timeout_s,
            samples=line.samples,
        )
    from aiortc import RTCIceServer

    from runner.rooms.smallwebrtc import SmallWebRTCRoom

    def rtc(server: IceServer) -> RTCIceServer:
        credential = None if server.credential is None else server.credential.get_secret_value()
        return RTCIceServer(urls=server.urls, username=server.username, credential=credential)

    return SmallWebRTCRoom(
        address.url,
        address.token,
        clock=clock,
        listener=listener,
        http=http,
        tasks=tasks,
        ice_servers=[rtc(server) for server in (*settings.ice_servers, *address.ice_servers)],
        request_data=address.request_data,
        line=line,
    )
