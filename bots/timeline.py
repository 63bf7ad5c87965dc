"""The facts of a call: one typed event for each thing that happened in the room.

A timeline holds facts and nothing but facts. What they mean (a latency, an expectation met) is worked out
from them afterwards, so a finished call can be judged again without calling anyone.

Every event carries ``at_ns``, its time on the call's clock in nanoseconds. Events are written as they become
known, so a file is not always in order of ``at_ns``: the onset of speech is known only a moment later, and the
words heard in a recording only when the call is over.
"""

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
    """How a call ended. Every ending has a name here; each is reached within a bounded time."""

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
    """How a line of the caller ended."""

    SAID = "said"
    """Played to its last sample."""
    CUT = "cut"
    """Broken off before its end."""


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    at_ns: int
    """Time on the call's clock, in nanoseconds."""

    @property
    def at_s(self) -> float:
        """Time on the call's clock, in seconds."""
        return self.at_ns / 1_000_000_000


class CallStarted(_Event):
    """The call's clock starts. The first event of every timeline."""

    type: Literal["call_started"] = "call_started"
    version: int = TIMELINE_VERSION
    run_id: str
    scenario: str
    room: str
    """The room's address without credentials or query."""
    wall_time: str
    """ISO 8601, UTC."""
    monotonic_ns: int
    """The machine's monotonic clock at the call's zero: relates the call to logs of the same machine."""


class RoomEntered(_Event):
    """The caller is in the room."""

    type: Literal["room_entered"] = "room_entered"


class AgentJoined(_Event):
    """The agent is in the room with audio we receive."""

    type: Literal["agent_joined"] = "agent_joined"
    participant: str | None = None


class MediaNotConnected(_Event):
    """The caller went on although media connections were not there after a while. What it sends may be lost."""

    type: Literal["media_not_connected"] = "media_not_connected"
    waited_ms: float
    sending: bool
    """Whether the caller's own connection was there."""
    receiving: bool
    """Whether the agent's audio could be received."""


class AgentLeft(_Event):
    """The agent left the room in an orderly way."""

    type: Literal["agent_left"] = "agent_left"
    detail: str | None = None


class AgentMediaStopped(_Event):
    """Nothing arrives from the agent any more. ``at_ns`` is the arrival of the last packet."""

    type: Literal["agent_media_stopped"] = "agent_media_stopped"


class AgentMediaResumed(_Event):
    """Packets arrive from the agent again after :class:`AgentMediaStopped`."""

    type: Literal["agent_media_resumed"] = "agent_media_resumed"


class AgentProbed(_Event):
    """Nothing arrived from the agent any more, and its address was tried once."""

    type: Literal["agent_probed"] = "agent_probed"
    answers: bool | None
    """True: something takes connections there. False: they are refused, its process is gone. Null: no answer."""


class AgentSessionEnded(_Event):
    """The agent was gone before the end, and whoever runs it says how its session ended."""

    type: Literal["agent_session_ended"] = "agent_session_ended"
    state: str
    """In that one's words. Pipecat Cloud: ``completed``, ``agent_error``, ``terminated``, ``active`` and others."""


class ClientReadySent(_Event):
    """RTVI ``client-ready`` went out."""

    type: Literal["client_ready_sent"] = "client_ready_sent"


class BotReady(_Event):
    """RTVI ``bot-ready`` arrived: the agent speaks RTVI."""

    type: Literal["bot_ready"] = "bot_ready"
    protocol_version: str | None = None
    about: dict[str, Any] | None = None


class DataMessagePublished(_Event):
    """The run's data message was handed to the room, once and unchanged."""

    type: Literal["data_message_published"] = "data_message_published"
    message: Any
    """As it is shown: ``***`` in place of what is secret."""


class CallerTurnStarted(_Event):
    """The caller took up a turn of the script."""

    type: Literal["caller_turn_started"] = "caller_turn_started"
    turn: int


class CallerStartedSpeaking(_Event):
    """First voiced sample of a line, as it left for the network."""

    type: Literal["caller_started_speaking"] = "caller_started_speaking"
    turn: int
    text: str


