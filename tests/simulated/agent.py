"""The agent of a simulated call, in its own time: it hears frame by frame, thinks for a while, and speaks.

It is no Pipecat bot, but behaves like the restaurant as one sees it from a room: the same dialogue, the same order of
RTVI messages, turns that end after as much silence, speech that the caller can interrupt. What it does is drawn from
a seed, and happens at exact times, however busy the caller's machine is.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bots.agents.restaurant_dialogue import RestaurantDialogue, Step, book_table, check_availability
from bots.agents.restaurant_understanding import is_thinking
from bots.clock import NS_PER_MS
from tests.simulated.speech import FRAME_SAMPLES, Pcm, Utterance, clip, is_voiced, sentences

FRAME_NS = 20 * NS_PER_MS

START_FRAMES = 10
START_WINDOW = 12
"""Speech is noticed when so many of the last frames are voiced: 200 ms, as Pipecat's VAD takes."""

STOP_FRAMES = 10
THINKING_MS = 2_000

LEAVES_AFTER_MS = 1_400
"""From the end of its last words until it leaves: the silence at their end, and a second that it sends on purpose."""

FUNCTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "check_availability": check_availability,
    "book_table": book_table,
}

Range = tuple[float, float]


class OneSentence:
    """A dialogue of the same sentence whatever it hears, as the metronome's; unasked only if it greets."""

    def __init__(self, text: str = "Right on time, as ever I am.", *, greets: bool = True):
        self._text = text
        self._greets = greets

    def greet(self) -> Step:
        return Step(say=self._text if self._greets else "")

    def hear(self, text: str) -> Step:
        return Step(say=self._text)

    def function_returned(self, name: str, result: dict[str, Any]) -> Step:
        return Step(say=self._text)

    def silent(self) -> Step:
        return Step()


@dataclass(frozen=True)
class Behaviour:
    """How an agent behaves; the default is the good restaurant. Ranges are drawn from evenly, for each use anew.

    Attributes:
        dialogue: Makes what decides on its words.
        speaks_rtvi: Whether it says anything over the data channel.
        joins: Whether anything at all comes to the room.
        greets_after_ms: When it greets, counted from the client's being ready.
        greets_unasked_after_ms: When it greets a client that never says that it is ready.
        greets_before_ready_ms: When it greets, counted from the connection, without waiting for anything.
        end_of_turn_ms: Silence after which the caller's turn is over, once its VAD hears that.
        recognition_ms: How long it takes to recognise a stretch of speech.
        latency_ms: From the end of the caller's turn to the first sample of its answer.
        slow_by_ms: How much later than that it answers; the greeting comes in time.
        sentence_gap_ms: Silence between two sentences.
        silence_ms: Silence after which it asks whether the caller is still there; None: never.
        hang_up_ms: The same once a table is booked.
        can_be_interrupted: Whether the caller's speech stops its own.
        misheard: Which share of words it does not hear.
        hears: Whether it hears at all.
        is_heard: Whether its speech is heard; else it is silent, and says over RTVI that it speaks.
        talks_over_ms: When it begins to speak into every turn of the caller, from where it notices it.
        talks_over_with: What it says then.
        hangs_up_at_turn: Leaves in place of the answer to this turn of the caller, from 1.
        crashes_at_turn: Vanishes in place of the answer to this turn.
        fails_at_turn: Reports an error over RTVI in place of the answer to this turn.
        leaves_after_greeting: Leaves as soon as it has spoken for the first time.
        drops_sentence: The audio of this sentence is never sent; its words are told.
        hum_ms: How long the caller may make a sound while it speaks until that is a turn.
    """

    dialogue: Callable[[], RestaurantDialogue | OneSentence] = RestaurantDialogue
    speaks_rtvi: bool = True
    joins: bool = True
    greets_after_ms: Range = (20, 300)
    greets_unasked_after_ms: float = 2_000
    greets_before_ready_ms: float | None = None
    end_of_turn_ms: float = 800
    recognition_ms: Range = (150, 500)
    latency_ms: Range = (250, 900)
    slow_by_ms: float = 0
    sentence_gap_ms: Range = (250, 750)
    silence_ms: float | None = 10_000
    hang_up_ms: float = 5_000
    can_be_interrupted: bool = True
    misheard: float = 0
    hears: bool = True
    is_heard: bool = True
    talks_over_ms: float | None = None
    talks_over_with: str = (
        "Yes of course, just a moment please, let me have a look at the book and see what we have for you."
    )
    hangs_up_at_turn: int | None = None
    crashes_at_turn: int | None = None
    fails_at_turn: int | None = None
    leaves_after_greeting: bool = False
    drops_sentence: str | None = None
    hum_ms: float = 600


