"""What workers and the record tell each other."""

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, StringConstraints, model_validator

from runner.api.schemas.common import Id, RequestBody, ResponseBody
from runner.evaluation.asked import Asked
from runner.records.endings import RunProblem
from runner.records.jobs import Job

MAX_EVENTS = 1_000
"""How many events come at once."""

MAX_RUNS = 1_000
"""How many runs a worker tells of at once."""

Attempt = Annotated[int, Field(ge=1, le=2**31 - 1)]


class ClaimBody(RequestBody):
    """Who takes a run, and for which attempt it was given to it."""

    attempt: Attempt
    executor: Annotated[str, StringConstraints(min_length=1, max_length=200)]


class RunClaim(ClaimBody):
    """One of several runs that are taken at once."""

    run_id: Id


class ClaimsBody(RequestBody):
    """Which runs are taken, and who takes them."""

    claims: Annotated[list[RunClaim], Field(min_length=1, max_length=MAX_RUNS)]


class SessionBody(ResponseBody):
    """How a session of the agent is started; see :class:`runner.records.jobs.SessionStart`."""

    start_url: str
    transport: str | None
    data: dict[str, Any] = Field(repr=False)
    room_properties: dict[str, Any] = Field(repr=False)
    credential: str | None = Field(repr=False)
    private_key: str | None = Field(default=None, repr=False)
    start_timeout_s: float | None
    agent_join_timeout_s: float | None
    bot_ready_timeout_s: float | None


class JobBody(ResponseBody):
    """What a worker needs to make a call, tokens in clear; see :class:`runner.records.jobs.Job`."""

    run_id: int
    attempt: int
    scenario: str
    script: dict[str, Any] = Field(repr=False)
    notes: list[str]
    room_url: str | None = Field(repr=False)
    token: str | None = Field(repr=False)
    data_message: dict[str, Any] | None
    session: SessionBody | None
    session_data: dict[str, Any] = Field(repr=False)
    transcribe: bool = True
    allow_unjudged: bool = False
    asked: Asked = Field(repr=False)
    participant_name: str | None = None

    @classmethod
    def of(cls, job: Job) -> "JobBody":
        """Return a job as it goes to its worker."""
        start = job.session
        session = None
        if start is not None:
            session = SessionBody(
                start_url=start.start_url,
                transport=start.transport,
                data=start.data,
                room_properties=start.room_properties,
                credential=_revealed(start.credential),
                private_key=_revealed(start.private_key),
                start_timeout_s=start.start_timeout_s,
                agent_join_timeout_s=start.agent_join_timeout_s,
                bot_ready_timeout_s=start.bot_ready_timeout_s,
            )
        return cls(
            run_id=job.run_id,
            attempt=job.attempt,
            scenario=job.scenario,
            script=job.script,
            notes=list(job.notes),
            room_url=job.room_url,
            token=_revealed(job.token),
            data_message=job.data_message,
            session=session,
            session_data=job.session_data,
            asked=job.asked,
            participant_name=job.participant_name,
        )


class Jobs(ResponseBody):
    """The jobs of those of several runs that could be taken."""

    jobs: list[JobBody]


class RunProgress(RequestBody):
    """How far a run has come.

    Attributes:
        run_id: The run.
        attempt: The attempt this is of.
        status: Whether the call is on, or being judged.
        joined: Whether the caller is in the room with the agent, or was.
        said: Whether either side has said something, or a data message was published.
    """

    run_id: Id
    attempt: Attempt
    status: Literal["running", "evaluating"]
    joined: bool = False
    said: bool = False


class ProgressBody(RequestBody):
    """How far the runs of a worker have come: all that it works on."""

    runs: Annotated[list[RunProgress], Field(max_length=MAX_RUNS)]


class RunOrder(ResponseBody):
    """What a worker is to do about a run.

    Attributes:
        run_id: The run.
        attempt: The attempt that it told of.
        executor: The worker that has the run, or had it when it ended.
        counts: Whether this attempt counts (any more), and has not ended.
        cancel_requested: Whether the call is to be broken off.
        events_from: How many of its events are here, where somebody watches it and wants the others; null where
            nobody does.
    """

    run_id: int
    attempt: int
    executor: str | None
    counts: bool
    cancel_requested: bool
    events_from: int | None


class RunOrders(ResponseBody):
    """What a worker is to do about the runs that it told of."""

    runs: list[RunOrder]


class ReleaseBody(RequestBody):
    """Why a worker gives a run back.

    Attributes:
        attempt: The attempt this is of.
        detail: In one line; what the run fails with if it has to end.
        said: Whether either side has said something, or a data message was published.
    """

    attempt: Attempt
    detail: Annotated[str, StringConstraints(max_length=4_000)]
    said: bool


class Released(ResponseBody):
    """Whether a run that was given back waits again, and did not end; null if it had ended before."""

    again: bool | None


class EventsBody(RequestBody):
    """Events of the timeline, in the order they were written.

    Attributes:
        attempt: The attempt this is of.
        first: How many came before the first of these.
        events: The events.
    """

    attempt: Attempt
    first: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    events: Annotated[list[dict[str, Any]], Field(max_length=MAX_EVENTS)]


class Stored(ResponseBody):
    """How large what was stored is, in bytes."""

    size: int


class OutcomeBody(RequestBody):
    """What a run came to: a call, or the reason why there was none."""

    attempt: Attempt
    run: Annotated[dict[str, Any], Field(description="run.json without its script")] | None = None
    error: RunProblem | None = None

    @model_validator(mode="after")
    def _is_one(self) -> "OutcomeBody":
        if (self.run is None) == (self.error is None):
            raise ValueError("Give run or error, and not both.")
        return self


class RunOutcome(OutcomeBody):
    """What one of several runs came to."""

    run_id: Id


class OutcomesBody(RequestBody):
    """What several runs came to."""

    outcomes: Annotated[list[RunOutcome], Field(min_length=1, max_length=MAX_RUNS)]


class Answer(ResponseBody):
    """What became of one of several outcomes.

    Attributes:
        accepted: Whether the record holds it. False too where the attempt does not count (any more).
        error: What is wrong with it; null where it can be read.
    """

    accepted: bool
    error: str | None


class Answers(ResponseBody):
    """What became of several outcomes, in their order."""

    answers: list[Answer]


class Accepted(ResponseBody):
    """Whether the record holds this outcome."""

    accepted: bool


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
