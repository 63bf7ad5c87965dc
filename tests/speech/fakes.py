"""Pipecat services made for the tests, named by their dotted paths."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.services.settings import STTSettings, TTSSettings
from pipecat.services.stt_service import STTService
from pipecat.services.tts_service import TTSService

SPOKEN: list[str] = []


def tone(duration_s: float, rate_hz: int, amplitude: float = 0.1) -> bytes:
    times = np.arange(int(duration_s * rate_hz)) / rate_hz
    return (np.sin(2 * np.pi * 440 * times) * amplitude * 32767).astype("<i2").tobytes()


class ToneTTSService(TTSService):
    """Half a second of tone for each text, between two stretches of silence, at a rate of its own."""

    Settings = TTSSettings

    def __init__(self, *, api_key: str, settings: TTSSettings | None = None, **kwargs: Any) -> None:
        if api_key == "wrong":
            raise RuntimeError(f"the key {api_key} was refused")
        own = TTSSettings(model=None, voice="tone", language=None)
        if settings is not None:
            own.apply_update(settings)
        super().__init__(
            push_start_frame=True,
            push_stop_frames=True,
            stop_frame_timeout_s=0.2,
            sample_rate=16_000,
            settings=own,
            **kwargs,
        )

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        SPOKEN.append(text)
        if "error" in text:
            yield ErrorFrame(error="no more credit")
            return
        silence = bytes(2 * 16_000 // 2)
        for chunk in (silence, tone(0.5, 16_000), silence):
            if text != "nothing":
                yield TTSAudioRawFrame(audio=chunk, sample_rate=16_000, num_channels=1, context_id=context_id)


class StreamingTTSService(TTSService):
    """Audio comes from a task of its own, as from a websocket."""

    Settings = TTSSettings

    def __init__(self, *, settings: TTSSettings | None = None, **kwargs: Any) -> None:
        own = TTSSettings(model=None, voice="tone", language=None)
        super().__init__(push_start_frame=True, settings=own, **kwargs)

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        SPOKEN.append(text)
        self.create_task(self._receive(context_id))
        yield None

    async def _receive(self, context_id: str) -> None:
        for _ in range(5):
            await asyncio.sleep(0.01)
            audio = tone(0.1, self.sample_rate)
            frame = TTSAudioRawFrame(audio=audio, sample_rate=self.sample_rate, num_channels=1, context_id=context_id)
            await self.append_to_audio_context(context_id, frame)
        await self.append_to_audio_context(context_id, TTSStoppedFrame(context_id=context_id))
        await self.remove_audio_context(context_id)


class CountingSTTService(STTService):
    """Hears how long it was listening, as a streaming service that finalises what it heard."""

    Settings = STTSettings

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(settings=STTSettings(model=None, language=None), ttfs_p99_latency=0.1, **kwargs)
        self._heard_ms = 0

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        self._heard_ms += len(audio) // 32 if self._user_speaking else 0
        yield None

    async def process_frame(self, frame: Frame, direction: Any) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, VADUserStoppedSpeakingFrame):
            self.request_finalize()
            self.confirm_finalize()
            await self.push_frame(TranscriptionFrame(f"{self._heard_ms} ms", "", ""))
            self._heard_ms = 0


class NoService:
    pass
