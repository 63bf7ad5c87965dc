"""Pipecat's transport over an offering connection: its input and output processors."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from loguru import logger
from pipecat.frames.frames import (
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

from bots.clock import NS_PER_MS
from runner.rooms.base import AUDIO_RATE_HZ, PIPELINE_RATE_HZ
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
        self._buffer = bytearray()
        self._buffer_at_ns = 0
        self._left_out_ms = 0
        self._stood_still = False
        # An agent may greet before the pipeline has started: then this is what it starts with.
        self._early: deque[InputAudioRawFrame] | None = deque()

    def put(self, at_ns: int, pcm: bytes) -> None:
        """Take audio at :data:`PIPELINE_RATE_HZ` that begins at ``at_ns`` and follows what was put before."""
        if not self._buffer:
            self._buffer_at_ns = at_ns
        self._buffer += pcm
        while len(self._buffer) >= _INPUT_FRAME_BYTES:
            audio = bytes(self._buffer[:_INPUT_FRAME_BYTES])
            frame = InputAudioRawFrame(audio=audio, sample_rate=PIPELINE_RATE_HZ, num_channels=1)
            frame.pts = self._buffer_at_ns
            del self._buffer[:_INPUT_FRAME_BYTES]
            self._buffer_at_ns += INPUT_FRAME_MS * NS_PER_MS
            self._hand_on(frame)

    def _hand_on(self, frame: InputAudioRawFrame) -> None:
        if self._early is not None:
            # Of more than that the end is left out, as of a pipeline that stands still.
            if len(self._early) < _INPUT_QUEUE_FRAMES:
                self._early.append(frame)
            else:
                self._left_out_ms += INPUT_FRAME_MS
        elif self._audio_task is None or self._paused:
            return
        elif self._audio_in_queue.qsize() < _INPUT_QUEUE_FRAMES:
            self._audio_in_queue.put_nowait(frame)
            self._say_what_was_left_out()
        else:
            self._left_out_ms += INPUT_FRAME_MS

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
        await super().start(frame)
        await self.set_transport_ready(frame)
        early, self._early = self._early, None
        for kept in early or ():
            self._hand_on(kept)

    async def cleanup(self) -> None:
        self._say_what_was_left_out()
        await super().cleanup()


class CallerOutput(BaseOutputTransport):
    """Hands the caller's lines to its track and sends transport messages over the data channel."""

    def __init__(self, params: TransportParams, track: CallerTrack, send_message: SendMessage, **kwargs: Any):
        super().__init__(params, **kwargs)
        self._track = track
        self._send_message = send_message

    async def start(self, frame: StartFrame) -> None:
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
        return self._input

    def output(self) -> CallerOutput:
        return self._output
