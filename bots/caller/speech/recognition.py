"""What was said, recognised from finished pieces of a recording after a call."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import numpy as np
import soxr
from pipecat.frames.frames import (
    EndFrame,
    InputAudioRawFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.services.stt_service import SegmentedSTTService

from bots.caller.speech import apart
from bots.caller.speech.errors import SpeechError
from bots.caller.speech.level import from_pcm16, to_pcm16
from bots.caller.speech.services import RunningService, make_stt, running
from bots.caller.speech.settings import OFFLINE, ServiceSettings

__all__ = ["preload", "transcribe"]

# What speech models are trained on; local ones take nothing else.
_RATE_HZ = 16_000
_CHUNK_MS = 20
# Words at the very edge of a piece are lost or garbled: recognisers want to hear silence around speech.
_PADDING_MS = 300
# How long a streaming service may think after the last sound, and how long after its last words it has finished.
_STREAM_TIMEOUT_S = 10.0
_STREAM_QUIET_S = 1.5


async def transcribe(
    segments: Sequence[bytes],
    rate_hz: int,
    stt: ServiceSettings,
    *,
    done: Callable[[int], None] | None = None,
    timeout_s: float = 60.0,
) -> list[str]:
    """Recognise finished pieces of a recording, 16-bit and mono, one for each stretch of speech.

    The offline recogniser works in a process beside this one (see :mod:`bots.caller.speech.apart`). Services that
    take whole segments (local models, HTTP) work as fast as they can; streaming services are fed in real time, since
    they decide by the pace of the audio where speech ends.

    ``done`` is called after each piece, with how many are done. A piece may take ``timeout_s`` beyond its own length.
    Returns one text for each piece, in order; empty where nothing was recognised.

    Raises:
        ValueError: The service can't be made from the settings.
        SpeechError: The service reports an error, or a piece takes too long.
    """
    if stt.service != OFFLINE:
        return await transcribe_here(segments, rate_hz, stt, timeout_s, done)
    texts: list[str] = []
    for segment in segments:
        texts += await apart.run(transcribe_here, [segment], rate_hz, stt, timeout_s)
        if done is not None:
            done(len(texts))
    return texts


async def preload(stt: ServiceSettings) -> None:
    """Load what :func:`transcribe` needs, so that its first answer comes as soon as those that follow."""
    if stt.service == OFFLINE:
        await apart.run(preload_here)


async def preload_here() -> None:
    """Load the offline recogniser into this process."""
    from bots.caller.speech import whisper

    await asyncio.to_thread(whisper.preload)


async def transcribe_here(
    segments: Sequence[bytes],
    rate_hz: int,
    stt: ServiceSettings,
    timeout_s: float,
    done: Callable[[int], None] | None = None,
) -> list[str]:
    """Recognise finished pieces of a recording in this process; see :func:`transcribe`."""
    pieces = [await asyncio.to_thread(_prepared, segment, rate_hz) for segment in segments]
    if not any(pieces):
        return ["" for _ in pieces]
    service = make_stt(stt)
    texts: list[str] = []

    async def recognise_all(recognise: Callable[[bytes], Awaitable[str]]) -> list[str]:
        for piece in pieces:
            texts.append(await recognise(piece) if piece else "")
            if done is not None:
                done(len(texts))
        return texts

    if not isinstance(service, SegmentedSTTService):
        async with running(service, input_rate_hz=_RATE_HZ) as at_work:
            return await recognise_all(lambda piece: _streamed(at_work, piece, timeout_s))
    # Such a service says nothing where it recognised nothing, but answers everything before it ends: one run each.
    unused = [service]
    return await recognise_all(
        lambda piece: _whole(unused.pop() if unused else cast(SegmentedSTTService, make_stt(stt)), piece, timeout_s)
    )


def _prepared(segment: bytes, rate_hz: int) -> bytes:
    samples = from_pcm16(segment)
    if samples.size == 0:
        return b""
    if rate_hz != _RATE_HZ:
        samples = soxr.resample(samples, rate_hz, _RATE_HZ)
    padding = np.zeros(_RATE_HZ * _PADDING_MS // 1000, dtype=np.float32)
    return to_pcm16(np.concatenate((padding, samples, padding)))


def _chunks(audio: bytes) -> list[InputAudioRawFrame]:
    size = 2 * _RATE_HZ * _CHUNK_MS // 1000
    return [
        InputAudioRawFrame(audio=audio[at : at + size], sample_rate=_RATE_HZ, num_channels=1)
        for at in range(0, len(audio), size)
    ]


async def _whole(service: SegmentedSTTService, audio: bytes, timeout_s: float) -> str:
    """Recognise one piece with a service that answers once, or not at all, before it ends."""
    heard: list[str] = []
    async with running(service, input_rate_hz=_RATE_HZ) as stt:
        await stt.give(VADUserStartedSpeakingFrame(), *_chunks(audio), VADUserStoppedSpeakingFrame())
        await stt.end()
        deadline_s = time.monotonic() + timeout_s + len(audio) / (2 * _RATE_HZ)
        while not isinstance(frame := await stt.next_frame(max(0.0, deadline_s - time.monotonic())), EndFrame):
            if frame is None:
                raise SpeechError(f"{service.name}: a piece of {len(audio) / (2 * _RATE_HZ):.1f} s took too long")
            if isinstance(frame, TranscriptionFrame):
                heard.append(frame.text.strip())
    return " ".join(heard)


async def _streamed(stt: RunningService, audio: bytes, timeout_s: float) -> str:
    """Recognise one piece with a service that listens all the time."""
    sent = asyncio.Event()
    sender = asyncio.create_task(_send_in_real_time(stt, audio, sent), name="send audio to be recognised")
    heard: list[str] = []
    try:
        deadline_s = time.monotonic() + len(audio) / (2 * _RATE_HZ) + min(timeout_s, _STREAM_TIMEOUT_S)
        quiet_since_s = time.monotonic()
        while (now_s := time.monotonic()) < deadline_s and not sender.done():
            frame = await stt.next_frame(0.1)
            # The words may be complete before the last of the sound was sent.
            if isinstance(frame, TranscriptionFrame) or not sent.is_set():
                quiet_since_s = now_s
            if isinstance(frame, TranscriptionFrame):
                heard.append(frame.text.strip())
                if frame.finalized and sent.is_set():
                    break
            if heard and now_s - quiet_since_s > _STREAM_QUIET_S:
                break
    finally:
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
    return " ".join(heard)


async def _send_in_real_time(stt: RunningService, audio: bytes, sent: asyncio.Event) -> None:
    """Send a piece, and then silence until cancelled: some services decide by it that speech has ended."""
    silence = (_chunks(bytes(2 * _RATE_HZ * _CHUNK_MS // 1000))[0] for _ in itertools.count())
    began_s = time.monotonic()
    await stt.give(VADUserStartedSpeakingFrame())
    for number, chunk in enumerate(itertools.chain(_chunks(audio), [None], silence)):
        await asyncio.sleep(max(0.0, began_s + number * _CHUNK_MS / 1000 - time.monotonic()))
        if chunk is None:
            sent.set()
            await stt.give(VADUserStoppedSpeakingFrame())
        else:
            await stt.give(chunk)
