"""Measures any two-channel recording of a call, ours or not. Damage is refused, or told with the result."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import soundfile
from numpy.typing import NDArray

from bots.clock import NS_PER_MS, NS_PER_S, samples_to_ns
from bots.timeline import CallEnded, CallerStartedSpeaking, CallerStoppedSpeaking, TimelineEvent
from runner.errors import UsageError
from runner.evaluation.measure import Measured, measure_agent
from runner.evaluation.measure.conversation import BargeIn, Line, Turn, barge_ins_of, lines_of, turns_of

LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 8_000, 192_000
CHANNELS = 2
SILENT_DBFS = -70.0
CLIPPED_SHARE = 0.0005
_FULL_SCALE = 32_766
_END_TOLERANCE_NS = 500 * NS_PER_MS
_HEARD_SHARE = 0.3
_STRAY_NS = 500 * NS_PER_MS
_STRAY_MARGIN_NS = 200 * NS_PER_MS


@dataclass(frozen=True)
class Segment:
    """A stretch of speech, in seconds of the recording; ``end_s`` is None where the recording breaks off in it."""

    start_s: float
    end_s: float | None


@dataclass(frozen=True)
class RecordingMeasures:
    """What was measured in a recording.

    Attributes:
        caller_known: Whether the caller's edges are a timeline's, rather than detected.
        bed_dbfs: Level of what lies under the agent's speech.
        agent_dbfs: Level of the agent's speech; None where there is none.
        too_loud: Whether the background was too loud to tell the agent's speech from it in most of the call.
        turns: One for each line of the caller.
        barge_ins: Lines of the caller that began while the agent spoke.
    """

    duration_s: float
    rate_hz: int
    method: int
    caller_known: bool
    bed_dbfs: float
    agent_dbfs: float | None
    too_loud: bool
    warnings: list[str]
    turns: list[Turn]
    barge_ins: list[BargeIn]
    caller_segments: list[Segment]
    agent_segments: list[Segment]


@dataclass(frozen=True)
class _Audio:
    channels: NDArray[np.int16]
    rate_hz: int
    missing_s: float

    @property
    def duration_ns(self) -> int:
        return samples_to_ns(self.channels.shape[1], self.rate_hz)


def measure_recording(
    path: Path, timeline: Sequence[TimelineEvent] | None = None, *, caller_channel: int = 0
) -> RecordingMeasures:
    """Measure a two-channel recording. Blocks: some 2 s for ten minutes, twice that without a timeline.

    Args:
        path: The recording: anything soundfile reads.
        timeline: The call's facts; with them the caller's edges are known, without them both sides are detected.
        caller_channel: Which channel the caller is on, 0 or 1.

    Raises:
        UsageError: It can't be read, can't be measured, or the timeline is not its own.
    """
    audio = _read(path)
    caller_pcm = np.ascontiguousarray(audio.channels[caller_channel])
    agent_pcm = np.ascontiguousarray(audio.channels[1 - caller_channel])
    warnings = _warnings(audio, caller_pcm, agent_pcm)
    own: Measured | None = None
    if timeline is None:
        own = measure_agent(caller_pcm, audio.rate_hz)
        spans = [(speech.onset_ns, speech.end_ns) for speech in own.speeches]
        measured = measure_agent(agent_pcm, audio.rate_hz, caller=spans)
        lines = lines_of(own.speeches, measured.speeches)
        if own.too_loud:
            warnings.append("the background of the caller's channel is too loud to tell its speech from it")
    else:
        lines = _known_lines(timeline, audio, path)
        _check_lines(lines, caller_pcm, audio, path)
        measured = measure_agent(agent_pcm, audio.rate_hz, caller=[(line.start_ns, line.end_ns) for line in lines])
    if measured.too_loud:
        warnings.append("the background is too loud to tell the agent's speech from it in most of the call")
    breaks_off_ns = audio.duration_ns if audio.missing_s > 0 else None
    return RecordingMeasures(
        duration_s=round(audio.duration_ns / NS_PER_S, 3),
        rate_hz=audio.rate_hz,
        method=measured.method,
        caller_known=own is None,
        bed_dbfs=measured.bed_dbfs,
        agent_dbfs=measured.agent_dbfs,
        too_loud=measured.too_loud,
        warnings=warnings,
        turns=turns_of(lines, measured.speeches, breaks_off_ns),
        barge_ins=barge_ins_of(lines, measured.speeches, breaks_off_ns),
        caller_segments=_segments([(line.start_ns, line.end_ns) for line in lines], breaks_off_ns),
        agent_segments=_segments([(s.onset_ns, s.end_ns) for s in measured.speeches], breaks_off_ns),
    )


def _segments(spans: Sequence[tuple[int, int]], breaks_off_ns: int | None) -> list[Segment]:
    def is_cut(end_ns: int) -> bool:
        return breaks_off_ns is not None and end_ns >= breaks_off_ns - 100 * NS_PER_MS

    return [
        Segment(round(start / NS_PER_S, 3), None if is_cut(end) else round(end / NS_PER_S, 3)) for start, end in spans
    ]


def _read(path: Path) -> _Audio:
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        with soundfile.SoundFile(path) as file:
            rate_hz, channels = int(file.samplerate), int(file.channels)
            if channels != CHANNELS:
                many = "one channel" if channels == 1 else f"{channels} channels"
                raise UsageError(
                    f"{path}: has {many}; a call is measured from two, the caller on one and the agent on the other: "
                    "record both sides apart"
                )
            if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
                raise UsageError(
                    f"{path}: its header says {rate_hz} Hz; speech is recorded at {LOWEST_RATE_HZ} to "
                    f"{HIGHEST_RATE_HZ} Hz: mend the header, or convert the file"
                )
            # Read as floats where it is not 16-bit: soundfile scales integers only.
            samples = cast(NDArray[np.float32], file.read(dtype="float32", always_2d=True))
    except soundfile.LibsndfileError as error:
        raise UsageError(f"{path}: no audio file that can be read ({error.error_string.rstrip('.')})") from error
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror})") from error
    if len(samples) == 0:
        raise UsageError(f"{path}: holds no audio")
    if not np.isfinite(samples).all():
        raise UsageError(f"{path}: holds samples that are no numbers; it is damaged: record again")
    pcm = np.clip(np.rint(samples * 32_768), -32_768, 32_767).astype(np.int16).T
    return _Audio(pcm, rate_hz, _missing_s(path, rate_hz))


def _missing_s(path: Path, rate_hz: int) -> float:
    """Return how many seconds a WAV file lacks of what its header promises."""
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return 0.0
        size = path.stat().st_size
        frame_bytes = 0
        while len(chunk := file.read(8)) == 8:
            length = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"fmt ":
                frame_bytes = int.from_bytes(file.read(length)[12:14], "little")
                continue
            if chunk[:4] == b"data":
                # Written as a stream: the writer could not know its length.
                known = length not in (0, 0xFFFFFFFF) and frame_bytes > 0
                missing = file.tell() + length - size
                return missing / frame_bytes / rate_hz if known and missing > 0 else 0.0
            file.seek(length + length % 2, 1)
    return 0.0


def _warnings(audio: _Audio, caller_pcm: NDArray[np.int16], agent_pcm: NDArray[np.int16]) -> list[str]:
    warnings: list[str] = []
    if audio.missing_s > 0:
        warnings.append(f"the file breaks off {audio.missing_s:.2f} s before the end that its header promises")
    if audio.rate_hz < 16_000:
        warnings.append(f"at {audio.rate_hz} Hz soft beginnings and ends of words are not in the recording")
    for name, pcm in (("caller", caller_pcm), ("agent", agent_pcm)):
        peak = int(np.abs(pcm.astype(np.int32)).max())
        if peak < 32_768 * 10 ** (SILENT_DBFS / 20):
            warnings.append(f"the {name}'s channel is silent")
        share = float(np.mean(np.abs(pcm.astype(np.int32)) >= _FULL_SCALE))
        if share > CLIPPED_SHARE:
            warnings.append(f"the {name}'s channel is clipped: {share:.2%} of its samples are at full scale")
    return warnings


def _known_lines(timeline: Sequence[TimelineEvent], audio: _Audio, path: Path) -> list[Line]:
    """Return the caller's lines, as the timeline has them; its events may be in any order."""
    ended_ns = max((event.at_ns for event in timeline if isinstance(event, CallEnded)), default=None)
    lines: list[Line] = []
    started: CallerStartedSpeaking | None = None
    for event in sorted(timeline, key=lambda event: event.at_ns):
        match event:
            case CallerStartedSpeaking():
                if started is not None:
                    raise UsageError(_unpaired(f"turn {started.turn} starts at {started.at_s:.2f} s and never ends"))
                started = event
            case CallerStoppedSpeaking():
                if started is None or started.turn != event.turn:
                    raise UsageError(_unpaired(f"turn {event.turn} ends at {event.at_s:.2f} s and never starts"))
                lines.append(Line(started.at_ns, event.at_ns))
                started = None
            case _:
                pass
    if started is not None:
        if ended_ns is not None:
            raise UsageError(_unpaired(f"turn {started.turn} starts at {started.at_s:.2f} s and never ends"))
        lines.append(Line(started.at_ns, max(audio.duration_ns, started.at_ns)))
    last_ns = ended_ns if ended_ns is not None else max((line.end_ns for line in lines), default=0)
    off_ns = audio.duration_ns - last_ns
    complete = audio.missing_s == 0
    if complete and (off_ns < -_END_TOLERANCE_NS or (ended_ns is not None and off_ns > _END_TOLERANCE_NS)):
        raise UsageError(
            f"{path}: lasts {audio.duration_ns / NS_PER_S:.2f} s at the {audio.rate_hz} Hz of its header, and the "
            f"timeline {last_ns / NS_PER_S:.2f} s: they are of two calls, or the header's rate is wrong"
        )
    return [line for line in lines if line.start_ns < audio.duration_ns]