class CallerStoppedSpeaking(_Event):
    """Last voiced sample of a line, as it left for the network."""

    type: Literal["caller_stopped_speaking"] = "caller_stopped_speaking"
    turn: int
    end: LineEnd = LineEnd.SAID


class CallerPressedKeys(_Event):
    """Keys went out as an RTVI ``dtmf`` message."""

    type: Literal["caller_pressed_keys"] = "caller_pressed_keys"
    turn: int
    keys: str


class CallerUnderrun(_Event):
    """A line did not go out as it was to: for so long the agent received something else, or received it late."""

    type: Literal["caller_underrun"] = "caller_underrun"
    turn: int
    duration_ms: float
    kind: UnderrunKind = UnderrunKind.SILENCE


class CallerTurnSettled(_Event):
    """The caller took all that a turn expects to be decided, by what was known then.

    Written when it went on or hung up because of it. What the recording says afterwards may differ.
    """

    type: Literal["caller_turn_settled"] = "caller_turn_settled"
    turn: int
    failed: bool


class CallCalibrated(_Event):
    """What our own side adds to a measured time, found before the conversation began."""

    type: Literal["call_calibrated"] = "call_calibrated"
    loop_lag_ms: float
    """How late the event loop woke up at worst (95th percentile)."""
    send_lag_ms: float
    """How late the caller's packets left at worst (95th percentile)."""
    arrival_jitter_ms: float
    """Spread of the agent's packets around their timestamps (95th percentile above the earliest)."""
    library_ms: float = 0.0
    """How far off places may be because a library hands audio over without timestamps. Above 0, what the network's
    jitter adds is inside every latency."""


class HarnessStalled(_Event):
    """Our own side stood still for so long, from ``at_ns`` on: it noticed nothing and decided nothing."""

    type: Literal["harness_stalled"] = "harness_stalled"
    duration_ms: float


class MachineBusy(_Event):
    """Our own process waited long for a processor, from ``at_ns`` on: the machine had more to do than it can."""

    type: Literal["machine_busy"] = "machine_busy"
    duration_ms: float
    waited: float
    """For which share of the time in which it was ready to run it waited, from 0 to 1."""
    shared: bool
    """Whether the agent is known to run on the same machine."""


class AgentAudioLost(_Event):
    """A piece of the agent's audio never arrived; silence stands in its place."""

    type: Literal["agent_audio_lost"] = "agent_audio_lost"
    duration_ms: float


class AgentAudioLate(_Event):
    """A stretch of the agent's audio came later than its place says: its sender, or our own side, stood still.

    ``at_ns`` is where the stretch begins. Whoever listened may have heard what is in it so much later;
    or sooner, where its sender has caught up and the place is still that of audio that was late.
    """

    type: Literal["agent_audio_late"] = "agent_audio_late"
    duration_ms: float
    late_ms: float
    """How much later it came at most, or sooner."""


class CallerAudioLost(_Event):
    """The agent's side reports that packets of the caller's audio did not reach it (RTCP receiver report)."""

    type: Literal["caller_audio_lost"] = "caller_audio_lost"
    since_ns: int
    """Beginning of the span the report is about; ``at_ns`` is its end."""
    lost: int
    packets: int
    """How many were sent in the span."""


class AgentStartedSpeaking(_Event):
    """First sample of audible agent speech in the received audio."""

    type: Literal["agent_started_speaking"] = "agent_started_speaking"


class AgentStoppedSpeaking(_Event):
    """Last sample of audible agent speech in the received audio."""

    type: Literal["agent_stopped_speaking"] = "agent_stopped_speaking"


class AgentTurnEnded(_Event):
    """The caller took the agent's turn to be over. ``at_ns`` is when it decided so."""

    type: Literal["agent_turn_ended"] = "agent_turn_ended"


class AgentSaid(_Event):
    """Words of the agent.

    ``at_ns`` is when they were known: for told words when the message arrived, for heard words the end of the
    speech they were heard in.
    """

    type: Literal["agent_said"] = "agent_said"
    text: str
    source: Source
    started_ns: int | None = None
    """Onset of the speech the words were heard in, where that is known."""


class CallerHeardAs(_Event):
    """What the agent's own recognition made of the caller (RTVI ``user-transcription``, final)."""

    type: Literal["caller_heard_as"] = "caller_heard_as"
    text: str


