"""Two-channel calls whose every edge is known to the sample: for measuring how well edges are measured.

An utterance is cut where it is last and first audible: within :data:`AUDIBLE_DB` of its own loudest moment. It is put
into digital silence, so that its place is the truth; whatever the row asks for (a bed, a codec, loss) comes on top.
"""

import functools
import importlib.util
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import Any, cast

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from bots.agents.backgrounds import background
from bots.caller.speech.level import from_pcm16, to_level

RATE_HZ = 24_000
AUDIBLE_DB = 40.0
AGENT_DBFS = -22.0
ANSWERS_PER_CALL = 12
BED_LOOPS = 3
"""How many different loops of a background there are in a set of calls: making one takes seconds."""

_OPUS_RATE_HZ = 48_000
_PACKET_MS = 20
_MAX_CLIP_S = 4.5
_MIN_CLIP_S = 0.4
_CLEAN_CLIP_DB = 50.0
"""A recording whose own noise is nearer than this to its loudest moment has no edge that could be known."""

Samples = NDArray[np.float32]

SENTENCES = {
    "benchmark": (
        "Thank you for calling, how can I help you today?",
        "Your table for four is booked at half past seven.",
        "Sure.",
        "Could you spell your last name for me, please?",
        "I found two appointments on Thursday afternoon.",
        "That will be thirty-two dollars and fifty cents.",
        "Please hold on while I look that up.",
        "Yes, we are open until ten on weekends.",
        "Is there anything else that I can do for you?",
        "Goodbye, and have a pleasant evening.",
        "First, tell me which of our shops you went to.",
        "He said the entry was left with the neighbour.",
    ),
    "development": (
        "Hello, you have reached the front desk.",
        "We can move your visit to Monday morning.",
        "Of course.",
        "What is the number on your membership card?",
        "Four of the five items are ready to be collected.",
        "It costs eighteen pounds, delivery included.",
        "Let me check with my colleague in the kitchen.",
        "Parking is free behind the building.",
        "Shall I send you a confirmation by text?",
        "See you soon, take care.",
        "Perhaps a seat near the window would suit you.",
        "Those shoes come in black and in dark brown.",
    ),
}


@dataclass(frozen=True)
class Row:
    """What a call sounds like.

    Attributes:
        name: As it stands in the table.
        natural: Whether recordings of people speak, rather than synthetic voices.
        level_dbfs: Level of the agent's voice.
        bed: Name of the background, if there is one.
        bed_dbfs: Its level.
        codec: What the agent's audio goes through: ``opus``, ``mulaw``, or nothing.
        loss: The part of its packets that is lost.
    """

    name: str
    natural: bool = False
    level_dbfs: float = AGENT_DBFS
    bed: str | None = None
    bed_dbfs: float = -38.0
    codec: str | None = None
    loss: float = 0.0


@dataclass(frozen=True)
class Answer:
    """Where one answer of the agent truly is, in samples; and the stretch in which it is looked for."""

    onset: int
    end: int
    after: int
    """End of the caller's line that it answers, or of what it broke into, and 0.1 s more."""
    before: int
    """Beginning of the caller's next line, or what comes of the agent after it if that was a barge-in."""


@dataclass(frozen=True)
class BuiltCall:
    """A call at known sample positions, at :data:`RATE_HZ`."""

    agent: NDArray[np.int16]
    caller: NDArray[np.int16]
    caller_spans: tuple[tuple[int, int], ...]
    answers: tuple[Answer, ...]


