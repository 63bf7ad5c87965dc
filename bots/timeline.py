"""The facts of a call: one typed event for each thing that happened in the room.

A timeline holds facts and nothing but facts. What they mean (a latency, an expectation met) is worked out
from them afterwards, so a finished call can be judged again without calling anyone.

Every event carries ``at_ns``, its time on the call's clock in nanoseconds. Events are written as they become
known, so a file is not always in order of ``at_ns``: the onset of speech is known only a moment later, and the
words heard in a recording only when the call is over.
"""

import functools
import operator
import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

TIMELINE_VERSION = 1

SESSION_FAILED, SESSION_COMPLETED = "agent_error", "completed"
"""What Pipecat Cloud says of a session that failed, and of one that came to its end."""


class Source(StrEnum):
    """Where the words of an event come from."""

    HEARD = "heard"
    """Our own recognition of the received audio."""
    TOLD = "told"
    """What the agent says of itself over RTVI."""


class EndedReason(StrEnum):
    """How a call ended. Each is reached within a bounded time."""

    ROOM_UNREACHABLE = "room-unreachable"
    AGENT_AT_CAPACITY = "agent-at-capacity"
    """No session could be started: as many as may run at a time were running."""
    TOKEN_REFUSED = "token-refused"  # noqa: S105 - a reason, not a secret
    ICE_FAILED = "ice-failed"
    AGENT_NEVER_JOINED = "agent-never-joined"
    AGENT_NEVER_SPOKE = "agent-never-spoke"
    AGENT_LEFT = "agent-left"
    AGENT_VANISHED = "agent-vanished"
    """It stopped sending anything at all: its process died, or the network between us was cut."""
    AGENT_FROZE = "agent-froze"
    """It is still there and sending, but answers nothing any more."""
    CALLER_HUNG_UP = "caller-hung-up"
    MAX_DURATION = "max-duration"
    CANCELLED = "cancelled"
    RUNNER_ERROR = "runner-error"


class UnderrunKind(StrEnum):
    """What became of the part of a line that was not on time."""

    SILENCE = "silence"
    """Silence went out in its place: its audio was not ready."""
    GAP = "gap"
    """Nothing went out in its place: the sender stood still."""
    LATE = "late"
    """It left later than its timestamp says, by more than a receiver waits for."""


class LineEnd(StrEnum):
    SAID = "said"
    """Played to its last sample."""
    CUT = "cut"
    """Broken off before its end."""


class TimelineEvent(BaseModel):
    """A fact of a call. Its ``type`` is the name of its class in small letters: ``call_started``."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    at_ns: int
    """Time on the call's clock, in nanoseconds."""
    type: str = ""

    def __init_subclass__(cls) -> None:
        name = re.sub(r"\B(?=[A-Z])", "_", cls.__name__).lower()
        cls.__annotations__["type"] = Literal[name]
        cls.type = name

    @property
    def at_s(self) -> float:
        return self.at_ns / 1_000_000_000


class CallStarted(TimelineEvent):
    """The call's clock starts. The first event of every timeline."""

    version: int = TIMELINE_VERSION
    run_id: str
    scenario: str
    room: str
    """The room's address without credentials or query."""
    wall_time: str
    """ISO 8601, UTC."""
    monotonic_ns: int
    """The machine's monotonic clock at the call's zero: relates the call to logs of the same machine."""


class RoomEntered(TimelineEvent):
    """The caller is in the room."""


class AgentJoined(TimelineEvent):
    """The agent is in the room with audio we receive."""

    participant: str | None = None


class MediaNotConnected(TimelineEvent):
    """The caller went on although media connections were not there after a while. What it sends may be lost."""

    waited_ms: float
    sending: bool
    """Whether the caller's own connection was there."""
    receiving: bool
    """Whether the agent's audio could be received."""


class AgentLeft(TimelineEvent):
    """The agent left the room in an orderly way."""

    detail: str | None = None


class AgentMediaStopped(TimelineEvent):
    """Nothing arrives from the agent any more. ``at_ns`` is the arrival of the last packet."""


