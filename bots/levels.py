"""The level of audio over time, in steps of :data:`STEP_MS`, without what lies below a voice; and what is audible.

A voice is audible within :data:`AUDIBLE_DB` of its own loudest moment, where nothing lies over it; under a bed, where
it is louder than the bed ever is.
"""

from collections.abc import Sequence
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

AUDIBLE_DB = 40.0
ABOVE_BED_DB = 2.0
UNMASKED_DB = 3.0
GAP_STEPS = 80 // STEP_MS
MERGE_STEPS = 250 // STEP_MS
"""Speech goes on after silence shorter than this. Under a bed a gap of 80 ms ends it: what follows may be the bed."""

QUIET_PEAK = 33
"""Peak of 16-bit audio that counts as silence: -60 dBFS."""

HUM_SAMPLES = 129
"""A moving average this long (8 ms) holds what lies below 120 Hz: hum and rumble."""

Samples = NDArray[np.float32]
Levels = NDArray[np.float32]


def is_quiet(pcm: bytes) -> bool:
    samples = np.frombuffer(pcm, dtype=np.int16)
    return not samples.size or int(np.abs(samples.astype(np.int32)).max()) <= QUIET_PEAK


def at_rate(pcm: NDArray[np.int16], rate_hz: int) -> Samples:
    """Return 16-bit samples as floats (1.0 is full scale) at :data:`RATE_HZ`, in their place in time."""
    samples = pcm.astype(np.float32) / np.float32(32_768)
    return samples if rate_hz == RATE_HZ else cast(Samples, soxr.resample(samples, rate_hz, RATE_HZ))


def without_hum(samples: Samples) -> Samples:
    """Take out what lies below a voice. Nothing moves in time."""
    half = HUM_SAMPLES // 2
    sums = np.concatenate([[0.0], np.cumsum(np.pad(samples.astype(np.float64), half))])
    return (samples - (sums[HUM_SAMPLES:] - sums[:-HUM_SAMPLES]) / HUM_SAMPLES).astype(np.float32)


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
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


class LevelStream:
    def __init__(self) -> None:
        self._tail = np.zeros(HUM_SAMPLES - 1, dtype=np.float32)
        self._rest = np.zeros((2, 0), dtype=np.float32)

    def add(self, samples: Samples) -> tuple[int, Levels, Levels]:
        """Take the next samples at :data:`RATE_HZ`.

        Returns by how many samples the first step that is known now begins before these samples; the level of each
        such step as it is; and without hum.
        """
        half = HUM_SAMPLES // 2
        before = half + self._rest.shape[1]
        joined = np.concatenate([self._tail, samples])
        self._tail = joined[joined.size - HUM_SAMPLES + 1 :]
        sums = np.cumsum(np.concatenate([[0.0], joined]))
        # What is around a sample is known only half of that later.
        middle = joined[half : half + samples.size]
        voiced = middle - (sums[HUM_SAMPLES:] - sums[:-HUM_SAMPLES]).astype(np.float32) / HUM_SAMPLES
        both = np.concatenate([self._rest, np.stack([middle, voiced]).astype(np.float32)], axis=1)
        whole = both.shape[1] // STEP * STEP
        self._rest = both[:, whole:]
        return before, step_levels(both[0, :whole]), step_levels(both[1, :whole])


def outermost(
    levels: Sequence[float] | Levels,
    at: int,
    direction: int,
    limit: int,
    threshold: float,
    gap: int,
    inwards: int = 0,
) -> int:
    """Return the last step from ``at`` on that reaches a threshold, before ``gap`` steps that do not.

    Outwards is -1 for the onset of a speech, 1 for its end; no step beyond ``limit`` is looked at. Where none does,
    it is looked for so many steps ``inwards``; where there is none either, it is ``at``.
    """
    found: int | None = None
    quiet = 0
    for step in range(at, limit + direction, direction):
        if levels[step] >= threshold:
            found, quiet = step, 0
        else:
            quiet += 1
            if quiet >= gap:
                break
    if found is not None:
        return found
    for step in range(at, at - direction * inwards, -direction):
        if 0 <= step < len(levels) and levels[step] >= threshold:
            return step
    return at
