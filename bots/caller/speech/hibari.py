"""Speech without network and without a key: the small Hibari model as a Pipecat TTS service."""

import asyncio
import importlib.util
import threading
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import soxr
from pipecat.frames.frames import ErrorFrame, Frame, TTSAudioRawFrame
from pipecat.processors.frame_processor import FrameProcessorSetup
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TTSService
from pipecat.transcriptions.language import Language
from pipecat.utils.tracing.service_decorators import traced_tts
from pipecat.utils.types import NOT_GIVEN, NotGiven, assert_given, require_given

from bots.caller.speech.errors import MissingSpeechPackage
from bots.caller.speech.level import SPEECH_LEVEL_DBFS, Samples, to_level, to_pcm16
from bots.caller.speech.settings import OFFLINE_SEED
from bots.caller.speech.speakable import speakable

if TYPE_CHECKING:
    from hibari import Hibari

__all__ = ["DEFAULT_VOICE", "RATE_HZ", "HibariTTSService", "HibariTTSSettings", "MissingSpeechPackage", "preload"]

DEFAULT_VOICE = "heart"
RATE_HZ = 24_000

_models: dict[str, "_SharedModel"] = {}
_models_lock = threading.Lock()


class _SharedModel:
    """The loaded model of one voice. It costs some 226 MB, so that a process holds it once.

    The lock is held for one sentence at a time (about 10 ms for each second of speech): callers take turns, and none
    waits for another's whole text.
    """

    def __init__(self, voice: str) -> None:
        self._voice = voice
        self._lock = threading.Lock()
        self._model: Hibari | None = None

    def load(self) -> None:
        """Load and warm up the model. Blocks for up to some seconds the first time."""
        with self._lock:
            self._loaded()

    def sentences(self, text: str, speed: float) -> Iterator[Samples]:
        """Yield the speech of each sentence, as samples at 24 kHz. Blocks: for a worker thread."""
        with self._lock:
            model = self._loaded()
            phonemes = model.phonemize(text)
        noise = np.random.default_rng(OFFLINE_SEED)
        for sentence in phonemes:
            with self._lock:
                samples = model.from_ids(model.ids(sentence), speed, noise)
            yield cast(Samples, samples)

    def _loaded(self) -> "Hibari":
        if self._model is None:
            from hibari import Hibari
            from hibari.voices import voice_path

            # With the path given Hibari never downloads, also when the voice is changed in the middle of a call.
            model = Hibari(voice=self._voice, model=voice_path(self._voice, download_missing=False))
            # The dictionaries are loaded, and the graph is optimised, by the first sentence.
            model("Ready.", seed=OFFLINE_SEED)
            self._model = model
        return self._model


def _shared_model(voice: str) -> _SharedModel:
    with _models_lock:
        return _models.setdefault(voice, _SharedModel(voice))


def preload(voice: str = DEFAULT_VOICE) -> None:
    """Load the model of a voice into this process, which all services share. Blocks for up to some seconds."""
    if importlib.util.find_spec("hibari") is None:
        raise MissingSpeechPackage("hibari-tts")
    _shared_model(voice).load()


def available_voices() -> tuple[str, ...]:
    """Return the voices that can speak without network: those in the package, and those downloaded before.

    Raises MissingSpeechPackage: hibari is not installed.
    """
    if importlib.util.find_spec("hibari") is None:
        raise MissingSpeechPackage("hibari-tts")
    from hibari.voices import VOICES, voice_path

    def is_here(voice: str) -> bool:
        try:
            return Path(voice_path(voice, download_missing=False)).is_file()
        except FileNotFoundError:
            return False

    return tuple(voice for voice in VOICES if is_here(voice))


@dataclass
class HibariTTSSettings(TTSSettings):
    """Settings of :class:`HibariTTSService`; ``speed`` is from 0.5 (slow) to 2.0 (fast)."""

    speed: float | NotGiven = field(default_factory=lambda: NOT_GIVEN)


class HibariTTSService(TTSService):
    """English speech from a model inside a Python package: no network, no key, and equal bytes for equal text.

    Text is made speakable first (telephone numbers digit by digit), and each sentence is brought to one RMS level.
    Audio is pushed sentence by sentence, as soon as each is ready. The model is loaded by the pipeline's setup.

    Raises:
        MissingSpeechPackage: Hibari is not installed.
        ValueError: The voice isn't on this machine, or the speed is out of range.
    """

    Settings = HibariTTSSettings

    def __init__(
        self,
        *,
        level_dbfs: float = SPEECH_LEVEL_DBFS,
        settings: HibariTTSSettings | None = None,
        **kwargs: Any,
    ) -> None:
        given = self.Settings(model=None, voice=DEFAULT_VOICE, language=Language.EN, speed=1.0)
        if settings is not None:
            given.apply_update(settings)
        voices = available_voices()
        voice = require_given(given.voice, "Hibari voice")
        if voice not in voices:
            raise ValueError(f"Hibari voice {voice!r} is not on this machine. Voices here: {', '.join(voices)}")
        speed = assert_given(given.speed)
        if not 0.5 <= speed <= 2.0:
            raise ValueError(f"Hibari speed {speed} is out of range: 0.5 to 2.0")
        super().__init__(push_start_frame=True, push_stop_frames=True, settings=given, **kwargs)
        self._level_dbfs = level_dbfs

    def can_generate_metrics(self) -> bool:
        return True

    def language_to_service_language(self, language: Language) -> str:
        return str(language)

    async def setup(self, setup: FrameProcessorSetup) -> None:
        await super().setup(setup)
        await asyncio.to_thread(self._model().load)

    @traced_tts
    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        try:
            await self.start_tts_usage_metrics(text)
            speed = assert_given(cast(HibariTTSSettings, self._settings).speed)
            sentences = self._model().sentences(speakable(text), speed)
            while (pcm := await asyncio.to_thread(self._next_pcm, sentences)) is not None:
                await self.stop_ttfb_metrics()
                yield TTSAudioRawFrame(audio=pcm, sample_rate=self.sample_rate, num_channels=1, context_id=context_id)
        except Exception as error:
            yield ErrorFrame(error=f"Hibari could not speak: {error}")
        finally:
            await self.stop_ttfb_metrics()

    def _model(self) -> _SharedModel:
        return _shared_model(require_given(self._settings.voice, "Hibari voice"))

    def _next_pcm(self, sentences: Iterator[Samples]) -> bytes | None:
        samples = next(sentences, None)
        if samples is None:
            return None
        if self.sample_rate != RATE_HZ:
            samples = cast(Samples, soxr.resample(samples, RATE_HZ, self.sample_rate))
        return to_pcm16(to_level(samples, self._level_dbfs))
