"""What may be heard behind an agent: offices, crowds, music. Made, not recorded, and the same for the same seed.

Every sound is a loop: its end fits its beginning, so that it can be repeated all through a call. Its level is the RMS
over the whole loop, also where it has gaps (keys, music). Those with voices in them need the extra ``offline``, as
they are spoken by the offline model; one process makes each loop once.
"""

import functools
import importlib.util
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, cast

import numpy as np
import soxr
from numpy.typing import NDArray
from pydantic import BeforeValidator

from bots.caller.speech.errors import MissingSpeechPackage

Samples = NDArray[np.float32]
Signal = NDArray[np.float64]

LOOP_S = 24.0
"""How long a loop is that is played behind a call, in seconds."""
SHORTEST_S = 5.0
BACKGROUND_DBFS = -38.0
"""How loud one is where nothing else is said: some 16 dB below speech."""
DEFAULT_SEED = 5

VOICE_RATE_HZ = 24_000
VOICE_FLOOR = 0.005
CROWD_VOICES = 16
NEAR_IN_CROWD_DB = (4.0, 1.0, 0.0, -3.0)
"""The nearest voices of a crowd can be told apart, or it would be a murmur that no speech model takes for speech."""
BABBLE_VOICES = 5

LINES = (
    "So I told her that we would come round on Saturday, if the weather stays like this.",
    "Did you see what they have done with the old station?",
    "No, no, that was last year, when we were all still living on the other side of the river.",
    "I'll have the soup, and a glass of water, please.",
    "And then the train was forty minutes late, and nobody told us anything at all.",
    "That is exactly what I said to him, but he never listens.",
    "We could ask Martin, he knows a lot about these things.",
    "It was a wonderful evening, and the children did not want to go home.",
    "Have you heard from your brother lately?",
    "The second one was better than the first, I thought, but much too long.",
    "They want six hundred for it, which is far more than I would ever pay.",
    "Well, you know how it is, one thing leads to another.",
    "Could you pass me the bread? Thank you very much.",
    "I have to be back at the office by two, there is another meeting about the budget.",
    "She moved to Lisbon in the spring, and she says that it is the best thing she ever did.",
    "Oh, how lovely! When is the wedding?",
    "Three of them came in late, and one of them never came at all.",
    "Let me look at the calendar, I think that Thursday is fine.",
    "He used to play the piano every morning, before anyone else was awake.",
    "Honestly, I could not believe my eyes when I opened the door.",
)


class BackgroundName(StrEnum):
    WHITE = "white"
    OFFICE = "office"
    """Ventilation, and now and then keys, a chair, somebody who talks further away."""
    CROWD = "crowd"
    """Many voices at once in a large room, as in a café at noon. Speech to a speech model."""
    BABBLE = "babble"
    """Five people who talk near by, with pauses."""
    KEYBOARD = "keyboard"
    """Somebody who types: bursts of keys, and silence in between."""
    HOLD_MUSIC = "hold_music"
    """Chords, a melody and a beat, with silence between phrases."""
    CITY = "city"
    """Traffic, passing cars, horns and wind."""


def background_name(name: object) -> BackgroundName:
    """Return the background that is called so. Raises ValueError: there is none; names those there are."""
    if not isinstance(name, str) or name not in set(BackgroundName):
        raise ValueError(f"no background is called {name!r}; there are: {', '.join(BackgroundName)}")
    return BackgroundName(name)


Background = Annotated[BackgroundName | None, BeforeValidator(lambda name: background_name(name) if name else None)]
"""An agent's option: what is heard behind it, if anything."""


def background(name: str, rate_hz: int, seconds: float = LOOP_S, seed: int = DEFAULT_SEED) -> Samples:
    """Return a loop of a background, mono, with an RMS of 1.0 (0 dBFS) over the whole loop: its peaks are higher.

    Blocks, for those with many voices up to some five seconds; the same loop is returned at once the second time, and
    must not be written to. The rate is at least 8000 Hz.

    Raises:
        ValueError: There is no such background, or the loop is shorter than :data:`SHORTEST_S`.
        MissingSpeechPackage: It has voices in it, and the extra ``offline`` is not installed.
    """
    known = background_name(name)
    if seconds < SHORTEST_S:
        raise ValueError(f"a background must last at least {SHORTEST_S:g} s, not {seconds:g} s")
    return _loop(known, rate_hz, seconds, seed)


