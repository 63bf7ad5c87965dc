"""Ways in which real agents fail, for the restaurant to fail on purpose.

    python -m bots.agents.restaurant -t webrtc --port 7860 --fault slow

A single session is given one in the body of its start, so that one process serves sessions of many kinds:
``{"restaurant": {"fault": "slow"}}``, with ``null`` for none. All else stays the good restaurant. Every fault is
here: a :class:`Fault` says what it changes, :data:`FAULTS` lists them.
"""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable
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
        can_be_interrupted: Whether the caller's speech stops its speech.
        lets_listeners_hum: Whether it speaks on when the caller makes a short sound while it speaks.
        waits_for_client: Whether it greets only once the caller's side is ready to hear it.
        asks_after_silence: Whether it asks a silent caller whether they are still there.
        dialogue: Makes what decides on its words.
        ears: Makes a processor between the transport's input and the recognition.
        mind: Makes a processor between the caller's finished turns and the answers to them.
        voice: Makes what speaks.
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


class SlowAnswers(FrameProcessor):
    """Holds every turn of the caller back before it is answered; the greeting comes in time."""

    def __init__(self, by_s: float = SLOW_BY_S) -> None:
        """Make the processor.

        Args:
            by_s: How much later than else it answers, in seconds.
        """
        super().__init__()
        self._by_s = by_s

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Hold a turn back; pass on everything else."""
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame) and _asks(frame):
            # An interruption ends this wait, and the turn is answered together with the next one.
            await asyncio.sleep(self._by_s)
        await self.push_frame(frame, direction)


class TalksOver(FrameProcessor):
    """Begins to speak in the middle of every spoken turn of the caller, and answers the turn after that."""

    def __init__(self, after_ms: float = TALKS_OVER_AFTER_MS) -> None:
        """Make the processor.

        Args:
            after_ms: When it begins, counted from where the caller's turn was noticed.
        """
        super().__init__()
        self._after_ms = after_ms
        self._waiting: asyncio.Task[None] | None = None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Plan to talk when the caller begins; pass on everything."""
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        if isinstance(frame, UserStartedSpeakingFrame | UserStoppedSpeakingFrame):
            await self._forget()
        if isinstance(frame, UserStartedSpeakingFrame):
            self._waiting = self.create_task(self._talk())

    async def cleanup(self) -> None:
        """End with the call."""
        await self._forget()
        await super().cleanup()

    async def _talk(self) -> None:
        await asyncio.sleep(self._after_ms / 1000)
        await self.push_frame(TTSSpeakFrame(TALKS_OVER_WITH))

    async def _forget(self) -> None:
        if self._waiting is not None:
            await self.cancel_task(self._waiting)
            self._waiting = None


class HearsNothing(FrameProcessor):
    """Lets neither the caller's audio nor their keys through."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Drop what could be heard; pass on everything else."""
        await super().process_frame(frame, direction)
        if not isinstance(frame, InputAudioRawFrame | InputDTMFFrame):
            await self.push_frame(frame, direction)


class SendsSilence(FrameProcessor):
    """Replaces speech by as much silence, so that the agent itself believes that it spoke, and says so over RTVI."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Silence speech; pass on everything."""
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            frame.audio = bytes(len(frame.audio))
        await self.push_frame(frame, direction)


