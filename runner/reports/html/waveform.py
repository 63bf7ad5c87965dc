"""The shape of a recording, as SVG paths."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

COLUMN_S = 0.02
MAX_COLUMNS = 4_000
"""A column of the waveform is as long as a packet of audio, in long calls longer."""

HEIGHT = 100
_LOUDEST = 0.5
"""Speech is far from full scale: louder samples than this reach the edge."""


@dataclass(frozen=True)
class Waveform:
    """One side of a call.

    Attributes:
        columns: How wide the paths are; they are ``HEIGHT`` high, above a line at 0.
        peaks: The loudest sample of each column.
        body: The level (root mean square) of each.
    """

    columns: int
    peaks: str
    body: str


def waveform(samples: npt.NDArray[np.int16], rate_hz: int) -> Waveform:
    """Return the shape of one channel."""
    seconds = samples.size / rate_hz
    columns = max(min(int(np.ceil(seconds / COLUMN_S)), MAX_COLUMNS), 1)
    if not samples.size:
        return Waveform(columns, "", "")
    # The last column may be a shorter one: positions stay in proportion to time.
    edges = np.minimum(np.round(np.arange(columns) * samples.size / columns).astype(int), samples.size - 1)
    level = np.abs(samples.astype(np.float32)) / 32_768
    lengths = np.diff(np.append(edges, samples.size))
    peaks = np.maximum.reduceat(level, edges)
    body = np.sqrt(np.add.reduceat(level**2, edges) / np.maximum(lengths, 1))
    return Waveform(columns, _path(peaks), _path(body))


def _path(levels: npt.NDArray[np.float32]) -> str:
    """Return the outline of bars, drawn upwards from 0; equal bars are one."""
    heights = np.round(np.minimum(levels / _LOUDEST, 1.0) ** 0.6 * HEIGHT).astype(int)
    heights[heights < 2] = 0
    changes = np.flatnonzero(np.diff(heights)) + 1
    starts = [0, *changes.tolist()]
    ends = [*changes.tolist(), len(heights)]
    drawn = "".join(f"V{-heights[a]}H{b}" for a, b in zip(starts, ends, strict=True))
    return f"M0 0{drawn}V0z"
