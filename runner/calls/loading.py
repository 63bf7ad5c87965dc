"""What calls need, loaded and spoken before the first of them."""

import functools
import gc
import importlib
from collections.abc import Sequence
from contextlib import suppress

import anyio.to_thread

from bots.caller.script import Play, Script, Speak
from bots.caller.speech import silero
from bots.caller.speech.errors import MissingSpeechPackage, SpeechError
from bots.caller.speech.voice import Line, Voice
from runner.errors import MissingExtra, UsageError
from runner.rooms.urls import RoomKind
from runner.settings import Settings

_ROOMS = {RoomKind.SMALLWEBRTC: "runner.rooms.smallwebrtc.room", RoomKind.DAILY: "runner.rooms.daily.room"}
_EVERY_CALL = ("httpcore", "bots.caller.pipeline", "bots.caller.speech.recognition")


def load(rooms: Sequence[RoomKind] = tuple(_ROOMS)) -> None:
    """Load what calls need: seconds of imports, which the first call would wait for, and calls under way with it."""
    for module in (*(_ROOMS.get(kind, _ROOMS[RoomKind.SMALLWEBRTC]) for kind in rooms), *_EVERY_CALL):
        # What is not installed is missed by the run that needs it.
        with suppress(ImportError):
            importlib.import_module(module)
    silero.load()


async def load_aside(room: RoomKind) -> None:
    """Load what a call in one kind of room needs, in a worker thread."""
    await anyio.to_thread.run_sync(load, (room,))


async def speech_lines(script: Script, settings: Settings) -> dict[int, Line]:
    """Return the audio of the caller's lines, by turn. Once made it is kept on disk: asked for again it is there.

    Raises:
        UsageError: A line can't be spoken, or a recording can't be played.
        MissingExtra: The caller's speech needs an optional package.
    """
    spoken = {i: t.action for i, t in enumerate(script.turns) if isinstance(t.action, Speak | Play)}
    try:
        lines = await Voice(settings.speech).synthesise(list(spoken.values()))
    except MissingSpeechPackage as error:
        raise MissingExtra(str(error)) from error
    except (SpeechError, ValueError, OSError) as error:
        raise UsageError(f"the caller's lines can't be spoken: {error}") from error
    return dict(zip(spoken, lines, strict=True))


@functools.cache
def spare_what_is_loaded() -> None:
    """Leave out of every later search for garbage what is loaded by now; does it once in a process.

    A full search looks at every object there is and stops all threads for some 0.4 s. Nearly all of that are the
    libraries' own objects, which stay.
    """
    gc.collect()
    gc.freeze()