@dataclass
class _Sentence:
    text: str
    pcm: Pcm
    told: bool = False


@dataclass
class _Ears:
    """What is heard of the caller: whether there is speech, and which words."""

    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=START_WINDOW))
    unvoiced: int = 0
    speaking: bool = False
    line: Utterance | None = None
    line_is_over: bool = False
    frames: int = 0
    words: int = 0


class SimulatedAgent:
    """One agent in one call, which does to the room (``side``) what a :class:`SimulatedRoom` takes.

    Behind it a background is heard all the time: a loop of 16-bit audio at 24 kHz.
    """

    def __init__(self, behaviour: Behaviour, random: np.random.Generator, side: Any, background: Pcm | None = None):
        self._behaviour = behaviour
        self._dialogue = behaviour.dialogue()
        # One for its times, and one for its ears: what it hears of a damaged line moves nothing else.
        self._random, self._random_ears = random.spawn(2)
        self._side = side
        self._background = background
        self._position = 0
        self._timers: list[tuple[int, int, Callable[[int], None]]] = []
        self._counter = itertools.count()
        self._gone = False
        self._greeted = False
        self._greeting: int | None = None
        self._ears = _Ears()
        self._silent_ms = 0.0
        self._recognising = 0
        self._heard: list[str] = []
        self._segments = 0
        self._keyed = False
        self._keys = ""
        self._turns = 0
        self._reply: int | None = None
        self._talk: int | None = None
        self._queue: deque[_Sentence] = deque()
        self._played = 0
        self._speaking = False
        self._ends_after_speech = False
        self._hum_ms: float | None = None
        self._idle_since_ns = 0
        self._data_messages = 0
        self.said: list[str] = []
        """The sentences it has begun to say."""

    # What the room does to it.

    def connected(self, at_ns: int) -> None:
        """The caller is there."""
        self._idle_since_ns = at_ns
        before_ready_ms = self._behaviour.greets_before_ready_ms
        after_ms = self._behaviour.greets_unasked_after_ms if before_ready_ms is None else before_ready_ms
        self._greeting = self._at(at_ns + int(after_ms * NS_PER_MS), self._greet)

    def takes(self, at_ns: int, message: Any) -> None:
        """Take a message of the caller."""
        if self._gone:
            return
        match message:
            case {"label": "rtvi-ai", "type": "client-ready"}:
                about = {"library": "simulated", "library_version": "1"}
                self._tell(at_ns, "bot-ready", {"version": "2.2.0", "about": about})
                if self._behaviour.speaks_rtvi and not self._greeted and self._greeting is not None:
                    self._forget(self._greeting)
                    self._greeting = self._at(at_ns + self._draw_ns(self._behaviour.greets_after_ms), self._greet)
            case {"label": "rtvi-ai", "type": "dtmf", "data": {"buttons": list() as buttons}}:
                self._press(at_ns, [str(button) for button in buttons])
            case {"label": "rtvi-ai"}:
                pass
            case _:
                self._data_messages += 1
                data = {"type": "data-message-received", "message": message, "count": self._data_messages}
                self._tell(at_ns, "server-message", data)

    def line_begins(self, line: Utterance) -> None:
        """Know what the caller says from here on: hearing is simulated, not the recognition of words."""
        self._ears.line, self._ears.line_is_over = line, False
        self._ears.frames = self._ears.words = 0

    def line_ends(self) -> None:
        """Know that the caller has said its line."""
        self._ears.line_is_over = True

    def hears(self, at_ns: int, pcm: Pcm) -> None:
        """Hear 20 ms of the caller."""
        if self._gone or not self._behaviour.hears:
            return
        ears = self._ears
        voiced = is_voiced(pcm)
        ears.recent.append(voiced)
        ears.unvoiced = 0 if voiced else ears.unvoiced + 1
        ears.frames += voiced
        if not ears.speaking:
            if sum(ears.recent) >= START_FRAMES:
                ears.speaking = True
                self._hum_ms = 0.0 if self._speaking and self._behaviour.hum_ms else None
                if self._hum_ms is None:
                    self._caller_starts(at_ns)
            elif not voiced:
                self._silent_ms += 20
        elif ears.unvoiced >= STOP_FRAMES:
            ears.speaking = False
            ears.recent.clear()
            if self._hum_ms is None:
                self._caller_stops(at_ns)
            else:
                self._hum_ms = None
                self._new_words()
        elif self._hum_ms is not None:
            self._hum_ms += 20
            if self._hum_ms >= self._behaviour.hum_ms or not self._speaking:
                self._hum_ms = None
                self._caller_starts(at_ns)
        self._look_for_end_of_turn(at_ns)

    def plays(self, at_ns: int) -> bytes | None:
        """Let its time pass until then, and return the 20 ms of audio that it sends there; None: nothing at all."""
        while self._timers and self._timers[0][0] <= at_ns:
            due_ns, _, action = heapq.heappop(self._timers)
            action(due_ns)
        if self._gone:
            return None
        self._look_for_silence(at_ns)
        samples = self._speech(at_ns)
        if not self._behaviour.is_heard:
            samples = np.zeros(FRAME_SAMPLES, np.int16)
        if self._background is not None:
            bed = np.take(self._background, range(self._position, self._position + FRAME_SAMPLES), mode="wrap")
            samples = np.clip(samples.astype(np.int32) + bed, -32768, 32767).astype(np.int16)
        self._position += FRAME_SAMPLES
        return samples.tobytes()

    # Time.

    def _at(self, at_ns: int, action: Callable[[int], None]) -> int:
        number = next(self._counter)
        heapq.heappush(self._timers, (at_ns, number, action))
        return number

    def _forget(self, number: int | None) -> None:
        self._timers = [timer for timer in self._timers if timer[1] != number]
        heapq.heapify(self._timers)

    def _draw_ns(self, between_ms: Range) -> int:
        return int(self._random.uniform(*between_ms) * NS_PER_MS)

    # The caller's turns.

    def _caller_starts(self, at_ns: int) -> None:
        self._silent_ms = 0.0
        self._tell(at_ns, "user-started-speaking")
        if self._behaviour.can_be_interrupted:
            self._interrupt(at_ns)
        if self._behaviour.talks_over_ms is not None and not self._heard and not self._recognising:
            due_ns = at_ns + int(self._behaviour.talks_over_ms * NS_PER_MS)
            self._talk = self._at(due_ns, lambda at: self._say(at, self._behaviour.talks_over_with))

    def _interrupt(self, at_ns: int) -> None:
        self._tell(at_ns, "bot-interrupted")
        self._forget(self._reply)
        self._reply = None
        if self._queue:
            self._queue.clear()
            self._played = 0
            self._speech_is_over(at_ns)

    def _caller_stops(self, at_ns: int) -> None:
        self._silent_ms = 0.0
        self._segments += 1
        self._recognising += 1
        words = self._new_words()
        self._at(at_ns + self._draw_ns(self._behaviour.recognition_ms), lambda at: self._recognised(at, words))

    def _new_words(self) -> list[str]:
        """Return the words of the line that were heard since the last time."""
        ears = self._ears
        if ears.line is None:
            return []
        every = ears.line.all_words()
        until = len(every) if ears.line_is_over else ears.line.words_until(ears.frames)
        words, ears.words = every[ears.words : until], max(until, ears.words)
        # Frames are cut at other places here than there: one or two more or less are no loss.
        missing = 1 - ears.frames / ears.line.frames if ears.line_is_over else 0.0
        lost = round(missing * len(every)) if missing > 0.06 else 0
        for _ in range(min(lost, len(words))):
            del words[int(self._random_ears.integers(len(words)))]
        misheard = self._behaviour.misheard
        return [word for word in words if not misheard or self._random_ears.random() >= misheard]

    def _recognised(self, at_ns: int, words: list[str]) -> None:
        self._recognising -= 1
        text = " ".join(words)
        if text:
            self._heard.append(text)
            self._tell_transcription(at_ns, text)
        self._look_for_end_of_turn(at_ns)

    def _press(self, at_ns: int, buttons: list[str]) -> None:
        self._keys += "".join(buttons)
        if not self._keys.endswith("#"):
            return
        text, self._keys = f"DTMF: {self._keys}", ""
        self._interrupt(at_ns)
        self._tell_transcription(at_ns, text)
        self._tell(at_ns, "user-started-speaking")
        self._heard.append(text)
        self._keyed = True
        self._look_for_end_of_turn(at_ns)

    def _look_for_end_of_turn(self, at_ns: int) -> None:
        if self._ears.speaking or self._recognising or not (self._heard or self._segments):
            return
        text = " ".join(self._heard)
        patience_ms = THINKING_MS if is_thinking(text) else self._behaviour.end_of_turn_ms
        if not self._keyed and self._silent_ms < patience_ms:
            return
        self._heard, self._segments, self._keyed = [], 0, False
        self._forget(self._talk)
        self._tell(at_ns, "user-llm-text", {"text": text})
        self._tell(at_ns, "user-stopped-speaking")
        self._idle_since_ns = at_ns
        self._turns += 1
        if self._turns == self._behaviour.hangs_up_at_turn:
            self._leave(at_ns)
        elif self._turns == self._behaviour.crashes_at_turn:
            self._gone = True
            self._side.agent_dies(at_ns)
        elif self._turns == self._behaviour.fails_at_turn:
            self._tell(at_ns, "error", {"error": "Error processing frame: 'order'", "fatal": False})
        else:
            slow_ns = int(self._behaviour.slow_by_ms * NS_PER_MS)
            step = self._dialogue.hear(text)
            if slow_ns:
                self._reply = self._at(at_ns + slow_ns, lambda at: self._take(at, step))
            else:
                self._take(at_ns, step)

    # What it does.

    def _greet(self, at_ns: int) -> None:
        self._greeted = True
        self._take(at_ns, self._dialogue.greet())

    def _take(self, at_ns: int, step: Step) -> None:
        self._tell(at_ns, "bot-llm-started")
        if step.say:
            self._tell(at_ns, "bot-llm-text", {"text": step.say})
            self._tell(at_ns, "bot-transcription", {"text": step.say})
        if step.call:
            call = {"function_name": step.call.name, "tool_call_id": f"call_{next(self._counter):06}"}
            self._tell(at_ns, "llm-function-call-started", {"function_name": step.call.name})
            self._tell(at_ns, "llm-function-call-in-progress", {**call, "arguments": step.call.arguments})
            result = FUNCTIONS[step.call.name](**step.call.arguments)
            self._tell(at_ns, "llm-function-call-stopped", {**call, "result": result, "cancelled": False})
        self._tell(at_ns, "bot-llm-stopped")
        self._ends_after_speech = self._ends_after_speech or step.end
        if step.call:
            self._take(at_ns, self._dialogue.function_returned(step.call.name, result))
        elif step.say:
            self._tell(at_ns, "bot-tts-started")
            wait_ns = self._draw_ns(self._behaviour.latency_ms)
            self._reply = self._at(at_ns + wait_ns, lambda at: self._say(at, step.say))

    def _say(self, at_ns: int, text: str) -> None:
        for sentence in sentences(text):
            dropped = sentence == self._behaviour.drops_sentence
            gap_ns = self._draw_ns(self._behaviour.sentence_gap_ms) if self._queue else 0
            gap = np.zeros(gap_ns // FRAME_NS * FRAME_SAMPLES, np.int16)
            pcm = np.zeros(FRAME_SAMPLES, np.int16) if dropped else clip(sentence)
            self._queue.append(_Sentence(sentence, np.concatenate((gap, pcm))))
        self._tell(at_ns, "bot-tts-stopped")

    def _speech(self, at_ns: int) -> Pcm:
        if not self._queue:
            return np.zeros(FRAME_SAMPLES, np.int16)
        sentence = self._queue[0]
        if not self._speaking:
            self._speaking = True
            self._tell(at_ns, "bot-started-speaking")
        if not sentence.told:
            sentence.told = True
            self.said.append(sentence.text)
            self._tell_output(at_ns, sentence.text, "new")
        samples = sentence.pcm[self._played : self._played + FRAME_SAMPLES]
        self._played += FRAME_SAMPLES
        if self._played >= sentence.pcm.size:
            self._queue.popleft()
            self._played = 0
            self._tell_output(at_ns, sentence.text, "completed")
            self._tell(at_ns, "bot-tts-text", {"text": sentence.text})
            if not self._queue:
                self._at(at_ns + 2 * FRAME_NS, self._speech_is_over)
        return np.pad(samples, (0, FRAME_SAMPLES - samples.size))

    def _speech_is_over(self, at_ns: int) -> None:
        if self._queue or not self._speaking:
            return
        self._speaking = False
        self._idle_since_ns = at_ns
        self._tell(at_ns, "bot-stopped-speaking")
        if self._ends_after_speech:
            self._at(at_ns + LEAVES_AFTER_MS * NS_PER_MS, self._leave)
        elif self._behaviour.leaves_after_greeting:
            self._leave(at_ns)

    def _look_for_silence(self, at_ns: int) -> None:
        """Ask a caller that has said nothing for long whether they are still there."""
        busy = self._ears.speaking or self._segments or self._speaking or self._ends_after_speech
        after_ms = self._behaviour.silence_ms
        if busy or after_ms is None or not self._greeted:
            if self._ears.speaking or self._speaking:
                self._idle_since_ns = at_ns
            return
        if getattr(self._dialogue, "booked", False):
            after_ms = self._behaviour.hang_up_ms
        if at_ns - self._idle_since_ns >= after_ms * NS_PER_MS:
            self._idle_since_ns = at_ns
            step = self._dialogue.silent()
            self._ends_after_speech = step.end
            self._say(at_ns, step.say)

    def _leave(self, at_ns: int) -> None:
        if not self._gone:
            self._gone = True
            self._side.agent_leaves(at_ns)

    # What it tells.

    def _tell(self, at_ns: int, kind: str, data: dict[str, Any] | None = None) -> None:
        if self._behaviour.speaks_rtvi and not self._gone:
            message = {"label": "rtvi-ai", "type": kind}
            self._side.agent_sends(at_ns, message if data is None else {**message, "data": data})

    def _tell_output(self, at_ns: int, text: str, status: str) -> None:
        data = {
            "text": text,
            "output_type": "sentence",
            "aggregated_by": "sentence",
            "spoken": status == "completed",
            "will_be_spoken": True,
            "spoken_status": status,
        }
        self._tell(at_ns, "bot-output", data)

    def _tell_transcription(self, at_ns: int, text: str) -> None:
        data = {"text": text, "final": True, "user_id": ""}
        self._tell(at_ns, "user-input", {**data, "input_type": "transcription"})
        self._tell(at_ns, "user-transcription", data)
