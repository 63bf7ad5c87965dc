"""When a line of the caller was said: found by following its samples as they leave for the network.

The caller's speech is never detected: its samples are known, so its first and last voiced ones are too. So is every
piece of a line that did not leave when it was to.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from bots.caller.speech.voice import Line
from bots.clock import NS_PER_MS, samples_to_ns
from bots.timeline import (
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    CallerUnderrun,
    LineEnd,
    TimelineEvent,
    UnderrunKind,
)

LATE_NS = 60 * NS_PER_MS
"""A receiver plays a packet that is later than this too late, or not at all."""

GAP_NS = 2 * NS_PER_MS
"""A leap in the places of outgoing audio that is no rounding."""

_PCM_BYTES = 2


@dataclass
class _Trouble:
    """Audio of a line that is not leaving as it should."""

    at_ns: int
    duration_ns: int = 0


@dataclass
class _Under:
    """A line under way."""

    turn: int
    line: Line
    position: int = 0
    started: bool = False
    next_ns: int | None = None
    """Where the audio that follows belongs."""
    troubles: dict[UnderrunKind, _Trouble] = field(default_factory=dict)


class Mouth:
    """Follows the caller's lines through the outgoing audio, and notes the facts."""

    def __init__(self, rate_hz: int, note: Callable[[TimelineEvent], None]):
        self._rate_hz = rate_hz
        self._note = note
        self._under: _Under | None = None

    @property
    def busy(self) -> bool:
        return self._under is not None

    def begin(self, turn: int, line: Line) -> None:
        """Expect a line in the outgoing audio from now on."""
        self._under = _Under(turn, line)

    def sent(self, at_ns: int, pcm: bytes, *, late_ns: int | None = 0) -> None:
        """Take a piece of outgoing audio, 16-bit and mono, and when its first sample was to leave.

        So much later than that it left; ``late_ns`` of None: it did not leave at all.
        """
        under = self._under
        if under is None:
            return
        samples = len(pcm) // _PCM_BYTES
        duration_ns = samples_to_ns(samples, self._rate_hz)
        self._follow_places(under, at_ns, duration_ns)
        if self._is_filler(under, pcm):
            if under.started:
                self._add(under, UnderrunKind.SILENCE, at_ns, duration_ns)
            return
        self._find_place(under, at_ns, pcm)
        self._end_trouble(under, UnderrunKind.SILENCE)
        first, last = under.line.first_voiced_sample, under.line.last_voiced_sample
        if not under.started and under.position <= first < under.position + samples:
            under.started = True
            began_ns = at_ns + samples_to_ns(first - under.position, self._rate_hz)
            self._note(CallerStartedSpeaking(at_ns=began_ns, turn=under.turn, text=under.line.text))
        kind = UnderrunKind.GAP if late_ns is None else UnderrunKind.LATE
        if under.started and (late_ns is None or late_ns > LATE_NS):
            self._add(under, kind, at_ns, duration_ns)
        else:
            self._end_trouble(under, UnderrunKind.GAP)
            self._end_trouble(under, UnderrunKind.LATE)
        if under.position <= last < under.position + samples:
            ended_ns = at_ns + samples_to_ns(last - under.position + 1, self._rate_hz)
            self._end_troubles(under)
            self._under = None
            self._note(CallerStoppedSpeaking(at_ns=ended_ns, turn=under.turn))
        under.position += samples

    def cut(self, at_ns: int) -> None:
        """Note that the line under way was broken off."""
        under = self._under
        self._under = None
        if under is not None and under.started:
            self._end_troubles(under)
            self._note(CallerStoppedSpeaking(at_ns=at_ns, turn=under.turn, end=LineEnd.CUT))

    def _follow_places(self, under: _Under, at_ns: int, duration_ns: int) -> None:
        """Notice where nothing left at all: the place of what follows has leapt."""
        expected_ns, under.next_ns = under.next_ns, at_ns + duration_ns
        if under.started and expected_ns is not None and at_ns - expected_ns > GAP_NS:
            self._end_trouble(under, UnderrunKind.SILENCE)
            self._add(under, UnderrunKind.GAP, expected_ns, at_ns - expected_ns)
            self._end_trouble(under, UnderrunKind.GAP)

    def _is_filler(self, under: _Under, pcm: bytes) -> bool:
        """Return whether this is no part of the line but the silence around it, or in place of it."""
        start = under.position * _PCM_BYTES
        expected = under.line.pcm[start : start + len(pcm)]
        return not any(pcm) and any(expected)

    def _find_place(self, under: _Under, at_ns: int, pcm: bytes) -> None:
        """Go back to where this piece is: silence in place of a line looks like the line's own pause."""
        start = under.position * _PCM_BYTES
        if not any(pcm) or under.line.pcm.startswith(pcm, start):
            return
        found = under.line.pcm.rfind(pcm, 0, start)
        if found < 0 or found % _PCM_BYTES:
            return
        missed_ns = samples_to_ns(under.position - found // _PCM_BYTES, self._rate_hz)
        under.position = found // _PCM_BYTES
        if under.started:
            self._add(under, UnderrunKind.SILENCE, at_ns - missed_ns, missed_ns)

    def _add(self, under: _Under, kind: UnderrunKind, at_ns: int, duration_ns: int) -> None:
        under.troubles.setdefault(kind, _Trouble(at_ns)).duration_ns += duration_ns

    def _end_trouble(self, under: _Under, kind: UnderrunKind) -> None:
        trouble = under.troubles.pop(kind, None)
        if trouble is not None:
            duration_ms = trouble.duration_ns / NS_PER_MS
            self._note(CallerUnderrun(at_ns=trouble.at_ns, turn=under.turn, duration_ms=duration_ms, kind=kind))

    def _end_troubles(self, under: _Under) -> None:
        for kind in UnderrunKind:
            self._end_trouble(under, kind)
