"""How the caller's pipeline tells turn detection, and the call, what it hears of the agent."""

import anyio
import numpy as np
import pytest
from pipecat.frames.frames import InputAudioRawFrame, VADUserStartedSpeakingFrame, VADUserStoppedSpeakingFrame
from pipecat.tests.utils import run_test

from bots.caller import pipeline
from bots.caller.hearing import Edge, Heard
from bots.caller.pipeline import HearingProcessor
from bots.clock import NS_PER_MS


class Listener:
    def __init__(self) -> None:
        self.reports: list[tuple[str, int]] = []

    def speech_reported(self, at_ns: int) -> None:
        self.reports.append(("speech", at_ns))

    def silence_reported(self, at_ns: int) -> None:
        self.reports.append(("silence", at_ns))

    def turn_ended(self) -> None:
        self.reports.append(("turn ended", 0))


class Hearing:
    """Hears an onset in the third piece; an end in the seventh, or when it is stopped."""

    def __init__(self) -> None:
        self.pieces = 0
        self.speaking = False

    def hear(self, at_ns: int, pcm: bytes) -> list[Edge]:
        self.pieces += 1
        if self.pieces == 3:
            self.speaking = True
            return [Edge(Heard.ONSET, at_ns - 30 * NS_PER_MS)]
        if self.pieces == 7:
            self.speaking = False
            return [Edge(Heard.END, at_ns - 50 * NS_PER_MS)]
        return []

    def stop(self) -> list[Edge]:
        was, self.speaking = self.speaking, False
        return [Edge(Heard.END, 77)] if was else []


@pytest.fixture(autouse=True)
def hearing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "Hearing", Hearing)


def audio(index: int) -> InputAudioRawFrame:
    frame = InputAudioRawFrame(audio=np.zeros(320, dtype=np.int16).tobytes(), sample_rate=16_000, num_channels=1)
    frame.pts = index * 20 * NS_PER_MS
    return frame


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_edges_go_to_the_call_and_to_turn_detection() -> None:
    listener = Listener()
    down, _ = await run_test(HearingProcessor(listener), frames_to_send=[audio(i) for i in range(8)])
    assert listener.reports == [("speech", 10 * NS_PER_MS), ("silence", 70 * NS_PER_MS)]
    kinds = (VADUserStartedSpeakingFrame, VADUserStoppedSpeakingFrame)
    told = [frame for frame in down if isinstance(frame, kinds)]
    assert [type(frame) for frame in told] == list(kinds)
    assert isinstance(told[1], VADUserStoppedSpeakingFrame)
    assert told[1].stop_secs == pipeline.END_NOTICED_S
    assert sum(isinstance(frame, InputAudioRawFrame) for frame in down) == 8


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_audio_that_stops_coming_ends_the_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "AUDIO_TIMEOUT_S", 0.05)
    listener = Listener()
    processor = HearingProcessor(listener)
    silence_reported = listener.silence_reported
    ended = anyio.Event()

    def report(at_ns: int) -> None:
        silence_reported(at_ns)
        ended.set()

    listener.silence_reported = report  # type: ignore[method-assign]
    from pipecat.tests.utils import SleepFrame

    await run_test(processor, frames_to_send=[*(audio(i) for i in range(4)), SleepFrame(sleep=0.5)])
    with anyio.fail_after(10):
        await ended.wait()
    assert listener.reports[-1] == ("silence", 77)
