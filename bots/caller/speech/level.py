"""Loudness of speech, and 16-bit PCM to and from samples.

Samples are 32-bit floats where 1.0 is full scale.
"""

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

SPEECH_LEVEL_DBFS = -20.0
"""Where voice activity detectors work best: 7 dB lower, one of 30 telephone utterances was missed."""

_FRAME_SAMPLES = 480
# A frame of speech lies within so many dB of the loudest frame; below it are pauses, breath and room noise
# (ITU-T P.56 puts the border some 16 dB under the active level, and the loudest frame some 8 dB above it).
_SPEECH_RANGE_DB = 25.0
_PEAK_LIMIT = 0.98


def from_pcm16(pcm: bytes) -> Samples:
    """Return 16-bit little-endian PCM as samples; a last odd byte is left out."""
    usable = pcm[: len(pcm) - len(pcm) % 2]
    return np.frombuffer(usable, dtype="<i2").astype(np.float32) / np.float32(32768.0)


def to_pcm16(samples: Samples) -> bytes:
    """Return samples as 16-bit little-endian PCM; what lies beyond full scale is cut to it."""
    scaled = np.rint(np.clip(samples, -1.0, 1.0) * 32767.0)
    return scaled.astype("<i2").tobytes()


def speech_dbfs(samples: Samples) -> float | None:
    """Return the RMS level over the frames that hold speech, in dBFS; ``None`` for digital silence."""
    if samples.size == 0:
        return None
    frames = -(-samples.size // _FRAME_SAMPLES)
    padded = np.zeros(frames * _FRAME_SAMPLES, dtype=np.float64)
    padded[: samples.size] = samples
    power = np.mean(np.square(padded.reshape(frames, _FRAME_SAMPLES)), axis=1)
    loudest = float(power.max())
    if not np.isfinite(loudest) or loudest < 1e-12:
        return None
    speech = power[power >= loudest * 10 ** (-_SPEECH_RANGE_DB / 10)]
    return float(10 * np.log10(speech.mean()))


def to_level(pcm: Samples, dbfs: float = SPEECH_LEVEL_DBFS) -> Samples:
    """Bring speech to an RMS level over the frames that hold speech, without ever clipping it.

    One gain for all of it, so that nothing is distorted. Where a peak would reach full scale the gain stays lower.
    Digital silence is returned as it is.
    """
    level = speech_dbfs(pcm)
    if level is None:
        return pcm.astype(np.float32)
    gain = 10 ** ((dbfs - level) / 20)
    peak = float(np.abs(pcm).max())
    return (pcm * min(gain, _PEAK_LIMIT / peak)).astype(np.float32)