class BackgroundLoop:
    """A background that is played on and on, from a place in it, at an RMS level over the whole loop.

    Made as :func:`background` makes it, which blocks and may fail.
    """

    def __init__(
        self, name: str, dbfs: float, rate_hz: int, seed: int = DEFAULT_SEED, *, from_s: float = 0.0
    ) -> None:
        self._samples = background(name, rate_hz, LOOP_S, seed)
        self._gain = np.float32(10 ** (dbfs / 20))
        self._position = round(from_s * rate_hz) % len(self._samples)

    def next(self, samples: int) -> Samples:
        """Return the next piece; 1.0 is full scale."""
        at = (self._position + np.arange(samples)) % len(self._samples)
        self._position = (self._position + samples) % len(self._samples)
        return self._samples[at] * self._gain

    def mixed_into(self, pcm: NDArray[np.int16]) -> NDArray[np.int16]:
        """Return mono 16-bit samples with the next piece added; what lies beyond full scale is cut to it."""
        mixed = pcm + self.next(len(pcm)) * np.float32(32768)
        return np.clip(np.rint(mixed), -32768, 32767).astype(np.int16)


@dataclass(frozen=True)
class _Canvas:
    """What a loop is drawn on: time in it goes round."""

    rate_hz: int
    samples: int
    random: np.random.Generator

    @property
    def seconds(self) -> float:
        return self.samples / self.rate_hz

    def empty(self) -> Signal:
        return np.zeros(self.samples)

    def times_s(self, length_s: float | None = None) -> Signal:
        return np.arange(self.samples if length_s is None else round(length_s * self.rate_hz)) / self.rate_hz

    def frequencies_hz(self) -> Signal:
        return np.fft.rfftfreq(self.samples, 1 / self.rate_hz).astype(np.float64)

    def put(self, signal: Signal, at_s: float, sound: Signal) -> None:
        """Add a sound at a time; what goes over the end goes on at the beginning."""
        at = (round(at_s * self.rate_hz) + np.arange(len(sound))) % self.samples
        np.add.at(signal, at, sound)

    def noise(self, shape: Callable[[Signal], Signal]) -> Signal:
        """Return steady noise with an RMS of 1; ``shape`` gives the amplitude of each frequency in Hz."""
        hz = self.frequencies_hz()
        spectrum = self.random.normal(size=len(hz)) + 1j * self.random.normal(size=len(hz))
        spectrum[0] = 0
        return _level(np.fft.irfft(spectrum * shape(hz), self.samples))

    def swell(self, slowest_s: float) -> Signal:
        """Return something that goes slowly up and down around 0, with an RMS of 1."""
        return self.noise(lambda hz: np.where(hz * slowest_s < 1, 1.0, 1 / np.maximum(hz * slowest_s, 1) ** 2))

    def filtered(self, signal: Signal, shape: Callable[[Signal], Signal]) -> Signal:
        hz = self.frequencies_hz()
        return np.fft.irfft(np.fft.rfft(signal) * shape(hz), self.samples)

    def in_room(self, signal: Signal, decay_s: float, wet: float) -> Signal:
        """Return a signal in a room: its reverberation falls by 60 dB in ``decay_s``, and has ``wet`` its energy."""
        length = min(round(decay_s * self.rate_hz), self.samples)
        tail = self.random.normal(size=length) * 10 ** (-3 * np.arange(length) / length)
        tail *= math.sqrt(wet / float(np.sum(np.square(tail))))
        tail[0] += 1
        return np.fft.irfft(np.fft.rfft(signal) * np.fft.rfft(tail, self.samples), self.samples)

    def within(self, low: float, high: float) -> float:
        return float(self.random.uniform(low, high))

    def moments_s(self, about: int) -> list[float]:
        """Return so many times, one in each equal part of the loop."""
        part_s = self.seconds / about
        return [(i + self.within(0.1, 0.9)) * part_s for i in range(about)]


@functools.lru_cache(maxsize=16)
def _loop(name: BackgroundName, rate_hz: int, seconds: float, seed: int) -> Samples:
    canvas = _Canvas(rate_hz, round(rate_hz * seconds), np.random.default_rng([seed, *name.encode()]))
    loop = _level(_MAKERS[name](canvas)).astype(np.float32)
    loop.flags.writeable = False
    return loop


def _level(signal: Signal) -> Signal:
    return signal / math.sqrt(float(np.mean(np.square(signal))))


