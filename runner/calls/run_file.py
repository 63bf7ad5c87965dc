"""``run.json``: a call and its verdict, made from its facts alone."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from bots.caller.script import Script
from bots.timeline import CallEnded, CallerUnderrun, CallStarted, DataMessagePublished, EndedReason, TimelineEvent
from runner.calls.run_warnings import trouble_warnings
from runner.calls.timeline import TimelineStamp
from runner.errors import UsageError
from runner.evaluation.asked import NO_JUDGE_ASKED, NOTHING, Asked, OutcomeJudgement, not_honoured, settle
from runner.evaluation.ending import CEKURA_ENDED_REASON
from runner.evaluation.outcome import Failure, Status, decide, judge_expectations
from runner.evaluation.speech import includes_jitter
from runner.evaluation.transcript import TranscriptEntry, transcribe_call
from runner.evaluation.trouble import hearing_differs, troubles_of
from runner.evaluation.turns import TurnMeasures, first_response_ms, measure_turns
from runner.evaluation.verdicts import Cause, ExpectationVerdict, Judgement, JudgeUsage, by_question
from runner.evaluation.view import CallView
from runner.files import read_model, write_atomically

FILE_NAME = "run.json"
FORMAT_VERSION = 1

_PACKAGES = ("pipecat-scenario-runner", "pipecat-ai", "aiortc", "daily-python")


class PublishedMessage(BaseModel):
    """The run's data message, as it is shown, and when it was sent (seconds from the beginning of the call)."""

    model_config = ConfigDict(frozen=True)

    message: Any
    sent_at_s: float


class EarlierAttempt(BaseModel):
    """A call of the same run that was made before and did not count.

    Attributes:
        folder: Its folder, beside that of the call that counts; null where it was not kept.
    """

    model_config = ConfigDict(frozen=True)

    repeated_because: str
    folder: str | None = None
    started_at: str
    duration_s: float
    status: Status
    success: bool | None
    cause: Cause | None
    ended_reason: EndedReason
    detail: str | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Circumstances:
    """What a verdict takes into account besides script and facts.

    Attributes:
        judgements: What the judge answered; None where there was no judge.
        notes: What of the scenario was played otherwise than its file says, and why.
        timeline: Which facts these are, where they are on disk.
    """

    judgements: Sequence[Judgement] | None = None
    judge: JudgeUsage | None = None
    allow_unjudged: bool = False
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    versions: Mapping[str, str] | None = None
    earlier_attempts: Sequence[EarlierAttempt] = ()
    timeline: TimelineStamp | None = None
    asked: Asked = NOTHING
    expected_outcome: OutcomeJudgement | None = None


