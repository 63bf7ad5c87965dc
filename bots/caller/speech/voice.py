"""The caller's lines as audio, made before they are needed and kept on disk.

Neither Pipecat nor a speech service is loaded when every line is on disk already.
"""

import asyncio
import contextlib
import hashlib
import importlib.metadata
import json
import os
import struct
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bots.caller.script import Pause, Play, Speak, Words
from bots.caller.speech.errors import SpeechError
from bots.caller.speech.settings import OFFLINE, SECRET_NAME, SpeechSettings, from_environment
from bots.caller.speech.speakable import speakable

if TYPE_CHECKING:
    from bots.caller.speech.level import Samples

__all__ = ["RATE_HZ", "Line", "Voice"]

RATE_HZ = 24_000
"""Sample rate of every line, in Hz."""

MAX_PLAY_S = 600
"""The longest recording that is played, in seconds."""

_VOICED_DBFS = -50.0
_KEPT_SILENCE_SAMPLES = RATE_HZ * 20 // 1000
_TEXT_TIMEOUT_S = 60.0

# Raised whenever the same settings and text would give other bytes.
_FORMAT = 1
_MAGIC = b"LINE0001"
_BOUNDS = struct.Struct("<qq")
_SUFFIX = ".line"
_TEMPORARY = "line-"
_STALE_TEMPORARY_S = 3600.0


@dataclass(frozen=True)
class Line:
    """What the caller says in one turn: 16-bit mono PCM at 24 kHz.

    Voiced is what is above -50 dBFS; where all is silence, it is taken for voiced from end to end.
    """

    text: str
    pcm: bytes
    first_voiced_sample: int
    last_voiced_sample: int


@dataclass(frozen=True)
class _Piece:
    """Audio, and the bounds of what is voiced in it; no bounds where nothing is."""

    pcm: bytes
    voiced: tuple[int, int] | None

    @property
    def samples(self) -> int:
        return len(self.pcm) // 2


class Voice:
    def __init__(self, settings: SpeechSettings | None = None) -> None:
        self._settings = settings or SpeechSettings()
        self._cache = _Cache(self._settings.cache_dir, self._settings.cache_max_mb * 1_000_000)

    async def synthesise(self, lines: Sequence[Speak | Play]) -> list[Line]:
        """Make the audio of lines, one for each: from disk where it was made before, otherwise by the service.

        Raises:
            ValueError: The service can't be made from the settings, or a recording can't be played; it names the
                setting or the file.
            MissingSpeechPackage: Offline speech is not installed.
            SpeechError: The service reports an error, or makes no audio in time.
        """
        texts = {
            part.text for line in lines if isinstance(line, Speak) for part in line.parts if isinstance(part, Words)
        }
        spoken = await self._spoken(texts)
        played = {
            path: await asyncio.to_thread(_read_recording, path)
            for path in dict.fromkeys(line.path for line in lines if isinstance(line, Play))
        }
        return [self._line(line, spoken, played) for line in lines]

    def _line(self, line: Speak | Play, spoken: Mapping[str, _Piece], played: Mapping[Path, _Piece]) -> Line:
        if isinstance(line, Play):
            pieces = [played[line.path]]
        else:
            pieces = [spoken[part.text] if isinstance(part, Words) else _silence(part) for part in line.parts]
        bounds: list[int] = []
        at = 0
        for piece in pieces:
            if piece.voiced is not None:
                bounds += [at + piece.voiced[0], at + piece.voiced[1]]
            at += piece.samples
        bounds = bounds or [0, max(0, at - 1)]
        return Line(line.text, b"".join(piece.pcm for piece in pieces), bounds[0], bounds[-1])

    async def _spoken(self, texts: set[str]) -> dict[str, _Piece]:
        identity = self._identity()
        sayable = {text: speakable(text) for text in sorted(texts)}
        keys = {said: _key(identity, said) for said in sayable.values()}
        kept = {said: await asyncio.to_thread(self._cache.get, key) for said, key in keys.items()}
        pieces = {said: piece for said, piece in kept.items() if piece is not None}
        missing = [said for said in keys if said not in pieces]
        if missing:
            for said, piece in (await self._made(missing)).items():
                pieces[said] = piece
                await asyncio.to_thread(self._cache.put, keys[said], piece)
            await asyncio.to_thread(self._cache.shrink)
        return {text: pieces[said] for text, said in sayable.items()}

    async def _made(self, texts: Sequence[str]) -> dict[str, _Piece]:
        if self._settings.tts.service != OFFLINE:
            return await self.make_here(texts)
        from bots.caller.speech import apart

        return await apart.run(self.make_here, texts)

    async def make_here(self, texts: Sequence[str]) -> "dict[str, _Piece]":
        """Have the service speak texts, in this process; see :mod:`bots.caller.speech.apart`."""
        from pipecat.frames.frames import TTSAudioRawFrame, TTSSpeakFrame, TTSStoppedFrame

        from bots.caller.speech.services import make_tts, running

        made: dict[str, _Piece] = {}
        async with running(make_tts(self._settings.tts), output_rate_hz=RATE_HZ) as tts:
            for text in texts:
                await tts.give(TTSSpeakFrame(text, append_to_context=False))
                audio: list[tuple[bytes, int, int]] = []
                deadline_s = time.monotonic() + _TEXT_TIMEOUT_S
                try:
                    while not isinstance(
                        frame := await tts.next_frame(deadline_s - time.monotonic()), TTSStoppedFrame
                    ):
                        if frame is None:
                            raise SpeechError(f"it did not finish within {_TEXT_TIMEOUT_S:.0f} s")
                        if isinstance(frame, TTSAudioRawFrame):
                            audio.append((frame.audio, frame.sample_rate, frame.num_channels))
                    if not audio:
                        raise SpeechError("it made no audio")
                except SpeechError as error:
                    raise SpeechError(f"tts: {self._settings.tts.service} could not say {text!r}: {error}") from error
                made[text] = await asyncio.to_thread(_finished, audio, self._settings.level_dbfs)
        return made

    def _identity(self) -> str:
        """What makes the audio of a text what it is, without keys."""
        tts = self._settings.tts
        try:
            chosen, _ = from_environment(tts.settings, "tts.settings")
        except ValueError:
            chosen = tts.settings
        version = ""
        if tts.service == OFFLINE:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                version = importlib.metadata.version("hibari-tts")
        params = _without_secrets(tts.params)
        parts = [_FORMAT, tts.service, version, params, _without_secrets(chosen), self._settings.level_dbfs]
        return json.dumps(parts, sort_keys=True, default=repr)


