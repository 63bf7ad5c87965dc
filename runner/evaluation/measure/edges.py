"""The first and the last audible sample of each stretch of speech.

What is audible, :mod:`bots.levels` says. Under a bed an edge is first moved to where the sound, band by band, turns
from the bed's into the voice's, an onset not far from where the speech model notices it; then outwards, as long as
something is louder than the bed ever is.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bots.levels import (
    ABOVE_BED_DB,
    AUDIBLE_DB,
    GAP_STEPS,
    MERGE_STEPS,
    STEP_MS,
    UNMASKED_DB,
    Levels,
    Samples,
    outermost,
    stretches,
)
from runner.evaluation.measure.detect import Found
from runner.evaluation.measure.mixture import MOST, Mixture, band_levels

PEAK_STEPS = 300 // STEP_MS
"""What is audible goes by the loudest moment this near the edge."""
SEARCH_STEPS = 300 // STEP_MS
NOTICED_STEPS, FORESEEN_STEPS = 120 // STEP_MS, 20 // STEP_MS
"""The speech model notices a voice at most so long after it begins, and (its windows are long) so long before."""
STEADY_STEPS, STEADY_SHARE = 160 // STEP_MS, 0.8
"""What it notices is the voice that begins if it goes on hearing it: for so long, and as far as the rough edge."""
RATIO_LIMIT = 6.0
INAUDIBLE_DB = 5.0
"""So far below what is audible no voice is looked for."""


@dataclass(frozen=True)
class Edge:
    """One edge of a speech.

    Attributes:
        step: The first step of the speech, or the one after its last.
        masked_db: How much of the range in which a voice is audible the bed covers, in dB.
    """

    step: int
    masked_db: float


@dataclass(frozen=True)
class Stretch:
    """A stretch of speech, from its onset to its offset."""

    onset: Edge
    offset: Edge

    @property
    def start(self) -> int:
        """The first step."""
        return self.onset.step

    @property
    def end(self) -> int:
        """The step after the last."""
        return self.offset.step


def find_stretches(samples: Samples, raw: Levels, levels: Levels, found: Found) -> list[Stretch]:
    """Return the stretches of speech, in order; those less than 250 ms apart are one.

    Args:
        samples: The channel, without hum.
        raw: Its level by step, hum included.
        levels: Its level by step, without hum.
        found: Where there is speech, roughly.
    """
    finder = _EdgeFinder(samples, raw, levels, found)
    spans = stretches(found.speech)
    found_stretches: list[Stretch] = []
    for index, (start, end) in enumerate(spans):
        first = found_stretches[-1].end if found_stretches else 0
        last = spans[index + 1][0] if index + 1 < len(spans) else levels.size
        middle = (start + end) // 2
        onset, masked_db = finder.find(start, end, start, -1, first, middle)
        offset, masked_after_db = finder.find(start, end, end - 1, 1, last - 1, middle)
        found_stretches.append(Stretch(Edge(onset, masked_db), Edge(offset + 1, masked_after_db)))
    merged: list[Stretch] = []
    for stretch in found_stretches:
        if merged and stretch.start - merged[-1].end < MERGE_STEPS:
            merged[-1] = Stretch(merged[-1].onset, stretch.offset)
        else:
            merged.append(stretch)
    return merged


class _EdgeFinder:
    def __init__(self, samples: Samples, raw: Levels, levels: Levels, found: Found):
        self._samples = samples
        self._raw, self._raw_top = raw, found.top_of(raw)
        self._levels, self._top = levels, found.top_of(levels)
        self._barred = found.barred
        self._heard = found.heard
        self._bed = self._mixture(np.flatnonzero(found.pool))
        self._voice = self._mixture(np.flatnonzero(found.speech))

    def find(self, start: int, end: int, at: int, direction: int, limit: int, middle: int) -> tuple[int, float]:
        """Return where the speech within ``start`` and ``end`` begins (-1) or ends (1), and how much is masked.

        Args:
            start: First step of the speech that was found.
            end: The step after its last.
            at: Where it begins or ends, roughly.
            direction: Which way is outwards.
            limit: The furthest it can reach.
            middle: A step that is within the speech.
        """
        # What is below a voice counts too, if nothing of it is in the bed.
        levels = self._raw
        near = (
            slice(start, min(start + PEAK_STEPS, end)) if direction < 0 else slice(max(end - PEAK_STEPS, start), end)
        )
        peak = float(levels[near].max())
        threshold = max(peak - AUDIBLE_DB, float(self._raw_top[at]) + ABOVE_BED_DB)
        if threshold > peak - AUDIBLE_DB + UNMASKED_DB:
            levels = self._levels
            peak = float(levels[near].max())
            threshold = max(peak - AUDIBLE_DB, float(self._top[at]) + ABOVE_BED_DB)
        masked_db = threshold - (peak - AUDIBLE_DB)
        if masked_db <= UNMASKED_DB:
            return outermost(levels, at, direction, limit, threshold, MERGE_STEPS, inwards=GAP_STEPS), masked_db
        limit = self._unbarred(at, direction, limit)
        at = self._by_bands(at, direction, limit, middle, peak)
        return outermost(levels, at, direction, limit, threshold, GAP_STEPS), masked_db

    def _unbarred(self, at: int, direction: int, limit: int) -> int:
        """Return how far a voice can reach: what is loud beyond that is the bed's."""
        if direction < 0:
            barred = np.flatnonzero(self._barred[limit:at])
            return limit + int(barred[-1]) + 1 if barred.size else limit
        barred = np.flatnonzero(self._barred[at + 1 : limit + 1])
        return at + int(barred[0]) if barred.size else limit

    def _by_bands(self, at: int, direction: int, limit: int, middle: int, peak: float) -> int:
        """Return the step from which on (inwards) the sound is more like the voice's than like the bed's."""
        if self._bed is None or self._voice is None:
            return at
        low, high = (limit, middle) if direction < 0 else (middle, limit)
        first, last = max(at - SEARCH_STEPS, low), min(at + SEARCH_STEPS, high)
        noticed = self._noticed(at, limit) if direction < 0 else None
        if noticed is not None:
            # A note that sets in or dies away sounds as unlike the bed as a voice does: the model knows better.
            first = max(first, min(noticed - NOTICED_STEPS, at))
            last = min(last, noticed + FORESEEN_STEPS)
        steps = np.arange(first, last + 1)
        if steps.size == 0:
            return at
        bands = band_levels(self._samples, steps)
        ratio = np.clip(
            self._voice.log_likelihood(bands) - self._bed.log_likelihood(bands), -RATIO_LIMIT, RATIO_LIMIT
        )
        ratio[self._levels[steps] < peak - AUDIBLE_DB - INAUDIBLE_DB] = -RATIO_LIMIT
        if direction < 0:
            return int(steps[np.argmax(np.cumsum(ratio[::-1])[::-1])])
        return int(steps[np.argmax(np.cumsum(ratio))])

    def _noticed(self, at: int, limit: int) -> int | None:
        """Return the step from which on the speech model hears the voice that begins about here."""
        low = max(at - SEARCH_STEPS, limit, 1)
        heard = self._heard[low - 1 : at + SEARCH_STEPS + 1]
        for begin in low + np.flatnonzero(heard[1:] & ~heard[:-1]):
            if self._heard[begin : max(at, int(begin) + STEADY_STEPS)].mean() >= STEADY_SHARE:
                return int(begin)
        return None

    def _mixture(self, steps: NDArray[np.int64]) -> Mixture | None:
        return Mixture.fitted(band_levels(self._samples, steps[:: max(1, steps.size // MOST)]))