class AgentMediaResumed(TimelineEvent):
    """Packets arrive from the agent again."""


class AgentProbed(TimelineEvent):
    """Nothing arrived from the agent any more, and its address was tried once."""

    answers: bool | None
    """True: something takes connections there. False: they are refused, its process is gone. Null: no answer."""


class AgentSessionEnded(TimelineEvent):
    """The agent was gone before the end, and whoever runs it says how its session ended."""

    state: str
    """In that one's words. Pipecat Cloud: ``completed``, ``agent_error``, ``terminated``, ``active`` and others."""


class ClientReadySent(TimelineEvent):
    """RTVI ``client-ready`` went out."""


class BotReady(TimelineEvent):
    """RTVI ``bot-ready`` arrived: the agent speaks RTVI."""

    protocol_version: str | None = None
    about: dict[str, Any] | None = None


class DataMessagePublished(TimelineEvent):
    """The run's data message was handed to the room, once and unchanged."""

    message: Any
    """As it is shown: ``***`` in place of what is secret."""


class CallerTurnStarted(TimelineEvent):
    """The caller took up a turn of the script."""

    turn: int


class CallerStartedSpeaking(TimelineEvent):
    """First voiced sample of a line, as it left for the network."""

    turn: int
    text: str


class CallerStoppedSpeaking(TimelineEvent):
    """Last voiced sample of a line, as it left for the network."""

    turn: int
    end: LineEnd = LineEnd.SAID


class CallerPressedKeys(TimelineEvent):
    """Keys went out as an RTVI ``dtmf`` message."""

    turn: int
    keys: str


class CallerUnderrun(TimelineEvent):
    """A line did not go out as it was to: for so long the agent received something else, or received it late."""

    turn: int
    duration_ms: float
    kind: UnderrunKind = UnderrunKind.SILENCE


class CallerTurnSettled(TimelineEvent):
    """The caller took all that a turn expects to be decided, by what was known then.

    Written when it went on or hung up because of it. What the recording says afterwards may differ.
    """

    turn: int
    failed: bool


class CallCalibrated(TimelineEvent):
    """What our own side adds to a measured time, found before the conversation began."""

    loop_lag_ms: float
    """How late the event loop woke up at worst (95th percentile)."""
    send_lag_ms: float
    """How late the caller's packets left at worst (95th percentile)."""
    arrival_jitter_ms: float
    """Spread of the agent's packets around their timestamps (95th percentile above the earliest)."""
    library_ms: float = 0.0
    """How far off places may be because a library hands audio over without timestamps. Above 0, what the network's
    jitter adds is inside every latency."""


class HarnessStalled(TimelineEvent):
    """Our own side stood still for so long, from ``at_ns`` on: it noticed nothing and decided nothing."""

    duration_ms: float


class MachineBusy(TimelineEvent):
    """Our own process waited long for a processor, from ``at_ns`` on: the machine had more to do than it can."""

    duration_ms: float
    waited: float
    """For which share of the time in which it was ready to run it waited, from 0 to 1."""
    shared: bool
    """Whether the agent is known to run on the same machine."""


class AgentAudioLost(TimelineEvent):
    """A piece of the agent's audio never arrived; silence stands in its place."""

    duration_ms: float


class AgentAudioLate(TimelineEvent):
    """A stretch of the agent's audio came later than its place says: its sender, or our own side, stood still.

    ``at_ns`` is where the stretch begins. Whoever listened may have heard what is in it so much later;
    or sooner, where its sender has caught up and the place is still that of audio that was late.
    """

    duration_ms: float
    late_ms: float
    """How much later it came at most, or sooner."""


class CallerAudioLost(TimelineEvent):
    """The agent's side reports that packets of the caller's audio did not reach it (RTCP receiver report)."""

    since_ns: int
    """Beginning of the span the report is about; ``at_ns`` is its end."""
    lost: int
    packets: int
    """How many were sent in the span."""


class AgentStartedSpeaking(TimelineEvent):
    """First sample of audible agent speech in the received audio."""


class AgentStoppedSpeaking(TimelineEvent):
    """Last sample of audible agent speech in the received audio."""


