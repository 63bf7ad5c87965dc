"""The restaurant over a real WebRTC connection, with speech and recognition."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator

import pytest
from pipecat.frames.frames import Frame, LLMContextFrame, LLMTextFrame, TranscriptionFrame
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.tests.utils import run_test

from bots.agents.restaurant import NOTHING_UNDERSTOOD, NOTHING_UNDERSTOOD_ROLE, DialogueLLMService
from bots.agents.restaurant_dialogue import GREETING, RestaurantDialogue
from bots.agents.turns import NothingRecognisedFrame, SegmentSTTService
from bots.caller.speech.whisper import OfflineWhisperSTTService
from tests.agents.client import Client, call
from tests.agents.conftest import Agents
from tests.agents.speech import speak
from tests.patience import best_of_three

pytestmark = [pytest.mark.webrtc, pytest.mark.anyio]

LINE = "I'd like to book a table for four on Friday at half past seven."
BYE = "Goodbye."


@pytest.fixture(scope="module")
def restaurant(agents: Agents) -> str:
    base = agents.start("restaurant")
    speak(LINE)
    speak(BYE)
    return base


@best_of_three
async def books_and_is_interrupted(base: str) -> None:
    async with call(base) as client:
        await client.expect("bot-started-speaking")
        # Speaking over the greeting stops it well before its end.
        await asyncio.sleep(0.3)
        barged_in_ns = time.monotonic_ns()
        client.mouth.say(speak(LINE))
        await client.expect("user-started-speaking")
        await client.expect("bot-stopped-speaking", 1.5)
        assert time.monotonic_ns() - barged_in_ns < 1_500_000_000
        heard = await client.expect("user-transcription", 12, final=True)
        assert "table" in heard["text"]
        called = await client.expect("llm-function-call-in-progress", function_name="check_availability")
        assert called["arguments"] == {"people": 4, "day": "Friday", "time": "19:30"}
        returned = await client.expect("llm-function-call-stopped", function_name="check_availability")
        assert returned["result"] == {"available": True}
        assert returned["tool_call_id"] == called["tool_call_id"]
        await client.said("What name is it for?")
        told = [message["data"]["text"] for message in client.messages if message["type"] == "bot-output"]
        assert told[0] == "Good evening, Bella Vista, how can I help you?"
        kinds = {message["type"] for message in client.messages}
        assert {"bot-llm-started", "bot-tts-started", "user-stopped-speaking", "bot-tts-text"} <= kinds
        # What was said is also what was heard.
        assert client.loud_ns


@best_of_three
async def takes_keys_and_data_messages(base: str) -> None:
    async with call(base, start=False) as client:
        ready = next(message["data"] for message in client.messages if message["type"] == "bot-ready")
        assert ready["version"] == "2.2.0"
        assert ready["capabilities"]["audio_in"]
        message = {"type": "caller-hint", "data": {"language": "en", "nested": [1, None, "ü"]}}
        client.channel.send(json.dumps(message))
        client.channel.send(json.dumps(message))
        for count in (1, 2):
            told = await client.expect("server-message")
            assert told == {"type": "data-message-received", "message": message, "count": count}
        await client.said("how can I help you?")
        client.send("dtmf", {"buttons": list("4#")})
        await client.said("For which day?")


@best_of_three
async def hangs_up_after_a_goodbye(base: str) -> None:
    async with call(base) as client:
        await client.said("how can I help you?")
        await client.expect("bot-stopped-speaking")
        client.mouth.say(speak(BYE))
        await client.said("Goodbye!")
        spoken = time.monotonic()
        await asyncio.wait_for(client.left.wait(), 8)
        assert time.monotonic() - spoken > 0.3, "it says goodbye before it leaves"


@pytest.mark.slow
async def test_calls_at_once(restaurant: str) -> None:
    """Three different calls at the same time, in one process."""
    async with asyncio.TaskGroup() as calls:
        calls.create_task(books_and_is_interrupted(restaurant))
        calls.create_task(takes_keys_and_data_messages(restaurant))
        calls.create_task(hangs_up_after_a_goodbye(restaurant))


@best_of_three
@pytest.mark.slow
async def test_a_server_that_is_told_to_stop_ends_its_calls(agents: Agents) -> None:
    base = agents.start("metronome")
    async with call(base) as client:
        agents.processes[-1].terminate()
        # A call that is only abandoned is noticed after 24 s at the earliest.
        await asyncio.wait_for(client.left.wait(), 15)
    assert agents.processes[-1].wait(30) is not None


async def test_a_caller_who_leaves_is_not_missed(restaurant: str) -> None:
    """A session that was left in the middle does not keep the next one from being answered."""
    async with Client(restaurant) as client:
        await client.connect()
    async with call(restaurant) as client:
        await client.said("how can I help you?")


async def answers(*contexts: list[dict[str, str]]) -> list[str]:
    """Return what is said to contexts, each of which adds messages to the one before."""
    messages: list[dict[str, str]] = []
    frames: list[Frame] = []
    for added in contexts:
        messages = [*messages, *added]
        frames.append(LLMContextFrame(LLMContext(messages)))  # pyright: ignore[reportArgumentType]
    down, _ = await run_test(DialogueLLMService(RestaurantDialogue()), frames_to_send=frames)
    return [frame.text for frame in down if isinstance(frame, LLMTextFrame)]


USER = {"role": "user", "content": "A table for two, please."}
NOISE = {"role": NOTHING_UNDERSTOOD_ROLE, "content": NOTHING_UNDERSTOOD}


@pytest.mark.parametrize(
    ("contexts", "says"),
    [
        (([],), [GREETING]),
        (([], [USER]), [GREETING, "For which day?"]),
        # A function's result and the caller's next words come in two contexts, of which the first has both.
        (([], [USER], []), [GREETING, "For which day?"]),
        # Who speaks first is answered, and not greeted after that.
        (([USER], []), ["For which day?"]),
        (([], [NOISE]), [GREETING, "Sorry, I did not get that. Would you like to book a table?"]),
        (([NOISE],), [GREETING]),
        (([], [NOISE, USER]), [GREETING, "For which day?"]),
    ],
)
async def test_nothing_is_answered_twice_or_missed(
    contexts: tuple[list[dict[str, str]], ...], says: list[str]
) -> None:
    assert await answers(*contexts) == says


@pytest.mark.parametrize("recognised", [True, False])
@pytest.mark.slow
async def test_recognition_says_also_where_there_was_nothing(
    recognised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = TranscriptionFrame("Hello.", "", "")

    async def run_stt(_self: object, _audio: bytes) -> AsyncGenerator[Frame, None]:
        if recognised:
            yield words

    monkeypatch.setattr(OfflineWhisperSTTService, "run_stt", run_stt)
    frames = [frame async for frame in SegmentSTTService().run_stt(bytes(320))]
    if recognised:
        assert frames == [words]
    else:
        assert [type(frame) for frame in frames] == [NothingRecognisedFrame]
