"""The agent's audio on its way into the caller's pipeline."""

import anyio
import pytest
from pipecat.frames.frames import EndFrame, Frame, InputAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner

from runner.rooms.base import PIPELINE_RATE_HZ
from runner.rooms.smallwebrtc.transport import AgentInput

pytestmark = pytest.mark.anyio

FRAME_BYTES = PIPELINE_RATE_HZ // 25 * 2
FRAME_NS = 40_000_000


class Heard(FrameProcessor):
    def __init__(self) -> None:
        super().__init__()
        self.places: list[int | None] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            self.places.append(frame.pts)
        await self.push_frame(frame, direction)


async def test_a_greeting_from_before_the_pipeline_has_started_is_heard() -> None:
    params = TransportParams(audio_in_enabled=True, audio_in_sample_rate=PIPELINE_RATE_HZ)
    agent, heard = AgentInput(params), Heard()
    agent.put(0, b"\1\0" * (FRAME_BYTES // 2 * 3))
    worker, runner = PipelineWorker(Pipeline([agent, heard])), WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runner.run)
        with anyio.fail_after(10):
            while len(heard.places) < 3:
                await anyio.sleep(0.01)
            agent.put(3 * FRAME_NS, b"\1\0" * (FRAME_BYTES // 2))
            while len(heard.places) < 4:
                await anyio.sleep(0.01)
            await worker.queue_frame(EndFrame())
    assert heard.places == [place * FRAME_NS for place in range(4)]
