"""Speech for simulated calls: synthesised once, and kept for the life of the process."""

import asyncio
import functools
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bots.caller.script import Play, Script, Speak, Words
from bots.caller.speech.settings import SpeechSettings
from bots.caller.speech.voice import RATE_HZ, Line, Voice

Pcm = npt.NDArray[np.int16]

FRAME_SAMPLES = RATE_HZ // 50
VOICED_RMS = 32768 * 10 ** (-45 / 20)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@functools.cache
def clip(text: str) -> Pcm:
    """Return a text as 16-bit speech at 24 kHz."""
    return np.frombuffer(_line(Speak(parts=(Words(text=text),))).pcm, np.int16)


@functools.cache
def _line(action: Speak | Play) -> Line:
    # In a thread with an event loop of its own: whoever asks may be in virtual time, where nothing can be waited for.
    with ThreadPoolExecutor(1) as thread:
        (line,) = thread.submit(asyncio.run, Voice(SpeechSettings()).synthesise([action])).result()
    return line


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, as a speech service takes them."""
    return [sentence for sentence in _SENTENCE_END.split(text.strip()) if sentence]


def is_voiced(pcm: Pcm) -> bool:
    """Tell whether a frame of audio is loud enough for speech."""
    return pcm.size > 0 and float(np.sqrt(np.mean(np.square(pcm.astype(np.float32))))) > VOICED_RMS


def voiced_frames(pcm: Pcm) -> int:
    """Return how many frames of 20 ms are voiced."""
    return sum(is_voiced(pcm[start : start + FRAME_SAMPLES]) for start in range(0, pcm.size, FRAME_SAMPLES))


@dataclass(frozen=True)
class Part:
    """Words that are spoken in one go.

    Attributes:
        words: The words, one by one.
        frames: How many voiced frames they take.
    """

    words: tuple[str, ...]
    frames: int


@dataclass(frozen=True)
class Utterance:
    """What a line of the caller holds for an ear that hears it frame by frame."""

    parts: tuple[Part, ...]

    @property
    def frames(self) -> int:
        """How many voiced frames there are in all."""
        return sum(part.frames for part in self.parts)

    @property
    def words(self) -> int:
        """How many words there are in all."""
        return sum(len(part.words) for part in self.parts)

    def words_until(self, frames: int) -> int:
        """Return how many words are complete after so many voiced frames."""
        words = 0
        for part in self.parts:
            if frames < part.frames:
                return words + round(len(part.words) * frames / part.frames)
            words += len(part.words)
            frames -= part.frames
        return words

    def all_words(self) -> list[str]:
        """Return the words, one by one."""
        return [word for part in self.parts for word in part.words]


def utterances(script: Script) -> dict[int, Utterance]:
    """Return what the caller's lines hold, by turn."""
    return {i: _utterance(t.action) for i, t in enumerate(script.turns) if isinstance(t.action, Speak | Play)}


def _utterance(action: Speak | Play) -> Utterance:
    if isinstance(action, Play):
        pcm = np.frombuffer(_line(action).pcm, np.int16)
        return Utterance((Part(tuple(action.text.split()), voiced_frames(pcm)),))
    texts: Sequence[str] = [part.text for part in action.parts if isinstance(part, Words)]
    return Utterance(tuple(Part(tuple(text.split()), voiced_frames(clip(text))) for text in texts))
