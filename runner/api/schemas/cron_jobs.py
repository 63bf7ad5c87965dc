"""Schedules."""

from runner.api.schemas.common import ResponseBody, Timestamp, shows
from runner.records.fields import Baseline, CronJobFields, Expression
from runner.records.firings import Trigger
from runner.records.schedules import Overlap
from runner.records.statuses import FiringState
from runner.records.written import JsonObject, Unset


class CronJobPatch(CronJobFields):
    """What of a schedule is to be changed."""

    crontab_expression: Expression = Unset


class CronJobBody(CronJobFields):
    """A whole schedule."""

    crontab_expression: Expression


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


@shows(CronJobFields)
class CronJob(ResponseBody):
    """A schedule.

    Attributes:
        rooms_data: The rooms it is played in.
        next_due_at: When it fires next; null while it is paused.
        configured: Whether it comes from the server's file of schedules, and can be changed there alone.
        last_firing: Its latest firing.
    """

    id: int
    name: str
    crontab_expression: str
    scenario_ids: list[int]
    scenarios_data: list[ScenarioData]
    execution_mode: str
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
