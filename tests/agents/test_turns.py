"""When a turn of the caller begins and ends: by frames of Pipecat's VAD and recognition, with audio as the clock."""

import asyncio

import numpy as np
import pytest
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    Frame,
    InputAudioRawFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)

from bots.agents.turns import NothingRecognisedFrame, SpeechTurnStartStrategy, WholeTurnStopStrategy

RATE_HZ = 16_000


class Turns:
    """A turn strategy, how many turns it has begun or ended, and how often it had words forgotten."""

    def __init__(self, strategy: WholeTurnStopStrategy | SpeechTurnStartStrategy) -> None:
        self.strategy = strategy
        self.turns = self.forgot = 0

        async def on_turn(_strategy: object, _params: object) -> None:
            self.turns += 1
            if isinstance(strategy, WholeTurnStopStrategy):
                await strategy.handle_user_turn_stopped()
            else:
                await strategy.handle_user_turn_started()

        async def on_reset(_strategy: object) -> None:
            self.forgot += 1

        is_stop = isinstance(strategy, WholeTurnStopStrategy)
        strategy.add_event_handler("on_user_turn_stopped" if is_stop else "on_user_turn_started", on_turn)
        strategy.add_event_handler("on_reset_aggregation", on_reset)

    async def feed(self, *frames: Frame | list[Frame]) -> int:
        for frame in frames:
            for each in frame if isinstance(frame, list) else [frame]:
                await self.strategy.process_frame(each)
        return self.turns


def ending(silence_ms: float = 500) -> Turns:
    return Turns(WholeTurnStopStrategy(silence_ms=silence_ms))


def audio(ms: int, amplitude: int) -> list[Frame]:
    frame = np.full(RATE_HZ // 50, amplitude, np.int16).tobytes()
    return [InputAudioRawFrame(audio=frame, sample_rate=RATE_HZ, num_channels=1) for _ in range(ms // 20)]


def silence(ms: int) -> list[Frame]:
    return audio(ms, 0)


def sound(ms: int) -> list[Frame]:
    return audio(ms, 3_000)


def words(text: str) -> TranscriptionFrame:
    return TranscriptionFrame(text, "", "")


start, stop = VADUserStartedSpeakingFrame, VADUserStoppedSpeakingFrame
bot_speaks, bot_stops = BotStartedSpeakingFrame, BotStoppedSpeakingFrame
LINE = "A table, please."


def case(text: str, frames: list[Frame | list[Frame]], *counts: int) -> object:
    return pytest.param(frames, *counts, id=text)


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
async def test_a_turn_ends_once_recognised_and_silence_was_received(
    frames: list[Frame | list[Frame]], ended: int
) -> None:
    assert await ending().feed(*frames) == ended


@pytest.mark.anyio
async def test_time_that_passes_without_audio_does_not_end_a_turn() -> None:
    turns = ending(20)
    assert await turns.feed(start(), stop(), words(LINE)) == 0
    await asyncio.sleep(0.05)
    assert turns.turns == 0
    assert await turns.feed(silence(20)) == 1


@pytest.mark.anyio
async def test_what_was_heard_before_a_turn_is_none_of_it() -> None:
    turns = ending()
    await turns.feed(start(), stop(), words("Momma."))
    await turns.strategy.handle_user_turn_started()
    assert await turns.feed(start(), stop(), words("Let me see."), silence(600)) == 0, "the caller thinks"


MM_HMM: list[Frame] = [start(), *sound(400), stop()]
HEARD_AS = words("Momma.")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("frames", "begun", "forgot"),
    [
        case("speech, at once while the agent is silent", [start()], 1, 0),
        case("speech after the agent's", [bot_speaks(), bot_stops(), start()], 1, 0),
        case("a short sound so far", [bot_speaks(), start(), sound(580)], 0, 0),
        case("speech over the agent's", [bot_speaks(), start(), sound(600)], 1, 0),
        case("mm-hmm", [bot_speaks(), *MM_HMM, silence(2000), HEARD_AS], 0, 1),
        case("a cough", [bot_speaks(), *MM_HMM, NothingRecognisedFrame(), silence(900)], 0, 0),
        case("mm-hmm as the agent ends", [bot_speaks(), *MM_HMM, bot_stops(), HEARD_AS], 0, 1),
        case("a short word that means to stop it", [bot_speaks(), *MM_HMM, words("Stop.")], 1, 0),
        case("speech that began with a short word", [bot_speaks(), *MM_HMM, silence(300), start()], 1, 0),
        case("that word is part of it", [bot_speaks(), *MM_HMM, silence(300), start(), words("Thank you,")], 2, 0),
        case("a sound long after another", [bot_speaks(), *MM_HMM, silence(900), HEARD_AS, start()], 0, 1),
        case("keys", [bot_speaks(), words("DTMF: 4#")], 1, 0),
        case(
            "all of a turn over an agent that never stops",
            [bot_speaks(), start(), sound(600), stop(), silence(900), *MM_HMM, words("Thanks."), words("A table.")],
            4,
            0,
        ),
        case("keys after mm-hmm", [bot_speaks(), *MM_HMM, words("DTMF: 4#"), HEARD_AS], 1, 1),
    ],
)
async def test_a_turn_begins_with_speech_not_a_short_sound(
    frames: list[Frame | list[Frame]], begun: int, forgot: int
) -> None:
    turns = Turns(SpeechTurnStartStrategy(short_sound_ms=600))
    assert (await turns.feed(*frames), turns.forgot) == (begun, forgot)