class AgentCalledFunction(_Event):
    """The agent reported a function call. ``name`` and ``arguments`` are null where it keeps them to itself."""

    type: Literal["agent_called_function"] = "agent_called_function"
    call_id: str
    name: str | None = None
    arguments: dict[str, Any] | None = None


class AgentFunctionReturned(_Event):
    """The agent reported the end of a function call."""

    type: Literal["agent_function_returned"] = "agent_function_returned"
    call_id: str
    name: str | None = None
    result: Any = None
    cancelled: bool = False


class MessageReceived(_Event):
    """Any other message of the agent over the data channel: RTVI, or the application's own."""

    type: Literal["message_received"] = "message_received"
    message: Any


class AgentAudioQuality(_Event):
    """How the agent's audio was delivered, over the whole call. Written once, when the room is left."""

    type: Literal["agent_audio_quality"] = "agent_audio_quality"
    packets: int
    lost: int
    late: int
    """Packets that came too late to be played, and were left out."""
    jitter_ms: float
    """Interarrival jitter as RFC 3550 section 6.4.1 defines it."""
    reanchored: int
    """How often the stream's place on the call's clock had to be set anew."""


class CallerAudioQuality(_Event):
    """How the caller's audio was sent and delivered, over the whole call. Written once, when the room is left."""

    type: Literal["caller_audio_quality"] = "caller_audio_quality"
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


class AgentSpeechMeasured(_Event):
    """A stretch of the agent's speech, measured from the recording when the call was over.

    ``at_ns`` is its first audible sample. What is reported goes by these; what the live hearing made of the agent's
    speech steered the caller.
    """

    type: Literal["agent_speech_measured"] = "agent_speech_measured"
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


class RecordingMeasured(_Event):
    """The recording was measured: from here on the agent's speech is what was measured."""

    type: Literal["recording_measured"] = "recording_measured"
    method: int
    """Version of the method: other versions may find other edges."""
    bed_dbfs: float
    agent_dbfs: float | None
    """Level of the agent's speech; null where there is none."""
    too_loud: bool
    """Whether the background was too loud to tell the agent's speech from it in most of the call."""


class AgentError(_Event):
    """The agent reported an error of its own over RTVI (``error``, ``error-response``)."""

    type: Literal["agent_error"] = "agent_error"
    text: str
    fatal: bool = False


class AgentProcessEnded(_Event):
    """The command that runs the agent ended, where the runner started it."""

    type: Literal["agent_process_ended"] = "agent_process_ended"
    exit_code: int
    """Negative: ended by the signal of that number."""
    log_tail: str = ""
    """The last lines it printed."""


class CallEnded(_Event):
    """The call is over. Nothing that happens in the room comes after it."""

    type: Literal["call_ended"] = "call_ended"
    reason: EndedReason
    detail: str | None = None
    """One line for a person: what happened, and where it can be mended how."""


TimelineEvent = Annotated[
    CallStarted
    | RoomEntered
    | AgentJoined
    | MediaNotConnected
    | AgentLeft
    | AgentMediaStopped
    | AgentMediaResumed
    | AgentProbed
    | AgentSessionEnded
    | ClientReadySent
    | BotReady
    | DataMessagePublished
    | CallerTurnStarted
    | CallerStartedSpeaking
    | CallerStoppedSpeaking
    | CallerPressedKeys
    | CallerUnderrun
    | CallerTurnSettled
    | CallCalibrated
    | HarnessStalled
    | MachineBusy
    | AgentAudioLost
    | AgentAudioLate
    | CallerAudioLost
    | AgentStartedSpeaking
    | AgentStoppedSpeaking
    | AgentTurnEnded
    | AgentSaid
    | CallerHeardAs
    | AgentCalledFunction
    | AgentFunctionReturned
    | MessageReceived
    | AgentAudioQuality
    | CallerAudioQuality
    | AgentSpeechMeasured
    | RecordingMeasured
    | AgentError
    | AgentProcessEnded
    | CallEnded,
    Field(discriminator="type"),
]

EVENT_ADAPTER: TypeAdapter[TimelineEvent] = TypeAdapter(TimelineEvent)
"""Reads and writes one event, as one line of ``timeline.jsonl``."""
