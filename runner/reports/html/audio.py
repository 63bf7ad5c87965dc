"""The sound of a call: small enough to lie within its report, and cut out around a moment."""

import base64
import io
import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runner.calls.recording import CHANNELS

OPUS_RATE_HZ = 48_000
OPUS_BITS_PER_S = 40_000
"""For both channels together."""

_EFFORT = "5"
"""Of 10: less than half the CPU of the most, for the same size."""


def opus_data_uri(channels: npt.NDArray[np.int16], rate_hz: int) -> str:
    """Return a recording as Opus in WebM, as a ``data:`` address. The same samples give the same text."""
    # PyAV loads FFmpeg, and not everything that imports reports makes one.
    import av
    from av.audio.frame import AudioFrame
    from av.audio.resampler import AudioResampler

    target = io.BytesIO()
    with av.open(target, "w", format="webm", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(
            "libopus",
            rate=OPUS_RATE_HZ,
            options={"b": str(OPUS_BITS_PER_S), "compression_level": _EFFORT, "flags": "+bitexact"},
        )
        stream.layout = "stereo"
        frame = AudioFrame.from_ndarray(
            np.ascontiguousarray(channels.T).reshape(1, -1), format="s16", layout="stereo"
        )
        frame.sample_rate = rate_hz
        resampler = AudioResampler(format="s16", layout="stereo", rate=OPUS_RATE_HZ)
        for resampled in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))
    return "data:audio/webm;base64," + base64.b64encode(target.getvalue()).decode("ascii")


def write_snippet(path: Path, channels: npt.NDArray[np.int16], rate_hz: int, *, from_s: float, to_s: float) -> float:
    """Write a part of a recording as WAV with both channels, and return how long it is, in seconds.

    Args:
        channels: The recording's samples, one row for each side.
        to_s: Where it ends; it is shorter where the recording is.

    Raises:
        OSError: It can't be written.
    """
    part = channels[:, max(round(from_s * rate_hz), 0) : max(round(to_s * rate_hz), 0)]
    temporary = path.with_name(f".{path.name}")
    try:
        with wave.open(str(temporary), "wb") as file:
            file.setnchannels(CHANNELS)
            file.setsampwidth(2)
            file.setframerate(rate_hz)
            file.writeframes(np.ascontiguousarray(part.T).tobytes())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return part.shape[1] / rate_hz
