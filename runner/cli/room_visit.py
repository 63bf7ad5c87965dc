"""A look into a room: who is there, and whether audio arrives."""

from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
import numpy as np

from bots.clock import CallClock
from runner.errors import RoomError
from runner.rooms.base import AUDIO_RATE_HZ
from runner.rooms.open import RoomAddress
from runner.rooms.urls import room_kind
from runner.sessions.opening import open_address
from runner.settings import Settings

LEAVE_TIMEOUT_S = 10.0
LOOK_AROUND_S = 3.0
"""How long to wait for the agent, as long again for its audio, and then how long to listen to it."""


@dataclass
class Visit:
    """What was seen of a room by entering it."""

    entered_s: float | None = None
    participants: list[str] = field(default_factory=list[str])
    agent: str | None = None
    agent_level_dbfs: float | None = None
    audio_s: float = 0.0
    """How much audio of the agent arrived."""
    messages: int = 0
    error: str | None = None


class _Visitor:
    """Listens to a room without taking part."""

    def __init__(self) -> None:
        self.agent_here = False
        self.participant: str | None = None
        self.heard_something = anyio.Event()
        self.peak = 0
        self.samples = 0
        self.messages = 0
        self.lost: RoomError | None = None

    def caller_audio(self, at_ns: int, pcm: bytes, *, late_ns: int | None = 0) -> None: ...

    def agent_audio_lost(self, at_ns: int, duration_ms: float) -> None: ...

    def agent_audio_late(self, at_ns: int, duration_ms: float, late_ms: float) -> None: ...

    def caller_audio_lost(self, at_ns: int, *, since_ns: int, lost: int, packets: int) -> None: ...

    def agent_audio(self, at_ns: int, pcm: bytes) -> None:
        samples = np.frombuffer(pcm, dtype=np.int16)
        self.samples += samples.size
        self.heard_something.set()
        if samples.size:
            self.peak = max(self.peak, int(np.abs(samples.astype(np.int32)).max()))

    def agent_joined(self, at_ns: int, participant: str | None) -> None:
        self.agent_here = True
        self.participant = participant

    def media_not_connected(self, at_ns: int, *, waited_ms: float, sending: bool, receiving: bool) -> None: ...

    def agent_left(self, at_ns: int, detail: str | None) -> None: ...

    def agent_media_stopped(self, at_ns: int) -> None: ...

    def agent_media_resumed(self, at_ns: int) -> None: ...

    def agent_probed(self, at_ns: int, *, answers: bool | None) -> None: ...

    def message_received(self, at_ns: int, message: Any) -> None:
        self.messages += 1

    def room_lost(self, error: RoomError) -> None:
        self.lost = error

    def speech_reported(self, at_ns: int) -> None: ...

    def silence_reported(self, at_ns: int) -> None: ...

    def turn_ended(self) -> None: ...


async def visit_room(address: RoomAddress, settings: Settings) -> Visit:
    """Enter a room, look around, and leave.

    Raises:
        UsageError: The address is not that of a room.
    """
    from bots.caller.pipeline import CallerPipeline

    room_kind(address.url, settings.room.daily_domains)
    clock = CallClock()
    visitor = _Visitor()
    visit = Visit()
    async with httpx.AsyncClient() as http, anyio.create_task_group() as tasks:
        try:
            room = await open_address(address, settings.room, clock=clock, listener=visitor, http=http, tasks=tasks)
            pipeline = CallerPipeline(room.transport, settings.turn_taking, visitor)
            tasks.start_soon(pipeline.run)
            try:
                await room.enter()
                visit.entered_s = clock.now_ns() / 1e9
                with anyio.move_on_after(LOOK_AROUND_S):
                    await room.wait_for_agent()
                # Media may take a moment longer than the agent itself.
                with anyio.move_on_after(LOOK_AROUND_S):
                    await visitor.heard_something.wait()
                await anyio.sleep(LOOK_AROUND_S)
                visit.participants = room.participants()
            finally:
                with anyio.CancelScope(shield=True), anyio.move_on_after(LEAVE_TIMEOUT_S):
                    await room.leave()
                    await pipeline.stop()
        except RoomError as error:
            visit.error = f"{error.reason.value}: {error}"
        tasks.cancel_scope.cancel()
    if visitor.lost is not None:
        visit.error = visit.error or f"{visitor.lost.reason.value}: {visitor.lost}"
    visit.audio_s = visitor.samples / AUDIO_RATE_HZ
    if visitor.agent_here:
        visit.agent = visitor.participant or "agent"
        visit.agent_level_dbfs = 20 * float(np.log10(visitor.peak / 32_768)) if visitor.peak else None
    visit.messages = visitor.messages
    return visit
