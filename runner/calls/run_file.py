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
from runner.errors import UsageError
from runner.evaluation.asked import NOTHING, Asked, OutcomeJudgement, not_honoured, settle
from runner.evaluation.cekura_words import CEKURA_ENDED_REASON
from runner.evaluation.outcome import Failure, Status, decide, judge_expectations
from runner.evaluation.transcript import TranscriptEntry, transcribe_call
from runner.evaluation.turns import TurnMeasures, first_response_ms, measure_turns
from runner.evaluation.verdicts import Cause, ExpectationVerdict, Judgement, JudgeUsage, by_question
from runner.files import read_model, write_atomically

FILE_NAME = "run.json"
FORMAT_VERSION = 1

_PACKAGES = ("pipecat-scenario-runner", "pipecat-ai", "aiortc", "daily-python")


class PublishedMessage(BaseModel):
    """The run's data message, and when it was sent (seconds from the beginning of the call)."""

    model_config = ConfigDict(frozen=True)

    message: Any
    sent_at_s: float


@dataclass(frozen=True)
class Circumstances:
    """What a verdict takes into account besides script and facts.

    Attributes:
        judgements: What the judge answered; None where there was no judge.
        judge: What judged, and what that took.
        allow_unjudged: Whether the run passes although expectations were not judged or not observable.
        notes: What of the scenario was played otherwise than its file says, and why.
        warnings: What did not work as it should.
        asked: What was asked for besides the script.
        expected_outcome: What the judge says to the expected outcome; None where it was not asked.
        versions: What made the call; None for what is installed here.
    """

    judgements: Sequence[Judgement] | None = None
    judge: JudgeUsage | None = None
    allow_unjudged: bool = False
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    asked: Asked = NOTHING
    expected_outcome: OutcomeJudgement | None = None
    versions: Mapping[str, str] | None = None


class RunReport(BaseModel):
    """A call with its verdict, and without what was played in it: that is known to whoever asked for it.

    Attributes:
        format: Version of this format.
        id: The run's id; also the name of its folder.
        scenario: The scenario's name.
        room: The room's address without credentials.
        started_at: ISO 8601, UTC.
        status: Whether the call took place.
        success: True: passed. False: the agent failed. Null: nobody can say, for no fault of the agent.
        cause: Whose fault it was, where something failed.
        ended_reason: How the call ended, in our words.
        call_ended_reason: The same in Cekura's words.
        detail: What happened, in one line.
        failure: Why the run did not pass; null where it did.
        duration_s: From the beginning of the call to its end.
        first_response_ms: Agent onset minus both parties present.
        turns: What each turn took.
        expectations: What became of each expectation, with its evidence.
        transcript_object: Who said what when, in the shape of Cekura's.
        publish_data_message: The data message, if one was sent.
        caller_underruns: How often silence went out in the middle of a caller's line because audio was late.
        judgements: What the judge answered; null where there was no judge.
        judge: What judged, and what that took.
        allow_unjudged: Whether the run passes although expectations were not judged or not observable.
        notes: What of the scenario was played otherwise than its file says, and why.
        warnings: What did not work as it should without touching the verdict.
        asked: What was asked for besides the script.
        expected_outcome: What the judge says to the expected outcome; null where it was not asked.
        not_honoured: What of what was asked for was not had, a sentence each: the run did not pass then.
        versions: What made the call.
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
    judgements: list[Judgement] | None = None
    judge: JudgeUsage | None = None
    allow_unjudged: bool = False
    notes: list[str] = []
    warnings: list[str]
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
            asked=self.asked,
            expected_outcome=self.expected_outcome,
            versions=self.versions,
        )


def judge_run(script: Script, facts: Sequence[TimelineEvent], circumstances: Circumstances | None = None) -> Run:
    """Return the run that a timeline tells of.

    Args:
        script: The script that was played.
        facts: The facts of the call, in the order they were written.
        circumstances: What else there is to take into account.

    Raises:
        UsageError: The timeline does not begin with a call.
    """
    given = circumstances or Circumstances()
    started = next((e for e in facts if isinstance(e, CallStarted)), None)
    if started is None:
        raise UsageError("the timeline does not say which call it is of: its first event is missing")
    ended = next((e for e in reversed(facts) if isinstance(e, CallEnded)), None)
    judgements = None if given.judgements is None else by_question(given.judgements)
    verdicts = judge_expectations(script, facts, judgements)
    missing = not_honoured(given.asked, facts, judgements)
    outcome = settle(
        decide(script, facts, verdicts, allow_unjudged=given.allow_unjudged),
        given.asked,
        missing,
        given.expected_outcome,
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
        first_response_ms=first_response_ms(facts),
        turns=measure_turns(script, facts),
        expectations=verdicts,
        transcript_object=transcribe_call(facts),
        publish_data_message=None
        if published is None
        else PublishedMessage(message=published.message, sent_at_s=round(published.at_s, 3)),
        caller_underruns=sum(isinstance(e, CallerUnderrun) for e in facts),
        judgements=None if given.judgements is None else list(given.judgements),
        judge=given.judge,
        allow_unjudged=given.allow_unjudged,
        notes=list(given.notes),
        warnings=list(given.warnings),
        asked=given.asked,
        expected_outcome=given.expected_outcome,
        not_honoured=missing,
        versions=_versions() if given.versions is None else dict(given.versions),
        script=script,
    )


def write_run(folder: Path, run: Run) -> Path:
    """Write ``run.json`` into a folder, atomically, and return its path."""
    path = folder / FILE_NAME
    write_atomically(path, run.model_dump_json(indent=2) + "\n")
    return path


def read_run(folder: Path) -> Run:
    """Return the run in a folder.

    Raises:
        UsageError: There is none, or it is not readable.
    """
    return read_model(folder / FILE_NAME, Run, "run")


def utc_now() -> str:
    """Return the wall time in ISO 8601, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
