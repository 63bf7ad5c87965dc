"""The messages between workers and the API, all below ``/worker/v1``.

A worker has an address and a key. It polls: it says who it is, what it can take, and what it has; the answer brings
runs to make, and what to do about those it has. The poll is its sign of life, and the lease of its runs.
"""

from enum import StrEnum
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, SecretStr, SerializationInfo, model_validator

from runner.evaluation.asked import NOTHING, Asked

VERSION = 3
"""Of these messages. Who speaks another one is refused, and told so in one line."""

ROOT = "/worker/v1"
MAX_RUNS = 1_000
"""How many runs a worker tells of at once."""

MAX_EVENTS = 1_000
"""How many events come at once."""

MAX_REPORT_BYTES = 16_000_000
"""The largest outcome: two hours of talk, with everything that was said and expected, are a fraction of it."""

PART_BYTES = 4_000_000
"""How much of a file goes up at once: what has to be sent again where a connection breaks."""

SOUND_RATE_HZ = 24_000
"""Of the sound of a call that is passed on: 16-bit PCM, the caller on the left, the agent on the right."""

SOUND_FRAME_BYTES = 4
"""A sample of each side."""

MAX_SOUND_BYTES = 2 * SOUND_RATE_HZ * SOUND_FRAME_BYTES
"""How much sound comes at once: two seconds. What is older is not passed on any more."""

WORKER_LOST = "worker lost"
"""How the reason begins why a run ended that went with its worker."""

RunId = Annotated[int, Field(ge=1, le=2**63 - 1)]
Attempt = Annotated[int, Field(ge=1, le=2**31 - 1)]
Executor = Annotated[str, Field(pattern=r"^[\w.:-]{1,200}$")]
"""The id of a worker's process: no other has it, nor had it before."""

Detail = Annotated[str, Field(max_length=4_000)]

_ON_THE_WIRE = "on the wire"


def _revealed(secret: SecretStr | None, info: SerializationInfo) -> str | None:
    if secret is None:
        return None
    return secret.get_secret_value() if info.context == _ON_THE_WIRE else str(secret)


Secret = Annotated[SecretStr, PlainSerializer(_revealed, return_type=str | None)]
"""Is in clear on the wire, and nowhere else."""


class WorkerState(StrEnum):
    """What a worker is ready for."""

    TAKING = "taking"
    """It takes runs, as many as it says."""
    PAUSED = "paused"
    """It sees its calls through, and takes no more for now: it says why."""
    DRAINING = "draining"
    """It was told to stop: it sees its calls through, and takes no more."""
    STOPPED = "stopped"
    """It ended in good order."""
    LOST = "lost"
    """It did not poll for longer than its lease, or its process died."""


class Message(BaseModel):
    """A message, or a part of one. Unknown fields are passed over: within a version, fields may be added."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    def on_the_wire(self) -> bytes:
        """Return it as it is sent: with its secrets."""
        return self.model_dump_json(context=_ON_THE_WIRE).encode()


AnyMessage = TypeVar("AnyMessage", bound=Message)


class Hello(Message):
    """How the API answers a worker that asks whether it is the one, and takes its key."""

    protocol: int
    version: str
    """Of the program."""
    lease_s: float
    """How long a worker keeps its runs without being answered."""


class WorkerInfo(Message):
    """Who a worker is, and what it can do.

    Attributes:
        name: Its machine and place there: stays the same when its process is started anew.
        version: Of its program.
        rooms: The kinds of rooms it can enter, as :class:`runner.rooms.urls.RoomKind` has them.
        calls: How many calls it makes at once.
    """

    executor: Executor
    name: Annotated[str, Field(max_length=200)]
    version: Annotated[str, Field(max_length=40)]
    rooms: Annotated[tuple[Annotated[str, Field(max_length=20)], ...], Field(max_length=20)]
    calls: Annotated[int, Field(ge=1, le=1_000)]


class Load(Message):
    """How a worker fares. What is counted is counted since its process started.

    Attributes:
        loop_lag_ms: The longest its event loop was late within the last seconds.
        underruns: How often a call of its had no audio to send.
    """

    loop_lag_ms: Annotated[float, Field(ge=0)] = 0.0
    underruns: Annotated[int, Field(ge=0)] = 0
    calls_made: Annotated[int, Field(ge=0)] = 0


class OfRun(Message):
    """What is said of an attempt at a run. Attempts count from 1."""

    run_id: RunId
    attempt: Attempt

    @property
    def key(self) -> tuple[int, int]:
        """The run and the attempt."""
        return self.run_id, self.attempt


class RunNow(OfRun):
    """A run that a worker has, and how far that is.

    Attributes:
        is_evaluating: Whether its call is over.
        joined: Whether the caller is in the room with the agent, or was.
        said: Whether anything was said or published there.
        is_watched: Whether the worker passes its events on.
        is_listened_to: Whether the worker passes its sound on; None: it is of a release that can't.
        is_ending: Whether the worker knows that it is to end.
    """

    is_evaluating: bool = False
    joined: bool = False
    said: bool = False
    is_watched: bool = False
    is_listened_to: bool | None = None
    is_ending: bool = False


class Kept(OfRun):
    """An outcome on a worker's disk that the record has not taken."""

    may_end: bool
    """Whether the run may end by it; otherwise it is released by it."""


