"""What the metronome says, ready to be sent: one sentence, coded in Opus for any start and any cut.

Coding the sentence beforehand instead of frame by frame is most of what makes the metronome cheap. Over a background
it has to be mixed and coded as it is sent, which takes some hundredths of a core more.
"""

import asyncio
import fractions
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame, AudioResampler, CodecContext
from av.packet import Packet

from bots.agents.backgrounds import BackgroundLoop
from bots.clock import NS_PER_MS, NS_PER_S, samples_to_ns

RATE_HZ = 48_000
FRAME_SAMPLES = 960
"""20 ms, the length of the packets aiortc sends."""
WARM_UP_FRAMES = 5
STEP_SAMPLES = 48
"""Starts and cuts fall on a grid of 1 ms, so that few variants have to be coded."""
CODEC_DELAY_MS = 6.5
"""Opus gives every sample out so much later than its place in the packets says (the encoder's lookahead)."""
LEVEL_DBFS = -20.0
PHRASE_MARK = "|"
"""Stands in a text where a silence is to be."""
PHRASE_GAP_MS = 450.0
EDGE_DBFS = -45.0
"""The sentence is cut to its first and last sample above this, so that its edges are its audible edges."""

Pcm = npt.NDArray[np.int16]


class Clip:
    """A sentence in mono at 48 kHz, that gives itself out as Opus packets of 20 ms."""

    def __init__(self, pcm: Pcm, phrases: Sequence[tuple[int, int]] = ()) -> None:
        self.pcm = pcm
        self.samples = len(pcm)
        self.phrases = tuple(phrases) or ((0, len(pcm)),)
        """Where each begins and ends, in samples."""

    @functools.cached_property
    def _whole(self) -> list[list[bytes]]:
        return [_encode(self.pcm, lead) for lead in range(0, FRAME_SAMPLES, STEP_SAMPLES)]

    def code(self) -> None:
        """Code it for every start within a packet; takes about 15 ms of computing for each second, times 20."""
        _ = self._whole

    def packets(self, lead_samples: int) -> list[bytes]:
        """Return the packets of the whole clip, the first of them after so much silence."""
        return self._whole[lead_samples // STEP_SAMPLES]

    def cut_packets(self, lead_samples: int, keep_samples: int) -> list[bytes]:
        """Return the packets of the clip cut off after ``keep_samples``; codes them now (some 15 ms)."""
        return _encode(self.pcm[:keep_samples], lead_samples)


@dataclass
class Utterance:
    """One playing of the clip, as a ``greeting`` or an ``answer``; times are on ``time.monotonic_ns()``.

    Attributes:
        due_ns: When its first sample shall leave; ``started_ns`` is when it did.
        cut_ns: When it shall stop early, if it shall.
        handed_ns: When the frame with its first sample was really handed over.
    """

    kind: str
    due_ns: int
    started_ns: int | None = None
    cut_ns: int | None = None
    handed_ns: int | None = None
    interrupted: bool = False
    lead_samples: int = 0
    packets: list[bytes] = field(default_factory=list[bytes])
    end_samples: int = 0
    """How many samples of the clip will have been sent at the end."""
    index: int = 0

    @property
    def sent_samples(self) -> int:
        return max(self.index * FRAME_SAMPLES - self.lead_samples, 0)


Reports = tuple[Callable[[Utterance], None], Callable[[Utterance, int], None]]
"""Called when the first sample of an utterance has been handed over, and with when its last one left."""


class MetronomeTrack(MediaStreamTrack):
    """Sends silence, and the clip exactly when told to.

    Its clock is the one receivers see: frame ``n`` belongs to ``n * 20 ms`` after the first one was handed to aiortc,
    and is handed over at that moment or, on a busy machine, a little later.
    """

    kind = "audio"

    def __init__(self, clip: Clip, reports: Reports):
        super().__init__()
        self._clip = clip
        self._on_started, self._on_ended = reports
        self._origin_ns: int | None = None
        self._frames = 0
        self.planned: Utterance | None = None
        """What is played next; replaced as long as it has not begun."""
        self.playing: Utterance | None = None
        self._cutting: asyncio.Task[None] | None = None

    def cut(self, at_ns: int) -> None:
        """Stop the utterance under way at a time (``time.monotonic_ns()``), or at once if that has passed."""
        playing = self.playing
        if playing is None or playing.cut_ns is not None or playing.started_ns is None:
            return
        playing.cut_ns = at_ns
        keep = (at_ns - playing.started_ns) * RATE_HZ // NS_PER_S // STEP_SAMPLES * STEP_SAMPLES
        if 0 < keep < self._clip.samples:
            self._cutting = asyncio.create_task(self._keep(playing, keep))

    async def _keep(self, utterance: Utterance, keep_samples: int) -> None:
        packets = await asyncio.to_thread(self._clip.cut_packets, utterance.lead_samples, keep_samples)
        if utterance.sent_samples <= keep_samples:
            utterance.packets = packets
            utterance.end_samples = keep_samples

    async def recv(self) -> Any:
        if self.readyState != "live":
            raise MediaStreamError
        packet = Packet(await self.next_payload())
        packet.pts = (self._frames - 1) * FRAME_SAMPLES
        packet.time_base = fractions.Fraction(1, RATE_HZ)
        return packet

    async def next_payload(self) -> bytes:
        """Return what belongs into the next 20 ms, when they are due."""
        now_ns = time.monotonic_ns()
        if self._origin_ns is None:
            self._origin_ns = now_ns
        frame_ns = self._origin_ns + samples_to_ns(self._frames * FRAME_SAMPLES, RATE_HZ)
        if frame_ns > now_ns:
            await asyncio.sleep((frame_ns - now_ns) / NS_PER_S)
        payload = self._next_payload(frame_ns)
        self._frames += 1
        return payload

    def _next_payload(self, frame_ns: int) -> bytes:
        if self.playing is None and self.planned is not None:
            self._start_if_due(self.planned, frame_ns)
        playing = self.playing
        if playing is None:
            return self._silence()
        cut_late = playing.cut_ns is not None and frame_ns >= playing.cut_ns
        if cut_late and playing.end_samples == self._clip.samples:
            # The cut came too late to be coded to the sample: cut between two packets.
            self._end(playing, min(playing.sent_samples, playing.end_samples))
            return self._silence()
        payload, is_last = self._speech(playing)
        playing.index += 1
        if is_last:
            self._end(playing, playing.end_samples)
        return payload

    def _silence(self) -> bytes:
        return silence()

    def _speech(self, utterance: Utterance) -> tuple[bytes, bool]:
        packets, index = utterance.packets, utterance.index
        return packets[index] if index < len(packets) else silence(), index + 1 >= len(packets)

    def _prepare(self, utterance: Utterance) -> None:
        utterance.packets = self._clip.packets(utterance.lead_samples)

    def _start_if_due(self, utterance: Utterance, frame_ns: int) -> None:
        steps = round((utterance.due_ns - frame_ns) * RATE_HZ / NS_PER_S / STEP_SAMPLES)
        lead = max(steps, 0) * STEP_SAMPLES
        if lead >= FRAME_SAMPLES:
            return
        utterance.lead_samples = lead
        self._prepare(utterance)
        utterance.end_samples = self._clip.samples
        utterance.started_ns = frame_ns + samples_to_ns(lead, RATE_HZ)
        utterance.handed_ns = time.monotonic_ns()
        self.playing, self.planned = utterance, None
        self._on_started(utterance)

    def _end(self, utterance: Utterance, sent_samples: int) -> None:
        self.playing = None
        utterance.end_samples = sent_samples
        utterance.interrupted = sent_samples < self._clip.samples
        started_ns = utterance.started_ns or 0
        self._on_ended(utterance, started_ns + samples_to_ns(sent_samples, RATE_HZ))


class SampleTrack(MetronomeTrack):
    """Makes what it sends as it is sent: 16-bit samples, with a background all the time if there is one."""

    def __init__(self, clip: Clip, reports: Reports, background: BackgroundLoop | None = None):
        super().__init__(clip, reports)
        self._background = background

    async def _keep(self, utterance: Utterance, keep_samples: int) -> None:
        utterance.end_samples = max(keep_samples, utterance.sent_samples)

    def _prepare(self, utterance: Utterance) -> None:
        """Do nothing: it is coded as it is sent."""

    def _silence(self) -> bytes:
        return self._payload(self._mixed(np.zeros(FRAME_SAMPLES, np.int16)))

    def _speech(self, utterance: Utterance) -> tuple[bytes, bool]:
        begin = utterance.sent_samples
        lead = utterance.lead_samples if utterance.index == 0 else 0
        end = min(begin + FRAME_SAMPLES - lead, utterance.end_samples)
        pcm = np.zeros(FRAME_SAMPLES, np.int16)
        pcm[lead : lead + end - begin] = self._clip.pcm[begin:end]
        return self._payload(self._mixed(pcm)), end >= utterance.end_samples

    def _mixed(self, pcm: Pcm) -> Pcm:
        return pcm if self._background is None else self._background.mixed_into(pcm)

    def _payload(self, pcm: Pcm) -> bytes:
        return pcm.tobytes()


class BackgroundTrack(SampleTrack):
    """Sends a background all the time, and the clip over it exactly when told to; coded as it is sent."""

    @functools.cached_property
    def _codec(self) -> Any:
        return _codec()

    def _payload(self, pcm: Pcm) -> bytes:
        return _code(self._codec, pcm, self._frames * FRAME_SAMPLES)[0]


@functools.cache
def load_clip(text: str, level_dbfs: float = LEVEL_DBFS, gap_ms: float = PHRASE_GAP_MS) -> Clip:
    """Speak a sentence; done once for each sentence in a process (some 2 s).

    Where a ``|`` is in the text, its parts are said with a silence of ``gap_ms`` in between, from the last audible
    sample to the next. The level is the RMS of what is voiced.

    Raises:
        ImportError: The package ``hibari-tts`` is not installed (extra ``offline``).
        ValueError: There is nothing to say in the text, or in a part of it.
    """
    parts = [part.strip() for part in text.split(PHRASE_MARK)]
    if not all(parts):
        raise ValueError(f"there is nothing to say in a part of {text!r}")
    import hibari

    engine: Any = hibari.Hibari()
    spoken = [_spoken(engine, part) for part in parts]
    voiced = np.concatenate([speech[np.abs(speech) > _amplitude(EDGE_DBFS)] for speech in spoken])
    gain = _amplitude(level_dbfs) / float(np.sqrt(np.mean(np.square(voiced))))
    gap = np.zeros(round(gap_ms * RATE_HZ / 1000), np.int16)
    pieces: list[Pcm] = []
    phrases: list[tuple[int, int]] = []
    for speech in spoken:
        if pieces:
            pieces.append(gap)
        begin = sum(len(piece) for piece in pieces)
        pieces.append(
            _to_48k(np.clip(speech * gain * 32767, -32767, 32767).astype(np.int16), int(engine.sample_rate))
        )
        phrases.append((begin, begin + len(pieces[-1])))
    return Clip(np.concatenate(pieces), phrases)


def _spoken(engine: Any, text: str) -> npt.NDArray[np.float32]:
    """Return a text as it is spoken, from its first to its last audible sample."""
    speech = np.asarray(engine(text, seed=0), dtype=np.float32)
    loud = np.flatnonzero(np.abs(speech) > _amplitude(EDGE_DBFS))
    return speech[loud[0] : loud[-1] + 1]


@functools.cache
def silence() -> bytes:
    return _encode(np.zeros(FRAME_SAMPLES * 10, np.int16), 0)[-1]


def _amplitude(dbfs: float) -> float:
    return 10 ** (dbfs / 20)


def _to_48k(pcm: Pcm, rate_hz: int) -> Pcm:
    if rate_hz == RATE_HZ:
        return pcm
    resampler = AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
    frame = AudioFrame.from_ndarray(pcm[np.newaxis, :], layout="mono")
    frame.sample_rate = rate_hz
    parts = [out.to_ndarray()[0] for out in (*resampler.resample(frame), *resampler.resample(None))]
    return np.concatenate(parts).astype(np.int16)


def _encode(pcm: Pcm, lead_samples: int) -> list[bytes]:
    """Code ``pcm`` after ``lead_samples`` of silence, in packets of 20 ms, mono, at 64 kbit/s."""
    # One packet more than the speech needs: the codec's delay pushes its last samples into the next packet. And some
    # silence before, dropped in the end: the coder's state must follow on from the silence sent until then, or the
    # decoder swallows the first milliseconds.
    frames = WARM_UP_FRAMES + -(-(lead_samples + len(pcm)) // FRAME_SAMPLES) + 1
    padded = np.zeros(frames * FRAME_SAMPLES, np.int16)
    begin = WARM_UP_FRAMES * FRAME_SAMPLES + lead_samples
    padded[begin : begin + len(pcm)] = pcm
    codec = _codec()
    packets: list[bytes] = []
    for start in range(0, len(padded), FRAME_SAMPLES):
        packets.extend(_code(codec, padded[start : start + FRAME_SAMPLES], start))
    return packets[WARM_UP_FRAMES:]


def _codec() -> Any:
    codec: Any = CodecContext.create("libopus", "w")
    codec.bit_rate = 64_000
    codec.format = "s16"
    codec.layout = "mono"
    codec.options = {"application": "audio"}
    codec.sample_rate = RATE_HZ
    return codec


def _code(codec: Any, pcm: Pcm, at_samples: int) -> list[bytes]:
    frame = AudioFrame.from_ndarray(pcm[np.newaxis, :], layout="mono")
    frame.sample_rate = RATE_HZ
    frame.pts = at_samples
    return [bytes(packet) for packet in codec.encode(frame)]


CODEC_DELAY_NS = int(CODEC_DELAY_MS * NS_PER_MS)
