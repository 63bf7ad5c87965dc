"""Ways in which real agents fail, for the restaurant to fail on purpose.

    python -m bots.agents.restaurant -t webrtc --port 7860 --fault slow

A single session is given one in the body of its start, so that one process serves sessions of many kinds:
``{"restaurant": {"fault": "slow"}}``, with ``null`` for none. All else stays the good restaurant. Every fault is
here: a :class:`Fault` says what it changes, :data:`FAULTS` lists them.
"""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pipecat.audio.mixers.base_audio_mixer import BaseAudioMixer
from pipecat.frames.frames import (
    BotStoppedSpeakingFrame,
    CancelWorkerFrame,
    EndWorkerFrame,
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    LLMContextFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.tts_service import TTSService

from bots.agents.background_mixer import BackgroundMixer
from bots.agents.backgrounds import BackgroundName
from bots.agents.restaurant_dialogue import QUESTIONS, RestaurantDialogue
from bots.agents.serve import own_options
from bots.caller.speech.hibari import HibariTTSService

SLOW_BY_S = 5.0

TALKS_OVER_AFTER_MS = 100
"""Counted from where the VAD is sure of the caller's speech, some 250 ms after its onset; and synthetic speech begins
with 300 ms of silence. All in all it is heard 800 to 950 ms after the onset."""
TALKS_OVER_WITH = "Yes of course, just a moment please, let me have a look at the book and see what we have for you."

FAILS_AFTER_TURNS = 2

DROPPED_SENTENCE = QUESTIONS["name"]

NOISE_DBFS = -42.0


@dataclass(frozen=True)
class Fault:
    """What a fault changes in the restaurant. The default is the good restaurant.

    Attributes:
        summary: What a caller notices.
        joins: Whether anything at all comes to the room.
        lets_listeners_hum: Whether it speaks on when the caller makes a short sound while it speaks.
        waits_for_client: Whether it greets only once the caller's side is ready to hear it.
        dialogue: Makes what decides on its words.
        ears: Makes a processor between the transport's input and the recognition.
        mind: Makes a processor between the caller's finished turns and the answers to them.
        mouth: Makes a processor between its speech and the transport's output.
        background: Makes what is mixed into its speech and its silence.
    """

    summary: str = "nothing"
    joins: bool = True
    can_be_interrupted: bool = True
    lets_listeners_hum: bool = True
    waits_for_client: bool = True
    asks_after_silence: bool = True
    dialogue: Callable[[], RestaurantDialogue] = RestaurantDialogue
    ears: Callable[[], FrameProcessor] | None = None
    mind: Callable[[], FrameProcessor] | None = None
    voice: Callable[[], TTSService] = HibariTTSService
    mouth: Callable[[], FrameProcessor] | None = None
    background: Callable[[], BaseAudioMixer] | None = None


class Between(FrameProcessor):
    """Stands between two processors, and decides by ``passes`` what becomes of a frame: whether it is passed on."""

    def __init__(self, passes: Callable[["Between", Frame], Awaitable[bool]]) -> None:
        super().__init__()
        self._passes = passes

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if await self._passes(self, frame):
            await self.push_frame(frame, direction)


def slow_answers(by_s: float = SLOW_BY_S) -> Between:
    """Hold every turn of the caller back before it is answered; the greeting comes in time."""

    async def passes(_: Between, frame: Frame) -> bool:
        # What a function returned is no turn of the caller's.
        if isinstance(frame, LLMContextFrame) and _roles(frame)[-1:] == ["user"]:
            # An interruption ends this wait, and the turn is answered together with the next one.
            await asyncio.sleep(by_s)
        return True

    return Between(passes)


class TalksOver(FrameProcessor):
    """Begins to speak in the middle of every spoken turn of the caller, and answers the turn after that."""

    def __init__(self, after_ms: float = TALKS_OVER_AFTER_MS) -> None:
        super().__init__()
        self._after_ms = after_ms
        self._waiting: asyncio.Task[None] | None = None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        if isinstance(frame, UserStartedSpeakingFrame | UserStoppedSpeakingFrame):
            await self._forget()
        if isinstance(frame, UserStartedSpeakingFrame):
            self._waiting = self.create_task(self._talk())

    async def cleanup(self) -> None:
        await self._forget()
        await super().cleanup()

    async def _talk(self) -> None:
        await asyncio.sleep(self._after_ms / 1000)
        await self.push_frame(TTSSpeakFrame(TALKS_OVER_WITH))

    async def _forget(self) -> None:
        if self._waiting is not None:
            await self.cancel_task(self._waiting)
            self._waiting = None


async def _hears_nothing(_: Between, frame: Frame) -> bool:
    return not isinstance(frame, InputAudioRawFrame | InputDTMFFrame)


async def _sends_silence(_: Between, frame: Frame) -> bool:
    # As much silence as there was speech: the agent itself believes that it spoke, and says so over RTVI.
    if isinstance(frame, TTSAudioRawFrame):
        frame.audio = bytes(len(frame.audio))
    return True


async def _hangs_up(at: Between, frame: Frame) -> bool:
    if _caller_turns(frame) < FAILS_AFTER_TURNS:
        return True
    await at.push_frame(EndWorkerFrame(), FrameDirection.UPSTREAM)
    return False


async def _leaves(at: Between, frame: Frame) -> bool:
    if not isinstance(frame, BotStoppedSpeakingFrame):
        return True
    for each in (frame, CancelWorkerFrame()):
        await at.push_frame(each, FrameDirection.UPSTREAM)
    return False


def crashing(die: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL)) -> Between:
    """Kill the whole process, with all its calls, in place of the answer to the caller's second turn."""

    async def passes(_: Between, frame: Frame) -> bool:
        if _caller_turns(frame) < FAILS_AFTER_TURNS:
            return True
        die()
        return False

    return Between(passes)