class Poll(Message):
    """A worker's sign of life.

    Attributes:
        protocol: The version of these messages that the worker speaks.
        number: Counts its polls: of two the higher one is the later one, in whichever order they come.
        why: Why it takes no runs, if it takes none for now; shown to people.
        waits: Whether the answer may wait until there is something to tell.
        runs: The runs it has: from when it takes one on until its outcome is reported or on its disk.
        kept: The outcomes on its disk.
    """

    protocol: int
    worker: WorkerInfo
    number: Annotated[int, Field(ge=1, le=2**62)]
    state: WorkerState = WorkerState.TAKING
    why: Annotated[str, Field(max_length=200)] = ""
    waits: bool = False
    runs: Annotated[tuple[RunNow, ...], Field(max_length=MAX_RUNS)] = ()
    kept: Annotated[tuple[Kept, ...], Field(max_length=MAX_RUNS)] = ()
    load: Load = Load()


class SessionStart(Message):
    """How a session of the agent is started.

    Attributes:
        transport: ``daily`` or ``webrtc``; None leaves it to the other side.
        data: The body that reaches the agent.
        room_properties: Of the Daily room that comes with it.
        credential: Goes along as a bearer header, if there is one.
        private_key: Asks Pipecat Cloud about sessions, and stops them; ``credential`` starts them.
        start_timeout_s: How long starting may take; None as sessions have it.
        agent_join_timeout_s: How long the agent may take to be in the room; None as the worker's settings have it.
        bot_ready_timeout_s: How long to wait for the agent to say that it is ready; None likewise.
    """

    start_url: str
    transport: str | None = None
    data: dict[str, Any] = Field(default_factory=dict, repr=False)
    room_properties: dict[str, Any] = Field(default_factory=dict, repr=False)
    credential: Secret | None = None
    private_key: Secret | None = None
    start_timeout_s: float | None = None
    agent_join_timeout_s: float | None = None
    bot_ready_timeout_s: float | None = None


class Job(OfRun):
    """A run to make: everything that its call needs.

    Attributes:
        script: What the caller does: a dump of :class:`bots.caller.script.Script`.
        notes: What of the scenario is played otherwise than it says.
        room_url: The room; None where a session is to be started.
        data_message: ``{"value": …}`` where a message is to be published; with ``shown`` where that is shown of it.
        session_data: What an agent gets that is started in ``room_url``, where that is a Pipecat runner.
        allow_unjudged: Whether the run passes although expectations were not judged or not observable.
        asked: What is asked for besides the script.
        participant_name: The agent's user name in a Daily room; None: as the worker's settings have it.
        allowed_rooms: The hosts that the record allows, as the setting ``server.allowed_rooms`` has them.
        allow_loopback: Whether it allows the worker's own machine.
    """

    scenario: str
    script: dict[str, Any] = Field(repr=False)
    notes: tuple[str, ...] = ()
    room_url: str | None = Field(default=None, repr=False)
    token: Secret | None = None
    data_message: dict[str, Any] | None = Field(default=None, repr=False)
    session: SessionStart | None = None
    session_data: dict[str, Any] = Field(default_factory=dict, repr=False)
    transcribe: bool = True
    allow_unjudged: bool = False
    asked: Asked = Field(default=NOTHING, repr=False)
    participant_name: str | None = None
    allowed_rooms: tuple[str, ...] = ()
    allow_loopback: bool = False


