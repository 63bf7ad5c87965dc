"""When the caller's turn begins and when it is over.

It begins with speech; while the agent itself speaks only with more than a short sound, as listeners make ("mm-hmm").
It is over once all of it is recognised, and the caller has been silent for a while.

Whisper hears a turn in segments, one for each pause. Two things make turns whole, whatever the machine is busy with:
recognition says of every segment that it is done, also where there were no words in it, and silence is counted in the
audio received instead of on a clock, which would run on while audio waits to be looked at.
"""

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    DataFrame,
    Frame,
    InputAudioRawFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.turns.types import ProcessFrameResult
from pipecat.turns.user_start import BaseUserTurnStartStrategy
from pipecat.turns.user_stop import BaseUserTurnStopStrategy

from bots.agents.restaurant_understanding import is_thinking
from bots.caller.speech.whisper import OfflineWhisperSTTService

DTMF_PREFIX = "DTMF: "
"""What a transcript of pressed keys begins with."""

THINKING_MS = 2_000
"""Silence that ends a turn in which the caller only said that they are thinking."""

LOUD_DBFS = -45.0
LOUD_RMS = 32768 * 10 ** (LOUD_DBFS / 20)
UNDECIDED_MS = 400
"""Sound that the VAD has not called speech for so long is noise; it needs about 200 ms to call speech that."""


SHORT_SOUND_MS = 400.0
"""The VAD hears "mm-hmm" for some 240 ms, and a single word for up to 360 ms. So much later does it stop."""
SOON_MS = 800.0
"""A short sound that is followed by speech within so long was the beginning of it."""
MEANT_TO_STOP = re.compile(r"\b(?:stop|wait|no|sorry|excuse me|hold on|hang on|enough|hello)\b", re.IGNORECASE)


@dataclass
class NothingRecognisedFrame(DataFrame):
    """A segment of speech was looked at, and there are no words in it."""


class SegmentSTTService(OfflineWhisperSTTService):
    """The offline recogniser, which also says where it recognised nothing."""

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame, None]:
        recognised = False
        async for frame in super().run_stt(audio):
            recognised = recognised or isinstance(frame, TranscriptionFrame)
            yield frame
        if not recognised:
            yield NothingRecognisedFrame()


