"""Where the agent speaks: levels decide, against a background and a voice that are both taken from the call itself.

Over and over: what lies outside of the speech found so far is the bed; what was found gives the agent's own level; a
threshold between the two finds the speech anew. The speech model has a say where it does not take the bed for speech.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bots.levels import STEP_MS, Levels, dilated, running_median, stretches

ROUNDS = 4
MEDIAN_STEPS = 17
HOP = 1000 // STEP_MS
AROUND_STEPS = 12_000 // STEP_MS
"""The bed is what it is within 12 s."""
BEFORE_STEPS, AFTER_STEPS = 300 // STEP_MS, 400 // STEP_MS
"""So much around speech that was found may be speech too, and tells nothing of the bed."""
ENOUGH_STEPS = 1_000 // STEP_MS
LEAST_STEPS = 100 // STEP_MS
NO_SPEECH = 0.2
SILENT_DBFS = -90.0
QUIETEST_DBFS = -65.0
"""What is below this is no agent."""
BED_SPREAD = 1.6
MOST_SPREAD_DB = 5.0
SOUNDING_SHARE = 0.3
SWITCH_COST = 0.04
HEARS = 0.5
BELIEVED_SHARE, TRUSTED_SHARE = 0.08, 0.01
"""It takes so little of the bed for speech (``HEARS``) where it is believed, and where it may place an onset."""
HELD = 0.8
"""What is a voice as surely as this goes on where its level sinks into the bed."""
SURE, SOFT_DB = 0.9, 8.0
SURE_LEAD_STEPS, SURE_LAG_STEPS = 400 // STEP_MS, 250 // STEP_MS
"""Under a bed: what the model is not as sure of as ``SURE`` so near, and this much softer, is not the agent."""
BED_RANGE_DB, SOME_VOICE, NEAR_STEPS = 35.0, 0.1, 600 // STEP_MS
"""Over a bed that lies further below the agent, only what is so little of a voice all around is none."""
VOICE = 0.3
LEAD_STEPS, LAG_STEPS = 250 // STEP_MS, 150 // STEP_MS
"""The speech model takes a voice for one (``VOICE``) at most so long after it begins, and so long after it ended."""
GROUP_STEPS = 600 // STEP_MS

QUIETER_PERCENT = 30
TALKED_OVER_DB = 8.0
"""What is speech, and about as loud as the agent ever is, is the agent talking over the caller, and no bed."""

Mask = NDArray[np.bool_]
Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Found:
    """What was found of the agent's speech, by step.

    Attributes:
        speech: Where it speaks.
        pool: Where it surely does not.
        level: Its own level, in dBFS; None where it never speaks.
        bed: The level that what lies under it seldom goes beyond.
        bed_mean: Its mean level.
        barred: Where no voice can be: the speech model can be believed there, and hears none anywhere near.
        heard: Where the speech model hears a voice, and takes next to nothing of the bed for one.
    """

    speech: Mask
    pool: Mask
    level: float | None
    bed: Levels
    bed_mean: Levels
    barred: Mask
    heard: Mask

    def top_of(self, levels: Levels) -> Levels:
        """Return the level that the bed hardly ever goes beyond, by step."""
        return _by_hop(levels, self.pool, lambda inside: float(np.percentile(inside, 99.5)))

    def background_dbfs(self, levels: Levels) -> float:
        """Return the mean level of the bed over the whole call."""
        return round(_mean_level(levels[self.pool] if self.pool.any() else levels), 1)


def find_speech(levels: Levels, probability: Probabilities, caller: Mask) -> Found:
    """Find the agent's speech, by step. Where the caller speaks, the agent mostly does not."""
    smooth = running_median(levels, MEDIAN_STEPS)
    speech = np.zeros(levels.size, dtype=bool)
    pool = _first_pool(smooth, probability, caller)
    level: float | None = None
    bed = threshold = np.full(levels.size, SILENT_DBFS, dtype=np.float32)
    barred = np.zeros(levels.size, dtype=bool)
    heard = barred
    for turn in range(ROUNDS):
        bed = _by_hop(smooth, pool, _seldom_exceeded)
        found = _own_level(smooth, bed, speech if turn else ~caller)
        if turn == 0 and found is None:
            # Nothing is above what was heard while the caller spoke: the agent spoke over it.
            bed = _by_hop(smooth, pool, _below_speech)
            found = _own_level(smooth, bed, ~caller)
        if found is None:
            break
        level = found
        threshold = np.minimum(np.maximum(level - 20, bed + 2), level - 7).astype(np.float32)
        mistaken = _by_hop((probability > HEARS).astype(np.float32), pool, lambda inside: float(inside.mean()))
        believed = mistaken < BELIEVED_SHARE
        heard = (mistaken < TRUSTED_SHARE) & (probability > HEARS)
        # With hardly a bed a soft voice is as good as a loud one: nobody else is there to be heard.
        silent = ~dilated(probability >= SOME_VOICE, NEAR_STEPS, NEAR_STEPS)
        barred = believed & np.where(bed > level - BED_RANGE_DB, _without_voice(smooth, probability, level), silent)
        speech = _decide(smooth, probability, threshold, level, believed, barred)
        around = ~dilated(speech, BEFORE_STEPS, AFTER_STEPS)
        # Nothing new is known of the bed where the agent speaks from beginning to end.
        pool = around if around.sum() >= LEAST_STEPS else pool
    found_any = bool(speech.any())
    return Found(speech, pool, level if found_any else None, bed, _by_hop(levels, pool, _mean_level), barred, heard)


