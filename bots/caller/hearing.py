"""Hears the agent live: when its speech began, and when it ended, also where there is a background behind it.

Levels decide, against a bed and a voice that are both learnt from the call as it goes on. Evidence for speech is
added up until there is enough of it; then the edge is looked up in the audio. A speech model has a say where it does
not take the bed for speech. What is heard live steers the caller; what is reported is measured from the recording
afterwards.
"""

import math
from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from bots.caller.speech.silero import RATE_HZ, WINDOW, SpeechModel, SpeechStream
from bots.clock import NS_PER_MS, NS_PER_S, samples_to_ns
from bots.levels import (
    ABOVE_BED_DB,
    AUDIBLE_DB,
    GAP_STEPS,
    MERGE_STEPS,
    SILENCE_DBFS,
    STEP_MS,
    UNMASKED_DB,
    LevelStream,
    outermost,
)

HISTORY_STEPS = 30_000 // STEP_MS
"""How far back an edge can be looked up."""

_MEDIAN_STEPS = 17
_LAG_STEPS = _MEDIAN_STEPS // 2
_STEP_S = STEP_MS / 1000
_STEP_NS = STEP_MS * NS_PER_MS

_BELOW_VOICE_DB, _LEAST_BELOW_VOICE_DB, _ABOVE_BED_DB = 20.0, 7.0, 2.0
"""The threshold lies so far below the voice and above the bed, and never closer to the voice than the second."""
_TELLABLE_DB = 9.0
"""A voice less than this above the bed gets the bed's threshold: better deaf to it than hearing the bed for ever."""
_BED_SPREAD = 1.6
_BED_PERCENT = 97
_WORST_DB, _BEST_DB = -5.0, 12.0
_ON_PER_DB_S = 0.03
_MOST_EVIDENCE = 1.0
"""What is known for certain fades within 200 ms of silence."""

_VOICE_DBFS = -22.0
"""An agent's level, before anything of it was heard."""
_SUPPOSED_S, _HEARD_VOICE_S = 0.3, 0.3
_SOFT_VOICE_DBFS = -55.0
"""Until so much of the agent was heard it may be a soft one."""
_QUIETEST_DBFS = -65.0
_BED_MEMORY_S = 20.0
_BEFORE_STEPS, _AFTER_STEPS = 300 // STEP_MS, 400 // STEP_MS
"""So much around speech may be speech too, and tells nothing of the bed."""
_ENOUGH_S = 0.5
_UPDATE_STEPS = 10
_FORGET_STEPS = 1_000
_FLOOR_STEPS = 5_000 // STEP_MS
_ABOVE_FLOOR_DB = 4.0
_FLOOR_PERCENTS = ((3.0, 10), (7.0, 30), (11.0, 50))
"""Speech that does not end may be a bed that was never alone. In 5 s of speech there are moments without: after so
many seconds, so many percent of them are taken to be what lies under it. No bed blocks a turn for ever."""

_SOFT_DBFS = -33.0
_FIRST_STEPS = 400 // STEP_MS
_FIRST_WAIT_STEPS = 1_000 // STEP_MS
_UNEVEN_DB = 12.0
"""The first sound of a call, where it is softer than this, is a voice if its level rises and falls so much. It is no
bed either for a second: it may turn out to be a voice."""

_STOPPED_DB, _STOPPED_STEPS = 15.0, 400 // STEP_MS
_VOICE_SHARE = 0.5
"""A first sound that falls by so much for so long has stopped, and no bed stops: it was a voice, if the speech model
took so much of it for one."""

_LONG_STEPS = 3_000 // STEP_MS
_STILL_SOUNDS_DB = 10.0
"""What sounds so far above the bed when it is found to be no speech, after so long, is a bed that has come up."""
_HOLD_STEPS = 6_000 // STEP_MS
_MODEL_AMPLITUDE = 10 ** (-70 / 20)
"""What is quieter is not worth asking the model about."""
_SPEECH, _SOME_SPEECH, _NO_SPEECH = 0.5, 0.15, 0.1
_BELIEVED_SHARE = 0.08
_RECENT_WINDOWS = 19
_SOUNDING_SHARE = 0.3
_SILENT_BINS = 10
_LONGEST_GAP_NS = NS_PER_S


