"""What calls need, loaded before the first of them."""

import importlib
from collections.abc import Sequence
from contextlib import suppress

import anyio.to_thread

from bots.caller.speech import silero
from runner.rooms.urls import RoomKind

_ROOMS = {RoomKind.SMALLWEBRTC: "runner.rooms.smallwebrtc.room", RoomKind.DAILY: "runner.rooms.daily.room"}
_EVERY_CALL = ("httpcore", "bots.caller.pipeline", "bots.caller.speech.recognition")


def load(rooms: Sequence[RoomKind] = tuple(_ROOMS)) -> None:
    """Load what calls need: seconds of imports, which the first call would wait for, and calls under way with it.

    Args:
        rooms: The kinds of room they are made in.
    """
    for module in (*(_ROOMS.get(kind, _ROOMS[RoomKind.SMALLWEBRTC]) for kind in rooms), *_EVERY_CALL):
        # What is not installed is missed by the run that needs it.
        with suppress(ImportError):
            importlib.import_module(module)
    silero.load()


async def load_aside(room: RoomKind) -> None:
    """Load what a call in one kind of room needs, in a worker thread."""
    await anyio.to_thread.run_sync(load, (room,))