def _gain(db: float) -> float:
    return 10 ** (db / 20)


def _band(low_hz: float, high_hz: float, slope: float = 0.0) -> Callable[[Signal], Signal]:
    """Return a band with soft edges, in which the power falls by ``slope`` times 3 dB an octave."""

    def shape(hz: Signal) -> Signal:
        f = np.maximum(hz, 1.0)
        return (1 + (low_hz / f) ** 6) ** -0.5 * (1 + (f / high_hz) ** 6) ** -0.5 * f ** (-slope / 2)

    return shape


# ------------------------------------------------------------------------------------------------------------ noises


def _white(canvas: _Canvas) -> Signal:
    return canvas.random.normal(size=canvas.samples)


def _office(canvas: _Canvas) -> Signal:
    office = canvas.noise(_band(60, 6_000, 1.3)) * (1 + 0.06 * canvas.swell(3))
    hum_hz = round(100 * canvas.seconds) / canvas.seconds  # a whole number of waves in the loop
    office += _gain(-11) * np.sin(2 * np.pi * hum_hz * canvas.times_s())
    things = canvas.empty()
    for at_s in canvas.moments_s(max(2, round(canvas.seconds / 6))):
        _type(canvas, things, at_s, int(canvas.random.integers(4, 12)))
    for at_s in canvas.moments_s(max(1, round(canvas.seconds / 10))):
        canvas.put(things, at_s, _chair(canvas) * canvas.within(0.6, 1.2))
    talk = _level(_conversation(canvas, talkers=2, share=0.35))
    talk = canvas.filtered(canvas.in_room(talk, 0.6, 2.0), _band(150, 1_100))
    return office + 6 * canvas.in_room(things, 0.4, 0.3) + _gain(-2) * _level(talk)


def _keyboard(canvas: _Canvas) -> Signal:
    keys = canvas.empty()
    at_s = canvas.within(0.2, 0.8)
    while at_s < canvas.seconds - 1.0:
        at_s = _type(canvas, keys, at_s, int(canvas.random.integers(5, 22))) + canvas.within(0.7, 2.6)
    return keys


def _type(canvas: _Canvas, signal: Signal, at_s: float, keys: int) -> float:
    for _ in range(keys):
        canvas.put(signal, at_s, _key(canvas) * _gain(canvas.within(-6, 3)))
        canvas.put(signal, at_s + canvas.within(0.05, 0.09), _key(canvas) * _gain(canvas.within(-16, -9)))
        at_s += canvas.within(0.09, 0.26)
    return at_s


def _key(canvas: _Canvas) -> Signal:
    """Return the click of one key, 40 ms with a peak of about 1: the cap, then the ring of the board under it."""
    t = canvas.times_s(0.04)
    click = canvas.random.normal(size=len(t)) * np.exp(-t / 0.0015) * 0.35
    for hz, decay_s, loudness in ((canvas.within(2_000, 3_400), 0.003, 0.4), (canvas.within(160, 320), 0.012, 0.5)):
        click += loudness * np.sin(2 * np.pi * hz * t) * np.exp(-t / decay_s)
    return click


_BRASS = tuple((k, 1 / k) for k in range(1, 9))


def _chair(canvas: _Canvas) -> Signal:
    """Return a chair that is moved: it scrapes, then something knocks. About 0.7 s with a peak of about 1."""
    t = canvas.times_s(0.7)
    pitch_hz = canvas.within(180, 320) * (1 + 0.15 * np.sin(2 * np.pi * canvas.within(2, 4) * t))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / canvas.rate_hz
    scrape = np.sin(np.pi * np.minimum(t / 0.45, 1)) ** 2 * np.sum(
        [np.sin(k * phase) / k for k in range(1, 7)], axis=0
    )
    rough = 1 + 0.7 * np.sign(np.sin(2 * np.pi * 37 * t))
    knock = np.sin(2 * np.pi * 95 * t) * np.where(t > 0.5, np.exp(-np.maximum(t - 0.5, 0) / 0.03), 0)
    return 0.12 * scrape * rough + 0.5 * knock