class Heard(Enum):
    """What of the agent was heard."""

    ONSET = auto()
    END = auto()


@dataclass(frozen=True)
class Edge:
    """An edge of the agent's speech, and where it is on the clock of the audio."""

    heard: Heard
    at_ns: int


class Hearing:
    """Hears one agent, piece by piece, by default with Silero's model."""

    def __init__(self, model: SpeechModel | None = None) -> None:
        self._stream = LevelStream()
        self._next_ns: int | None = None
        self._window = np.zeros(0, dtype=np.float32)
        self._model: SpeechModel = SpeechStream() if model is None else model
        self._recent: deque[float] = deque([0.0], maxlen=_RECENT_WINDOWS)
        # Of each step, from the first that is still known: its place, and its level with and without hum.
        self._first = 0
        self._places: list[int] = []
        self._raw: list[float] = []
        self._levels: list[float] = []
        self._sorted: list[float] = []
        self._floor: deque[float] = deque(maxlen=_FLOOR_STEPS)
        self._bed = _Bed()
        self._unlearnt: deque[_Step] = deque()
        self._learn_from = 0
        self._voice = _Histogram()
        self._voice.add(_VOICE_DBFS, _SUPPOSED_S)
        self._is_supposed = True
        self._threshold = _VOICE_DBFS - _BELOW_VOICE_DB
        self._enough = _ON_PER_DB_S * _BEST_DB
        self._evidence = 0.0
        self._began: int | None = None
        self._supported = 0
        self._onset: int | None = None
        self._doubt: _Doubt | None = None
        self._ended = 0

    @property
    def speaking(self) -> bool:
        return self._onset is not None

    def hear(self, at_ns: int, pcm: bytes) -> list[Edge]:
        """Take the next piece of audio, 16-bit mono at 16 kHz, by the place of its first sample; return its edges."""
        edges: list[Edge] = []
        if self._next_ns is not None and at_ns - self._next_ns > _STEP_NS:
            missing = min(at_ns - self._next_ns, _LONGEST_GAP_NS) * RATE_HZ // NS_PER_S
            edges += self._take(at_ns - samples_to_ns(missing, RATE_HZ), np.zeros(missing, dtype=np.float32))
        samples = np.frombuffer(pcm, dtype=np.int16).astype(np.float32) / np.float32(32_768)
        edges += self._take(at_ns, samples)
        self._next_ns = at_ns + samples_to_ns(samples.size, RATE_HZ)
        return edges

    def stop(self) -> list[Edge]:
        """Take it that no more audio comes: speech that is under way has ended."""
        return [] if self._onset is None else [self._end()]

    def _take(self, at_ns: int, samples: NDArray[np.float32]) -> list[Edge]:
        self._ask_model(samples)
        before, raw, levels = self._stream.add(samples)
        begins_ns = at_ns - samples_to_ns(before, RATE_HZ)
        edges: list[Edge] = []
        for index, (with_hum, level) in enumerate(zip(raw.tolist(), levels.tolist(), strict=True)):
            edges += self._step(begins_ns + index * _STEP_NS, with_hum, level)
        return edges

    def _ask_model(self, samples: NDArray[np.float32]) -> None:
        self._window = np.concatenate([self._window, samples])
        while self._window.size >= WINDOW:
            window, self._window = self._window[:WINDOW], self._window[WINDOW:]
            if float(np.abs(window).max()) < _MODEL_AMPLITUDE:
                self._model.reset()
                self._recent.append(0.0)
            else:
                self._recent.append(self._model.probability(window))

    def _step(self, place_ns: int, raw: float, level: float) -> list[Edge]:
        self._places.append(place_ns)
        self._raw.append(raw)
        self._levels.append(level)
        insort(self._sorted, level)
        if len(self._sorted) > _MEDIAN_STEPS:
            del self._sorted[bisect_left(self._sorted, self._levels[-_MEDIAN_STEPS - 1])]
        if len(self._places) > HISTORY_STEPS + _FORGET_STEPS:
            self._first += _FORGET_STEPS
            for known in (self._places, self._raw, self._levels):
                del known[:_FORGET_STEPS]
        now = self._known - _LAG_STEPS
        if now < self._first:
            return []
        smooth = self._sorted[len(self._sorted) // 2]
        self._floor.append(smooth)
        if self._onset is None:
            self._learn(now, smooth)
        if now % _UPDATE_STEPS == 0:
            self._update(now)
        edge = self._decide(now, smooth)
        if edge is not None:
            return [edge]
        return self._resolve(self._doubt, now, smooth)

    def _learn(self, now: int, smooth: float) -> None:
        """Learn the bed of what lies far enough behind: what is near may turn out to be speech."""
        index = now - self._first
        is_speech = self._recent[-1] > _SPEECH
        self._unlearnt.append(_Step(now, smooth, self._raw[index], self._levels[index], is_speech))
        waits = self._began is not None and now - self._began < _FIRST_WAIT_STEPS and self._voice_is_unknown
        while not waits and self._unlearnt and self._unlearnt[0].index < now - _BEFORE_STEPS:
            step = self._unlearnt.popleft()
            if step.index >= self._learn_from:
                self._bed.add(step)

    def _update(self, now: int) -> None:
        """Set the threshold anew, between the bed and the voice."""
        self._bed.update()
        bed = self._bed.level
        lasted_s = 0.0 if self._onset is None else (now - self._onset) * _STEP_S
        percents = [percent for after_s, percent in _FLOOR_PERCENTS if lasted_s > after_s or not self._bed.known]
        if percents and len(self._floor) * _STEP_S >= _ENOUGH_S:
            percent = percents[-1] if self._bed.known else percents[0]
            bed = max(bed, float(np.percentile(np.array(self._floor), percent)) + _ABOVE_FLOOR_DB)
        if self._is_supposed and self._voice.weight >= _SUPPOSED_S + _HEARD_VOICE_S:
            # What was supposed would hide a soft voice for a second.
            self._is_supposed = False
            self._voice.add(_VOICE_DBFS, -_SUPPOSED_S)
        voice = self._voice.percentile(75)
        below = voice - _BELOW_VOICE_DB
        if self._is_supposed:
            below = min(below, _SOFT_VOICE_DBFS)
        threshold = max(below, bed + _ABOVE_BED_DB, _QUIETEST_DBFS)
        if voice - bed >= _TELLABLE_DB:
            threshold = min(threshold, voice - _LEAST_BELOW_VOICE_DB)
        self._threshold = threshold
        self._enough = _ON_PER_DB_S * min(max(voice - threshold, _LEAST_BELOW_VOICE_DB), _BEST_DB)

    def _decide(self, now: int, smooth: float) -> Edge | None:
        evidence = min(max(smooth - self._threshold, _WORST_DB), _BEST_DB)
        supported = evidence > 0
        may_begin = True
        if self._bed.speech_share < _BELIEVED_SHARE:
            likely = max(self._recent)
            if likely < _NO_SPEECH:
                evidence = _WORST_DB
            elif self._recent[-1] > _SPEECH and self._holds(now):
                evidence = max(evidence, 0.0)
            may_begin = likely >= _SOME_SPEECH
        self._evidence = min(max(self._evidence + evidence * _STEP_S, 0.0), _MOST_EVIDENCE)
        if self._evidence == 0.0:
            self._began = None
            if self._onset is None:
                return None
            if smooth > self._bed.level + _STILL_SOUNDS_DB and now - self._onset > _LONG_STEPS:
                self._take_for_bed(now)
            return self._end()
        if self._began is None:
            self._began = now
        if self._onset is None:
            if self._evidence < self._enough or not may_begin:
                return None
            if self._may_be_a_bed(self._began, now, smooth):
                self._doubt = self._doubt or _Doubt(self._began, last=now, loudest=smooth)
                return None
            self._doubt = None
            return self._begin(self._began, now)
        if supported:
            self._supported = now
            self._voice.add(smooth, _STEP_S)
        return None

    @property
    def _known(self) -> int:
        return self._first + len(self._places) - 1

    @property
    def _voice_is_unknown(self) -> bool:
        """Whether nothing of the agent was heard so far."""
        return self._is_supposed and self._voice.weight < _SUPPOSED_S + _STEP_S

    def _may_be_a_bed(self, began: int, now: int, smooth: float) -> bool:
        """Whether the first sound of a call is as soft as a bed, and as even: nothing is there to tell it by yet."""
        if not self._voice_is_unknown or smooth >= _SOFT_DBFS:
            return False
        levels = self._levels[began - self._first : now + 1 - self._first]
        if len(levels) < _FIRST_STEPS:
            return True
        lower, upper = np.percentile(np.array(levels), (10, 90))
        return bool(upper - lower < _UNEVEN_DB)

    def _resolve(self, doubt: "_Doubt | None", now: int, smooth: float) -> list[Edge]:
        """Return the edges of a first sound that was too soft and even to be known for a voice, once it stopped."""
        if doubt is None:
            return []
        doubt.loudest = max(doubt.loudest, smooth)
        if smooth > doubt.loudest - _STOPPED_DB:
            doubt.last = now
            doubt.steps += 1
            doubt.voiced += self._recent[-1] > _SPEECH
            return []
        if now - doubt.last < _STOPPED_STEPS:
            return []
        self._doubt = None
        if doubt.voiced < _VOICE_SHARE * doubt.steps or doubt.began < self._first:
            return []
        # What was learnt as a bed was the agent.
        self._bed = _Bed()
        self._voice.add(doubt.loudest, doubt.steps * _STEP_S)
        onset = self._begin(doubt.began, doubt.last)
        return [onset, self._end()]

    def _take_for_bed(self, now: int) -> None:
        """Learn the bed from what was taken for speech until now, and still sounds."""
        for index in range(now - _LONG_STEPS - self._first, now - self._first):
            raw, level = self._raw[index], self._levels[index]
            if level <= self._threshold:
                self._bed.add(_Step(index, level, raw, level, is_speech=True))
        self._bed.update()

    def _holds(self, now: int) -> bool:
        """Whether the speech model alone may hold speech that is under way: not where it may be hearing the bed."""
        return self._onset is not None and self._bed.known and now - self._onset < _HOLD_STEPS

    def _begin(self, began: int, now: int) -> Edge:
        first = max(self._ended, self._first)
        onset = self._edge(max(began, first), -1, first, (began, now + 1), self._known - began)
        self._onset = onset + self._first
        self._supported = now
        self._unlearnt.clear()
        return Edge(Heard.ONSET, self._places[onset])

    def _end(self) -> Edge:
        onset = self._onset if self._onset is not None else self._supported
        onset = max(onset, self._first)
        supported = max(self._supported, onset)
        last = self._edge(supported, 1, self._known, (onset, supported + 1), supported - onset)
        self._onset = None
        self._evidence = 0.0
        self._ended = self._first + last + 1
        self._began = None
        self._learn_from = self._ended + _AFTER_STEPS
        return Edge(Heard.END, self._places[last] + _STEP_NS)

    def _edge(self, at: int, direction: int, limit: int, audible: tuple[int, int], inwards: int) -> int:
        """Return where the edge of speech is that sounds from one step to another."""
        levels, threshold, masked = self._audible(*audible)
        gap = GAP_STEPS if masked else MERGE_STEPS
        inwards = 0 if masked else min(GAP_STEPS, inwards)
        return outermost(levels, at - self._first, direction, limit - self._first, threshold, gap, inwards)

    def _audible(self, start: int, end: int) -> tuple[list[float], float, bool]:
        """Return the levels to look an edge up in, where they begin to be audible, and whether a bed masks it."""
        threshold = 0.0
        for levels, top in ((self._raw, self._bed.raw_top), (self._levels, self._bed.top)):
            peak = max(levels[start - self._first : end - self._first])
            threshold = max(peak - AUDIBLE_DB, top + ABOVE_BED_DB)
            if threshold <= peak - AUDIBLE_DB + UNMASKED_DB:
                return levels, threshold, False
        return self._levels, threshold, True


@dataclass(frozen=True)
class _Step:
    index: int
    smooth: float
    raw: float
    level: float
    is_speech: bool


@dataclass
class _Doubt:
    """A first sound that may be a bed or a voice."""

    began: int
    last: int
    loudest: float
    steps: int = 0
    voiced: int = 0


class _Histogram:
    """Levels by the dB, where what is long past counts little: of what is ``memory_s`` old, a third still counts."""

    def __init__(self, memory_s: float = math.inf):
        self._counts = np.zeros(1 - int(SILENCE_DBFS))
        self._keep = float(np.exp(-_UPDATE_STEPS * _STEP_S / memory_s))

    def add(self, level: float, weight: float) -> None:
        self._counts[min(max(int(level - SILENCE_DBFS), 0), self._counts.size - 1)] += weight

    def fade(self) -> None:
        """Let the time of one update pass."""
        self._counts *= self._keep

    @property
    def weight(self) -> float:
        return float(self._counts.sum())

    def percentile(self, percent: float, *, sounding: bool = False) -> float:
        """Return a percentile in dBFS, perhaps of what is no digital silence alone."""
        counts = self._counts.copy()
        if sounding:
            counts[:_SILENT_BINS] = 0
        sums = np.cumsum(counts)
        bin_index = int(np.searchsorted(sums, sums[-1] * percent / 100))
        return SILENCE_DBFS + min(bin_index, counts.size - 1) + 0.5

    @property
    def sounding_share(self) -> float:
        return 1 - float(self._counts[:_SILENT_BINS].sum()) / max(self.weight, 1e-9)


class _Bed:
    """What lies under the agent's voice, as far as it was heard alone."""

    def __init__(self) -> None:
        self._smooth = _Histogram(_BED_MEMORY_S)
        self._raw = _Histogram(_BED_MEMORY_S)
        self._levels = _Histogram(_BED_MEMORY_S)
        self._speech = 0.0
        self.level = self.top = self.raw_top = SILENCE_DBFS
        self.speech_share = 0.0

    @property
    def known(self) -> bool:
        return self._smooth.weight >= _ENOUGH_S

    def add(self, step: _Step) -> None:
        self._smooth.add(step.smooth, _STEP_S)
        self._raw.add(step.raw, _STEP_S)
        self._levels.add(step.level, _STEP_S)
        self._speech += _STEP_S * step.is_speech

    def update(self) -> None:
        before = self._smooth.weight
        for histogram in (self._smooth, self._raw, self._levels):
            histogram.fade()
        if before == 0:
            return
        self._speech *= self._smooth.weight / before
        self.speech_share = self._speech / self._smooth.weight
        # A channel is silent before the agent is there: that is not its bed.
        sounding = self._smooth.sounding_share >= _SOUNDING_SHARE
        middle = self._smooth.percentile(50, sounding=sounding)
        upper = self._smooth.percentile(90, sounding=sounding)
        # Where a bed comes and goes the spread says nothing: it hardly ever goes beyond its own loud moments.
        self.level = min(
            middle + _BED_SPREAD * (upper - middle), self._smooth.percentile(_BED_PERCENT, sounding=sounding)
        )
        self.top = self._levels.percentile(99.5, sounding=sounding)
        self.raw_top = self._raw.percentile(99.5, sounding=sounding)
