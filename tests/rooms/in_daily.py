"""A Daily room with a pipeline around it and somebody who keeps what it reports, for tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pipecat.frames.frames import Frame, InputAudioRawFrame, OutputAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner
from pydantic import SecretStr

from bots.clock import CallClock
from runner.errors import RoomError
from runner.rooms.base import AUDIO_RATE_HZ
from runner.rooms.daily import DailyRoom

URL = "https://example.daily.co/room"


@dataclass
class Listener:
    """Keeps everything a room reports."""

    caller: list[tuple[int, bytes]] = field(default_factory=list)
    agent: list[tuple[int, bytes]] = field(default_factory=list)
    joined: list[tuple[int, str | None]] = field(default_factory=list)
    left: list[tuple[int, str | None]] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    probed: list[bool | None] = field(default_factory=list)
    messages: list[Any] = field(default_factory=list)
    lost: list[RoomError] = field(default_factory=list)
    not_connected: list[tuple[bool, bool]] = field(default_factory=list)
    """(sending, receiving) of media that was waited for in vain."""
    holes: list[tuple[int, float]] = field(default_factory=list)
    late: list[tuple[int, float, float]] = field(default_factory=list)

    def caller_audio(self, at_ns: int, pcm: bytes, *, late_ns: int | None = 0) -> None:
        self.caller.append((at_ns, pcm))

    def agent_audio_lost(self, at_ns: int, duration_ms: float) -> None:
        self.holes.append((at_ns, duration_ms))

    def agent_audio_late(self, at_ns: int, duration_ms: float, late_ms: float) -> None:
        self.late.append((at_ns, duration_ms, late_ms))

    def caller_audio_lost(self, at_ns: int, *, since_ns: int, lost: int, packets: int) -> None: ...

    def agent_audio(self, at_ns: int, pcm: bytes) -> None:
        self.agent.append((at_ns, pcm))

    def agent_joined(self, at_ns: int, participant: str | None) -> None:
        self.joined.append((at_ns, participant))

    def media_not_connected(self, at_ns: int, *, waited_ms: float, sending: bool, receiving: bool) -> None:
        self.not_connected.append((sending, receiving))

    def agent_left(self, at_ns: int, detail: str | None) -> None:
        self.left.append((at_ns, detail))

    def agent_media_stopped(self, at_ns: int) -> None:
        self.stopped.append(at_ns)

    def agent_media_resumed(self, at_ns: int) -> None:
        self.resumed.append(at_ns)

    def agent_probed(self, at_ns: int, *, answers: bool | None) -> None:
        self.probed.append(answers)

    def message_received(self, at_ns: int, message: Any) -> None:
        self.messages.append(message)

    def room_lost(self, error: RoomError) -> None:
        self.lost.append(error)


class Tap(FrameProcessor):
    """Between the transport's ends: keeps what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.audio: list[InputAudioRawFrame] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            self.audio.append(frame)
            return
        await self.push_frame(frame, direction)


@dataclass
class Call:
    room: DailyRoom
    listener: Listener
    tap: Tap
    worker: PipelineWorker
    clock: CallClock

    async def say(self, pcm: bytes) -> None:
        await self.worker.queue_frame(OutputAudioRawFrame(audio=pcm, sample_rate=AUDIO_RATE_HZ, num_channels=1))


@asynccontextmanager
async def running(url: str = URL, token: str | None = None, **kwargs: Any) -> AsyncIterator[Call]:
    """A room with its pipeline running, not entered yet."""
    clock, listener, tap = CallClock(), Listener(), Tap()
    room = DailyRoom(url, SecretStr(token) if token else None, clock=clock, listener=listener, **kwargs)
    pipeline = Pipeline([room.transport.input(), tap, room.transport.output()])
    worker = PipelineWorker(pipeline, enable_rtvi=False, idle_timeout_secs=None, setup_timeout_secs=40)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    task = asyncio.create_task(runner.run())
    try:
        yield Call(room, listener, tap, worker, clock)
    finally:
        await room.leave()
        await runner.cancel()
        await asyncio.wait_for(task, 10)


@asynccontextmanager
async def entered(**kwargs: Any) -> AsyncIterator[Call]:
    async with running(**kwargs) as call:
        await call.room.enter()
        yield call