def _unpaired(what: str) -> str:
    return f"the timeline lacks a line: the caller's {what}; leave the timeline out to have both sides detected"


def _check_lines(lines: Sequence[Line], caller_pcm: NDArray[np.int16], audio: _Audio, path: Path) -> None:
    """Check that the caller's channel sounds where the timeline says so, and only there."""
    step = audio.rate_hz // 100
    count = caller_pcm.size // step
    power = np.square(caller_pcm[: count * step].astype(np.float64).reshape(count, step)).mean(axis=1)
    loudest = float(power.max()) if count else 0.0
    sounds = power > max(loudest * 1e-4, 32_768**2 * 10 ** (SILENT_DBFS / 10))

    def steps(at_ns: int) -> int:
        return min(max(at_ns, 0) // (10 * NS_PER_MS), count)

    elsewhere = sounds.copy()
    for line in lines:
        inside = sounds[steps(line.start_ns) : steps(line.end_ns)]
        if inside.size and float(inside.mean()) < _HEARD_SHARE:
            raise UsageError(
                f"{path}: the caller's channel is silent at {line.start_ns / NS_PER_S:.2f} s, where it speaks by the "
                "timeline: they are of two calls, or the caller is on the other channel (--caller-channel)"
            )
        elsewhere[steps(line.start_ns - _STRAY_MARGIN_NS) : steps(line.end_ns + _STRAY_MARGIN_NS)] = False
    if int(elsewhere.sum()) * 10 * NS_PER_MS > _STRAY_NS:
        at_s = int(np.flatnonzero(elsewhere)[0]) / 100
        raise UsageError(
            f"{path}: the caller's channel sounds at {at_s:.2f} s, where it says nothing by the timeline: lines "
            "of it are missing, or it is another call's; leave it out to have both sides detected"
        )
