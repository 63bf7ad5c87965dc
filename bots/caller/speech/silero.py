"""How likely it is that somebody speaks: Silero's model, which comes with Pipecat, without Pipecat around it.

The model looks at 32 ms at a time and remembers what came before. What it remembers of music, noise or long silence
makes it deaf for a while, so that nothing is remembered for longer than some seconds.
"""

import importlib.util
import threading
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["RATE_HZ", "WINDOW", "SpeechModel", "SpeechStream", "load", "speech_probabilities"]

RATE_HZ = 16_000
WINDOW = 512
"""Samples that the model looks at in one step."""

_CONTEXT = 64
_STATE = 128

_PIECE_WINDOWS = 400
_WARM_UP_WINDOWS = 40
"""A recording is cut in pieces of 12.8 s that are looked at side by side, each with 1.3 s of what is before it."""

_SILENCE = 10 ** (-80 / 20)
"""Where every sample is below this (of 1.0) nobody speaks, and the model is not asked."""

_RESET_WINDOWS = 62
_QUIET_WINDOWS = 5
_QUIET_PROBABILITY = 0.1
"""Live, what the model remembers is dropped every two seconds, as soon as nobody has spoken for 160 ms."""

Samples = NDArray[np.float32]


class _Model:
    def __init__(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(_model_path()), providers=["CPUExecutionProvider"], sess_options=options
        )
        self._rate = np.array(RATE_HZ, dtype=np.int64)

    def __call__(self, windows: Samples, state: Samples) -> tuple[Samples, Samples]:
        feed: dict[str, Any] = {"input": windows, "state": state, "sr": self._rate}
        probabilities, after = self._session.run(None, feed)
        return cast(Samples, probabilities)[:, 0], cast(Samples, after)


def _model_path() -> Path:
    """Find the model in Pipecat's package, which is not imported for it."""
    found = importlib.util.find_spec("pipecat")
    folders = [] if found is None else list(found.submodule_search_locations or [])
    for folder in folders:
        path = Path(folder) / "audio" / "vad" / "data" / "silero_vad.onnx"
        if path.is_file():
            return path
    raise FileNotFoundError("Silero's model is not in the pipecat package; install the pipecat-ai that this needs")


_loading = threading.Lock()


@cache
def _loaded() -> _Model:
    return _Model()


def _model() -> _Model:
    # The cache alone would load it twice where two threads come at once.
    with _loading:
        return _loaded()


def load() -> None:
    SpeechStream().probability(np.zeros(WINDOW, dtype=np.float32))


def speech_probabilities(samples: Samples) -> NDArray[np.float32]:
    """Return how likely somebody speaks in each window of :data:`WINDOW` samples; a last, shorter one is left out."""
    count = samples.size // WINDOW
    windows = samples[: count * WINDOW].astype(np.float32, copy=False).reshape(count, WINDOW)
    probabilities = np.zeros(count, dtype=np.float32)
    loud = np.abs(windows).max(axis=1) >= _SILENCE if count else np.zeros(0, dtype=bool)
    starts = [start for start in range(0, count, _PIECE_WINDOWS) if loud[start : start + _PIECE_WINDOWS].any()]
    if not starts:
        return probabilities
    # Silence before the beginning: every piece is equally long.
    padded = np.zeros((_WARM_UP_WINDOWS + (count // _PIECE_WINDOWS + 1) * _PIECE_WINDOWS, WINDOW), dtype=np.float32)
    padded[_WARM_UP_WINDOWS : _WARM_UP_WINDOWS + count] = windows
    length = _WARM_UP_WINDOWS + _PIECE_WINDOWS
    pieces = np.stack([padded[start : start + length] for start in starts])
    state = np.zeros((2, len(starts), _STATE), dtype=np.float32)
    context = np.zeros((len(starts), _CONTEXT), dtype=np.float32)
    model = _model()
    found = np.empty((len(starts), length), dtype=np.float32)
    for step in range(length):
        window = pieces[:, step]
        found[:, step], state = model(np.concatenate([context, window], axis=1), state)
        context = window[:, -_CONTEXT:]
    for index, start in enumerate(starts):
        part = found[index, _WARM_UP_WINDOWS:][: count - start]
        probabilities[start : start + part.size] = part
    probabilities[~loud] = 0
    return probabilities


class SpeechModel(Protocol):
    def probability(self, window: Samples) -> float: ...

    def reset(self) -> None: ...


class SpeechStream:
    def __init__(self) -> None:
        self._state = np.zeros((2, 1, _STATE), dtype=np.float32)
        self._input = np.zeros((1, _CONTEXT + WINDOW), dtype=np.float32)
        self._since_reset = 0
        self._quiet = 0

    def probability(self, window: Samples) -> float:
        self._input[0, :_CONTEXT] = self._input[0, -_CONTEXT:]
        self._input[0, _CONTEXT:] = window
        found, self._state = _model()(self._input, self._state)
        probability = float(found[0])
        self._since_reset += 1
        self._quiet = self._quiet + 1 if probability < _QUIET_PROBABILITY else 0
        if self._since_reset >= _RESET_WINDOWS and self._quiet >= _QUIET_WINDOWS:
            self.reset()
        return probability

    def reset(self) -> None:
        self._state = np.zeros((2, 1, _STATE), dtype=np.float32)
        self._input[:] = 0
        self._since_reset = 0
        self._quiet = 0
