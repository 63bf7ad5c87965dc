"""When a line of the caller was said: found by following its samples as they leave for the network.

The caller's speech is never detected: its samples are known, so its first and last voiced ones are too.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bots.caller.speech.voice import Line
from bots.clock import NS_PER_MS, samples_to_ns
from bots.timeline import CallerStartedSpeaking, CallerStoppedSpeaking, CallerUnderrun, LineEnd, TimelineEvent

_PCM_BYTES = 2


@dataclass
class _Under:
    """A line under way."""

    turn: int
    line: Line
    position: int = 0
    started: bool = False
    underrun_samples: int = 0


class Mouth:
    """Follows the caller's lines through the outgoing audio.

    Args:
        rate_hz: Sample rate of lines and outgoing audio.
        note: Takes the facts.
    """

    def __init__(self, rate_hz: int, note: Callable[[TimelineEvent], None]):
        self._rate_hz = rate_hz
        self._note = note
        self._under: _Under | None = None

    @property
    def busy(self) -> bool:
        """Whether a line is under way."""
        return self._under is not None

    def begin(self, turn: int, line: Line) -> None:
        """Expect a line in the outgoing audio from now on."""
        self._under = _Under(turn, line)

    def sent(self, at_ns: int, pcm: bytes) -> None:
        """Take a piece of outgoing audio; ``at_ns`` is when its first sample left."""
        under = self._under
        if under is None:
            return
        pcm_line = under.line.pcm
        start = under.position * _PCM_BYTES
        expected = pcm_line[start : start + len(pcm)]
        if not any(pcm):
            if not under.started and any(expected):
                return  # still the silence before the line
            if under.started and any(expected):
                under.underrun_samples += len(pcm) // _PCM_BYTES
                return
        elif under.underrun_samples:
            self._end_underrun(at_ns, under)
        samples = len(pcm) // _PCM_BYTES
        first, last = under.line.first_voiced_sample, under.line.last_voiced_sample
        if not under.started and under.position <= first < under.position + samples:
            under.started = True
            began_ns = at_ns + samples_to_ns(first - under.position, self._rate_hz)
            self._note(CallerStartedSpeaking(at_ns=began_ns, turn=under.turn, text=under.line.text))
        if under.position <= last < under.position + samples:
            ended_ns = at_ns + samples_to_ns(last - under.position + 1, self._rate_hz)
            self._under = None
            self._note(CallerStoppedSpeaking(at_ns=ended_ns, turn=under.turn))
        under.position += samples

    def cut(self, at_ns: int) -> None:
        """Note that the line under way was broken off."""
        under = self._under
        self._under = None
        if under is not None and under.started:
            self._note(CallerStoppedSpeaking(at_ns=at_ns, turn=under.turn, end=LineEnd.CUT))

    def _end_underrun(self, at_ns: int, under: _Under) -> None:
        duration_ns = samples_to_ns(under.underrun_samples, self._rate_hz)
        under.underrun_samples = 0
        self._note(CallerUnderrun(at_ns=at_ns - duration_ns, turn=under.turn, duration_ms=duration_ns / NS_PER_MS))
