"""What the room and the caller's pipeline tell of a call: its audio is recorded, the rest become facts."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio

from bots.caller import rtvi
from bots.caller.mouth import Mouth
from bots.clock import CallClock
from bots.masking import masked, masked_within
from bots.timeline import (
    AgentAudioLate,
    AgentAudioLost,
    AgentError,
    AgentJoined,
    AgentLeft,
    AgentMediaResumed,
    AgentMediaStopped,
    AgentProbed,
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    AgentTurnEnded,
    BotReady,
    CallerAudioLost,
    EndedReason,
    MediaNotConnected,
    MessageReceived,
    TimelineEvent,
)
from runner.calls.recording import AGENT, CALLER, RecordingWriter
from runner.calls.request import CallWatcher
from runner.calls.stretches import Stretch, Stretches
from runner.errors import RoomError

MAX_MESSAGE_CHARACTERS = 20_000_000
MAX_MESSAGES = 20_000
"""Messages of the agent that are kept as they came; what they say of speech and functions is always kept."""


@dataclass
class Listener:
    """Listens to the room and to the pipeline of one call.

    Args:
        end: Ends the call; the first ending counts.
        agent_turn_over: Is told of a turn of the agent's: where it began and ended.
        secrets: What may not be on the timeline, should the agent send it back.
    """

    clock: CallClock
    note: Callable[[TimelineEvent], None]
    end: Callable[[EndedReason, str | None], None]
    warn: Callable[[str], None]
    mouth: Mouth
    recording: RecordingWriter
    agent_turn_over: Callable[[int, int], None]
    watcher: CallWatcher | None
    secrets: frozenset[str]
    agent_is_ready: anyio.Event = field(default_factory=anyio.Event)
    """Is set once the agent says so, or speaks."""

    def __post_init__(self) -> None:
        self._reader = rtvi.RtviReader()
        self._messages_kept = 0
        self._message_characters = 0
        self._holes = Stretches(self._note_hole, whole=False)
        self._late = Stretches(self._note_late, whole=True)
        self._onset_ns: int | None = None
        self._turn_onset_ns: int | None = None
        self._last_end_ns = 0

    def flush(self) -> None:
        """Note what of the agent's audio was held back to be told in one piece."""
        self._holes.flush()
        self._late.flush()

    # What the room reports (RoomListener).

    def caller_audio(self, at_ns: int, pcm: bytes, *, late_ns: int | None = 0) -> None:
        """Record what left, and follow the line under way."""
        self.mouth.sent(at_ns, pcm, late_ns=late_ns)
        if late_ns is not None:
            self._record(CALLER, at_ns, pcm)

    def agent_audio(self, at_ns: int, pcm: bytes) -> None:
        """Record what arrived."""
        self._record(AGENT, at_ns, pcm)

    def _record(self, channel: int, at_ns: int, pcm: bytes) -> None:
        self.recording.put(channel, at_ns, pcm)
        if self.watcher is not None:
            self.watcher.audio(channel, at_ns, pcm)

    def agent_audio_lost(self, at_ns: int, duration_ms: float) -> None:
        """Note a hole in the agent's audio."""
        self._holes.add(Stretch(at_ns, duration_ms))

    def agent_audio_late(self, at_ns: int, duration_ms: float, late_ms: float) -> None:
        """Note that a stretch of the agent's audio came late."""
        self._late.add(Stretch(at_ns, duration_ms, late_ms))

    def _note_hole(self, hole: Stretch) -> None:
        self.note(AgentAudioLost(at_ns=hole.at_ns, duration_ms=round(hole.duration_ms, 3)))

    def _note_late(self, late: Stretch) -> None:
        self.note(
            AgentAudioLate(at_ns=late.at_ns, duration_ms=round(late.duration_ms, 3), late_ms=round(late.late_ms, 3))
        )

    def caller_audio_lost(self, at_ns: int, *, since_ns: int, lost: int, packets: int) -> None:
        """Note that the agent missed some of the caller's audio."""
        self.note(CallerAudioLost(at_ns=at_ns, since_ns=since_ns, lost=lost, packets=packets))

    def agent_joined(self, at_ns: int, participant: str | None) -> None:
        """Note that the agent is there."""
        self.note(AgentJoined(at_ns=at_ns, participant=participant))

    def media_not_connected(self, at_ns: int, *, waited_ms: float, sending: bool, receiving: bool) -> None:
        """Note that the call goes on without a media connection."""
        self.note(MediaNotConnected(at_ns=at_ns, waited_ms=round(waited_ms, 3), sending=sending, receiving=receiving))

    def agent_left(self, at_ns: int, detail: str | None) -> None:
        """Note that the agent left; the call is over."""
        self.note(AgentLeft(at_ns=at_ns, detail=detail))
        self.end(EndedReason.AGENT_LEFT, None)

    def agent_media_stopped(self, at_ns: int) -> None:
        """Note that nothing arrives any more."""
        self.note(AgentMediaStopped(at_ns=at_ns))

    def agent_media_resumed(self, at_ns: int) -> None:
        """Note that packets arrive again."""
        self.note(AgentMediaResumed(at_ns=at_ns))

    def agent_probed(self, at_ns: int, *, answers: bool | None) -> None:
        """Note whether the agent's address still takes connections."""
        self.note(AgentProbed(at_ns=at_ns, answers=answers))

    def message_received(self, at_ns: int, message: Any) -> None:
        """Note what a message says."""
        for event in map(self._without_secrets, self._reader.facts(at_ns, message)):
            if isinstance(event, MessageReceived):
                self._messages_kept += 1
                self._message_characters += len(json.dumps(event.message, ensure_ascii=False))
                if self._messages_kept > MAX_MESSAGES or self._message_characters > MAX_MESSAGE_CHARACTERS:
                    self.warn(
                        f"the agent sent more than {MAX_MESSAGES} messages, or {MAX_MESSAGE_CHARACTERS} characters "
                        "in them: the rest are not on the timeline"
                    )
                    continue
            self.note(event)
            if isinstance(event, BotReady):
                self.agent_is_ready.set()

    def _without_secrets(self, event: TimelineEvent) -> TimelineEvent:
        """Return what the agent sent without the data message's secrets: some send back what they were sent.

        What it says or does stays as it is: that is judged.
        """
        if self.secrets and isinstance(event, AgentError):
            return event.model_copy(update={"text": masked(event.text, self.secrets)})
        if self.secrets and isinstance(event, MessageReceived) and rtvi.is_of_the_application(event.message):
            return event.model_copy(update={"message": masked_within(event.message, self.secrets)})
        return event

    def room_lost(self, error: RoomError) -> None:
        """End the call: the room is of no use any more."""
        self.end(error.reason, str(error))

    # What the pipeline reports (PipelineListener).

    def speech_reported(self, at_ns: int) -> None:
        """Note where the agent's speech began."""
        self._onset_ns = at_ns
        if self._turn_onset_ns is None:
            self._turn_onset_ns = at_ns
        self.note(AgentStartedSpeaking(at_ns=at_ns))
        self.agent_is_ready.set()

    def silence_reported(self, at_ns: int) -> None:
        """Note where the agent's speech ended."""
        self._onset_ns = None
        self._last_end_ns = at_ns
        self.note(AgentStoppedSpeaking(at_ns=at_ns))

    def turn_ended(self) -> None:
        """Note that the agent's turn is over."""
        self.note(AgentTurnEnded(at_ns=self.clock.now_ns()))
        # Speech that is under way already is the beginning of the next turn.
        onset_ns, self._turn_onset_ns = self._turn_onset_ns, self._onset_ns
        if onset_ns is not None and onset_ns != self._onset_ns:
            self.agent_turn_over(onset_ns, self._last_end_ns)
