"""A Daily room with a pipeline around it and somebody who keeps what it reports, for tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pipecat.frames.frames import Frame, InputAudioRawFrame, OutputAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner
from pydantic import SecretStr

from bots.clock import CallClock
from runner.rooms.base import AUDIO_RATE_HZ
from runner.rooms.daily.room import DailyRoom
from tests.rooms.listener import Listener

URL = "https://example.daily.co/room"
PATIENCE_S = 10.0
"""How long anything that is to happen may take on a machine that is busy."""


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
