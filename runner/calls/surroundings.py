"""What a call is made in: time, the way into rooms, and what recognises speech. All of it can be another's."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import httpx
from anyio.abc import TaskGroup

from bots.caller.speech.settings import ServiceSettings
from bots.clock import CallClock
from runner.calls.loading import load_aside
from runner.calls.processor import ProcessorTimes, processor_times
from runner.calls.run_file import utc_now
from runner.rooms.base import Room, RoomListener
from runner.rooms.open import RoomAddress
from runner.rooms.urls import RoomKind
from runner.sessions.opening import open_address
from runner.settings import RoomSettings


class RoomOpener(Protocol):
    """Returns the room an address leads to, as :func:`runner.sessions.opening.open_address` does."""

    async def __call__(
        self,
        address: RoomAddress,
        settings: RoomSettings,
        *,
        clock: CallClock,
        listener: RoomListener,
        http: httpx.AsyncClient,
        tasks: TaskGroup,
    ) -> Room:
        """Return the room, ready to be entered."""
        ...


class Transcriber(Protocol):
    """Recognises finished pieces of a recording, as :func:`bots.caller.speech.recognition.transcribe` does."""

    async def __call__(
        self,
        segments: Sequence[bytes],
        rate_hz: int,
        stt: ServiceSettings,
        *,
        done: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Return one text for each piece; ``done`` is told after each how many are done."""
        ...


async def _transcribe(
    segments: Sequence[bytes], rate_hz: int, stt: ServiceSettings, *, done: Callable[[int], None] | None = None
) -> list[str]:
    # Loads Pipecat's speech services, which most calls never need.
    from bots.caller.speech.recognition import transcribe

    return await transcribe(segments, rate_hz, stt, done=done)


async def _preload(stt: ServiceSettings) -> None:
    from bots.caller.speech.recognition import preload

    await preload(stt)


@dataclass(frozen=True)
class Surroundings:
    """What a call is made in.

    Attributes:
        monotonic_ns: The clock that the event loop goes by, in nanoseconds.
        wall_time: The time of day in ISO 8601, UTC.
        preload: Loads what that needs.
        processor_times: Tells for how long we ran, and waited to.
    """

    monotonic_ns: Callable[[], int] = time.monotonic_ns
    wall_time: Callable[[], str] = utc_now
    load: Callable[[RoomKind], Awaitable[None]] = load_aside
    open_room: RoomOpener = open_address
    transcribe: Transcriber = _transcribe
    preload: Callable[[ServiceSettings], Awaitable[None]] = _preload
    processor_times: ProcessorTimes = processor_times
