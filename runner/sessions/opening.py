"""Opens the room an address leads to: a room that is there, or that of a session which is started for it."""

from dataclasses import replace

import httpx
from anyio.abc import TaskGroup

from bots.clock import CallClock
from runner.errors import UsageError
from runner.rooms.base import EMPTY, Line, Room, RoomListener
from runner.rooms.open import RoomAddress
from runner.rooms.urls import RoomKind, room_kind
from runner.sessions.pipecat_runner import start_smallwebrtc_session
from runner.settings import IceServer, RoomSettings


async def open_address(
    address: RoomAddress,
    settings: RoomSettings,
    *,
    clock: CallClock,
    listener: RoomListener,
    http: httpx.AsyncClient,
    tasks: TaskGroup,
    line: Line = EMPTY,
) -> Room:
    """Return the room an address leads to, ready to be entered.

    The base address of a Pipecat runner has no room yet: a session is started first, and its room returned.

    Raises:
        UsageError: The address is not that of a room; or packets are to be disturbed on Daily.
        RoomError: No session could be started.
    """
    kind = room_kind(address.url, settings.daily_domains)
    if kind is RoomKind.DAILY:
        if line.to_agent or line.from_agent:
            raise UsageError("line: the packets of a Daily room can't be disturbed, only those of SmallWebRTC")
        from runner.rooms.daily.room import DailyRoom

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
    if kind is RoomKind.PIPECAT_RUNNER:
        session = await start_smallwebrtc_session(
            http, address.url, address.token, body=address.request_data, guard=address.guard
        )
        ice_servers = (*address.ice_servers, *session.ice_servers)
        # The session got its data when it was started.
        address = replace(address, url=session.offer_url, ice_servers=ice_servers, request_data=None)
    from aiortc import RTCIceServer

    from runner.rooms.smallwebrtc.room import SmallWebRTCRoom

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
