"""Runs: Cekura's fields, and under ``scenario_runner`` what is ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field

from runner.api.schemas.common import ResponseBody, Timestamp
from runner.metrics.latency import latency
from runner.metrics.registry import metrics
from runner.records.results import Distribution, played_digest
from runner.records.statuses import RunStatus
from runner.records.tables import RunRow

NOTHING_EXPECTED = "nothing was expected of the agent: success says that the call took place and ended, and no more"

_ALIGNED = {"met": True, "missed": False, "yes": True, "no": False}

SCENARIO_DELETED = "Scenario Deleted"
RECORDING = "recording.wav"
CALLER_CHANNEL = 0


@dataclass(frozen=True, slots=True)
class OutcomeAlignment:
    """What became of one expectation of the script, or statement of the expected outcome.

    ``aligned`` is null where that is not known. Results have ten thousands of them: a model would take ten times as
    long to make.
    """

    outcome: str
    prompt_part: str
    aligned: bool | None


class ExpectedOutcome(ResponseBody):
    """What became of what was expected: 100 all met, 0 not all, 50 inconclusive, null where nothing was expected."""

    score: int | None
    explanation: list[str]
    outcome_alignments: list[OutcomeAlignment]


class Metric(ResponseBody):
    """A measure. ``score`` is the median, in milliseconds; ``extra`` has the whole distribution."""

    id: int
    name: str
    type: str
    score: float | None
    explanation: list[str]
    extra: dict[str, float]
    function_name: str
    vocera_defined_metric_code: str
    p50: float | None


class Evaluation(ResponseBody):
    """The measures of a run."""

    metrics: list[Metric]


class Failure(ResponseBody):
    """Ours: whose fault it was, how the call ended, and what happened in one line.

    ``success`` is null where the run is inconclusive; ``not_honoured`` says
    what of what was asked for was not had.
    """

    success: bool | None
    cause: str | None
    ended_reason: str | None
    detail: str | None
    not_honoured: list[str]


class _RunCommon(ResponseBody):
    """What a run has alone as within its result."""

    id: int
    scenario: int | None
    scenario_name: str
    personality_name: str | None
    test_profile_data: dict[str, Any] | None
    status: RunStatus
    success: bool | None
    expected_outcome: ExpectedOutcome | None
    evaluation: Evaluation
    error_message: str
    timestamp: Timestamp
    executed_at: Timestamp | None
    duration: str | None
    metadata: dict[str, Any]
    inbound_number: str | None
    outbound_number: str | None


class ResultRun(_RunCommon):
    """A run within its result."""

    scenario_runner: Failure


class TranscriptItem(BaseModel):
    """Who said what when; times in seconds from the beginning of the call."""

    role: str
    content: str
    time: str
    start_time: float
    end_time: float
    data: dict[str, Any] | None = None
    source: str | None = None
    told: str | None = None


class Additions(Failure):
    """What a run has beyond Cekura's fields.

    Attributes:
        cause: Whose fault it was, where something failed: agent, caller, room, network, harness.
        ended_reason: How the call ended, in our words.
        detail: What happened, in one line; where the run did not pass, the headline of its failure.
        failure: Why it did not pass: kind, cause, headline, turn, what was expected and heard, evidence.
        not_honoured: What of what was asked for was not had, a sentence each: the run did not pass then.
        success: True: passed. False: the agent failed. Null: inconclusive, for no fault of the agent.
        attempt: Which attempt at it this is: one more each time that a worker released it or was lost.
        duration_s: From the beginning of the call to its end.
        first_response_ms: Agent onset minus both parties present.
        turns: What each turn took.
        expectations: What became of each expectation, with its evidence.
        publish_data_message: The data message, and when it was sent, in seconds from the beginning of the call.
        judge: What judged, and what that took.
        scenario_hash: Digest of what was played and of the expected outcome: runs of an edited scenario have another.
        notes: What of the scenario was played otherwise than it says, and why.
        warnings: What did not work as it should without touching the verdict.
        artefacts: What is kept of the call, with addresses.
        created_at: When it was launched.
        started_at: When a worker took it up.
        joined_at: When the caller was in the room.
        ended_at: When it had ended.
    """

    failure: dict[str, Any] | None
    attempt: int
    duration_s: float | None
    first_response_ms: float | None
    turns: list[dict[str, Any]]
    expectations: list[dict[str, Any]]
    publish_data_message: dict[str, Any] | None
    judge: dict[str, Any] | None
    scenario_hash: str
    notes: list[str]
    warnings: list[str]
    artefacts: dict[str, str]
    created_at: Timestamp
    started_at: Timestamp | None
    joined_at: Timestamp | None
    ended_at: Timestamp | None


class Run(_RunCommon):
    """A run: a call with its verdict."""

    result_id: int
    result_name: str
    agent: int | None
    agent_name: str
    agent_version: None = None
    scenario_type: str | None
    scenario_instructions: str | None
    personality: int | None
    run_type: str
    run_as_text: bool
    tags: list[str]
    provider_call_id: str | None = None
    provider_call_details: None = None
    trace_id: str | None
    agent_number: str | None
    email_id: None = None
    outbound_dial_window_opens_at: None = None
    outbound_dial_window_seconds: None = None
    outbound_dial_window_closes_at: None = None
    evaluation_status: str | None
    call_ended_reason: str | None
    is_reviewed: bool = False
    feedback: str = ""
    transcript: str
    transcript_object: list[TranscriptItem]
    voice_recording_url: str | None
    testing_channel_index: int = CALLER_CHANNEL
    expected_outcome_prompt: str | None
    rubric: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    critical_categories: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    generated_mock_tool_entries: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    mocked_tool_names: list[str] = Field(default_factory=list[str])
    scenario_runner: Additions


class Trace(ResponseBody):
    """What a tracer inside the agent sent of a run."""

    trace_id: str | None
    spans: list[Any]
    session: dict[str, Any]
    """Ours: everything else that it sent."""


def clock(seconds: float | None) -> str | None:
    """Return a duration as ``MM:SS``; the minutes are as many as there are."""
    if seconds is None:
        return None
    whole = int(seconds)
    return f"{whole // 60:02d}:{whole % 60:02d}"


def measured(values: Mapping[str, Sequence[float]]) -> list[Metric]:
    """Return what was measured, given its values by the metrics' codes; a metric without values is left out."""
    shown: list[Metric] = []
    for code, metric in metrics().items():
        found = Distribution.of(values.get(code, ()))
        if found is None:
            continue
        extra = {f"p{percent}": value for percent, value in found.percentiles.items()}
        shown.append(
            Metric(
                id=metric.id,
                name=metric.name,
                type="numeric",
                score=found.percentiles[50],
                explanation=[metric.told.format(count=found.count)],
                extra={**extra, "mean": found.mean, "count": found.count},
                function_name=code,
                vocera_defined_metric_code=code,
                p50=found.percentiles[50],
            )
        )
    return shown