def _mean_level(levels: Levels) -> float:
    return float(10 * np.log10(np.mean(np.power(10.0, levels.astype(np.float64) / 10))))


def _first_pool(smooth: Levels, probability: Probabilities, caller: Mask) -> Mask:
    """Before anything was found: where the caller speaks, and the agent not over it; else the quieter part."""
    as_loud_as_ever = smooth > np.percentile(smooth, 90) - TALKED_OVER_DB
    talks_over = dilated(as_loud_as_ever & (probability > 0.5), BEFORE_STEPS, AFTER_STEPS)
    quieter = smooth <= np.percentile(smooth, QUIETER_PERCENT)
    for pool, least in (
        (caller & ~talks_over, ENOUGH_STEPS),
        (quieter & ~talks_over, LEAST_STEPS),
        (quieter & (probability < NO_SPEECH), LEAST_STEPS),
    ):
        if pool.sum() >= least:
            return pool
    return quieter


def _by_hop(values: Levels, pool: Mask, statistic: Callable[[Levels], float]) -> Levels:
    """Return a statistic of what of the pool lies around each step, found once a second."""
    everywhere = values[pool] if pool.any() else values
    hops = range(HOP // 2, values.size + HOP, HOP)
    found: list[float] = []
    for middle in hops:
        around = slice(max(middle - AROUND_STEPS, 0), middle + AROUND_STEPS)
        inside = values[around][pool[around]]
        if inside.size < ENOUGH_STEPS:
            inside = everywhere
        # A channel is silent before the agent is there, and where packets were lost: that is not its bed.
        sounding = inside[inside > SILENT_DBFS]
        found.append(float(statistic(sounding if sounding.size >= SOUNDING_SHARE * inside.size else inside)))
    return np.interp(np.arange(values.size), np.array(hops), found).astype(np.float32)


def _seldom_exceeded(inside: Levels) -> float:
    middle, upper = np.percentile(inside, (50, 90))
    return float(middle + BED_SPREAD * (upper - middle))


def _below_speech(inside: Levels) -> float:
    """Return the bed's level where the agent speaks in much of it: as far up from its middle as it goes down."""
    lower, middle = np.percentile(inside, (10, 50))
    return float(middle + BED_SPREAD * min(middle - lower, MOST_SPREAD_DB))


def _own_level(smooth: Levels, bed: Levels, where: Mask) -> float | None:
    """Return the agent's level: of what is well above the bed."""
    for margin in (6.0, 3.0, 1.0):
        above = smooth[where & (smooth > bed + margin) & (smooth > QUIETEST_DBFS)]
        if above.size >= 200 // STEP_MS:
            return float(np.percentile(above, 75))
    return None


def _without_voice(smooth: Levels, probability: Probabilities, level: float) -> Mask:
    """Where the speech model hears no voice near, or one it is not sure of that is too soft for the agent."""
    none = ~dilated(probability >= VOICE, LEAD_STEPS, LAG_STEPS)
    unsure = ~dilated(probability >= SURE, SURE_LEAD_STEPS, SURE_LAG_STEPS)
    return none | (unsure & (smooth < level - SOFT_DB))


def _decide(
    smooth: Levels, probability: Probabilities, threshold: Levels, level: float, believed: Mask, barred: Mask
) -> Mask:
    evidence = np.clip(smooth - threshold, -5, 12)
    held = believed & (probability > HELD)
    weighed = np.where(barred, -5.0, np.where(held, np.maximum(evidence, 0), evidence))
    cost = SWITCH_COST * np.minimum(level - threshold, 12) * (1000 / STEP_MS)
    speech = _viterbi(weighed, cost)
    kept = np.zeros(speech.size, dtype=bool)
    for start, end in stretches(speech):
        above = np.flatnonzero(evidence[start:end] > 0)
        if above.size:
            kept[start + above[0] : start + above[-1] + 1] = True
    for start, end in stretches(dilated(kept, 0, GROUP_STEPS)):
        if believed[start:end].all() and probability[max(start - 10, 0) : end].max() < 0.15:
            kept[start:end] = False
    return kept


def _viterbi(evidence: NDArray[np.float64], cost: NDArray[np.float64]) -> Mask:
    """Return the likeliest course of two states: on is worth the evidence, off nothing, and each change costs."""
    on_from_off = np.zeros(evidence.size, dtype=bool)
    off_from_on = np.zeros(evidence.size, dtype=bool)
    on, off = -1e9, 0.0
    for index, (gain, price) in enumerate(zip(evidence.tolist(), cost.tolist(), strict=True)):
        starts, stops = off - price, on - price
        on_from_off[index], off_from_on[index] = starts > on, stops > off
        on, off = max(starts, on) + gain, max(stops, off)
    speech = np.zeros(evidence.size, dtype=bool)
    is_on = on > off
    for index in range(evidence.size - 1, -1, -1):
        speech[index] = is_on
        is_on ^= bool(on_from_off[index] if is_on else off_from_on[index])
    return speech
