"""Sounds with known edges for the tests of the measure, and a stand-in for the speech model."""

import numpy as np
from numpy.typing import NDArray

from bots.caller.speech.silero import WINDOW
from bots.clock import NS_PER_S

RATE_HZ = 24_000
Signal = NDArray[np.float64]


def at(seconds: float) -> int:
    return round(seconds * NS_PER_S)


def buzz(
    *stretches: tuple[float, float], seconds: float, dbfs: float = -20.0, rate_hz: int = RATE_HZ, hz: float = 200.0
) -> Signal:
    """A sound with a voice's spectrum in each stretch, given as (start, end) in seconds."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    tone = np.asarray(sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, 12)))
    tone = tone / np.sqrt(np.mean(np.square(tone)))
    audio = np.zeros(t.size)
    for start_s, end_s in stretches:
        inside = (t >= start_s) & (t < end_s)
        audio[inside] = tone[inside] * 10 ** (dbfs / 20)
    return audio


def noise(dbfs: float, seconds: float, rate_hz: int = RATE_HZ, seed: int = 1) -> Signal:
    return np.random.default_rng(seed).standard_normal(round(seconds * rate_hz)) * 10 ** (dbfs / 20)


def pcm(audio: Signal) -> NDArray[np.int16]:
    return np.rint(np.clip(audio, -1, 1) * 32_767).astype(np.int16)


def loud_is_speech(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Takes what is louder than -30 dBFS for speech."""
    count = samples.size // WINDOW
    power = np.square(samples[: count * WINDOW].reshape(count, WINDOW)).mean(axis=1)
    return (power > 1e-3).astype(np.float32)


def all_is_speech(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Takes everything for speech, as a speech model does a crowd."""
    return np.ones(samples.size // WINDOW, dtype=np.float32)


def nothing_is_speech(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Takes nothing for speech."""
    return np.zeros(samples.size // WINDOW, dtype=np.float32)
