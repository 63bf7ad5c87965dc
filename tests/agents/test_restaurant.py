"""The restaurant over a real WebRTC connection, with speech and recognition."""

import asyncio
import json
import time
from typing import Any, cast

import pytest
from pipecat.clocks.system_clock import SystemClock
from pipecat.frames.frames import (
    Frame,
    STTMetadataFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.processors.frame_processor import FrameProcessorSetup
from pipecat.utils.asyncio.task_manager import TaskManager

from bots.agents.restaurant import WholeTurnStopStrategy
from tests.agents.client import Client, call
from tests.agents.conftest import Agents
from tests.agents.speech import speak

pytestmark = [pytest.mark.webrtc, pytest.mark.anyio]

LINE = "I'd like to book a table for four on Friday at half past seven."
BYE = "Goodbye."


@pytest.fixture(scope="module")
def restaurant(agents: Agents) -> str:
    base = agents.start("restaurant")
    speak(LINE)
    speak(BYE)
    return base


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


async def hangs_up_after_a_goodbye(base: str) -> None:
    async with call(base) as client:
        await client.said("how can I help you?")
        await client.expect("bot-stopped-speaking")
        client.mouth.say(speak(BYE))
        await client.said("Goodbye!")
        spoken = time.monotonic()
        await asyncio.wait_for(client.left.wait(), 8)
        assert time.monotonic() - spoken > 0.3, "it says goodbye before it leaves"


async def test_calls_at_once(restaurant: str) -> None:
    """Three different calls at the same time, in one process."""
    async with asyncio.TaskGroup() as calls:
        calls.create_task(books_and_is_interrupted(restaurant))
        calls.create_task(takes_keys_and_data_messages(restaurant))
        calls.create_task(hangs_up_after_a_goodbye(restaurant))


async def test_a_server_that_is_told_to_stop_ends_its_calls(agents: Agents) -> None:
    base = agents.start("metronome")
    async with call(base) as client:
        agents.processes[-1].terminate()
        await asyncio.wait_for(client.left.wait(), 5)
    assert agents.processes[-1].wait(5) is not None


async def test_a_caller_who_leaves_is_not_missed(restaurant: str) -> None:
    """A session that was left in the middle does not keep the next one from being answered."""
    async with Client(restaurant) as client:
        await client.connect()
    async with call(restaurant) as client:
        await client.said("how can I help you?")


class Segments:
    """Drives the restaurant's turn strategy with the frames of Pipecat's VAD and recognition."""

    def __init__(self) -> None:
        self.strategy = WholeTurnStopStrategy(user_speech_timeout=0.05)
        self.ended = 0

        async def on_stopped(_strategy: object, _params: object) -> None:
            self.ended += 1

        self.strategy.add_event_handler("on_user_turn_stopped", on_stopped)

    async def feed(self, *frames: Frame) -> None:
        for frame in frames:
            await self.strategy.process_frame(frame)
        await asyncio.sleep(0.15)


def words(text: str) -> TranscriptionFrame:
    frame = TranscriptionFrame(text, "", "")
    frame.finalized = True
    return frame


async def test_a_turn_with_a_pause_in_it_ends_once_and_with_its_last_words() -> None:
    segments = Segments()
    await segments.strategy.setup(
        FrameProcessorSetup(
            clock=SystemClock(),
            task_manager=TaskManager(loop=asyncio.get_running_loop()),
            pipeline_worker=cast(Any, None),
        )
    )
    start, stop = VADUserStartedSpeakingFrame(), VADUserStoppedSpeakingFrame(stop_secs=0.2)
    await segments.strategy.process_frame(STTMetadataFrame(service_name="stt", ttfs_p99_latency=3))
    # "Hello," is recognised only while the caller speaks on.
    await segments.feed(start, stop, start, words("Hello."), stop)
    assert segments.ended == 0
    await segments.feed(words("A table, please."))
    assert segments.ended == 1
    await segments.strategy.handle_user_turn_stopped()
    # Both segments are over before the first is recognised.
    await segments.feed(start, stop, start, stop)
    await segments.feed(words("Yes,"))
    assert segments.ended == 1
    await segments.feed(words("please."))
    assert segments.ended == 2
    await segments.strategy.cleanup()
