"""Schedules."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from runner.api.schemas.common import Id, JsonObject, ResponseBody, Timestamp, Unset, Whole, WrittenBody
from runner.api.schemas.launch import RoomEntry
from runner.records.crontab import check_crontab, zones
from runner.records.firings import Trigger
from runner.records.schedules import Overlap
from runner.records.statuses import FiringState

ExecutionMode = Literal[
    "voice",
    "text",
    "sip",
    "vapi_webrtc",
    "retell_webrtc",
    "elevenlabs",
    "ello",
    "livekit_v2",
    "pipecat_v2",
    "agora",
    "pipecat",
]
NotifyOn = Literal["never", "success", "failure", "both"]

MAX_ROOMS = 1_000
MAX_BASELINES = 20

_Name = Annotated[str, StringConstraints(max_length=200, strip_whitespace=True)]
_Expression = Annotated[str, StringConstraints(max_length=100, strip_whitespace=True)]
_Zone = Annotated[str, StringConstraints(max_length=60)]
_Tag = Annotated[str, StringConstraints(min_length=1, max_length=100, strip_whitespace=True)]

Baseline = Literal["previous"] | Id | Annotated[list[Id], Field(min_length=1, max_length=MAX_BASELINES)]
"""Results, or the schedule's own last ones."""

IN_DATA = (
    "personality",
    "personalities",
    "test_profiles",
    "tags",
    "frequency",
    "concurrency_limit",
    "run_as_text",
    "notify_on",
    "overlap",
    "baseline",
)
"""What has no column of its own."""


class CronJobFields(WrittenBody):
    """What a schedule has besides when it is due.

    Attributes:
        agent: The agent; by default that of the first scenario.
        name: What it is called.
        timezone: IANA name in which the expression is read.
        scenarios: Ids of what is run.
        personality: One in place of ``personalities``.
        personalities: In place of the scenarios' own.
        test_profiles: In place of the scenarios' own.
        tags: In place of ``scenarios``: those of the agent that have any of these tags when it fires.
        rooms: Ours: in place of ``scenarios`` and ``tags``: scenarios, each with the room it is played in every time,
            as ``run_scenarios_pipecat`` takes them. Tokens are kept encrypted; ``rooms_data`` shows the rest.
        frequency: Runs per scenario.
        concurrency_limit: How many runs at once.
        run_as_text: Refused: runs are calls.
        execution_mode: How it is run: ``pipecat_v2``, in sessions that are started, or ``pipecat``, in ``rooms``.
        notify_on: Of which firings the webhooks of agent or project are told: those that passed (``success``), the
            others (``failure``), ``both``, or ``never``.
        is_active: Whether it fires. False pauses it.
        overlap: Ours: what a firing does while the one before it is still on: ``skip``, ``queue`` (waits for it; one
            at most) or ``both`` (is launched beside it).
        baseline: Ours: what each of its results is compared with: a result, several, or ``previous``: its own last
            five that got no worse and in which a run passed. A firing fails if a scenario got worse.
    """

    agent: Id | None = None
    name: _Name | None = None
    timezone: _Zone = "UTC"
    scenarios: Annotated[list[Id], Field(max_length=10_000)] | None = None
    personality: Id | None = None
    personalities: Annotated[list[Id], Field(max_length=100)] | None = None
    test_profiles: Annotated[list[Id], Field(max_length=100)] | None = None
    tags: Annotated[list[_Tag], Field(max_length=100)] | None = None
    rooms: Annotated[list[RoomEntry], Field(max_length=MAX_ROOMS)] | None = None
    frequency: Annotated[int, Whole, Field(ge=1, le=100)] = 1
    concurrency_limit: Annotated[int, Whole, Field(ge=1, le=10_000)] | None = None
    run_as_text: bool = False
    execution_mode: ExecutionMode | None = None
    notify_on: NotifyOn = "never"
    is_active: bool = True
    overlap: Literal["skip", "queue", "both"] = "queue"
    baseline: Baseline | None = None

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, name: str) -> str:
        if name not in zones():
            raise ValueError("Not a time zone; give an IANA name such as Europe/Berlin.")
        return name

    @field_validator("run_as_text")
    @classmethod
    def _is_no_text(cls, as_text: bool) -> bool:
        if as_text:
            raise ValueError("Runs are calls here, and never text; leave it out.")
        return as_text

    @field_validator("execution_mode")
    @classmethod
    def _is_pipecat(cls, mode: str | None) -> str | None:
        if mode not in (None, "pipecat_v2", "pipecat"):
            raise ValueError("Schedules call Pipecat agents here, and nothing else; send pipecat_v2.")
        return mode


class CronJobPatch(CronJobFields):
    """What of a schedule is to be changed."""

    crontab_expression: _Expression = Unset

    @field_validator("crontab_expression")
    @classmethod
    def _is_crontab(cls, expression: str) -> str:
        return check_crontab(expression)


class CronJobBody(CronJobFields):
    """A whole schedule."""

    crontab_expression: _Expression

    @field_validator("crontab_expression")
    @classmethod
    def _is_crontab(cls, expression: str) -> str:
        return check_crontab(expression)


class ScenarioData(ResponseBody):
    """A scenario as a schedule shows it."""

    id: int
    agent: int | None
    name: str
    personality: int | None
    personality_name: str | None


class RoomData(ResponseBody):
    """A room of a schedule, without what is secret about it."""

    scenario: int
    pipecat_room_url: str
    has_token: bool
    has_data_message: bool
    participant_name: str | None


class Firing(ResponseBody):
    """Ours: one time at which a schedule was due, or was run by hand.

    Attributes:
        trigger: ``clock``; ``catch_up``: it was due earlier, and no server fired it then; ``manual``.
        due_at: When it was due.
        fired_at: When its result was launched; null if none was.
        missed: How many firings before it were missed, which it makes up for.
        state: ``queued``, ``running``, or what it came to: ``passed``, ``failed``, ``inconclusive``, ``skipped``.
        reason: Why, in words.
        result: The result that it launched.
        comparison: How that compares with the schedule's baseline.
        ended_at: When it came to what it came to.
    """

    id: int
    cron_job: int
    trigger: Trigger
    due_at: Timestamp
    fired_at: Timestamp | None
    missed: int
    state: FiringState
    reason: str
    result: int | None
    comparison: JsonObject | None
    ended_at: Timestamp | None


class CronJob(ResponseBody):
    """A schedule.

    Attributes:
        rooms_data: The rooms it is played in.
        next_due_at: When it fires next; null while it is paused.
        configured: Whether it comes from the server's file of schedules, and can be changed there alone.
        last_firing: Its latest firing.
    """

    id: int
    agent: int | None
    name: str
    crontab_expression: str
    timezone: str
    scenario_ids: list[int]
    scenarios_data: list[ScenarioData]
    personality: int | None
    personalities: list[int]
    test_profiles: list[int]
    tags: list[str]
    frequency: int
    run_as_text: bool
    execution_mode: str
    notify_on: str
    is_active: bool
    overlap: Overlap
    baseline: Baseline | None
    rooms_data: list[RoomData]
    next_due_at: Timestamp | None
    configured: bool
    last_firing: Firing | None
    created_by: int | None
    created_via: str
    created_at: Timestamp
    updated_at: Timestamp


for _body in (CronJobPatch, CronJobBody):
    _body.READ_ONLY = frozenset(CronJob.model_fields)
