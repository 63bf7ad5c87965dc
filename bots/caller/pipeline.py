"""The caller's Pipecat pipeline: it carries; what to do is the body's business.

::

    transport.input() → HearingProcessor → turn detection → CallerProcessor → transport.output()

The agent is the *user* of this pipeline: Pipecat's user frames are about the agent, its bot frames about us.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import anyio
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InputTransportMessageFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    UserSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_transport import BaseTransport
from pipecat.turns.user_start import VADUserTurnStartStrategy
from pipecat.turns.user_stop import BaseUserTurnStopStrategy, SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_processor import UserTurnProcessor
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.workers.runner import WorkerRunner

from bots.caller.hearing import Edge, Heard, Hearing
from bots.caller.script import TurnTaking
from bots.clock import NS_PER_S

ONSET_NOTICED_S = 0.12
END_NOTICED_S = 0.2
"""How long after an edge of the agent's speech it is noticed, mostly: turn detection counts from the edge."""

SPEAKING_INTERVAL_NS = NS_PER_S // 5
AUDIO_TIMEOUT_S = 1.0
"""No audio for so long ends the agent's speech."""

SETUP_TIMEOUT_S = 180.0

PIECE_S = 10
"""Lines go to the output in pieces of this length: nearly all as a whole, so that none has to wait for a busy loop.

Pipecat's own output copies what is left of a piece for every 20 ms of it: minutes at once would hold up all else."""


class PipelineListener(Protocol):
    """What the pipeline reports. Times are on the call's clock; called on the event loop; must not block."""

    def speech_reported(self, at_ns: int) -> None:
        """The agent's speech began at ``at_ns``, as was noticed now."""
        ...

    def silence_reported(self, at_ns: int) -> None:
        """The agent's speech ended at ``at_ns``, as was noticed now. Each :meth:`speech_reported` has one."""
        ...

    def turn_ended(self) -> None:
        """The agent's turn is over, by the turn-taking settings."""
        ...


class HearingProcessor(FrameProcessor):
    """Hears where the agent's speech begins and ends, and tells turn detection as a voice activity detector would."""

    def __init__(self, listener: PipelineListener):
        super().__init__()
        self._listener = listener
        self._hearing = Hearing()
        self._speaking_since_ns = 0
        self._audio_came = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        match frame:
            case StartFrame():
                self._watch = self.create_task(self._watch_audio())
            case EndFrame() | CancelFrame():
                await self._stop_watching()
            case InputAudioRawFrame(pts=int(at_ns)):
                self._audio_came.set()
                await self._report(self._hearing.hear(at_ns, frame.audio))
                if self._hearing.speaking and at_ns - self._speaking_since_ns >= SPEAKING_INTERVAL_NS:
                    self._speaking_since_ns = at_ns
                    await self.broadcast_frame(UserSpeakingFrame)
            case _:
                pass

    async def cleanup(self) -> None:
        await super().cleanup()
        await self._stop_watching()

    async def _report(self, edges: Sequence[Edge]) -> None:
        for edge in edges:
            if edge.heard is Heard.ONSET:
                self._listener.speech_reported(edge.at_ns)
                await self.broadcast_frame(VADUserStartedSpeakingFrame, start_secs=ONSET_NOTICED_S)
            else:
                self._listener.silence_reported(edge.at_ns)
                await self.broadcast_frame(VADUserStoppedSpeakingFrame, stop_secs=END_NOTICED_S)

    async def _watch_audio(self) -> None:
        """End the agent's speech where its audio stops coming."""
        while True:
            self._audio_came.clear()
            with anyio.move_on_after(AUDIO_TIMEOUT_S) as waiting:
                await self._audio_came.wait()
            if waiting.cancelled_caught:
                await self._report(self._hearing.stop())
                await self._audio_came.wait()

    async def _stop_watching(self) -> None:
        if self._watch is not None:
            watch, self._watch = self._watch, None
            await self.cancel_task(watch)


class CallerProcessor(FrameProcessor):
    """Where the caller sits in its pipeline: reports what it hears, and speaks when told to."""

    def __init__(self, listener: PipelineListener):
        super().__init__()
        self._listener = listener

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        match frame:
            case InputAudioRawFrame() | InputTransportMessageFrame():
                return
            case UserStoppedSpeakingFrame():
                self._listener.turn_ended()
            case _:
                pass
        await self.push_frame(frame, direction)

    async def say(self, pcm: bytes, rate_hz: int) -> None:
        """Hand a line to the output: 16-bit mono audio at ``rate_hz``."""
        await self.push_frame(TTSStartedFrame())
        piece = rate_hz * PIECE_S * 2
        for start in range(0, len(pcm), piece):
            await self.push_frame(
                TTSAudioRawFrame(audio=pcm[start : start + piece], sample_rate=rate_hz, num_channels=1)
            )
        await self.push_frame(TTSStoppedFrame())


class CallerPipeline:
    """The caller's pipeline around a room's transport."""

    def __init__(self, transport: BaseTransport, turn_taking: TurnTaking, listener: PipelineListener):
        self._caller = CallerProcessor(listener)
        strategies = UserTurnStrategies(
            # The agent's speech must not flush the caller's own line: whether to yield is the script's business.
            start=[VADUserTurnStartStrategy(enable_interruptions=False)],
            stop=[_end_of_turn(turn_taking)],
        )
        turns = UserTurnProcessor(
            user_turn_strategies=strategies,
            # A fallback for detectors that miss an end; ours never does, and long speeches are no error.
            user_turn_stop_timeout=3_600.0,
        )
        pipeline = Pipeline([transport.input(), HearingProcessor(listener), turns, self._caller, transport.output()])
        self._worker = PipelineWorker(
            pipeline,
            # RTVI is for bots: here it would answer the agent's messages. The call has its own time limits.
            enable_rtvi=False,
            enable_turn_tracking=False,
            idle_timeout_secs=None,
            # Joining a Daily room is part of the set-up, and has its own, shorter limit.
            setup_timeout_secs=SETUP_TIMEOUT_S,
            check_dangling_tasks=False,
        )
        self._runner = WorkerRunner(handle_sigint=False)

    async def run(self) -> None:
        await self._runner.add_workers(self._worker)
        await self._runner.run()

    async def stop(self) -> None:
        """Bring the pipeline down; takes a moment, drops what is queued."""
        await self._runner.cancel(reason="the call is over")

    async def say(self, pcm: bytes, rate_hz: int) -> None:
        """Speak a line: 16-bit mono audio at ``rate_hz``."""
        await self._caller.say(pcm, rate_hz)


def _end_of_turn(turn_taking: TurnTaking) -> BaseUserTurnStopStrategy:
    if turn_taking.smart_turn:
        from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3
        from pipecat.turns.user_stop import TurnAnalyzerUserTurnStopStrategy

        return TurnAnalyzerUserTurnStopStrategy(turn_analyzer=LocalSmartTurnAnalyzerV3(), wait_for_transcript=False)
    wait_s = max(turn_taking.end_of_turn_ms / 1000 - END_NOTICED_S, 0.0)
    return SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=wait_s, wait_for_transcript=False)