def expected_outcome(row: RunRow) -> ExpectedOutcome | None:
    """Return what became of a run's expected outcome; None where there was no call that could tell."""
    if not row.has_ended or (row.score is None and row.success is not True):
        return None
    told = row.came_to
    expectations: list[dict[str, Any]] = told.get("expectations") or []
    statements: list[dict[str, Any]] = (told.get("expected_outcome") or {}).get("statements") or []
    if row.success is True:
        explanation = [f"{one['statement']}: {one['reason']}" for one in statements]
        if expectations:
            explanation.insert(0, f"all {len(expectations)} expectations of the script were met")
    else:
        explanation = [(told.get("failure") or {}).get("headline") or row.detail]
        explanation += [f"{e['expected']}: {e['reason']}" for e in expectations if e.get("verdict") != "met"]
        explanation += told.get("not_honoured") or []
        explanation += [f"{one['statement']}: {one['reason']}" for one in statements if one["answer"] != "yes"]
    return ExpectedOutcome(
        score=row.score,
        explanation=list(dict.fromkeys(text for text in explanation if text)) or [NOTHING_EXPECTED],
        outcome_alignments=[
            *(_alignment(str(e.get("verdict")), str(e.get("expected")), str(e.get("verdict"))) for e in expectations),
            *(_alignment(one["reason"], one["statement"], one["answer"]) for one in statements),
        ],
    )


