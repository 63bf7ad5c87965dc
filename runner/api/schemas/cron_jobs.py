"""Schedules."""

import zoneinfo
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Literal

from croniter import CroniterError, croniter
from pydantic import Field, StringConstraints, field_validator

from runner.api.schemas.common import Id, ResponseBody, Timestamp, Unset, Whole, WrittenBody

ExecutionMode = Literal[
    "voice", "text", "sip", "vapi_webrtc", "retell_webrtc", "elevenlabs", "ello", "livekit_v2", "pipecat_v2", "agora"
]
NotifyOn = Literal["never", "success", "failure", "both"]

_Name = Annotated[str, StringConstraints(max_length=200, strip_whitespace=True)]
_Expression = Annotated[str, StringConstraints(max_length=100, strip_whitespace=True)]
_Zone = Annotated[str, StringConstraints(max_length=60)]
_Tag = Annotated[str, StringConstraints(min_length=1, max_length=100, strip_whitespace=True)]

IN_DATA = (
    "personality",
    "personalities",
    "test_profiles",
    "tags",
    "frequency",
    "concurrency_limit",
    "run_as_text",
    "execution_mode",
    "notify_on",
)
"""What has no column of its own."""


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


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
        tags: In place of ``scenarios``: those of the agent with any of these tags.
        frequency: Runs per scenario.
        concurrency_limit: How many runs at once.
        run_as_text: Refused: runs are calls.
        execution_mode: How it is run: ``pipecat_v2``.
        notify_on: When somebody is told: never, for nobody is.
        is_active: Whether it is due at all. False alone is taken: nothing fires schedules here yet.
    """

    agent: Id | None = None
    name: _Name | None = None
    timezone: _Zone = "UTC"
    scenarios: Annotated[list[Id], Field(max_length=10_000)] | None = None
    personality: Id | None = None
    personalities: Annotated[list[Id], Field(max_length=100)] | None = None
    test_profiles: Annotated[list[Id], Field(max_length=100)] | None = None
    tags: Annotated[list[_Tag], Field(max_length=100)] | None = None
    frequency: Annotated[int, Whole, Field(ge=1, le=100)] = 1
    concurrency_limit: Annotated[int, Whole, Field(ge=1, le=10_000)] | None = None
    run_as_text: bool = False
    execution_mode: ExecutionMode = "pipecat_v2"
    notify_on: NotifyOn = "never"
    is_active: bool = True

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, name: str) -> str:
        if name not in _zones():
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
    def _is_pipecat(cls, mode: str) -> str:
        if mode != "pipecat_v2":
            raise ValueError("Schedules start sessions of Pipecat agents here, and nothing else; send pipecat_v2.")
        return mode

    @field_validator("notify_on")
    @classmethod
    def _notifies_nobody(cls, notify_on: str) -> str:
        if notify_on != "never":
            raise ValueError("Nobody is notified of results here yet; send never, and read the result.")
        return notify_on


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


def check_crontab(expression: str) -> str:
    """Return an expression of five fields that comes due some day.

    Raises:
        ValueError: It is none.
    """
    if len(expression.split()) != 5:
        raise ValueError("A crontab expression has five fields: minute, hour, day of month, month, day of week.")
    try:
        croniter(expression, datetime.now(UTC)).get_next(datetime)
    except (CroniterError, ValueError, KeyError, TypeError, OverflowError):
        raise ValueError("Not a crontab expression, or one that never comes due.") from None
    return expression


class ScenarioData(ResponseBody):
    """A scenario as a schedule shows it."""

    id: int
    agent: int | None
    name: str
    personality: int | None
    personality_name: str | None


class CronJob(ResponseBody):
    """A schedule."""

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
    created_by: int | None
    created_via: str
    created_at: Timestamp
    updated_at: Timestamp


for _body in (CronJobPatch, CronJobBody):
    _body.READ_ONLY = frozenset(CronJob.model_fields)