def _city(canvas: _Canvas) -> Signal:
    rumble = canvas.noise(_band(35, 1_500, 2.0)) * (1 + 0.15 * canvas.swell(4))
    tyres = canvas.noise(_band(250, 3_500, 1.0)) * (1 + 0.2 * canvas.swell(2))
    wind = canvas.noise(_band(90, 700, 1.5)) * np.maximum(1 + 0.7 * canvas.swell(2.5), 0) ** 1.5
    city = rumble + _gain(-5) * tyres + _gain(-6) * wind
    for at_s in canvas.moments_s(max(2, round(canvas.seconds / 7))):
        city += _car(canvas, at_s) * _gain(canvas.within(-3, 4))
    for at_s in canvas.moments_s(max(1, round(canvas.seconds / 11))):
        horns = canvas.empty()
        canvas.put(horns, at_s, _horn(canvas))
        if canvas.random.random() < 0.5:
            canvas.put(horns, at_s + 0.45, _horn(canvas))
        city += _gain(canvas.within(0, 6)) * canvas.in_room(horns, 1.2, 0.5)
    return city


def _car(canvas: _Canvas, at_s: float) -> Signal:
    """Return a car that passes at a time: nearest then, and its tone falls as it goes away."""
    away_s = (canvas.times_s() - at_s + canvas.seconds / 2) % canvas.seconds - canvas.seconds / 2
    width_s = canvas.within(0.6, 1.4)
    near = 1 / (1 + (away_s / width_s) ** 2) ** 1.5
    # The seam lies where the car is furthest away.
    near = np.maximum(near - 1 / (1 + (canvas.seconds / 2 / width_s) ** 2) ** 1.5, 0)
    low, high = canvas.noise(_band(60, 900, 1.2)), canvas.noise(_band(500, 4_500, 0.8))
    brightness = 1 / (1 + np.exp(away_s / 0.4))
    return near * (low + high * (0.4 + 0.5 * brightness))


def _horn(canvas: _Canvas) -> Signal:
    length_s = canvas.within(0.2, 0.7)
    t = canvas.times_s(length_s)
    base_hz = canvas.within(330, 440)
    edge = np.clip(np.minimum(t, length_s - t) / 0.02, 0, 1)
    return 0.5 * edge * (_tone(canvas, t, base_hz, _BRASS) + _tone(canvas, t, 1.2 * base_hz, _BRASS))


# ------------------------------------------------------------------------------------------------------------- music

_CHORDS = ((0, 4, 7, 11), (-3, 0, 4, 7), (-7, -3, 0, 4), (-5, -1, 2, 7))
_MELODY = (0, 2, 4, 7, 9, 12)
_BAR_S = 2.4
_BEATS = 4
_KEY_HZ = 261.63
_PIANO = ((1, 1.0), (2, 0.45), (3, 0.2), (4, 0.12), (7, 0.06))


def _hold_music(canvas: _Canvas) -> Signal:
    bars = max(2, round(canvas.seconds / _BAR_S))
    beat_s = canvas.seconds / bars / _BEATS
    music = canvas.empty()
    step = 2
    for bar in range(bars):
        chord = _CHORDS[bar % len(_CHORDS)]
        at_s = bar * _BEATS * beat_s
        # Every fourth bar ends a phrase: it is left half empty, with silence at its end.
        beats = _BEATS // 2 if bar % 4 == 3 else _BEATS
        for beat in range(0, beats, 2):
            for semitones in chord:
                canvas.put(music, at_s + beat * beat_s, 0.16 * _note(canvas, semitones, 1.7 * beat_s))
            canvas.put(music, at_s + beat * beat_s, 0.4 * _note(canvas, chord[0] - 24, 1.6 * beat_s))
        for eighth in range(2 * beats):
            canvas.put(music, at_s + eighth * beat_s / 2, (0.16 if eighth % 4 == 2 else 0.07) * _brush(canvas))
            if canvas.random.random() < 0.62:
                step = int(np.clip(step + canvas.random.integers(-2, 3), 0, len(_MELODY) - 1))
                length_s = beat_s * (0.9 if canvas.random.random() < 0.3 else 0.45)
                canvas.put(music, at_s + eighth * beat_s / 2, 0.45 * _note(canvas, _MELODY[step] + 12, length_s))
    return music


def _note(canvas: _Canvas, semitones: int, length_s: float) -> Signal:
    """Return a note of an electric piano: it begins at once, dies away, and is let go at its end."""
    t = canvas.times_s(length_s + 0.08)
    hz = _KEY_HZ * 2 ** (semitones / 12)
    edge = np.minimum(t / 0.004, 1) * np.clip((length_s + 0.08 - t) / 0.08, 0, 1)
    return edge * _tone(canvas, t, hz, _PIANO, dies_away=1.0)


