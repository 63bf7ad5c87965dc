"""The caller's lines, spoken offline in another voice than the agents use where there is one."""

import functools

import hibari
import numpy as np
import soxr


@functools.cache
def _engine() -> hibari.Hibari:
    return hibari.Hibari()


@functools.cache
def speak(text: str) -> np.ndarray:
    """Return a line as mono 48 kHz PCM at -20 dBFS, cut to its voiced part."""
    speech = np.asarray(_engine()(text, seed=0), dtype=np.float32)
    loud = np.flatnonzero(np.abs(speech) > 0.005)
    speech = speech[loud[0] : loud[-1] + 1]
    speech *= 0.1 / np.sqrt(np.mean(np.square(speech[np.abs(speech) > 0.005])))
    return np.clip(soxr.resample(speech, 24_000, 48_000) * 32767, -32767, 32767).astype(np.int16)
