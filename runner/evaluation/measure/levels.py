"""The level of a channel over time, in steps of :data:`STEP_MS`, without what lies below a voice."""

from typing import cast

import numpy as np
import soxr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

RATE_HZ = 16_000
"""Every recording is measured at this rate, which the speech model needs too."""
STEP_MS = 5
STEP = RATE_HZ * STEP_MS // 1000
SILENCE_DBFS = -100.0

_HUM_SAMPLES = 129
"""A moving average this long (8 ms) holds what lies below 120 Hz: hum and rumble."""

Samples = NDArray[np.float32]
Levels = NDArray[np.float32]


def at_rate(pcm: NDArray[np.int16], rate_hz: int) -> Samples:
    """Return 16-bit samples as floats (1.0 is full scale) at :data:`RATE_HZ`, in their place in time."""
    samples = pcm.astype(np.float32) / np.float32(32_768)
    return samples if rate_hz == RATE_HZ else cast(Samples, soxr.resample(samples, rate_hz, RATE_HZ))


def without_hum(samples: Samples) -> Samples:
    """Take out what lies below a voice. Nothing moves in time."""
    half = _HUM_SAMPLES // 2
    sums = np.concatenate([[0.0], np.cumsum(np.pad(samples.astype(np.float64), half))])
    return (samples - (sums[_HUM_SAMPLES:] - sums[:-_HUM_SAMPLES]) / _HUM_SAMPLES).astype(np.float32)


def step_levels(samples: Samples, step: int = STEP) -> Levels:
    """Return the RMS level of each step, in dBFS; a last, shorter one is left out."""
    count = samples.size // step
    power = np.square(samples[: count * step].reshape(count, step), dtype=np.float32).mean(axis=1)
    return (10 * np.log10(np.maximum(power, np.float32(10 ** (SILENCE_DBFS / 10))))).astype(np.float32)


def running_median(levels: Levels, width: int) -> Levels:
    """Return the median over so many steps around each; an odd number."""
    if levels.size == 0:
        return levels
    padded = np.pad(levels, width // 2, mode="edge")
    return np.median(sliding_window_view(padded, width), axis=1).astype(np.float32)


def dilated(mask: NDArray[np.bool_], before: int, after: int) -> NDArray[np.bool_]:
    """Return a mask with so many more steps before and after everything that is in it."""
    return near(mask, before, after) > 0


def near(mask: NDArray[np.bool_], before: int, after: int) -> NDArray[np.int64]:
    """Count what is in a mask around each step: up to ``before`` steps ahead of it, and ``after`` behind."""
    sums = np.concatenate([[0], np.cumsum(mask)])
    index = np.arange(mask.size)
    return sums[np.minimum(index + before + 1, mask.size)] - sums[np.maximum(index - after, 0)]


def stretches(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return where a mask is true: first step, and the one after the last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
