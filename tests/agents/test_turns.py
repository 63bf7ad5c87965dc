"""When a turn of the caller is over: by the frames of Pipecat's VAD and recognition, with audio as the clock."""

import asyncio

import numpy as np
import pytest
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)

from bots.agents.turns import NothingRecognisedFrame, WholeTurnStopStrategy

RATE_HZ = 16_000


class Turns:
    """A turn strategy, and how many turns it has ended."""

    def __init__(self, silence_ms: float = 500) -> None:
        self.strategy = WholeTurnStopStrategy(silence_ms=silence_ms)
        self.ended = 0

        async def on_stopped(_strategy: object, _params: object) -> None:
            self.ended += 1
            await self.strategy.handle_user_turn_stopped()

        self.strategy.add_event_handler("on_user_turn_stopped", on_stopped)

    async def feed(self, *frames: Frame | list[Frame]) -> int:
        for frame in frames:
            for each in frame if isinstance(frame, list) else [frame]:
                await self.strategy.process_frame(each)
        return self.ended


def audio(ms: int, amplitude: int) -> list[Frame]:
    frame = np.full(RATE_HZ // 50, amplitude, np.int16).tobytes()
    return [InputAudioRawFrame(audio=frame, sample_rate=RATE_HZ, num_channels=1) for _ in range(ms // 20)]


def silence(ms: int) -> list[Frame]:
    return audio(ms, 0)


def sound(ms: int) -> list[Frame]:
    return audio(ms, 3_000)


def words(text: str) -> TranscriptionFrame:
    return TranscriptionFrame(text, "", "")


def start() -> Frame:
    return VADUserStartedSpeakingFrame()


def stop() -> Frame:
    return VADUserStoppedSpeakingFrame()


LINE = "A table, please."


def case(text: str, frames: list[Frame | list[Frame]], ended: int) -> object:
    return pytest.param(frames, ended, id=text)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("frames", "ended"),
    [
        case("silence after the words", [start(), stop(), words(LINE), silence(500)], 1),
        case("too little silence", [start(), stop(), words(LINE), silence(480)], 0),
        case("words after the silence", [start(), stop(), silence(3000), words(LINE)], 1),
        case("no words yet", [start(), stop(), silence(9000)], 0),
        case("speech alone", [start(), sound(5000)], 0),
        case("silence alone", [silence(5000)], 0),
        case(
            "one segment recognised while the caller speaks on",
            [start(), stop(), start(), words("Hello."), silence(2000), stop(), silence(2000)],
            0,
        ),
        case(
            "two segments, both over before the first is recognised",
            [start(), stop(), start(), stop(), silence(2000), words("Hello.")],
            0,
        ),
        case(
            "two segments recognised",
            [start(), stop(), start(), stop(), silence(2000), words("Hello."), words(LINE)],
            1,
        ),
        case(
            "a segment without words among others",
            [start(), stop(), words(LINE), start(), stop(), silence(2000), NothingRecognisedFrame()],
            1,
        ),
        case("noise, which ends a turn without words", [start(), stop(), NothingRecognisedFrame(), silence(500)], 1),
        case(
            "a pause whose silence is over before the VAD knows that there is speech again",
            [start(), stop(), words("Well,"), silence(480), sound(200), start(), silence(2000)],
            0,
        ),
        case("a noisy line", [start(), stop(), words(LINE), sound(400 + 500)], 1),
        case("a caller who thinks", [start(), stop(), words("Let me see."), silence(1980)], 0),
        case("a caller who thinks too long", [start(), stop(), words("Let me see."), silence(2000)], 1),
        case(
            "a caller who thought",
            [start(), stop(), words("Let me see."), silence(900), start(), stop(), words("At eight."), silence(500)],
            1,
        ),
        case("keys, at once", [words("DTMF: 4#")], 1),
        case("keys while the caller speaks", [start(), words("DTMF: 4#")], 0),
        case("words of a turn that is over", [start(), stop(), words(LINE), silence(600), words("please")], 2),
    ],
)
async def test_a_turn_is_over_when_all_of_it_is_recognised_and_silence_was_received(
    frames: list[Frame | list[Frame]], ended: int
) -> None:
    assert await Turns().feed(*frames) == ended


@pytest.mark.anyio
async def test_time_that_passes_without_audio_does_not_end_a_turn() -> None:
    turns = Turns(silence_ms=20)
    assert await turns.feed(start(), stop(), words(LINE)) == 0
    await asyncio.sleep(0.05)
    assert turns.ended == 0
    assert await turns.feed(silence(20)) == 1
