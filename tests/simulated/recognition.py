"""Recognition for simulated calls: it knows what the agent can have said, and looks which words of it are there."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from bots.caller.speech.settings import ServiceSettings
from bots.caller.speech.voice import RATE_HZ
from tests.simulated.speech import FRAME_SAMPLES, clip, is_voiced

_DECIMATION = 3
"""8 kHz are enough to find a sentence."""

_ALIKE = 0.5
"""Correlation above which two pieces of audio are the same."""

_LEAST_OVERLAP = 0.1
"""A sentence of which less is there is not looked for."""

_Samples = npt.NDArray[np.float64]


class Recogniser:
    """Tells which of the agent's words are in a piece of audio: those whose sound is there.

    Args:
        said: Returns the sentences that the agent has said so far.
        misheard: Which share of the words it does not hear.
        random: Draws which.
    """

    def __init__(self, said: Callable[[], Iterable[str]], misheard: float, random: np.random.Generator):
        self._said = said
        self._misheard = misheard
        self._random = random

    async def transcribe(
        self,
        segments: Sequence[bytes],
        rate_hz: int,
        stt: ServiceSettings,
        *,
        done: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Return one text for each piece of 24 kHz audio."""
        assert rate_hz == RATE_HZ
        texts: list[str] = []
        for segment in segments:
            texts.append(self._text(np.frombuffer(segment, np.int16).astype(np.float64)))
            if done is not None:
                done(len(texts))
        return texts

    def _text(self, audio: _Samples) -> str:
        found: list[tuple[int, list[str]]] = []
        for sentence in dict.fromkeys(self._said()):
            samples = clip(sentence).astype(np.float64)
            place = _place(audio, samples)
            if place is not None:
                found.append((place, _words_there(audio, samples, place, sentence.split())))
        words = [word for _, words in sorted(found) for word in words]
        return " ".join(w for w in words if not self._misheard or self._random.random() >= self._misheard)


def _place(audio: _Samples, sentence: _Samples) -> int | None:
    """Return where a sentence begins in audio, in samples, if it is there; it may begin before or end behind it."""
    coarse, wanted = _decimated(audio), _decimated(sentence)
    if not coarse.size or not wanted.size:
        return None
    size = 1 << (coarse.size + wanted.size - 1).bit_length()
    spectrum = np.fft.rfft(coarse, size) * np.conj(np.fft.rfft(wanted, size))
    correlation = np.fft.irfft(spectrum, size)
    at = int(np.argmax(correlation))
    lag = at if at < coarse.size else at - size
    heard = coarse[max(lag, 0) : lag + wanted.size]
    there = wanted[max(-lag, 0) :][: heard.size]
    power = float(there @ there)
    if power < _LEAST_OVERLAP * float(wanted @ wanted) or not heard.size:
        return None
    alike = float(heard @ there) / np.sqrt(power * max(float(heard @ heard), 1e-9))
    if alike <= _ALIKE:
        return None
    # To the sample: hissing sounds are nothing like themselves a sample or two beside.
    near = range(lag * _DECIMATION - _DECIMATION, lag * _DECIMATION + _DECIMATION + 1)
    return max(near, key=lambda place: _likeness(audio, sentence, place))


def _likeness(audio: _Samples, sentence: _Samples, place: int) -> float:
    heard = audio[max(place, 0) : place + sentence.size]
    return float(heard @ sentence[max(-place, 0) :][: heard.size])


def _words_there(audio: _Samples, sentence: _Samples, place: int, words: list[str]) -> list[str]:
    """Return those of a sentence's words of whose voiced frames most are there; all words are taken to be as long."""
    there: list[bool] = []
    for start in range(0, sentence.size - FRAME_SAMPLES + 1, FRAME_SAMPLES):
        wanted = sentence[start : start + FRAME_SAMPLES]
        if not is_voiced(wanted.astype(np.int16)):
            continue
        begin = place + start
        heard = audio[begin : begin + FRAME_SAMPLES] if begin >= 0 else audio[:0]
        there.append(heard.size == wanted.size and float(heard @ wanted) > _ALIKE * float(wanted @ wanted))
    if not there:
        return []
    bounds = np.linspace(0, len(there), len(words) + 1).round().astype(int)
    return [
        word
        for word, begin, end in zip(words, bounds[:-1], bounds[1:], strict=True)
        if np.mean(there[begin : max(end, begin + 1)]) > _ALIKE
    ]


def _decimated(samples: _Samples) -> _Samples:
    usable = samples[: samples.size // _DECIMATION * _DECIMATION]
    return usable.reshape(-1, _DECIMATION).mean(axis=1)
