"""The restaurant's faults: each as it works, and where sound matters also as it is heard over a real connection."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from pipecat.audio.dtmf.types import KeypadEntry
from pipecat.frames.frames import (
    BotStoppedSpeakingFrame,
    CancelWorkerFrame,
    EndWorkerFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    LLMContextFrame,
    LLMTextFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSTextFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.tests.utils import SleepFrame, run_test

from bots.agents.faults import (
    DROPPED_SENTENCE,
    FAULTS,
    NO_FAULT,
    TALKS_OVER_WITH,
    DropsSentence,
    TalksOver,
    WrongNumberOfPeople,
    crashing,
    fault_of_session,
    slow_answers,
)
from bots.agents.restaurant_dialogue import GREETING, MENU
from bots.caller.speech.services import running
from tests.agents.client import Client, call
from tests.agents.conftest import ROOT, Agents
from tests.agents.speech import speak

pytestmark = pytest.mark.anyio

MENU_ASKED = "What do you have on the menu?"
LINE = "I'd like to book a table for four on Friday at half past seven, please."
NAME = "My name is Miller."
MM_HMM = "Mm-hmm."


async def frames_through(
    processor: FrameProcessor, *frames: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM
) -> tuple[list[Frame], list[Frame]]:
    down, up = await run_test(processor, frames_to_send=frames, frames_to_send_direction=direction)
    return list(down), list(up)


def part(fault: str, place: str = "mind") -> FrameProcessor:
    return getattr(FAULTS[fault], place)()


def context(*roles: str) -> LLMContextFrame:
    return LLMContextFrame(LLMContext([{"role": role, "content": "words"} for role in roles]))  # pyright: ignore


@pytest.mark.parametrize(
    ("roles", "is_held_back"),
    [((), False), (("assistant", "user"), True), (("assistant", "user", "assistant", "tool"), False)],
)
async def test_slow_holds_every_turn_back_but_not_the_greeting(roles: tuple[str, ...], is_held_back: bool) -> None:
    began = time.monotonic()
    frame = context(*roles)
    down, _ = await frames_through(slow_answers(by_s=2), frame)
    assert down == [frame]
    assert (time.monotonic() - began >= 2) is is_held_back


@pytest.mark.parametrize(
    ("frames", "says"),
    [([SleepFrame(sleep=0.2)], [TALKS_OVER_WITH]), ([UserStoppedSpeakingFrame(), SleepFrame(sleep=0.15)], [])],
    ids=["in the middle of a turn, once", "not in a turn that is over before"],
)
async def test_talks_over(frames: list[Frame], says: list[str]) -> None:
    down, _ = await frames_through(TalksOver(after_ms=50), UserStartedSpeakingFrame(), *frames)
    assert [frame.text for frame in down if isinstance(frame, TTSSpeakFrame)] == says


async def test_deaf_hears_neither_speech_nor_keys() -> None:
    audio = InputAudioRawFrame(audio=bytes(320), sample_rate=16_000, num_channels=1)
    other = LLMTextFrame("words")
    down, _ = await frames_through(part("deaf", "ears"), audio, InputDTMFFrame(button=KeypadEntry.FOUR), other)
    assert down == [other]


async def test_mute_sends_as_much_silence() -> None:
    audio = TTSAudioRawFrame(audio=b"\x01\x02" * 160, sample_rate=16_000, num_channels=1)
    down, _ = await frames_through(part("mute", "mouth"), audio)
    assert [frame.audio for frame in down if isinstance(frame, TTSAudioRawFrame)] == [bytes(320)]


async def test_it_leaves_when_it_has_spoken_once() -> None:
    _, up = await frames_through(part("leaves"), BotStoppedSpeakingFrame(), direction=FrameDirection.UPSTREAM)
    assert [type(frame) for frame in up] == [BotStoppedSpeakingFrame, CancelWorkerFrame]


FIRST, SECOND = context("assistant", "user"), context("assistant", "user", "assistant", "user")
THIRD = context("user", "assistant", "user", "user")


async def test_it_hangs_up_in_place_of_its_second_answer() -> None:
    down, up = await frames_through(part("hangs_up"), FIRST, SECOND)
    assert (down, [type(frame) for frame in up]) == ([FIRST], [EndWorkerFrame])


async def test_it_crashes_in_place_of_its_second_answer() -> None:
    died: list[int] = []
    down, _ = await frames_through(crashing(die=lambda: died.append(1)), FIRST, SECOND)
    assert (down, died) == ([FIRST], [1])


async def test_it_raises_in_place_of_its_second_answer_and_goes_on() -> None:
    down, (error,) = await frames_through(part("errors"), FIRST, SECOND, THIRD)
    assert down == [FIRST, THIRD]
    assert isinstance(error, ErrorFrame)
    assert "'order'" in error.error
    assert not error.fatal


async def test_one_sentence_has_text_but_no_audio() -> None:
    heard: list[tuple[str, bool]] = []
    async with running(DropsSentence(), output_rate_hz=24_000) as tts:
        for sentence in ("We have a table.", DROPPED_SENTENCE, "And what is your phone number?"):
            await tts.give(TTSSpeakFrame(sentence))
            audible = False
            while not isinstance(frame := await tts.next_frame(10), TTSTextFrame):
                assert frame is not None, "its text never came"
                audible = audible or (isinstance(frame, TTSAudioRawFrame) and any(frame.audio))
            heard.append((frame.text, audible))
    assert [audible for _, audible in heard] == [True, False, True]
    assert heard[1][0] == DROPPED_SENTENCE


@pytest.mark.parametrize("line", ["A table for four on Friday at 8", "DTMF: 4#"])
def test_a_wrong_number_of_people_is_said_and_booked(line: str) -> None:
    dialogue = WrongNumberOfPeople()
    step = dialogue.hear(line)
    if not step.call:
        step = dialogue.hear("On Friday at 8")
    assert step.call
    assert step.call.arguments == {"people": 5, "day": "Friday", "time": "20:00"}
    assert "for five" in dialogue.function_returned("check_availability", {"available": True}).say
    dialogue.hear("Miller")
    assert "for five" in dialogue.hear("555 0142").say
    step = dialogue.hear("No, for four people, please.")
    step = dialogue.hear("Yes")
    assert step.call
    assert (step.call.name, step.call.arguments["people"]) == ("book_table", 5)


@pytest.mark.parametrize(
    ("body", "default", "name"),
    [
        (None, None, None),
        (None, "slow", "slow"),
        ({"restaurant": {"fault": "mute"}}, "slow", "mute"),
        ({"restaurant": {"fault": None}}, "slow", None),
        ({"restaurant": {}}, "slow", "slow"),
        ({"other": 1}, None, None),
        ("nonsense", None, None),
    ],
)
def test_a_session_may_ask_for_a_fault(body: Any, default: str | None, name: str | None) -> None:
    assert fault_of_session(body, default) is (FAULTS[name] if name else NO_FAULT)


@pytest.mark.parametrize("name", ["tired", 3, ["slow"]])
def test_an_unknown_fault_is_refused_with_the_known_ones(name: Any) -> None:
    with pytest.raises(ValueError, match=r"no fault is called.*slow, talks_over"):
        fault_of_session({"restaurant": {"fault": name}}, None)


def test_a_wrong_name_ends_the_program_with_one_clear_error() -> None:
    command = [sys.executable, "-m", "bots.agents.restaurant", "-t", "webrtc", "--fault", "tired"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert "'tired'" in error
    assert all(name in error for name in FAULTS)


# Over real connections: one process serves the sessions of all kinds, but those that die.


@pytest.fixture(scope="module")
def restaurant(agents: Agents) -> str:
    base = agents.start("restaurant")
    for line in (MENU_ASKED, LINE, NAME, MM_HMM):
        speak(line)
    return base


def with_fault(name: str | None) -> dict[str, Any]:
    return {"restaurant": {"fault": name}}


@asynccontextmanager
async def greeted(base: str, fault: str | None = None) -> AsyncIterator[Client]:
    """Call the restaurant, and go on once it has greeted."""
    async with call(base, with_fault(fault)) as client:
        await client.said("how can I help you?", 25)
        await client.expect("bot-stopped-speaking", 25)
        await asyncio.sleep(0.3)  # the end of its speech arrives after the news of it
        client.loud_ns.clear()
        yield client


async def says(client: Client, line: str) -> None:
    client.mouth.say(speak(line))
    await asyncio.wait_for(client.mouth.done.wait(), 15)


async def says_the_menu(client: Client) -> None:
    await says(client, MENU_ASKED)
    await client.expect("bot-started-speaking", 12)


async def is_slow(base: str) -> None:
    async with greeted(base, "slow") as client:
        await says(client, MENU_ASKED)
        await client.expect("user-stopped-speaking")
        stopped = time.monotonic()
        await client.expect("bot-started-speaking", 12)
        assert 4.9 < time.monotonic() - stopped < 8


async def talks_over(base: str) -> None:
    async with greeted(base, "talks_over") as client:
        await says(client, LINE)
        onset_ns, end_ns = client.mouth.started_ns or 0, client.mouth.ended_ns or 0
        assert onset_ns + 400_000_000 < client.loud_ns[0] < end_ns
        assert client.loud_ns[-1] > end_ns - 300_000_000, "it carries on"
        await client.said("What name is it for?", 15)


async def never_stops(base: str) -> None:
    async with greeted(base, "never_stops") as client:
        await says_the_menu(client)
        began_ns = time.monotonic_ns()
        client.loud_ns.clear()
        await says(client, LINE)
        await client.expect("bot-stopped-speaking", 20)
        assert time.monotonic_ns() - began_ns > 9_000_000_000
        # Nowhere is there a pause as long as that of an agent which stops and answers.
        assert max(np.diff(client.loud_ns)) < 1_200_000_000


async def stops(base: str) -> None:
    """The good restaurant stops where the one that never stops goes on."""
    async with greeted(base) as client:
        await says_the_menu(client)
        client.mouth.say(speak(LINE))
        await client.expect("bot-stopped-speaking", 5)


async def is_mute(base: str) -> None:
    async with greeted(base, "mute") as client:
        await says(client, LINE)
        await client.expect("llm-function-call-in-progress", 12, function_name="check_availability")
        await client.said("What name is it for?", 15)
        await client.expect("bot-stopped-speaking", 12)
        assert not client.loud_ns
        assert {"bot-tts-text", "bot-output", "bot-started-speaking"} <= {m["type"] for m in client.messages}


async def is_deaf(base: str) -> None:
    async with greeted(base, "deaf") as client:
        await says(client, LINE)
        await asyncio.sleep(3)
        assert not {"user-started-speaking", "user-transcription"} & {m["type"] for m in client.messages}
        assert not client.loud_ns
        assert not client.left.is_set()


async def is_noisy(base: str) -> None:
    async with greeted(base, "noisy") as client:
        await asyncio.sleep(2)
        assert len(client.loud_ns) > 20, "there is noise while it is silent"
        await says(client, LINE)
        await client.said("What name is it for?", 15)


async def hangs_up(base: str) -> None:
    async with greeted(base, "hangs_up") as client:
        await says(client, LINE)
        await client.said("What name is it for?", 15)
        await client.expect("bot-stopped-speaking")
        await says(client, NAME)
        await asyncio.wait_for(client.left.wait(), 8)


async def leaves(base: str) -> None:
    async with call(base, with_fault("leaves")) as client:
        await client.said(GREETING, 25)
        await client.expect("bot-stopped-speaking", 25)
        spoken = time.monotonic()
        await asyncio.wait_for(client.left.wait(), 5)
        assert time.monotonic() - spoken < 1
        assert len(client.loud_ns) > 50, "the greeting is heard"


async def never_joins(base: str) -> None:
    async with Client(base) as client:
        await client.connect(with_fault("never_joins"))
        client.ready()
        await asyncio.sleep(4)
        assert client.pc.connectionState == "connected"
        assert client.messages == []
        received = [report for report in (await client.pc.getStats()).values() if report.type == "inbound-rtp"]
        assert not received


async def crashes(agents: Agents) -> None:
    base = await asyncio.to_thread(agents.start, "restaurant", "--fault", "crashes")
    process = agents.processes[-1]
    async with call(base) as client:
        for keys in ("4#", "5#"):
            assert process.poll() is None
            await client.expect("bot-stopped-speaking")
            client.send("dtmf", {"buttons": list(keys)})
        assert await asyncio.to_thread(process.wait, 10) == -signal.SIGKILL


async def raises(base: str) -> None:
    async with greeted(base, "errors") as client:
        client.send("dtmf", {"buttons": list("4#")})
        await client.said("For which day?")
        await client.expect("bot-stopped-speaking")
        client.loud_ns.clear()
        client.send("dtmf", {"buttons": list("5#")})
        assert "'order'" in (await client.expect("error"))["error"]
        await asyncio.sleep(3)
        assert not client.loud_ns
        assert not client.left.is_set()


async def drops_sentence(base: str) -> None:
    async with greeted(base, "drops_sentence") as client:
        await says(client, LINE)
        await client.said(DROPPED_SENTENCE, 15)
        await client.expect("bot-stopped-speaking", 12)
        audible_s = len(client.loud_ns) * 0.02
        whole_s = len(speak("We have a table for four on Friday at 7:30 PM.")) / 48_000
        assert 0.5 * whole_s < audible_s < whole_s + 0.7, "the question is not heard"


async def greets_early(base: str) -> None:
    async with Client(base) as client:
        await client.connect(with_fault("greets_early"))
        async with asyncio.timeout(20):
            while len(client.loud_ns) < 50 or time.monotonic_ns() - client.loud_ns[-1] < 1_500_000_000:
                await asyncio.sleep(0.1)
        client.ready()
        await client.expect("bot-ready")
        client.loud_ns.clear()
        await asyncio.sleep(2.5)
        assert not client.loud_ns, "and it does so only once"


async def hums(base: str, fault: str | None) -> float:
    """Return for how long the restaurant is heard after a short sound of the caller, in seconds."""
    async with greeted(base, fault) as client:
        await says_the_menu(client)
        await asyncio.sleep(1)
        client.loud_ns.clear()
        await says(client, MM_HMM)
        began_ns = time.monotonic_ns()
        await client.expect("bot-stopped-speaking", 20)
        return (client.loud_ns[-1] - began_ns) / 1e9


async def stops_for_mm_hmm(base: str) -> None:
    assert await hums(base, "stops_for_mm_hmm") < 2


async def speaks_on(base: str) -> None:
    assert await hums(base, None) > 5


async def plain_with_background(base: str) -> None:
    """No RTVI, and a background: the caller is answered all the same."""
    async with Client(base) as client:
        await client.connect({"restaurant": {"rtvi": False, "background": "white", "background_dbfs": -36}})
        client.ready()
        await asyncio.sleep(6)
        heard = len(client.loud_ns)
        assert heard > 200, "there is a background all the time"
        assert not [m for m in client.messages if m.get("label") == "rtvi-ai"]


AT_ONCE: list[tuple[Callable[[str], Awaitable[None]], ...]] = [
    (is_slow, talks_over, leaves),
    (never_stops, is_mute, is_noisy, never_joins),
    (stops, is_deaf, hangs_up),
    (raises, drops_sentence, greets_early, plain_with_background),
    (speaks_on, stops_for_mm_hmm),
]
"""Several at the same time and in one process, as a session's body may name its fault."""


@pytest.mark.webrtc
@pytest.mark.slow
@pytest.mark.parametrize("together", AT_ONCE, ids=lambda each: each[0].__name__)
async def test_faults_as_a_caller_hears_them(
    restaurant: str, together: tuple[Callable[[str], Awaitable[None]], ...]
) -> None:
    await asyncio.gather(*(each(restaurant) for each in together))


@pytest.mark.webrtc
@pytest.mark.slow
async def test_the_one_that_crashes_has_a_process_of_its_own(agents: Agents) -> None:
    await crashes(agents)


def test_the_menu_takes_long_enough_to_be_interrupted() -> None:
    assert len(speak(f"{MENU} Would you like to book a table?")) / 48_000 > 10