def _alignment(outcome: str, expected: str, answer: str) -> OutcomeAlignment:
    return OutcomeAlignment(outcome=outcome, prompt_part=expected, aligned=_ALIGNED.get(answer))


def numbers(agent: Mapping[str, Any] | None) -> tuple[str | None, str | None]:
    """Return the number an agent calls from, and the one it is called at: of an agent only one is there."""
    if agent is None or not agent.get("phone_number"):
        return None, None
    return (None, agent["phone_number"]) if agent.get("inbound") else (agent["phone_number"], None)


def _shown(row: RunRow) -> dict[str, Any]:
    """Return what a run shows alone as within its result."""
    personality = row.snapshot.get("personality") or {}
    outbound, inbound = numbers(row.snapshot.get("agent"))
    return {
        "id": row.id,
        "scenario": row.scenario_id,
        "scenario_name": row.scenario_name or SCENARIO_DELETED,
        "personality_name": personality.get("name"),
        "test_profile_data": row.snapshot.get("test_profile"),
        "status": RunStatus(row.status),
        "success": row.passed,
        "expected_outcome": expected_outcome(row),
        "evaluation": Evaluation(metrics=measured({latency.code: row.latencies_ms})),
        "error_message": row.error_message,
        "timestamp": row.started_at or row.created_at,
        "executed_at": row.started_at,
        "duration": clock(row.duration_s),
        # As scripts look for it.
        "metadata": {} if row.call_ended_reason is None else {"ended_reason": row.call_ended_reason},
        "inbound_number": inbound,
        "outbound_number": outbound,
    }


def failure(row: RunRow) -> dict[str, Any]:
    """Return whose fault it was, how the call ended, and what happened in one line."""
    return {"success": row.success, "cause": row.cause, "ended_reason": row.ended_reason, "detail": row.detail}


def result_run(row: RunRow) -> ResultRun:
    """Return a run within its result."""
    not_honoured = row.came_to.get("not_honoured") or []
    return ResultRun(**_shown(row), scenario_runner=Failure(**failure(row), not_honoured=not_honoured))


def run(row: RunRow, *, result_name: str, agent_name: str, run_type: str, artefacts: dict[str, str]) -> Run:
    """Return a run, given what its result says of it, and the addresses of what is kept."""
    shown, played, told = _shown(row), row.snapshot, row.came_to
    transcript = [TranscriptItem.model_validate(entry) for entry in told.get("transcript_object") or []]
    return Run(
        **shown,
        result_id=row.result_id,
        result_name=result_name,
        agent=row.agent_id,
        agent_name=agent_name,
        scenario_type=played.get("scenario_type"),
        scenario_instructions=played.get("instructions"),
        personality=(played.get("personality") or {}).get("id"),
        run_type=run_type,
        run_as_text=False,
        tags=played.get("tags") or [],
        trace_id=(row.trace or {}).get("trace_id"),
        agent_number=shown["outbound_number"] or shown["inbound_number"],
        evaluation_status=None if row.passed is None else ("success" if row.passed else "failure"),
        call_ended_reason=row.call_ended_reason,
        transcript="\n".join(f"[{entry.time}] {entry.role}: {entry.content}" for entry in transcript),
        transcript_object=transcript,
        voice_recording_url=artefacts.get(RECORDING),
        expected_outcome_prompt=played.get("expected_outcome_prompt"),
        scenario_runner=Additions(
            **failure(row),
            failure=told.get("failure"),
            not_honoured=told.get("not_honoured") or [],
            attempt=row.attempt,
            duration_s=row.duration_s,
            first_response_ms=told.get("first_response_ms"),
            turns=told.get("turns") or [],
            expectations=told.get("expectations") or [],
            publish_data_message=told.get("publish_data_message"),
            judge=told.get("judge"),
            scenario_hash=played_digest(played.get("script"), played.get("expected_outcome_prompt")),
            notes=played.get("notes") or [],
            warnings=told.get("warnings") or [],
            artefacts=artefacts,
            created_at=row.created_at,
            started_at=row.started_at,
            joined_at=row.joined_at,
            ended_at=row.ended_at,
        ),
    )