class HangsUp(FrameProcessor):
    """Ends the call in good order in place of the answer to the caller's second turn."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """End at the turn; pass on everything else."""
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame) and _caller_turns(frame) >= FAILS_AFTER_TURNS:
            await self.push_frame(EndWorkerFrame(), FrameDirection.UPSTREAM)
        else:
            await self.push_frame(frame, direction)


class Leaves(FrameProcessor):
    """Leaves at once when it has spoken for the first time."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Leave after speech; pass on everything."""
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        if isinstance(frame, BotStoppedSpeakingFrame):
            await self.push_frame(CancelWorkerFrame(), FrameDirection.UPSTREAM)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Crashes(FrameProcessor):
    """Kills its whole process, with all its calls, in place of the answer to the caller's second turn."""

    def __init__(self, die: Callable[[], None] = _die) -> None:
        """Make the processor.

        Args:
            die: Ends the process, without a farewell to anyone.
        """
        super().__init__()
        self._die = die

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Die at the turn; pass on everything else."""
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame) and _caller_turns(frame) >= FAILS_AFTER_TURNS:
            self._die()
        else:
            await self.push_frame(frame, direction)


class Raises(FrameProcessor):
    """Fails with an exception in place of the answer to the caller's second turn, and says nothing to it."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Fail at the turn; pass on everything else.

        Raises:
            KeyError: It is that turn. Pipecat reports it as an error, over RTVI too, and the call goes on.
        """
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame) and _caller_turns(frame) == FAILS_AFTER_TURNS:
            raise KeyError("order")
        await self.push_frame(frame, direction)


class DropsSentence(HibariTTSService):
    """Makes no speech of one sentence, and tells its text over RTVI like any other.

    A trace of silence stands in for it: where there is no audio at all, Pipecat notices and reports an error.
    """

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Speak a text, but not that sentence.

        Args:
            text: What to say.
            context_id: The TTS context the audio belongs to.

        Yields:
            Frames of audio; an error frame if synthesis fails.
        """
        async for frame in super().run_tts(text, context_id):
            if isinstance(frame, TTSAudioRawFrame) and text.strip() == DROPPED_SENTENCE:
                frame.audio = bytes(2 * (self.sample_rate // 50))
            yield frame


class WrongNumberOfPeople(RestaurantDialogue):
    """Takes one person more than the caller said, and stays with that."""

    def note(self, found: dict[str, Any]) -> None:
        """Write down what was understood, with one person too many."""
        super().note({**found, "people": found["people"] + 1} if "people" in found else found)


def _asks(frame: LLMContextFrame) -> bool:
    """Whether the latest in a context is a turn of the caller, and not what a function returned."""
    messages: list[Any] = list(frame.context.get_messages())
    return bool(messages) and messages[-1].get("role") == "user"


def _caller_turns(frame: LLMContextFrame) -> int:
    messages: list[Any] = list(frame.context.get_messages())
    return sum(message.get("role") == "user" for message in messages)


NO_FAULT = Fault()

FAULTS: dict[str, Fault] = {
    "slow": Fault("answers every turn 5 s late", mind=SlowAnswers),
    "talks_over": Fault("begins to speak 0.9 s into every turn of the caller", mind=TalksOver),
    "never_stops": Fault("speaks to the end when the caller interrupts", can_be_interrupted=False),
    "deaf": Fault("greets, then hears and says nothing", ears=HearsNothing, asks_after_silence=False),
    "mute": Fault("hears, acts and says over RTVI that it speaks, but sends silence", mouth=SendsSilence),
    "wrong_answer": Fault("takes, repeats and books one person too many", dialogue=WrongNumberOfPeople),
    "hangs_up": Fault("leaves in good order in place of its second answer", mind=HangsUp),
    "leaves": Fault("leaves as soon as it has greeted", mind=Leaves),
    "crashes": Fault("its process dies in place of its second answer", mind=Crashes),
    "noisy": Fault(
        "an office is heard behind it all the time",
        background=lambda: BackgroundMixer(BackgroundName.OFFICE, NOISE_DBFS),
    ),
    "errors": Fault("raises an error in place of its second answer", mind=Raises, asks_after_silence=False),
    "drops_sentence": Fault(f'says "{DROPPED_SENTENCE}" over RTVI, but not aloud', voice=DropsSentence),
    "greets_early": Fault("greets as soon as it is connected, ready or not", waits_for_client=False),
    "stops_for_mm_hmm": Fault("stops and asks again when the caller makes a short sound", lets_listeners_hum=False),
    "never_joins": Fault("connects, and nothing ever comes", joins=False),
}
"""The faults by name."""


def fault_of_session(body: Any, default: str | None) -> Fault:
    """Return the fault of a session.

    Args:
        body: The body of the session's start; its ``restaurant.fault`` goes before the default.
        default: The fault of sessions that name none.

    Raises:
        ValueError: There is no such fault.
    """
    name: Any = default
    if isinstance(body, dict) and isinstance(own := body.get("restaurant"), dict) and "fault" in own:
        name = own["fault"]
    if name is None:
        return NO_FAULT
    if not isinstance(name, str) or name not in FAULTS:
        raise ValueError(f"no fault is called {name!r}; there are: {', '.join(FAULTS)}")
    return FAULTS[name]