def _tone(
    canvas: _Canvas, t: Signal, hz: float, partials: Sequence[tuple[int, float]], dies_away: float = 0.0
) -> Signal:
    """Return a tone of partials, each a multiple of its pitch with a loudness; the higher ones die away sooner."""
    tone = np.zeros(len(t))
    for k, loudness in partials:
        if hz * k < canvas.rate_hz / 2:
            tone += loudness * np.sin(2 * np.pi * hz * k * t) * np.exp(-t * dies_away * (1.0 + 0.8 * k))
    return tone


def _brush(canvas: _Canvas) -> Signal:
    t = canvas.times_s(0.09)
    return np.diff(canvas.random.normal(size=len(t) + 1)) * np.exp(-t / 0.02)


# ------------------------------------------------------------------------------------------------------------ voices


def _crowd(canvas: _Canvas) -> Signal:
    crowd = canvas.empty()
    for index in range(CROWD_VOICES):
        # Some sit near, most of them further away.
        near = index < len(NEAR_IN_CROWD_DB)
        level_db = NEAR_IN_CROWD_DB[index] if near else canvas.within(-14, -7)
        voice = _level(_talker(canvas, pause_s=(0.1, 0.7)))
        crowd += _gain(level_db) * canvas.in_room(voice, 0.6, 0.15 if near else 1.5)
    return crowd + _gain(-12) * math.sqrt(float(np.mean(np.square(crowd)))) * canvas.noise(_band(100, 4_000, 1.0))


def _babble(canvas: _Canvas) -> Signal:
    babble = canvas.empty()
    for _ in range(BABBLE_VOICES):
        babble += _gain(canvas.within(-5, 0)) * canvas.in_room(_level(_talker(canvas)), 0.35, 0.25)
    return babble


def _conversation(canvas: _Canvas, talkers: int, share: float) -> Signal:
    """Return a few people who say something now and then, and fill about a share of the time."""
    pause_s = 3.0 * talkers * (1 - share) / share
    talk = canvas.empty()
    for _ in range(talkers):
        talk += _talker(canvas, (0.5 * pause_s, 1.5 * pause_s))
    return talk


def _talker(canvas: _Canvas, pause_s: tuple[float, float] = (0.2, 1.2)) -> Signal:
    """Return one person who talks all through the loop, with pauses of these lengths."""
    pitch = 2 ** canvas.within(-0.45, 0.25)
    tempo = canvas.within(0.9, 1.2)
    lines = cast(Sequence[str], canvas.random.permutation(LINES))
    said = canvas.empty()
    begin_s = canvas.within(0, canvas.seconds)
    at_s, index = 0.0, 0
    while at_s < canvas.seconds:
        line = _spoken(str(lines[index % len(lines)]), pitch, tempo, canvas.rate_hz)
        index += 1
        length_s = len(line) / canvas.rate_hz
        if at_s + length_s > canvas.seconds and index > 1:
            break
        canvas.put(said, begin_s + at_s, line[: canvas.samples])
        at_s += length_s + canvas.within(*pause_s)
    return said


def _spoken(line: str, pitch: float, tempo: float, rate_hz: int) -> Signal:
    """Return a line in a voice that is ``pitch`` times as high, and ``tempo`` times as fast, as the model's own."""
    with _speaking:
        # Played at another rate the voice is higher or lower, and faster or slower, which the model makes up for.
        speech = np.asarray(_model()(line, speed=float(np.clip(tempo / pitch, 0.5, 2.0)), seed=0), np.float64)
    loud = np.flatnonzero(np.abs(speech) > VOICE_FLOOR)
    speech = speech[loud[0] : loud[-1] + 1]
    return cast(Signal, soxr.resample(speech, VOICE_RATE_HZ * pitch, rate_hz))


_speaking = threading.Lock()


@functools.cache
def _model() -> Any:
    if importlib.util.find_spec("hibari") is None:
        raise MissingSpeechPackage("hibari-tts")
    from hibari import Hibari
    from hibari.voices import voice_path

    return Hibari(model=voice_path("heart", download_missing=False))


_MAKERS: dict[BackgroundName, Callable[[_Canvas], Signal]] = dict(
    zip(BackgroundName, (_white, _office, _crowd, _babble, _keyboard, _hold_music, _city), strict=True)
)
"""In the order of their names."""