def build_call(row: Row, voices: Sequence[Samples], callers: Sequence[Samples], seed: int) -> BuiltCall:
    """Build a call: a greeting, then lines of the caller and answers, some of them broken into.

    Args:
        row: What it sounds like.
        voices: Utterances of one agent.
        callers: Utterances of the caller.
        seed: The same seed gives the same call, byte for byte.
    """
    rng = np.random.default_rng(seed)
    pieces: list[tuple[int, Samples]] = []
    lines: list[tuple[int, Samples]] = []
    answers: list[Answer] = []
    spans: list[tuple[int, int]] = []
    at = _samples(rng.uniform(0.8, 2.5))
    after = 0
    for turn in range(ANSWERS_PER_CALL):
        answer = _answer(voices, rng)
        is_cut = 0 < turn < ANSWERS_PER_CALL - 1 and rng.random() < 0.15 and answer.size > 2 * RATE_HZ
        line = callers[rng.integers(len(callers))]
        if is_cut:
            cut = int(rng.uniform(0.6, 0.9) * answer.size)
            answer, overlap = _cut(answer, cut), _samples(rng.uniform(0.25, 0.6))
            start = at + answer.size - overlap
        else:
            start = at + answer.size + _samples(rng.uniform(0.7, 1.8))
        pieces.append((at, answer))
        answers.append(Answer(at, at + answer.size, after, max(start, at + answer.size)))
        lines.append((start, line))
        spans.append((start, start + line.size))
        # Whichever of the two ends last: from then on the next answer is looked for.
        after = max(start + line.size, at + answer.size) + _samples(0.1)
        at = after + _samples(rng.uniform(0.3, 2.2))
    total = after + _samples(1.5)
    agent = _laid_out(pieces, total) * np.float32(10 ** (row.level_dbfs / 20))
    if row.bed is not None:
        agent = agent + _bed(row.bed, total, seed, rng) * np.float32(10 ** (row.bed_dbfs / 20))
    if row.codec is not None:
        agent = _coded(agent, row.codec)
        # What a codec does not carry can't be heard: the truth is what is audible behind it.
        answers = [_behind_codec(answer, agent) for answer in answers]
    if row.loss:
        agent = _lossy(agent, row.loss, rng)
    caller = _laid_out(lines, total) * np.float32(10 ** (AGENT_DBFS / 20))
    return BuiltCall(_pcm(agent), _pcm(caller), tuple(spans), tuple(answers))


def _bed(name: str, total: int, seed: int, rng: np.random.Generator) -> Samples:
    loop = background(name, RATE_HZ, seed=seed // 1000 * 1000 + seed % BED_LOOPS)
    return loop[(int(rng.integers(loop.size)) + np.arange(total)) % loop.size]


def _behind_codec(answer: Answer, agent: Samples) -> Answer:
    """Return an answer with the edges it has in what was received."""
    step = RATE_HZ // 1000
    first = answer.onset // step * step
    heard = agent[first : answer.end + RATE_HZ // 10]
    power = np.square(heard[: heard.size // step * step].astype(np.float64)).reshape(-1, step).mean(axis=1)
    smooth = np.convolve(power, np.ones(5) / 5, mode="same")
    fraction = 10 ** (-AUDIBLE_DB / 10)
    onset = int(np.argmax(smooth >= smooth[:1_000].max() * fraction))
    end = smooth.size - int(np.argmax(smooth[::-1] >= smooth[-1_000:].max() * fraction))
    return replace(answer, onset=first + onset * step, end=first + end * step)


def _answer(voices: Sequence[Samples], rng: np.random.Generator) -> Samples:
    parts: list[Samples] = []
    for index in range(int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))):
        if index:
            parts.append(np.zeros(_samples(rng.uniform(0.12, 0.9)), dtype=np.float32))
        parts.append(voices[rng.integers(len(voices))])
    return np.concatenate(parts)


def _cut(answer: Samples, cut: int) -> Samples:
    """Break an answer off, at a place where it is heard."""
    while cut < answer.size and not _is_voiced(answer[cut - 4_800 : cut]):
        cut += 120
    kept = answer[:cut].copy()
    kept[-48:] *= np.linspace(1, 0.3, 48, dtype=np.float32)
    return kept


def _is_voiced(samples: Samples) -> bool:
    """Whether a voice sounds in every part of it, 50 ms long."""
    return min(_level_db(samples[at : at + 1_200]) for at in range(0, samples.size, 1_200)) >= -18


def _laid_out(pieces: Sequence[tuple[int, Samples]], total: int) -> Samples:
    channel = np.zeros(total, dtype=np.float32)
    for at, piece in pieces:
        channel[at : at + piece.size] += piece[: total - at]
    return channel


def _samples(seconds: float) -> int:
    return round(seconds * RATE_HZ)


def _pcm(samples: Samples) -> NDArray[np.int16]:
    return np.rint(np.clip(samples, -1, 1) * 32_767).astype(np.int16)


def _level_db(samples: Samples) -> float:
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-12))


