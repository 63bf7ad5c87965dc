"""Results."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from runner.api.schemas.common import ResponseBody, Timestamp, of_row
from runner.api.schemas.launch import MAX_ENTRIES, RerunEntry
from runner.api.schemas.runs import Metric, ResultRun, clock, measured
from runner.evaluation.verdicts import Cause
from runner.metrics.latency import latency
from runner.metrics.registry import metric_ids
from runner.records.jobs import shown_settings
from runner.records.results import Counts
from runner.records.statuses import ResultStatus, RunStatus
from runner.records.tables import ResultRow, RunRow
from runner.records.written import Id, WrittenBody

MAX_ISSUES = 10

_Ids = Annotated[list[Id], Field(min_length=1, max_length=10_000)]


class NamedScenario(ResponseBody):
    """A scenario's id and name."""

    id: int
    name: str


class RunSummary(ResponseBody):
    """A run in a list of results."""

    id: int
    status: RunStatus
    success: bool | None
    scenario: int | None
    scenario_name: str


class ResultCommon(ResponseBody):
    """What the list and the detail of results have in common.

    Attributes:
        completed_runs_count: Runs that have ended, in whatever way.
        success_runs_count: Those of them that passed.
        failed_runs_count: Those of them that did not, for whatever reason: with those that passed, all.
        met_expected_outcome_count: Runs whose expected outcome was met.
        total_expected_outcome_count: Runs whose expected outcome was decided on.
        inconclusive_runs_count: Ours: those of the failed ones that are inconclusive.
        success_rate: Runs that passed of all but the inconclusive, from 0 to 100; 0 where nothing else is left.
    """

    id: int
    name: str
    agent: int | None
    agent_name: str
    agent_version: None = None
    status: ResultStatus
    run_type: str
    run_settings: dict[str, Any]
    run_as_text: bool
    is_cronjob: bool
    created_at: Timestamp
    updated_at: Timestamp
    total_runs_count: int
    completed_runs_count: int
    success_runs_count: int
    failed_runs_count: int
    inconclusive_runs_count: int
    met_expected_outcome_count: int
    total_expected_outcome_count: int
    success_rate: float


class ResultItem(ResultCommon):
    """A result in a list."""

    agent_inbound: bool | None
    runs: list[RunSummary]


class OverallEvaluation(ResponseBody):
    """The measures over all runs; the inconclusive are left out of the rate."""

    success_rate: float
    inconclusive_runs_count: int
    metric_summary: dict[str, Metric]
    worst_performing_metrics: list[Metric] = Field(default_factory=list[Metric])
    numeric_metrics: list[Metric]
    enum_metrics: list[Metric] = Field(default_factory=list[Metric])
    extra_metrics: list[Metric] = Field(default_factory=list[Metric])


class Issue(ResponseBody):
    """Runs that failed in the same way."""

    rank: int
    run_ids: list[int]
    description: str
    affected_count: int


class FailedReasons(ResponseBody):
    """Why runs failed, the most frequent reason first."""

    issues: list[Issue]
    total_failed_runs: int


class Result(ResultCommon):
    """A result.

    Attributes:
        total_duration: Of all calls together, ``MM:SS``.
        runs: By their ids: all of them, or those on the page that was asked for.
        runs_next: Ours: the absolute address of the page of runs after this one; null on the last, and where no page
            was asked for.
        runs_previous: Ours: that of the page before.
        connected_runs: Whose caller was in the room with the agent.
        not_connected_runs: That ended without.
        successful_calls: That passed.
        failed_infrastructure_runs: That ended without a verdict, for no fault of the agent.
        failed_workflow_runs: In which the agent failed.
    """

    total_duration: str
    scenarios: list[NamedScenario]
    runs: dict[str, ResultRun]
    runs_next: str | None = None
    runs_previous: str | None = None
    connected_runs: list[int]
    not_connected_runs: list[int]
    successful_calls: list[int]
    failed_infrastructure_runs: list[int]
    failed_workflow_runs: list[int]
    overall_evaluation: OverallEvaluation
    runs_by_tags: dict[str, list[int]]
    metrics: list[int]
    critical_categories: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    failed_reasons: FailedReasons
    ai_summary: None = None
    ai_summary_status: None = None
    next_steps: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])


class RerunBody(WrittenBody):
    """What is to be run again.

    Attributes:
        run_ids: These runs; without it all of them.
        name: A label; without it the result's.
        runs: Ours: what some of them are made again with, such as a token in place of one that was erased.
    """

    run_ids: _Ids | None = None
    name: Annotated[str, Field(max_length=200)] | None = None
    runs: Annotated[list[RerunEntry], Field(max_length=MAX_ENTRIES)] | None = None


class DeleteRunsBody(WrittenBody):
    """Runs to be deleted, at most a hundred."""

    run_ids: Annotated[list[Id], Field(min_length=1, max_length=100)]


