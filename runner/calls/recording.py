"""``recording.wav``: both sides of a call, laid out on the call's clock, readable at every moment.

The caller is channel 0, the agent channel 1. A position in the file is a time in the timeline. The header is
kept true as the file grows, so that whatever ends the process leaves a file any WAV reader opens.
"""

import io
import os
import wave
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from bots.clock import ns_to_samples
from runner.errors import UsageError

FILE_NAME = "recording.wav"
CALLER, AGENT = 0, 1
CHANNELS = 2
_SAMPLE_BYTES = 2
_HEADER_BYTES = 44
_FRAME_BYTES = CHANNELS * _SAMPLE_BYTES
MAX_DATA_BYTES = 0xFFFFFFFF - _HEADER_BYTES
"""A WAV file counts its bytes in 32 bits: a little over 12 hours at 24 kHz."""


class RecordingWriter:
    """Writes audio of both sides to its place on the call's clock.

    Args:
        path: The file, which must not exist yet.
        rate_hz: Sample rate of the file and of everything put into it.
    """

    def __init__(self, path: Path, rate_hz: int):
        self._rate_hz = rate_hz
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self._written_frames = 0
        self._pending = np.zeros((rate_hz, CHANNELS), dtype=np.int16)
        self._write_header()

    def put(self, channel: int, at_ns: int, pcm: bytes) -> None:
        """Put 16-bit mono audio of one side at its place; what is before the part on disk is left out."""
        samples = np.frombuffer(pcm, dtype=np.int16)
        start = ns_to_samples(at_ns, self._rate_hz) - self._written_frames
        if start < 0:
            samples = samples[-start:]
            start = 0
        end = start + samples.size
        if end > len(self._pending):
            grown = np.zeros((max(end, 2 * len(self._pending)), CHANNELS), dtype=np.int16)
            grown[: len(self._pending)] = self._pending
            self._pending = grown
        self._pending[start:end, channel] = samples

    def flush(self, until_ns: int) -> None:
        """Write everything before ``until_ns`` to the file; silence where nothing was put."""
        frames = ns_to_samples(until_ns, self._rate_hz) - self._written_frames
        frames = min(frames, MAX_DATA_BYTES // _FRAME_BYTES - self._written_frames)
        if frames <= 0:
            return
        ready = np.zeros((frames, CHANNELS), dtype=np.int16)
        taken = min(frames, len(self._pending))
        ready[:taken] = self._pending[:taken]
        rest = self._pending[taken:].copy()
        self._pending[: len(rest)] = rest
        self._pending[len(rest) :] = 0
        self._write_at(_HEADER_BYTES + self._written_frames * _FRAME_BYTES, ready.tobytes())
        self._written_frames += frames
        # The header comes last: it never promises what is not there.
        self._write_header()

    def read(self, channel: int, start_ns: int, end_ns: int) -> bytes:
        """Return what was put for one side between two times: 16-bit mono audio."""
        start = max(ns_to_samples(start_ns, self._rate_hz), 0)
        frames = max(ns_to_samples(end_ns, self._rate_hz) - start, 0)
        on_disk = max(min(frames, self._written_frames - start), 0)
        data = os.pread(self._file, on_disk * _FRAME_BYTES, _HEADER_BYTES + start * _FRAME_BYTES)
        disk: npt.NDArray[np.int16] = np.frombuffer(data, dtype=np.int16).reshape(-1, CHANNELS)[:, channel]
        first_pending = max(start - self._written_frames, 0)
        pending = self._pending[first_pending : first_pending + frames - on_disk, channel]
        return disk.tobytes() + pending.tobytes()

    def close(self) -> None:
        """Close the file; what was put but not flushed is dropped."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write_header(self) -> None:
        self._write_at(0, wav_header(self._rate_hz, self._written_frames))

    def _write_at(self, offset: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._file, rest, offset)
            offset += written
            rest = rest[written:]


def wav_header(rate_hz: int, frames: int = MAX_DATA_BYTES // _FRAME_BYTES) -> bytes:
    """Return what a WAV file of both sides begins with; by default of one whose length nobody knows yet."""
    header = io.BytesIO()
    with wave.open(header, "wb") as file:
        file.setparams((CHANNELS, _SAMPLE_BYTES, rate_hz, frames, "NONE", ""))
        file.writeframesraw(b"")
        # Before it is closed: then it counts the frames that were written by it, which are none.
        return header.getvalue()


def read_recording(path: Path) -> tuple[npt.NDArray[np.int16], int]:
    """Return a recording's samples, one row for each channel, and its sample rate in Hz.

    Raises:
        UsageError: The file is not there or is no recording of a call.
    """
    try:
        with path.open("rb") as file:
            return parse_recording(file, str(path))
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror})") from error


def parse_recording(file: BinaryIO, name: str) -> tuple[npt.NDArray[np.int16], int]:
    """Return what a file holds, as :func:`read_recording`.

    Args:
        name: What it is called in errors.

    Raises:
        UsageError: It is no recording of a call.
    """
    try:
        with wave.open(file, "rb") as sound:
            if sound.getnchannels() != CHANNELS or sound.getsampwidth() != _SAMPLE_BYTES:
                raise UsageError(f"{name}: a recording of a call has two channels of 16 bits")
            data = sound.readframes(sound.getnframes())
            rate_hz = sound.getframerate()
    except (wave.Error, EOFError) as error:
        raise UsageError(f"{name}: no WAV file ({error})") from error
    # A file that lost its end can stop in the middle of a frame.
    whole = len(data) // _FRAME_BYTES * _FRAME_BYTES
    return np.frombuffer(data[:whole], dtype=np.int16).reshape(-1, CHANNELS).T, rate_hz