async def _raises(_: Between, frame: Frame) -> bool:
    # Pipecat reports it as an error, over RTVI too, and the call goes on.
    if _caller_turns(frame) == FAILS_AFTER_TURNS:
        raise KeyError("order")
    return True


class DropsSentence(HibariTTSService):
    """Makes no speech of one sentence, and tells its text over RTVI like any other.

    A trace of silence stands in for it: where there is no audio at all, Pipecat notices and reports an error.
    """

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        async for frame in super().run_tts(text, context_id):
            if isinstance(frame, TTSAudioRawFrame) and text.strip() == DROPPED_SENTENCE:
                frame.audio = bytes(2 * (self.sample_rate // 50))
            yield frame


class WrongNumberOfPeople(RestaurantDialogue):
    def note(self, found: dict[str, Any]) -> None:
        super().note({**found, "people": found["people"] + 1} if "people" in found else found)


def _roles(frame: LLMContextFrame) -> list[Any]:
    messages: list[Any] = list(frame.context.get_messages())
    return [message.get("role") for message in messages]


def _caller_turns(frame: Frame) -> int:
    """Return how many turns of the caller a frame brings to be answered; 0 for another frame."""
    return _roles(frame).count("user") if isinstance(frame, LLMContextFrame) else 0


NO_FAULT = Fault()

FAULTS: dict[str, Fault] = {
    "slow": Fault("answers every turn 5 s late", mind=slow_answers),
    "talks_over": Fault("begins to speak 0.9 s into every turn of the caller", mind=TalksOver),
    "never_stops": Fault("speaks to the end when the caller interrupts", can_be_interrupted=False),
    "deaf": Fault(
        "greets, then hears and says nothing", ears=lambda: Between(_hears_nothing), asks_after_silence=False
    ),
    "mute": Fault(
        "hears, acts and says over RTVI that it speaks, but sends silence", mouth=lambda: Between(_sends_silence)
    ),
    "wrong_answer": Fault("takes, repeats and books one person too many", dialogue=WrongNumberOfPeople),
    "hangs_up": Fault("leaves in good order in place of its second answer", mind=lambda: Between(_hangs_up)),
    "leaves": Fault("leaves as soon as it has greeted", mind=lambda: Between(_leaves)),
    "crashes": Fault("its process dies in place of its second answer", mind=crashing),
    "noisy": Fault(
        "an office is heard behind it all the time",
        background=lambda: BackgroundMixer(BackgroundName.OFFICE, NOISE_DBFS),
    ),
    "errors": Fault(
        "raises an error in place of its second answer", mind=lambda: Between(_raises), asks_after_silence=False
    ),
    "drops_sentence": Fault(f'says "{DROPPED_SENTENCE}" over RTVI, but not aloud', voice=DropsSentence),
    "greets_early": Fault("greets as soon as it is connected, ready or not", waits_for_client=False),
    "stops_for_mm_hmm": Fault("stops and asks again when the caller makes a short sound", lets_listeners_hum=False),
    "never_joins": Fault("connects, and nothing ever comes", joins=False),
}
"""The faults by name."""


def fault_of_session(body: Any, default: str | None) -> Fault:
    """Return the fault that the body of a session's start names, or the default.

    Raises ValueError: there is no such fault.
    """
    name = own_options("restaurant", body).get("fault", default)
    if name is None:
        return NO_FAULT
    if not isinstance(name, str) or name not in FAULTS:
        raise ValueError(f"no fault is called {name!r}; there are: {', '.join(FAULTS)}")
    return FAULTS[name]
