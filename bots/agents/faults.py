"""Ways in which real agents fail, for the restaurant to fail on purpose.

    python -m bots.agents.restaurant -t webrtc --port 7860 --fault slow

A single session is given one in the body of its start, so that one process serves sessions of many kinds:
``{"restaurant": {"fault": "slow"}}``, with ``null`` for none. All else stays the good restaurant. Every fault is
here: a :class:`Fault` says what it changes, :data:`FAULTS` lists them.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pipecat.audio.mixers.base_audio_mixer import BaseAudioMixer
from pipecat.frames.frames import (
    BotStoppedSpeakingFrame,
    CancelWorkerFrame,
    EndWorkerFrame,
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    LLMContextFrame,
    MixerControlFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from bots.agents.restaurant_dialogue import RestaurantDialogue

SLOW_BY_S = 5.0

TALKS_OVER_AFTER_MS = 100
"""Counted from where the VAD is sure of the caller's speech, some 250 ms after its onset; and synthetic speech begins
with 300 ms of silence. All in all it is heard 800 to 950 ms after the onset."""
TALKS_OVER_WITH = "Yes of course, just a moment please, let me have a look at the book and see what we have for you."

FAILS_AFTER_TURNS = 2

NOISE_SEED = 20
NOISE_DBFS = -42.0
NOISE_LOOP_S = 20
KEYSTROKE_PEAK_DBFS = -20.0
KEYSTROKE_MS = 20
KEYSTROKE_GAP_MS = (90, 260)
TYPING_BURSTS = 5
"""So many in each loop of the noise."""
TYPING_BURST_KEYSTROKES = (3, 9)


@dataclass(frozen=True)
class Fault:
    """What a fault changes in the restaurant. The default is the good restaurant.

    Attributes:
        summary: What a caller notices.
        joins: Whether anything at all comes to the room.
        can_be_interrupted: Whether the caller's speech stops its speech.
        asks_after_silence: Whether it asks a silent caller whether they are still there.
        dialogue: Makes what decides on its words.
        ears: Makes a processor between the transport's input and the recognition.
        mind: Makes a processor between the caller's finished turns and the answers to them.
        mouth: Makes a processor between its speech and the transport's output.
        background: Makes what is mixed into its speech and its silence.
    """

    summary: str = "nothing"
    joins: bool = True
    can_be_interrupted: bool = True
    asks_after_silence: bool = True
    dialogue: Callable[[], RestaurantDialogue] = RestaurantDialogue
    ears: Callable[[], FrameProcessor] | None = None
    mind: Callable[[], FrameProcessor] | None = None
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
        if isinstance(frame, LLMContextFrame) and _caller_turns(frame):
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


class WrongNumberOfPeople(RestaurantDialogue):
    """Takes one person more than the caller said, and stays with that."""

    def note(self, found: dict[str, Any]) -> None:
        """Write down what was understood, with one person too many."""
        super().note({**found, "people": found["people"] + 1} if "people" in found else found)


class OfficeNoise(BaseAudioMixer):
    """The sound of an office: a steady noise, and somebody typing now and then. The same in every call."""

    def __init__(self) -> None:
        """Make the mixer; the noise is made when the rate is known."""
        self._noise: npt.NDArray[np.float32] = np.zeros(1, np.float32)
        self._position = 0

    async def start(self, sample_rate: int) -> None:
        """Make the noise.

        Args:
            sample_rate: In Hz.
        """
        self._noise = await asyncio.to_thread(office_noise, sample_rate)
        self._position = 0

    async def stop(self) -> None:
        """Do nothing: there is nothing to let go."""

    async def process_frame(self, frame: MixerControlFrame) -> None:
        """Do nothing: the office has no volume control."""

    async def mix(self, audio: bytes) -> bytes:
        """Add the noise to a piece of 16-bit mono PCM."""
        speech = np.frombuffer(audio, np.int16)
        at = (self._position + np.arange(len(speech))) % len(self._noise)
        self._position = (self._position + len(speech)) % len(self._noise)
        return np.clip(speech + self._noise[at], -32768, 32767).astype(np.int16).tobytes()


def office_noise(rate_hz: int) -> npt.NDArray[np.float32]:
    """Return the noise that is repeated all through a call, in units of 16-bit PCM.

    Args:
        rate_hz: Sample rate.
    """
    random = np.random.default_rng(NOISE_SEED)
    samples = NOISE_LOOP_S * rate_hz
    # Pink, as ventilation is; made in the frequency domain, so that the end of the loop fits its beginning.
    hz = np.fft.rfftfreq(samples, 1 / rate_hz)
    spectrum = random.normal(size=len(hz)) + 1j * random.normal(size=len(hz))
    noise = np.fft.irfft(np.where(hz < 60, 0, spectrum / np.sqrt(np.maximum(hz, 1))), samples)
    noise *= 32768 * 10 ** (NOISE_DBFS / 20) / np.sqrt(np.mean(np.square(noise)))
    length = KEYSTROKE_MS * rate_hz // 1000
    fade = np.exp(-5 * np.arange(length) / length)
    for start in np.sort(random.integers(0, samples * 8 // 10, TYPING_BURSTS)):
        at = int(start)
        for _ in range(int(random.integers(*TYPING_BURST_KEYSTROKES, endpoint=True))):
            keystroke = random.normal(size=length) * fade
            keystroke *= 32768 * 10 ** (KEYSTROKE_PEAK_DBFS / 20) / np.abs(keystroke).max()
            noise[at : at + length] += keystroke[: len(noise[at : at + length])]
            at += int(random.integers(*KEYSTROKE_GAP_MS)) * rate_hz // 1000
    return noise.astype(np.float32)


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
    "noisy": Fault("an office is heard behind it all the time", background=OfficeNoise),
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