class RunReport(BaseModel):
    """A call with its verdict, and without what was played in it: that is known to whoever asked for it.

    Attributes:
        id: The run's id; also the name of its folder.
        success: True: passed. False: the agent failed. Null: inconclusive, for no fault of the agent.
        cause: Whose fault it was, where something failed.
        call_ended_reason: The same in Cekura's words.
        failure: Why the run did not pass; null where it did.
        duration_s: From the beginning of the call to its end.
        first_response_ms: Agent onset minus both parties present.
        expectations: What became of each expectation, with its evidence.
        transcript_object: Who said what when, in the shape of Cekura's.
        publish_data_message: The data message, if one was sent.
        caller_underruns: How often silence went out in the middle of a caller's line because audio was late.
        latencies_include_jitter: Whether the latencies include what the network's jitter adds, as in a Daily room.
        judgements: What the judge answered; null where there was no judge.
        allow_unjudged: Whether the run passes although expectations were not judged or not observable.
        notes: What of the scenario was played otherwise than its file says, and why.
        timeline: How many facts it was judged by, and their digest: facts that are lost later are missed.
        expected_outcome: What the judge says to the expected outcome; null where it was not asked.
        not_honoured: What of what was asked for was not had, a sentence each: the run did not pass then.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT_VERSION
    id: str
    scenario: str
    room: str
    started_at: str
    status: Status
    success: bool | None
    cause: Cause | None
    ended_reason: EndedReason
    call_ended_reason: str = Field(max_length=80)
    detail: str | None
    failure: Failure | None = None
    duration_s: float
    first_response_ms: float | None
    turns: list[TurnMeasures]
    expectations: list[ExpectationVerdict]
    transcript_object: list[TranscriptEntry]
    publish_data_message: PublishedMessage | None
    caller_underruns: int
    latencies_include_jitter: bool = False
    judgements: list[Judgement] | None = None
    judge: JudgeUsage | None = None
    allow_unjudged: bool = False
    notes: list[str] = []
    warnings: list[str]
    earlier_attempts: list[EarlierAttempt] = []
    timeline: TimelineStamp | None = None
    asked: Asked = NOTHING
    expected_outcome: OutcomeJudgement | None = None
    not_honoured: list[str] = []
    versions: dict[str, str]

    @property
    def exit_code(self) -> int:
        """0 passed, 1 the agent failed, 2 anything else."""
        if self.success is None:
            return 2
        return 0 if self.success else 1


class Run(RunReport):
    """A call with its verdict.

    Attributes:
        script: The script that was played: with the timeline, all it takes to judge the call again.
    """

    script: Script

    @property
    def circumstances(self) -> Circumstances:
        """What its verdict took into account besides script and facts."""
        return Circumstances(
            judgements=self.judgements,
            judge=self.judge,
            allow_unjudged=self.allow_unjudged,
            notes=self.notes,
            warnings=self.warnings,
            versions=self.versions,
            earlier_attempts=self.earlier_attempts,
            timeline=self.timeline,
            asked=self.asked,
            expected_outcome=self.expected_outcome,
        )


def judge_run(script: Script, facts: Sequence[TimelineEvent], circumstances: Circumstances | None = None) -> Run:
    """Return the run that a timeline tells of.

    Raises:
        UsageError: The timeline does not begin with a call.
    """
    given = circumstances or Circumstances()
    started = next((e for e in facts if isinstance(e, CallStarted)), None)
    if started is None:
        raise UsageError("the timeline does not say which call it is of: its first event is missing")
    ended = next((e for e in reversed(facts) if isinstance(e, CallEnded)), None)
    judgements = None if given.judgements is None else by_question(given.judgements)
    view = CallView.measured(facts)
    verdicts = judge_expectations(script, view, judgements)
    missing = not_honoured(given.asked, facts, judgements)
    outcome = settle(
        decide(script, view, verdicts, allow_unjudged=given.allow_unjudged),
        given.asked,
        missing,
        given.expected_outcome,
        # The judge is asked about the whole call.
        trouble=next((t for t in troubles_of(view) if t.misleads), None),
        allow_unjudged=given.allow_unjudged,
    )
    published = next((e for e in facts if isinstance(e, DataMessagePublished)), None)
    end_ns = ended.at_ns if ended is not None else max(e.at_ns for e in facts)
    return Run(
        id=started.run_id,
        scenario=started.scenario,
        room=started.room,
        started_at=started.wall_time,
        status=outcome.status,
        success=outcome.success,
        cause=outcome.cause,
        ended_reason=outcome.ended_reason,
        call_ended_reason=CEKURA_ENDED_REASON[outcome.ended_reason],
        detail=outcome.detail,
        failure=outcome.failure,
        duration_s=round(end_ns / 1e9, 3),
        first_response_ms=first_response_ms(view),
        turns=measure_turns(script, view),
        expectations=verdicts,
        transcript_object=transcribe_call(view),
        publish_data_message=None
        if published is None
        else PublishedMessage(message=published.message, sent_at_s=round(published.at_s, 3)),
        caller_underruns=sum(isinstance(e, CallerUnderrun) for e in facts),
        latencies_include_jitter=includes_jitter(view),
        judgements=None if given.judgements is None else list(given.judgements),
        judge=given.judge,
        allow_unjudged=given.allow_unjudged,
        notes=list(given.notes),
        warnings=list(
            dict.fromkeys([*given.warnings, *trouble_warnings(facts), *_differences(view, outcome.success is True)])
        ),
        earlier_attempts=list(given.earlier_attempts),
        timeline=given.timeline,
        asked=given.asked,
        expected_outcome=given.expected_outcome,
        not_honoured=missing,
        versions=installed_versions() if given.versions is None else dict(given.versions),
        script=script,
    )


def not_asked_because(report: RunReport, why: str, *, instead_of: str = NO_JUDGE_ASKED) -> RunReport:
    """Return a report of a call about which no judge was asked, that says why not.

    Args:
        why: Why not, in a few words.
        instead_of: What it says now.
    """

    def told(text: str) -> str:
        return text.replace(instead_of, why)

    failure = report.failure
    return report.model_copy(
        update={
            "detail": None if report.detail is None else told(report.detail),
            "failure": failure and failure.model_copy(update={"headline": told(failure.headline)}),
            "not_honoured": [told(sentence) for sentence in report.not_honoured],
        }
    )


def _differences(view: CallView, passed: bool) -> list[str]:
    differs = hearing_differs(view, passed=passed)
    return [] if differs is None else [differs]


def write_run(folder: Path, run: Run) -> Path:
    """Write ``run.json`` into a folder, atomically, and return its path."""
    path = folder / FILE_NAME
    write_atomically(path, run_text(run))
    return path


def run_text(run: Run) -> str:
    """Return what ``run.json`` holds."""
    return run.model_dump_json(indent=2) + "\n"


def read_run(folder: Path) -> Run:
    """Return the run in a folder.

    Raises:
        UsageError: There is none, or it is not readable.
    """
    return read_model(folder / FILE_NAME, Run, "run")


def utc_now() -> str:
    """Return the wall time in ISO 8601, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def installed_versions() -> dict[str, str]:
    """Return what makes calls here, by package."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
