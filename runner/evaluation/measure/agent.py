"""From one channel of a recording to the speeches in it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bots.caller.speech.silero import WINDOW, speech_probabilities
from bots.clock import NS_PER_MS
from bots.levels import (
    SILENCE_DBFS,
    STEP,
    STEP_MS,
    UNMASKED_DB,
    Levels,
    Samples,
    at_rate,
    step_levels,
    without_hum,
)
from bots.timeline import AgentSpeechMeasured, RecordingMeasured, TimelineEvent
from runner.evaluation.measure.detect import Found, Mask, Probabilities, find_speech
from runner.evaluation.measure.edges import Stretch, find_stretches

METHOD = 3
"""Version of the method: raised whenever the same recording may give other figures."""

TOO_LOUD_DB = 12.0
"""Where the agent's level lies less than this above the bed's, speech can't be told from it."""
CALL_WEIGHT = 2 / 3
"""Where most of a call is too loud, a speech that is not must stand out by more: by so much its own distance is drawn
to the call's usual one. The bed under one speech is known from seconds, where one may be taken for the other."""
TOO_LOUD_DBFS = -33.0
"""A bed as loud as this may hide an agent of which nothing was found."""

ONSET_MS, ONSET_MS_PER_DB = 14.0, 6.0
END_MS, END_MS_PER_DB = 18.0, 11.0
"""The error that covers 95 of 100 edges, and what each dB adds by which the bed masks soft beginnings and ends."""
NARROW_DB, NARROW_MS_PER_DB = 15.0, 80.0
"""What each dB adds that the agent is less than this above the bed: then whole words go under in it."""
SOFT_DB, SOFT_MS = 10.0, 250
"""A beginning or an end that lies this far below the agent's own level for so long may be somebody behind it."""


@dataclass(frozen=True)
class MeasuredSpeech:
    """A stretch of the agent's speech, from its first audible sample to its last, in nanoseconds of the recording.

    The edges lie within their uncertainty in 95 of 100 cases. ``bed_dbfs`` is the level of what lies under it, and
    ``too_loud`` whether that is too loud to tell speech from it.
    """

    onset_ns: int
    end_ns: int
    onset_uncertainty_ms: float
    end_uncertainty_ms: float
    level_dbfs: float
    bed_dbfs: float
    too_loud: bool


@dataclass(frozen=True)
class Measured:
    """What a recording says of the agent's speech.

    Attributes:
        speeches: Its speech, in order; stretches less than 250 ms apart are one.
        bed_dbfs: Level of the background, over the whole call.
        agent_dbfs: Level of the agent's speech; None where there is none.
        too_loud: Whether the background was too loud to tell speech from it in most of the call.
    """

    speeches: tuple[MeasuredSpeech, ...]
    bed_dbfs: float
    agent_dbfs: float | None
    too_loud: bool
    method: int = METHOD


def measure_agent(
    agent_pcm: NDArray[np.int16],
    rate_hz: int,
    *,
    caller: Sequence[tuple[int, int]] = (),
    speech_probability: Callable[[Samples], Probabilities] = speech_probabilities,
) -> Measured:
    """Measure the agent's speech in its channel of a recording. Blocks: some 2 s for ten minutes.

    Args:
        rate_hz: Its sample rate, 8000 or more.
        caller: Where the caller speaks, in nanoseconds of the recording: there the background is mostly alone. Empty
            where that is not known.
        speech_probability: A speech model: from mono samples at 16 kHz to a probability for each 512 of them.
    """
    samples = at_rate(agent_pcm, rate_hz)
    voiced = without_hum(samples)
    levels = step_levels(voiced)
    if levels.size == 0:
        return Measured((), SILENCE_DBFS, None, too_loud=False)
    probability = _by_step(speech_probability(samples), levels.size)
    found = find_speech(levels, probability, _mask(caller, levels.size))
    stretches = find_stretches(voiced, step_levels(samples), levels, found)
    margins_db = [_margin_db(found, stretch) for stretch in stretches]
    usual_db = float(np.median(margins_db)) if margins_db else 0.0
    speeches = tuple(
        _speech(stretch, levels, found, margin_db, usual_db)
        for stretch, margin_db in zip(stretches, margins_db, strict=True)
    )
    bed = found.background_dbfs(levels)
    if found.level is None:
        return Measured((), bed, None, too_loud=float(np.median(found.bed)) > TOO_LOUD_DBFS)
    spoken = sum(s.end_ns - s.onset_ns for s in speeches)
    hidden = sum(s.end_ns - s.onset_ns for s in speeches if s.too_loud)
    return Measured(speeches, bed, _mean_dbfs(levels[found.speech]), too_loud=hidden * 2 > spoken)


