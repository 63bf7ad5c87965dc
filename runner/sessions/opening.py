"""Opens the room an address leads to: a room that is there, or that of a session which is started for it."""

from dataclasses import replace

import httpx
from anyio.abc import TaskGroup

from bots.clock import CallClock
from runner.rooms.base import Room, RoomListener
from runner.rooms.line import EMPTY, Line
from runner.rooms.open import RoomAddress, open_room
from runner.rooms.urls import RoomKind, room_kind
from runner.sessions.pipecat_runner import start_smallwebrtc_session
from runner.settings import RoomSettings


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

    Args:
        address: How to get in.
        settings: How rooms are entered.
        clock: The call's clock.
        listener: Takes what happens in the room.
        http: Client for requests to the agent's side.
        tasks: Task group that owns the room's tasks.
        line: What lies between the caller and the agent.

    Raises:
        UsageError: The address is not that of a room.
        RoomError: No session could be started.
    """
    if room_kind(address.url, settings.daily_domains) is RoomKind.PIPECAT_RUNNER:
        session = await start_smallwebrtc_session(
            http, address.url, address.token, body=address.request_data, guard=address.guard
        )
        ice_servers = (*address.ice_servers, *session.ice_servers)
        # The session got its data when it was started.
        address = replace(address, url=session.offer_url, ice_servers=ice_servers, request_data=None)
    return await open_room(address, settings, clock=clock, listener=listener, http=http, tasks=tasks, line=line)