class SpeechTurnStartStrategy(BaseUserTurnStartStrategy):
    """Begins a turn with the caller's speech, but lets the agent go on at a short sound while it speaks.

    Such a sound (recognition makes anything of "mm-hmm") is forgotten, unless it was a word that means to stop it.
    Needs a recogniser that answers every segment, as :class:`SegmentSTTService` does.
    """

    def __init__(self, *, short_sound_ms: float = SHORT_SOUND_MS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._short_sound_ms = short_sound_ms
        self._bot_speaking = False
        self._in_turn = False
        self._heard_ms: float | None = None
        self._since_ms = SOON_MS
        self._forgotten = 0

    async def process_frame(self, frame: Frame) -> ProcessFrameResult:
        if isinstance(frame, BotStartedSpeakingFrame | BotStoppedSpeakingFrame):
            self._bot_speaking = isinstance(frame, BotStartedSpeakingFrame)
        elif isinstance(frame, VADUserStartedSpeakingFrame):
            if self._since_ms < SOON_MS:
                self._forgotten = 0  # what came just before was the beginning of this
                return await self._begin()
            if self._in_turn or not self._bot_speaking:
                return await self._begin()
            self._heard_ms = 0.0
        elif isinstance(frame, VADUserStoppedSpeakingFrame) and self._heard_ms is not None:
            self._heard_ms = None
            self._since_ms = 0.0
            self._forgotten += 1
        elif isinstance(frame, InputAudioRawFrame):
            duration_ms = frame.num_frames * 1000 / frame.sample_rate
            if self._heard_ms is None:
                self._since_ms += duration_ms
                return ProcessFrameResult.CONTINUE
            self._heard_ms += duration_ms
            if self._heard_ms >= self._short_sound_ms:
                return await self._begin()
        elif isinstance(frame, NothingRecognisedFrame):
            self._forgotten = max(self._forgotten - 1, 0)
        elif isinstance(frame, TranscriptionFrame):
            return await self._read(frame.text)
        return ProcessFrameResult.CONTINUE

    async def handle_user_turn_started(self) -> None:
        await super().handle_user_turn_started()
        self._in_turn = True
        self._heard_ms, self._since_ms = None, SOON_MS

    async def handle_user_turn_stopped(self) -> None:
        await super().handle_user_turn_stopped()
        self._in_turn = False

    async def _read(self, text: str) -> ProcessFrameResult:
        if not text.startswith(DTMF_PREFIX) and self._forgotten:
            self._forgotten -= 1
            if not MEANT_TO_STOP.search(text):
                await self.trigger_reset_aggregation()
                return ProcessFrameResult.CONTINUE
        return await self._begin()

    async def _begin(self) -> ProcessFrameResult:
        await self.trigger_user_turn_started()
        return ProcessFrameResult.STOP


class WholeTurnStopStrategy(BaseUserTurnStopStrategy):
    """Ends a turn when all its segments have been recognised, and enough silence was received.

    Needs a recogniser that answers every segment, as :class:`SegmentSTTService` does. Pressed keys are a complete
    entry and end a turn at once, unless the caller speaks.
    """

    def __init__(self, *, silence_ms: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._silence_ms = silence_ms
        self._speaking = False
        self._silent_ms = 0.0
        self._undecided_ms = 0.0
        self._unrecognised = 0
        self._segments = 0
        self._text = ""
        self._keyed = False

    async def process_frame(self, frame: Frame) -> ProcessFrameResult:
        if isinstance(frame, InputAudioRawFrame):
            self._listen(frame)
        elif isinstance(frame, VADUserStartedSpeakingFrame | VADUserStoppedSpeakingFrame):
            self._speaking = isinstance(frame, VADUserStartedSpeakingFrame)
            self._silent_ms = self._undecided_ms = 0.0
            if not self._speaking:
                self._segments += 1
                self._unrecognised += 1
        elif isinstance(frame, NothingRecognisedFrame):
            self._unrecognised = max(self._unrecognised - 1, 0)
        elif isinstance(frame, TranscriptionFrame):
            if frame.text.startswith(DTMF_PREFIX):
                self._keyed = True
            else:
                self._text = f"{self._text} {frame.text}".strip()
                self._unrecognised = max(self._unrecognised - 1, 0)
        else:
            return ProcessFrameResult.CONTINUE
        if self._is_over():
            await self.trigger_user_turn_stopped()
        return ProcessFrameResult.CONTINUE

    async def handle_user_turn_started(self) -> None:
        await super().handle_user_turn_started()
        self._segments = 0
        self._text = ""

    async def handle_user_turn_stopped(self) -> None:
        await super().handle_user_turn_stopped()
        self._unrecognised = self._segments = 0
        self._text = ""
        self._keyed = False

    def _listen(self, frame: InputAudioRawFrame) -> None:
        if self._speaking:
            return
        duration_ms = frame.num_frames * 1000 / frame.sample_rate
        # The VAD calls speech so only 200 ms after its onset: the beginning of more speech is not silence.
        if self._undecided_ms < UNDECIDED_MS and _rms(frame.audio) > LOUD_RMS:
            self._undecided_ms += duration_ms
        else:
            self._silent_ms += duration_ms

    def _is_over(self) -> bool:
        if self._speaking or self._unrecognised:
            return False
        if self._keyed:
            return True
        if not self._text and not self._segments:
            return False
        return self._silent_ms >= (THINKING_MS if is_thinking(self._text) else self._silence_ms)


def _rms(audio: bytes) -> float:
    samples = np.frombuffer(audio, np.int16).astype(np.float32)
    return float(np.sqrt(np.mean(np.square(samples)))) if samples.size else 0.0