def _lossy(samples: Samples, loss: float, rng: np.random.Generator) -> Samples:
    packet = RATE_HZ * _PACKET_MS // 1000
    kept = samples.copy()
    for start in range(0, kept.size, packet):
        if rng.random() < loss:
            kept[start : start + packet] = 0
    return kept


def _coded(samples: Samples, codec: str | None) -> Samples:
    match codec:
        case "opus":
            return _through_opus(samples)
        case "mulaw":
            narrow = cast(Samples, soxr.resample(samples, RATE_HZ, 8_000))
            magnitude = np.log1p(255 * np.minimum(np.abs(narrow), 1)) / np.log(256)
            steps = np.rint(magnitude * 127) / 127
            decoded = np.sign(narrow) * (np.power(256, steps) - 1) / 255
            return _same_size(cast(Samples, soxr.resample(decoded.astype(np.float32), 8_000, RATE_HZ)), samples.size)
        case _:
            return samples


def _through_opus(samples: Samples) -> Samples:
    """Encode at 24 kbit/s and decode, with the codec's own delay taken out."""
    wide = soxr.resample(samples, RATE_HZ, _OPUS_RATE_HZ)
    pcm = np.rint(np.clip(wide, -1, 1) * 32_767).astype(np.int16)
    encoder = cast(av.AudioCodecContext, av.CodecContext.create("libopus", "w"))
    encoder.sample_rate = _OPUS_RATE_HZ
    encoder.layout = "mono"
    encoder.format = "s16"
    encoder.bit_rate = 24_000
    encoder.options = {"application": "voip"}
    decoder = cast(av.AudioCodecContext, av.CodecContext.create("libopus", "r"))
    decoder.sample_rate = _OPUS_RATE_HZ
    decoder.layout = "mono"
    decoded: list[NDArray[np.float32]] = []
    size = _OPUS_RATE_HZ * _PACKET_MS // 1000
    padded = np.zeros(-(-pcm.size // size) * size + 2 * size, dtype=np.int16)
    padded[: pcm.size] = pcm
    for start in range(0, padded.size, size):
        frame = av.AudioFrame.from_ndarray(padded[None, start : start + size], format="s16", layout="mono")
        frame.sample_rate = _OPUS_RATE_HZ
        frame.pts = start
        for packet in encoder.encode(frame):
            for out in decoder.decode(av.Packet(bytes(packet))):
                plane = out.to_ndarray().reshape(-1)
                decoded.append(plane.astype(np.float32) / (32_768 if plane.dtype == np.int16 else 1))
    back = cast(Samples, soxr.resample(np.concatenate(decoded), _OPUS_RATE_HZ, RATE_HZ))
    return _same_size(back[_delay(samples, back) :], samples.size)


def _delay(sent: Samples, received: Samples) -> int:
    """Return by how many samples ``received`` lags."""
    size = 1 << int(np.ceil(np.log2(sent.size + received.size)))
    product = np.fft.irfft(np.conj(np.fft.rfft(sent, size)) * np.fft.rfft(received, size), size)
    return int(np.argmax(product[: RATE_HZ // 10]))


def _same_size(samples: Samples, size: int) -> Samples:
    out = np.zeros(size, dtype=np.float32)
    out[: min(size, samples.size)] = samples[:size]
    return out


# Voices.


def audible(samples: Samples, rate_hz: int) -> Samples:
    """Return an utterance from its first to its last audible moment, at :data:`RATE_HZ` and 0 dBFS RMS."""
    wide = (
        cast(Samples, soxr.resample(samples.astype(np.float32), rate_hz, RATE_HZ)) if rate_hz != RATE_HZ else samples
    )
    step = RATE_HZ // 1000
    power = np.square(wide[: wide.size // step * step].astype(np.float64)).reshape(-1, step).mean(axis=1)
    smooth = np.convolve(power, np.ones(5) / 5, mode="same")
    heard = np.flatnonzero(smooth >= smooth.max() * 10 ** (-AUDIBLE_DB / 10))
    cut = wide[heard[0] * step : (heard[-1] + 1) * step].astype(np.float32)
    return to_level(cut, 0.0 - 20) * np.float32(10)


def is_clean(samples: Samples, rate_hz: int) -> bool:
    """Whether a recording of one utterance is long enough, and quiet enough around it, for its edges to be known."""
    step = rate_hz // 50
    if not _MIN_CLIP_S * rate_hz <= samples.size <= _MAX_CLIP_S * rate_hz:
        return False
    levels = 10 * np.log10(
        np.square(samples[: samples.size // step * step].astype(np.float64)).reshape(-1, step).mean(axis=1) + 1e-12
    )
    return bool(np.percentile(levels, 3) < levels.max() - _CLEAN_CLIP_DB)


def synthetic_voices(which_set: str) -> dict[str, list[Samples]]:
    """Return the utterances of every synthetic voice that this machine has.

    Args:
        which_set: ``benchmark`` or ``development``: no voice and no sentence is in both.
    """
    makers: dict[str, dict[str, Callable[[str], tuple[Samples, int] | None]]] = {
        "benchmark": {
            "hibari heart": _hibari,
            "nanotts en-US": lambda text: _nanotts("en-US", text),
            "flite slt": lambda text: _flite("slt", text),
            "espeak-ng en-us": lambda text: _espeak("en-us", text),
        },
        "development": {
            "nanotts en-GB": lambda text: _nanotts("en-GB", text),
            "flite rms": lambda text: _flite("rms", text),
            "flite awb": lambda text: _flite("awb", text),
            "espeak-ng en-gb": lambda text: _espeak("en-gb", text),
        },
    }
    made: dict[str, list[Samples]] = {}
    for name, speak in makers[which_set].items():
        spoken = [speak(sentence) for sentence in SENTENCES[which_set]]
        clips = [audible(*one) for one in spoken if one is not None]
        if len(clips) == len(SENTENCES[which_set]):
            made[name] = clips
    return made


def _hibari(text: str) -> tuple[Samples, int] | None:
    model = _hibari_model()
    return None if model is None else (np.asarray(model(text, seed=0), dtype=np.float32), 24_000)


@functools.cache
def _hibari_model() -> Any:
    if importlib.util.find_spec("hibari") is None:
        return None
    from hibari import Hibari
    from hibari.voices import voice_path

    return Hibari(voice="heart", model=voice_path("heart", download_missing=False))


def _nanotts(voice: str, text: str) -> tuple[Samples, int] | None:
    if importlib.util.find_spec("py_nanotts") is None:
        return None
    nanotts = import_module("py_nanotts")
    return from_pcm16(nanotts.NanoTTS().speak(text, voice=voice)), 16_000


def _flite(voice: str, text: str) -> tuple[Samples, int] | None:
    return _command("flite", "-voice", voice, "-t", text, "-o")


def _espeak(voice: str, text: str) -> tuple[Samples, int] | None:
    return _command("espeak-ng", "-v", voice, text, "-w")


def _command(program: str, *arguments: str) -> tuple[Samples, int] | None:
    if which(program) is None:
        return None
    with TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        done = subprocess.run([program, *arguments, str(path)], capture_output=True, check=False)
        if done.returncode or not path.exists():
            return None
        samples, rate_hz = soundfile.read(path, dtype="float32")
    return samples, rate_hz


def natural_voices(which_set: str, root: Path = Path("/")) -> dict[str, list[Samples]]:
    """Return recordings of people that Debian packages brought: ``asterisk-core-sounds-*-wav``, by speaker.

    Args:
        which_set: As for :func:`synthetic_voices`.
        root: Where the packages are unpacked.
    """
    speakers = {
        "benchmark": ("en_US_f_Allison",),
        "development": ("fr_CA_f_June", "ru_RU_f_IvrvoiceRU"),
    }
    found: dict[str, list[Samples]] = {}
    for speaker in speakers[which_set]:
        clips: list[Samples] = []
        for path in sorted((root / "usr/share/asterisk/sounds" / speaker).glob("*.wav")):
            samples, rate_hz = soundfile.read(path, dtype="float32")
            if not _NO_SPEECH.search(path.name) and is_clean(samples, rate_hz):
                clips.append(audible(samples, rate_hz))
        if clips:
            found[speaker] = clips
    return found


_NO_SPEECH = re.compile("beep|tone|monkeys|silence|tt-")