def _by_step(probabilities: Probabilities, steps: int) -> Probabilities:
    if probabilities.size == 0:
        return np.zeros(steps, dtype=np.float32)
    windows = np.minimum(np.arange(steps) * STEP // WINDOW, probabilities.size - 1)
    return probabilities[windows]


def _mask(spans: Sequence[tuple[int, int]], steps: int) -> Mask:
    mask = np.zeros(steps, dtype=bool)
    for start_ns, end_ns in spans:
        mask[max(start_ns, 0) // (STEP_MS * NS_PER_MS) : max(end_ns, 0) // (STEP_MS * NS_PER_MS)] = True
    return mask


def _speech(
    stretch: Stretch, levels: Levels, found: Found, margin_db: float, usual_margin_db: float
) -> MeasuredSpeech:
    inside = levels[stretch.start : stretch.end]
    steps = slice(stretch.start, stretch.end)
    speaking = inside[found.speech[steps]]
    expected_db = margin_db + CALL_WEIGHT * (usual_margin_db - margin_db)
    loud = np.flatnonzero(inside >= (SILENCE_DBFS if found.level is None else found.level - SOFT_DB))
    soft_steps = (int(loud[0]), inside.size - 1 - int(loud[-1])) if loud.size else (inside.size, inside.size)
    return MeasuredSpeech(
        onset_ns=stretch.start * STEP_MS * NS_PER_MS,
        end_ns=stretch.end * STEP_MS * NS_PER_MS,
        onset_uncertainty_ms=_bar_ms(stretch.onset_masked_db, margin_db, soft_steps[0], ONSET_MS, ONSET_MS_PER_DB),
        end_uncertainty_ms=_bar_ms(stretch.end_masked_db, margin_db, soft_steps[1], END_MS, END_MS_PER_DB),
        level_dbfs=_mean_dbfs(speaking if speaking.size else inside),
        bed_dbfs=round(float(found.bed_mean[steps].max()), 1),
        too_loud=min(margin_db, expected_db) < TOO_LOUD_DB,
    )


def _margin_db(found: Found, stretch: Stretch) -> float:
    """Return how far the agent's own level lies above the bed, where that is least."""
    level = found.level if found.level is not None else SILENCE_DBFS
    return level - float(found.bed[stretch.start : stretch.end].max())


def _bar_ms(masked_db: float, margin_db: float, soft_steps: int, least_ms: float, ms_per_db: float) -> float:
    narrow_db = max(NARROW_DB - margin_db, 0.0)
    within_ms = least_ms + ms_per_db * max(masked_db, 0.0) + NARROW_MS_PER_DB * narrow_db
    # What is soft for long under a bed may as well be the bed.
    may_be_bed = masked_db > UNMASKED_DB and soft_steps * STEP_MS >= SOFT_MS
    return round(max(within_ms, least_ms + soft_steps * STEP_MS) if may_be_bed else within_ms, 1)


def _mean_dbfs(levels: Levels) -> float:
    power = np.mean(np.power(10.0, levels.astype(np.float64) / 10))
    return round(float(10 * np.log10(power)), 1)


def measured_facts(measured: Measured, at_ns: int) -> list[TimelineEvent]:
    """Return the facts that say what was measured: one for each speech, then that the recording was measured.

    ``at_ns`` is when it had been measured, or the end of the call: the time of the last fact.
    """
    speeches = (vars(speech).copy() for speech in measured.speeches)
    found: list[TimelineEvent] = [AgentSpeechMeasured(at_ns=s.pop("onset_ns"), **s) for s in speeches]
    whole = {name: value for name, value in vars(measured).items() if name != "speeches"}
    return [*found, RecordingMeasured(at_ns=at_ns, **whole)]
