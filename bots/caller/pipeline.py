"""The caller's Pipecat pipeline: it carries; what to do is the director's business.

::

    transport.input() → VAD → turn detection → CallerProcessor → transport.output()

The agent is the *user* of this pipeline: Pipecat's user frames are about the agent, its bot frames about us.
"""

from typing import Protocol

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADParams
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    InputTransportMessageFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_transport import BaseTransport
from pipecat.turns.user_start import VADUserTurnStartStrategy
from pipecat.turns.user_stop import BaseUserTurnStopStrategy, SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_processor import UserTurnProcessor
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.workers.runner import WorkerRunner

from bots.caller.script import TurnTaking
from bots.clock import samples_to_ns

VAD_START_S = 0.2
VAD_STOP_S = 0.2
VAD_CONFIDENCE = 0.7
"""Pipecat's own defaults, except for its volume gate: whether it is speech is the model's to say alone."""

VAD_MIN_VOLUME = 0.0

SETUP_TIMEOUT_S = 180.0

PIECE_S = 10
"""Lines go to the output in pieces of this length: nearly all as a whole, so that none has to wait for a busy loop.

Pipecat's own output copies what is left of a piece for every 20 ms of it: minutes at once would hold up all else."""


class PipelineListener(Protocol):
    """What the pipeline reports. Times are on the call's clock; called on the event loop; must not block."""

    def speech_reported(self, at_ns: int) -> None:
        """The VAD reports speech; ``at_ns`` is how far it has listened."""
        ...

    def silence_reported(self, at_ns: int) -> None:
        """The VAD reports the end of speech; ``at_ns`` is how far it has listened."""
        ...

    def turn_ended(self) -> None:
        """The agent's turn is over, by the turn-taking settings."""
        ...


class CallerProcessor(FrameProcessor):
    """Where the caller sits in its pipeline: reports what it hears, and speaks when told to.

    Args:
        listener: Takes the reports.
    """

    def __init__(self, listener: PipelineListener):
        super().__init__()
        self._listener = listener
        self._heard_until_ns = 0

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Report what matters to the caller; the agent's audio and messages end here."""
        await super().process_frame(frame, direction)
        match frame:
            case InputAudioRawFrame():
                if frame.pts is not None:
                    self._heard_until_ns = frame.pts + samples_to_ns(frame.num_frames, frame.sample_rate)
                return
            case InputTransportMessageFrame():
                return
            case VADUserStartedSpeakingFrame():
                self._listener.speech_reported(self._heard_until_ns)
            case VADUserStoppedSpeakingFrame():
                self._listener.silence_reported(self._heard_until_ns)
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
    """The caller's pipeline around a room's transport.

    Args:
        transport: The room's transport.
        turn_taking: When the agent's turn is over.
        listener: Takes the reports.
    """

    def __init__(self, transport: BaseTransport, turn_taking: TurnTaking, listener: PipelineListener):
        self._caller = CallerProcessor(listener)
        vad = SileroVADAnalyzer(
            params=VADParams(
                confidence=VAD_CONFIDENCE, start_secs=VAD_START_S, stop_secs=VAD_STOP_S, min_volume=VAD_MIN_VOLUME
            )
        )
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
        pipeline = Pipeline(
            [transport.input(), VADProcessor(vad_analyzer=vad), turns, self._caller, transport.output()]
        )
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
        """Run until cancelled, or until :meth:`stop`."""
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
    wait_s = max(turn_taking.end_of_turn_ms / 1000 - VAD_STOP_S, 0.0)
    return SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=wait_s, wait_for_transcript=False)