class EvaluateMetricsBody(WrittenBody):
    """Runs, and what is to be measured of them."""

    run_ids: _Ids
    metric_ids: Annotated[list[Id], Field(min_length=1, max_length=100)]


class Evaluated(ResponseBody):
    """What measuring again came to."""

    status: str
    detail: str
    run_ids: list[int]
    metric_ids: list[int]


class EndCallsBody(WrittenBody):
    """Which calls are to end: all of the result's, or these runs'."""

    run_ids: _Ids | None = None


class ShareBody(WrittenBody):
    """How long a link is to hold: for ever, or until then."""

    expire_at: Annotated[datetime, Field(strict=False)] | None = None


class Shared(ResponseBody):
    """A link to a result.

    Attributes:
        token: Goes into the header ``X-VOCERA-SHAREABLE-LINK-TOKEN``. It is not told again.
        shareable_link: The result's address, with the token as a fragment: browsers keep that to themselves.
    """

    token: str
    shareable_link: str


class Contribution(NamedTuple):
    """What a run adds to the figures of its result: kept of it, where the run itself would be too much."""

    id: int
    scenario: tuple[int | None, str]
    has_ended: bool
    passed: bool | None
    success: bool | None
    cause: str | None
    joined: bool
    duration_s: float
    tags: tuple[str, ...]
    latencies_ms: tuple[float, ...]
    reason: str
    """Why it did not pass; empty where it did, or has not ended."""


def contribution(row: RunRow) -> Contribution:
    """Return that of a run."""
    return Contribution(
        id=row.id,
        scenario=(row.scenario_id, row.scenario_name),
        has_ended=row.has_ended,
        passed=row.passed,
        success=row.success,
        cause=row.cause,
        joined=row.joined_at is not None,
        duration_s=row.duration_s or 0.0,
        tags=tuple(row.snapshot.get("tags") or ()),
        latencies_ms=tuple(row.latencies_ms),
        reason="" if row.passed is not False else row.detail or "no reason is known",
    )


def common(row: ResultRow, counts: Counts) -> dict[str, Any]:
    """Return the fields that the list and the detail have in common."""
    names = ("id", "name", "agent_name", "run_type", "run_as_text", "is_cronjob", "created_at", "updated_at")
    return {
        **of_row(row, *names),
        "agent": row.agent_id,
        "status": ResultStatus(row.status),
        "run_settings": shown_settings(row.run_settings),
        "total_runs_count": counts.total,
        "completed_runs_count": counts.ended,
        "success_runs_count": counts.success,
        "failed_runs_count": counts.failed,
        "inconclusive_runs_count": counts.inconclusive,
        "met_expected_outcome_count": counts.met,
        "total_expected_outcome_count": counts.expected,
        "success_rate": counts.success_rate,
    }


def result(
    row: ResultRow,
    counts: Counts,
    runs: Sequence[Contribution],
    *,
    runs_next: str | None = None,
    runs_previous: str | None = None,
) -> Result:
    """Return a result, without its runs themselves."""
    ended = [run for run in runs if run.has_ended]
    metrics = measured({latency.code: [ms for run in runs for ms in run.latencies_ms]})
    tags: dict[str, list[int]] = defaultdict(list)
    for run in runs:
        for tag in run.tags:
            tags[tag].append(run.id)
    return Result(
        **common(row, counts),
        total_duration=clock(sum(run.duration_s for run in runs)) or "00:00",
        scenarios=[
            NamedScenario(id=scenario_id, name=name)
            for scenario_id, name in dict(run.scenario for run in runs).items()
            if scenario_id is not None
        ],
        runs={},
        runs_next=runs_next,
        runs_previous=runs_previous,
        connected_runs=[run.id for run in runs if run.joined],
        not_connected_runs=[run.id for run in ended if not run.joined],
        successful_calls=[run.id for run in ended if run.passed],
        failed_infrastructure_runs=[run.id for run in ended if run.success is None],
        failed_workflow_runs=[run.id for run in ended if run.success is False and run.cause == Cause.AGENT],
        overall_evaluation=OverallEvaluation(
            success_rate=counts.success_rate,
            inconclusive_runs_count=counts.inconclusive,
            metric_summary={str(metric.id): metric for metric in metrics},
            numeric_metrics=metrics,
        ),
        runs_by_tags=tags,
        metrics=metric_ids(),
        failed_reasons=_failed_reasons(ended),
    )


def _failed_reasons(ended: Sequence[Contribution]) -> FailedReasons:
    failed = [run for run in ended if not run.passed]
    frequent = Counter(run.reason for run in failed).most_common(MAX_ISSUES)
    return FailedReasons(
        issues=[
            Issue(
                rank=rank,
                run_ids=[run.id for run in failed if run.reason == reason],
                description=reason,
                affected_count=count,
            )
            for rank, (reason, count) in enumerate(frequent, start=1)
        ],
        total_failed_runs=len(failed),
    )
