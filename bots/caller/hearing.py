"""Where speech begins and ends: a speech model says *whether*, the envelope of the received audio says *when*.

A voice activity detector reports a start some 150 ms after it happened, and a stop as late. So the report only
names a stretch of audio; the edge is then looked up in the audio itself, against a threshold that adapts to the
level of the speech and to the noise around it.
"""

from collections import deque

import numpy as np

from bots.clock import NS_PER_MS, NS_PER_S, samples_to_ns

STEP_MS = 5
"""Resolution of the envelope."""

HISTORY_NS = 12 * NS_PER_S
"""How far back an edge can be looked up."""

SEARCH_NS = 1_500 * NS_PER_MS
"""How long before a report its speech can have begun."""

GAP_STEPS = 16
"""Silence this long (80 ms) separates two utterances; shorter ones are stops within words."""

SILENCE_DBFS = -100.0
ABOVE_FLOOR_DB = 10.0
BELOW_SPEECH_MIN_DB = 12.0
BELOW_SPEECH_MAX_DB = 35.0
"""The threshold lies this far above the noise, but never closer to, or further below, the speech than these."""


class Envelope:
    """Level of 16-bit mono audio over time, in steps of :data:`STEP_MS`.

    Args:
        rate_hz: Sample rate of the audio.
    """

    def __init__(self, rate_hz: int):
        self._rate_hz = rate_hz
        self._step_samples = rate_hz * STEP_MS // 1000
        self._steps: deque[tuple[int, float]] = deque(maxlen=HISTORY_NS // (STEP_MS * NS_PER_MS))
        self._rest = np.empty(0, dtype=np.int16)
        self._rest_at_ns = 0

    def add(self, at_ns: int, pcm: bytes) -> None:
        """Take the next piece of audio; ``at_ns`` is the place of its first sample."""
        if self._rest.size == 0:
            self._rest_at_ns = at_ns
        samples = np.concatenate([self._rest, np.frombuffer(pcm, dtype=np.int16)])
        whole = samples.size // self._step_samples
        steps = samples[: whole * self._step_samples].reshape(whole, self._step_samples).astype(np.float64)
        power = np.mean(np.square(steps / 32_768.0), axis=1)
        levels = 10 * np.log10(np.maximum(power, 1e-10))
        for index, level in enumerate(levels):
            offset_ns = samples_to_ns(index * self._step_samples, self._rate_hz)
            self._steps.append((self._rest_at_ns + offset_ns, float(level)))
        self._rest = samples[whole * self._step_samples :]
        self._rest_at_ns += samples_to_ns(whole * self._step_samples, self._rate_hz)

    def onset_before(self, reported_ns: int, *, not_before_ns: int = 0) -> int:
        """Return where the speech that was reported at ``reported_ns`` began, in nanoseconds.

        Args:
            reported_ns: A place within the speech.
            not_before_ns: The speech began no earlier than this (the end of the one before).
        """
        steps = self._between(max(reported_ns - SEARCH_NS, not_before_ns), reported_ns)
        if not steps:
            return reported_ns
        threshold = self._threshold(steps)
        onset_ns = reported_ns
        quiet = 0
        for at_ns, level in reversed(steps):
            if level >= threshold:
                onset_ns = at_ns
                quiet = 0
            else:
                quiet += 1
                if quiet >= GAP_STEPS and onset_ns < reported_ns:
                    break
        return onset_ns

    def end_before(self, reported_ns: int, *, onset_ns: int) -> int:
        """Return where the speech ended whose stop was reported at ``reported_ns``, in nanoseconds."""
        steps = self._between(onset_ns, reported_ns)
        if not steps:
            return reported_ns
        threshold = self._threshold(steps)
        for at_ns, level in reversed(steps):
            if level >= threshold:
                return at_ns + STEP_MS * NS_PER_MS
        return reported_ns

    def _between(self, start_ns: int, end_ns: int) -> list[tuple[int, float]]:
        return [step for step in self._steps if start_ns <= step[0] < end_ns]

    def _threshold(self, steps: list[tuple[int, float]]) -> float:
        """Return the level, in dBFS, that separates the speech in ``steps`` from what is around it."""
        speech = float(np.percentile([level for _, level in steps], 90))
        floor = float(np.percentile([level for _, level in self._steps], 10))
        threshold = floor + ABOVE_FLOOR_DB
        return min(max(threshold, speech - BELOW_SPEECH_MAX_DB), speech - BELOW_SPEECH_MIN_DB)
