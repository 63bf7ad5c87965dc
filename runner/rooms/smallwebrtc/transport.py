"""Pipecat's transport over an offering connection: its input and output processors."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from loguru import logger
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    StartFrame,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import BaseTransport, TransportParams

from runner.rooms.base import AUDIO_RATE_HZ
from runner.rooms.smallwebrtc.incoming import PIPELINE_RATE_HZ
from runner.rooms.smallwebrtc.outgoing import CallerTrack

INPUT_FRAME_MS = 40
"""Audio goes into the pipeline in pieces of this length: fewer than packets, to spend less on handing them on."""

_INPUT_FRAME_BYTES = PIPELINE_RATE_HZ * INPUT_FRAME_MS // 1000 * 2
_INPUT_QUEUE_FRAMES = 250
"""Ten seconds: a pipeline that is further behind than that has stopped."""

SendMessage = Callable[[Any], Awaitable[None]]


class AgentInput(BaseInputTransport):
    """Pushes the agent's audio into the pipeline, each frame with its place on the call's clock as ``pts``."""

    def __init__(self, params: TransportParams, **kwargs: Any):
        super().__init__(params, **kwargs)
        self._send: MemoryObjectSendStream[InputAudioRawFrame]
        self._receive: MemoryObjectReceiveStream[InputAudioRawFrame]
        self._send, self._receive = anyio.create_memory_object_stream[InputAudioRawFrame](_INPUT_QUEUE_FRAMES)
        self._buffer = bytearray()
        self._buffer_at_ns = 0
        self._left_out_ms = 0
        self._stood_still = False
        self._forward_task: Any = None

    def put(self, at_ns: int, pcm: bytes) -> None:
        """Take audio at :data:`PIPELINE_RATE_HZ` that begins at ``at_ns`` and follows what was put before."""
        if not self._buffer:
            self._buffer_at_ns = at_ns
        self._buffer += pcm
        while len(self._buffer) >= _INPUT_FRAME_BYTES:
            frame = InputAudioRawFrame(
                audio=bytes(self._buffer[:_INPUT_FRAME_BYTES]), sample_rate=PIPELINE_RATE_HZ, num_channels=1
            )
            frame.pts = self._buffer_at_ns
            del self._buffer[:_INPUT_FRAME_BYTES]
            self._buffer_at_ns += INPUT_FRAME_MS * 1_000_000
            try:
                self._send.send_nowait(frame)
                self._say_what_was_left_out()
            except anyio.WouldBlock:
                self._left_out_ms += INPUT_FRAME_MS
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return

    def _say_what_was_left_out(self) -> None:
        """Say, when it is over, that the pipeline stood still: what it slept through comes all at once.

        On a busy machine it does so many times a call: the first time is told, the others only where much is logged.
        """
        if self._left_out_ms:
            level = "DEBUG" if self._stood_still else "ERROR"
            what = "the caller's pipeline stood still: left out {} ms of the agent's audio"
            logger.log(level, what, self._left_out_ms)
            self._left_out_ms = 0
            self._stood_still = True

    async def start(self, frame: StartFrame) -> None:
        """Begin to push audio."""
        await super().start(frame)
        await self.set_transport_ready(frame)
        self._forward_task = self.create_task(self._forward())

    async def stop(self, frame: EndFrame) -> None:
        """Stop pushing audio."""
        await self._stop_forwarding()
        await super().stop(frame)

    async def cancel(self, frame: CancelFrame) -> None:
        """Stop pushing audio at once."""
        await self._stop_forwarding()
        await super().cancel(frame)

    async def cleanup(self) -> None:
        """Let go of what is left."""
        await self._stop_forwarding()
        self._say_what_was_left_out()
        self._send.close()
        self._receive.close()
        await super().cleanup()

    async def _forward(self) -> None:
        async for frame in self._receive:
            await self.push_audio_frame(frame)

    async def _stop_forwarding(self) -> None:
        if self._forward_task is not None:
            await self.cancel_task(self._forward_task)
            self._forward_task = None


class CallerOutput(BaseOutputTransport):
    """Hands the caller's lines to its track and sends transport messages over the data channel."""

    def __init__(self, params: TransportParams, track: CallerTrack, send_message: SendMessage, **kwargs: Any):
        super().__init__(params, **kwargs)
        self._track = track
        self._send_message = send_message

    async def start(self, frame: StartFrame) -> None:
        """Get ready to send."""
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Take audio as it comes, and drop what has not left yet when the caller is to break off."""
        if isinstance(frame, OutputAudioRawFrame):
            # Not by way of Pipecat's own queue, which hands it on 20 ms at a time: the track has a clock of its own,
            # and what it has it can send, whatever this event loop is kept busy with.
            self._track.write(frame.audio)
            return
        if isinstance(frame, InterruptionFrame):
            self._track.clear()
        await super().process_frame(frame, direction)

    async def send_message(self, frame: OutputTransportMessageFrame | OutputTransportMessageUrgentFrame) -> None:
        """Send a message over the data channel."""
        await self._send_message(frame.message)


class OfferingTransport(BaseTransport):
    """Pipecat transport for the side that offers; Pipecat itself ships the side that answers."""

    def __init__(self, track: CallerTrack, send_message: SendMessage):
        super().__init__()
        params = TransportParams(
            audio_in_enabled=True,
            audio_in_sample_rate=PIPELINE_RATE_HZ,
            audio_out_enabled=True,
            audio_out_sample_rate=AUDIO_RATE_HZ,
            audio_out_end_silence_secs=0,
        )
        self._input = AgentInput(params)
        self._output = CallerOutput(params, track, send_message)

    def input(self) -> AgentInput:
        """Return the processor that brings the agent's audio."""
        return self._input

    def output(self) -> CallerOutput:
        """Return the processor that takes the caller's audio."""
        return self._output