class AgentTurnEnded(TimelineEvent):
    """The caller took the agent's turn to be over, at ``at_ns``."""


class AgentSaid(TimelineEvent):
    """Words of the agent.

    ``at_ns`` is when they were known: for told words when the message arrived, for heard words the end of the
    speech they were heard in.
    """

    text: str
    source: Source
    started_ns: int | None = None
    """Onset of the speech the words were heard in, where that is known."""


class CallerHeardAs(TimelineEvent):
    """What the agent's own recognition made of the caller (RTVI ``user-transcription``, final)."""

    text: str


class AgentCalledFunction(TimelineEvent):
    """The agent reported a function call. ``name`` and ``arguments`` are null where it keeps them to itself."""

    call_id: str
    name: str | None = None
    arguments: dict[str, Any] | None = None


class AgentFunctionReturned(TimelineEvent):
    """The agent reported the end of a function call."""

    call_id: str
    name: str | None = None
    result: Any = None
    cancelled: bool = False


class MessageReceived(TimelineEvent):
    """Any other message of the agent over the data channel: RTVI, or the application's own."""

    message: Any


class AgentAudioQuality(TimelineEvent):
    """How the agent's audio was delivered, over the whole call. Written once, when the room is left."""

    packets: int
    lost: int
    late: int
    """Packets that came too late to be played, and were left out."""
    jitter_ms: float
    """Interarrival jitter as RFC 3550 section 6.4.1 defines it."""
    reanchored: int
    """How often the stream's place on the call's clock had to be set anew."""


class CallerAudioQuality(TimelineEvent):
    """How the caller's audio was sent and delivered, over the whole call. Written once, when the room is left."""

    packets: int
    lost: int | None = None
    """Packets that did not reach the agent, by its own reports; null where it sends none."""
    jitter_ms: float | None = None
    """Interarrival jitter at the agent, by its own reports."""
    round_trip_ms: float | None = None
    late: int = 0
    """Packets that left more than 20 ms after their time."""
    latest_ms: float = 0.0
    """By how much the latest of them was late."""


class AgentSpeechMeasured(TimelineEvent):
    """A stretch of the agent's speech, measured from the recording when the call was over.

    ``at_ns`` is its first audible sample. What is reported goes by these; what the live hearing made of the agent's
    speech steered the caller.
    """

    end_ns: int
    """Its last audible sample."""
    onset_uncertainty_ms: float
    """The onset lies within so much of ``at_ns``, in 95 of 100 cases."""
    end_uncertainty_ms: float
    level_dbfs: float
    """Level of the speech."""
    bed_dbfs: float
    """Level of what lies under it: noise, music, other people."""
    too_loud: bool = False
    """Whether the background is too loud to tell speech from it here."""


class RecordingMeasured(TimelineEvent):
    """The recording was measured: from here on the agent's speech is what was measured."""

    method: int
    """Version of the method: other versions may find other edges."""
    bed_dbfs: float
    agent_dbfs: float | None
    """Level of the agent's speech; null where there is none."""
    too_loud: bool
    """Whether the background was too loud to tell the agent's speech from it in most of the call."""


class AgentError(TimelineEvent):
    """The agent reported an error of its own over RTVI (``error``, ``error-response``)."""

    text: str
    fatal: bool = False


class AgentProcessEnded(TimelineEvent):
    """The command that runs the agent ended, where the runner started it."""

    exit_code: int
    """Negative: ended by the signal of that number."""
    log_tail: str = ""
    """The last lines it printed."""


class CallEnded(TimelineEvent):
    """The call is over. Nothing that happens in the room comes after it."""

    reason: EndedReason
    detail: str | None = None
    """One line for a person: what happened, and where it can be mended how."""


_every: Any = functools.reduce(operator.or_, TimelineEvent.__subclasses__())
_by_type: Any = Annotated[_every, Field(discriminator="type")]

EVENT_ADAPTER: TypeAdapter[TimelineEvent] = TypeAdapter(_by_type)
"""Reads and writes one event, as one line of ``timeline.jsonl``."""