class Order(OfRun):
    """What to do about a run that a worker told of.

    Attributes:
        counts: Whether this attempt counts (any more), and has not ended. If not, its call is to end at once.
        is_cancelled: Whether its call is to end in good order.
        is_watched: Whether somebody watches it: then its events are to be passed on.
        is_listened_to: Whether somebody listens to it: then its sound is to be passed on.
    """

    counts: bool
    is_cancelled: bool = False
    is_watched: bool = False
    is_listened_to: bool = False


class Answer(Message):
    """How the API answers a poll. The same job may come again until the worker tells of it."""

    lease_s: float
    """How long the worker keeps its runs without being answered."""
    jobs: tuple[Job, ...] = ()
    orders: tuple[Order, ...] = ()
    """About each run that the worker told of."""


class Events(Message):
    """Events of a call, in the order of its timeline, for whoever watches it live.

    Attributes:
        call: Which call of the attempt it is: one that the harness or the network spoilt is made again.
        first: How many of the call came before the first of these.
    """

    attempt: Attempt
    call: Attempt = 1
    first: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    events: Annotated[tuple[dict[str, Any], ...], Field(max_length=MAX_EVENTS)]


class EventsTaken(Message):
    """Which event is wanted next."""

    next: int | None
    """How many there are by now; None where nobody watches (any more)."""


class Problem(Message):
    """Why a run came to no call.

    Attributes:
        cause: Whose fault it was, as :class:`runner.evaluation.verdicts.Cause` has it.
        reason: How it ended, as :class:`bots.timeline.EndedReason` has it.
        detail: What happened, in one line; holds no token.
    """

    cause: Annotated[str, Field(max_length=20)]
    reason: Annotated[str, Field(max_length=40)]
    detail: Detail = ""


class Release(Message):
    """That a run was broken off, and somebody else may take it.

    Attributes:
        detail: Why, in one line.
        said: Whether anything was said or published in it.
        may_end: Whether the run may end by it, so that its facts are worth keeping.
    """

    detail: Detail
    said: bool
    may_end: bool


class Report(OfRun):
    """What came of an attempt at a run: a run, or why there was no call, or that it is released.

    Attributes:
        executor: The worker it was given to.
        run: ``run.json`` without its script.
        owed: The files of it that could not be taken yet, and come later.
    """

    executor: Executor
    run: dict[str, Any] | None = Field(default=None, repr=False)
    problem: Problem | None = None
    release: Release | None = None
    owed: Annotated[tuple[str, ...], Field(max_length=10)] = ()

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if sum(what is not None for what in (self.run, self.problem, self.release)) != 1:
            raise ValueError("is none of run, problem and release, or more than one")
        return self

    @property
    def may_end(self) -> bool:
        """Whether the run may end by it."""
        return self.release is None or self.release.may_end

    @property
    def kept(self) -> Kept:
        """It, as long as it is on a worker's disk."""
        return Kept(run_id=self.run_id, attempt=self.attempt, may_end=self.may_end)


class Receipt(Message):
    """What became of a report."""

    counted: bool
    """Whether the record holds it. False where the attempt does not count (any more)."""
    waits_again: bool = False
    """Whether the run was released and waits for a worker."""


class Stored(Message):
    """How many bytes of a file are there, and whether these are all."""

    size: int
    is_whole: bool


class Gone(Message):
    """That a worker's process is dead: its parent says so."""

    executor: Executor
    kept: Annotated[tuple[Kept, ...], Field(max_length=MAX_RUNS)] = ()
    """The outcomes that it left on its disk, from which they will come."""


def hold_s(lease_s: float, *, has_runs: bool) -> float:
    """Return how long the answer to a poll may wait.

    A worker counts its lease from when it sent the last poll that was answered. So the wait is short where it has
    runs: it is what the lease loses of the time that an API may be away. Without runs there is nothing to lose.
    """
    return lease_s / 8 if has_runs else lease_s * 0.45


def leaving_s(lease_s: float) -> float:
    """Return how long after a lease its runs go to others: a caller needs a moment to leave its room."""
    return lease_s / 4