def _without_secrets(values: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in values.items() if not SECRET_NAME.search(name)}
    return {
        name: _without_secrets(cast(dict[str, Any], value)) if isinstance(value, dict) else value
        for name, value in kept.items()
    }


def _key(identity: str, text: str) -> str:
    return hashlib.sha256(f"{identity}\n{text}".encode()).hexdigest()


# ------------------------------------------------------------------------------------------------------------ audio


def _silence(pause: Pause) -> _Piece:
    return _Piece(bytes(2 * (RATE_HZ * pause.pause_ms // 1000)), None)


def _finished(audio: Sequence[tuple[bytes, int, int]], level_dbfs: float) -> _Piece:
    """Join what a service made, bring it to its level, and cut the silence around it."""
    import numpy as np

    from bots.caller.speech.level import to_level, to_pcm16

    chunks: list[Samples] = []
    at = 0
    while at < len(audio):
        _, rate_hz, channels = audio[at]
        end = at
        while end < len(audio) and audio[end][1:] == (rate_hz, channels):
            end += 1
        chunks.append(_mono_at_rate(b"".join(pcm for pcm, _, _ in audio[at:end]), rate_hz, channels))
        at = end
    piece = _measured(to_pcm16(to_level(np.concatenate(chunks), level_dbfs)))
    if piece.voiced is None:
        return piece
    first, last = piece.voiced
    cut = max(0, first - _KEPT_SILENCE_SAMPLES)
    end = min(piece.samples, last + 1 + _KEPT_SILENCE_SAMPLES)
    return _Piece(piece.pcm[2 * cut : 2 * end], (first - cut, last - cut))


def _mono_at_rate(pcm: bytes, rate_hz: int, channels: int) -> "Samples":
    from bots.caller.speech.level import from_pcm16

    samples = from_pcm16(pcm)
    if channels > 1:
        samples = samples[: samples.size - samples.size % channels].reshape(-1, channels).mean(axis=1)
    return _resampled(samples, rate_hz)


def _resampled(samples: "Samples", rate_hz: int) -> "Samples":
    if rate_hz == RATE_HZ:
        return samples
    import soxr

    return cast("Samples", soxr.resample(samples, rate_hz, RATE_HZ))


def _measured(pcm: bytes) -> _Piece:
    import numpy as np

    threshold = round(32768 * 10 ** (_VOICED_DBFS / 20))
    voiced = np.flatnonzero(np.abs(np.frombuffer(pcm, dtype="<i2").astype(np.int32)) > threshold)
    return _Piece(pcm, (int(voiced[0]), int(voiced[-1])) if voiced.size else None)


def _read_recording(path: Path) -> _Piece:
    import soundfile

    from bots.caller.speech.level import to_pcm16

    if not path.is_file():
        raise ValueError(f"{path}: there is no such recording.")
    try:
        with soundfile.SoundFile(path) as recording:
            samples = _mono_blocks(recording, path)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{path}: the recording can't be read ({error}). Give a WAV, FLAC, OGG or MP3 file."
        ) from error
    if samples.size == 0:
        raise ValueError(f"{path}: the recording is empty.")
    return _measured(to_pcm16(samples))


def _mono_blocks(recording: Any, path: Path) -> "Samples":
    """Read block by block, so that only one channel at 24 kHz is ever held whole."""
    import numpy as np
    import soxr

    rate_hz: int = recording.samplerate
    if recording.frames > MAX_PLAY_S * rate_hz:
        raise ValueError(
            f"{path}: the recording lasts {recording.frames / rate_hz:.0f} s; "
            f"at most {MAX_PLAY_S} s are played. Cut it."
        )
    resampler = soxr.ResampleStream(rate_hz, RATE_HZ, 1, dtype="float32")
    blocks: list[Samples] = []
    frames_left = MAX_PLAY_S * rate_hz  # whatever the file's header says
    while frames_left > 0:
        block = recording.read(min(65_536, frames_left), dtype="float32", always_2d=True)
        if not len(block):
            break
        frames_left -= len(block)
        mono = np.nan_to_num(block.mean(axis=1, dtype=np.float32), posinf=1.0, neginf=-1.0)
        blocks.append(mono if rate_hz == RATE_HZ else cast("Samples", resampler.resample_chunk(mono)))
    if blocks and rate_hz != RATE_HZ:
        blocks.append(cast("Samples", resampler.resample_chunk(np.zeros(0, np.float32), last=True)))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


# ------------------------------------------------------------------------------------------------------------ cache


class _Cache:
    """Pieces of audio on disk, by the hash of what they were made from. Several processes may use it at once."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes

    def get(self, key: str) -> _Piece | None:
        path = self._path(key)
        try:
            piece = _unpacked(path.read_bytes())
        except OSError:
            return None
        if piece is not None:
            with contextlib.suppress(OSError):
                os.utime(path)  # used just now
        return piece

    def put(self, key: str, piece: _Piece) -> None:
        temporary: str | None = None
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=self._directory, prefix=_TEMPORARY, suffix=".tmp")
            with os.fdopen(descriptor, "wb") as file:
                file.write(_packed(piece))
            Path(temporary).replace(self._path(key))
        except OSError:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)

    def shrink(self) -> None:
        """Remove what was not used for longest, until the rest fits; and what a killed process left behind."""
        files: list[tuple[float, int, Path]] = []
        with contextlib.suppress(OSError):
            for path in self._directory.iterdir():
                with contextlib.suppress(OSError):  # another process removed it
                    status = path.stat()
                    if path.suffix == _SUFFIX:
                        files.append((status.st_mtime, status.st_size, path))
                    elif path.match(f"{_TEMPORARY}*.tmp") and time.time() - status.st_mtime > _STALE_TEMPORARY_S:
                        path.unlink(missing_ok=True)
        size = sum(size for _, size, _ in files)
        for _, file_size, path in sorted(files):
            if size > self._max_bytes:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
                size -= file_size

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}{_SUFFIX}"


def _packed(piece: _Piece) -> bytes:
    content = _BOUNDS.pack(*(piece.voiced or (-1, -1))) + piece.pcm
    return _MAGIC + hashlib.sha256(content).digest() + content


def _unpacked(packed: bytes) -> _Piece | None:
    head = len(_MAGIC) + hashlib.sha256().digest_size
    content = packed[head:]
    if len(content) < _BOUNDS.size or packed[:head] != _MAGIC + hashlib.sha256(content).digest():
        return None
    first, last = _BOUNDS.unpack_from(content)
    return _Piece(content[_BOUNDS.size :], (first, last) if first >= 0 else None)
