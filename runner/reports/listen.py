"""A call on this machine's speakers: the caller on the left, the agent on the right."""

import importlib
import threading
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from loguru import logger

from runner.calls.recording import CHANNELS
from runner.errors import MissingExtra

BUFFER_S = 2
"""More than this is not kept: what is heard stays close to what happens."""


class Speakers:
    """Plays both sides of a call as they come.

    Raises:
        MissingExtra: The package or the system library that plays audio is not there.
    """

    def __init__(self, rate_hz: int):
        try:
            sounddevice: Any = importlib.import_module("sounddevice")
        except ImportError as error:
            raise MissingExtra.named("listen", str(error.name), what="--listen") from error
        except OSError as error:
            raise MissingExtra("--listen needs PortAudio: apt install libportaudio2") from error
        self._max_bytes = rate_hz * 2 * BUFFER_S
        self._buffers = [bytearray() for _ in range(CHANNELS)]
        self._lock = threading.Lock()
        self._stream: Any = None
        try:
            self._stream = sounddevice.OutputStream(
                samplerate=rate_hz, channels=CHANNELS, dtype="int16", callback=self._fill
            )
            self._stream.start()
        except sounddevice.PortAudioError as error:
            # The call matters more than hearing it.
            self._stream = None
            logger.warning("this machine has no speakers to play the call on ({})", error)

    def __enter__(self) -> Self:
        """Return the speakers themselves; they play already."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop playing."""
        if self._stream is not None:
            self._stream.stop()
            self._stream.close()

    def audio(self, channel: int, pcm: bytes) -> None:
        """Take 16-bit mono audio of one side."""
        with self._lock:
            buffer = self._buffers[channel]
            buffer += pcm
            del buffer[: max(len(buffer) - self._max_bytes, 0)]

    def _fill(self, out: npt.NDArray[np.int16], frames: int, *_: Any) -> None:
        with self._lock:
            for channel, buffer in enumerate(self._buffers):
                samples = np.frombuffer(bytes(buffer[: frames * 2]), dtype=np.int16)
                del buffer[: frames * 2]
                out[:, channel] = 0
                out[: samples.size, channel] = samples
