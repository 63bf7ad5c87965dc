"""``suite.json``: what became of the runs of a suite, written again after each of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, computed_field

from bots.timeline import EndedReason
from runner.calls.run_file import EarlierAttempt, Run
from runner.comparison.changes import Comparison
from runner.comparison.facts import SessionFacts
from runner.comparison.gates import GateOutcome
from runner.comparison.summary import Summary
from runner.evaluation.outcome import Failure, Status
from runner.evaluation.verdicts import Cause, ExpectationVerdict, Verdict
from runner.files import read_model, write_atomically
from runner.metrics.latency import latency
from runner.scenarios.suites import run_title
from runner.text import one_line

FILE_NAME = "suite.json"
FORMAT_VERSION = 2


class _OfScenario(BaseModel):
    model_config = ConfigDict(frozen=True)

    scenario: str
    file: str

    @property
    def title(self) -> str:
        """What it is called in reports."""
        return self.scenario


class SkippedScenario(_OfScenario):
    """A scenario that can't be played in a room, of a file that was named as a whole."""

    reason: str


class _Run(_OfScenario):
    repeat: int

    @property
    def title(self) -> str:
        """The scenario's name, with the number of the run from the second on."""
        return run_title(self.scenario, self.repeat)


class OpenRun(_Run):
    """A run without a result.

    Attributes:
        repeat: Which run of this scenario it is, from 1.
        under_way: Whether it was under way when the file was written; if not, it was not begun.
    """

    under_way: bool = False


class SuiteRun(_Run):
    """What became of one run.

    Attributes:
        scenario_hash: Digest of what was played, and of the data that went along.
        compared_as: What it is called in comparisons; null: as the scenario.
        failure: Why the run did not pass; null where it did, or where no call was made.
        duration_s: How long the call took; where none was made, how long it took to know.
        folder: The run's folder, in that of the suite; null where no call was made.
        earlier_attempts: The calls that were made before, in order, and why the run was made again.
        agent_exit_code: How the command that runs the agent ended in the call, if it did; negative: by this signal.
        agent_log: Where the agent printed what may explain the run, in the suite's folder.
        first_response_ms: Agent onset minus both parties present.
        response_latencies_ms: Of each turn that was answered, in order.
        response_uncertainties_ms: How sure each of them is; null where that is not known.
        refused_latencies: Of each turn that was answered and not measured, why.
        unmet: The expectations that were not met, with their evidence.
    """

    scenario_hash: str | None = None
    compared_as: str | None = None
    status: Status
    success: bool | None
    cause: Cause | None
    ended_reason: EndedReason
    detail: str | None
    failure: Failure | None = None
    started_at: str
    duration_s: float
    folder: str | None = None
    earlier_attempts: list[EarlierAttempt] = []
    agent_exit_code: int | None = None
    agent_log: str | None = None
    first_response_ms: float | None = None
    response_latencies_ms: list[float] = []
    response_uncertainties_ms: list[float | None] = []
    refused_latencies: list[str] = []
    unmet: list[ExpectationVerdict] = []
    warnings: list[str] = []

    def judged(self, run: Run) -> Self:
        """Return what became of the run by the verdict on its call."""
        measured = latency.measure(run.turns)
        return self.model_copy(
            update={
                "status": run.status,
                "success": run.success,
                "cause": run.cause,
                "ended_reason": run.ended_reason,
                "detail": None if run.detail is None else in_one_line(run.detail),
                "failure": run.failure,
                "started_at": run.started_at,
                "duration_s": run.duration_s,
                "first_response_ms": run.first_response_ms,
                "response_latencies_ms": [sample.value for sample in measured],
                "response_uncertainties_ms": [sample.uncertainty for sample in measured],
                "refused_latencies": [turn.refused for turn in run.turns if turn.refused is not None],
                "unmet": [v for v in run.expectations if v.verdict is not Verdict.MET],
                "warnings": run.warnings,
            }
        )

    @computed_field
    @property
    def exit_code(self) -> int:
        """0 passed, 1 the agent failed, 2 anything else."""
        if self.success is None:
            return 2
        return 0 if self.success else 1


class Totals(BaseModel):
    """How many runs there are, and of which kind.

    Attributes:
        inconclusive: Those without a verdict, for no fault of the agent.
        skipped: Scenarios that can't be played in a room; none of the runs.
        success_rate: How many of those with a verdict passed, in percent; null where none has one.
    """

    model_config = ConfigDict(frozen=True)

    runs: int
    passed: int
    failed: int
    inconclusive: int
    open: int
    skipped: int

    @computed_field
    @property
    def success_rate(self) -> float | None:
        decided = self.passed + self.failed
        return round(100 * self.passed / decided, 1) if decided else None


class SuiteResult(BaseModel):
    """What became of a suite.

    Attributes:
        session: In what circumstances the runs were made.
        finished: Whether every run has a result; false while the suite is under way, and for good where it was
            stopped or killed.
        stopped: Why it was stopped before its end, if it was.
        failed_fast: Whether it was stopped by the agent's first failure, as it was asked to be.
        allow_unjudged: Whether runs passed whose only problem was inconclusive expectations.
        skipped: The scenarios that can't be played in a room, and for which there are no runs.
        statistics: What the repeats say, with intervals; null before the end, for single runs, and without the extra
            ``compare``.
        comparison: What became of the agent since the baseline, at the suite's end; null without one.
        unweighed: Whether thresholds and comparison could not be judged at its end; the last warning says why.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT_VERSION
    suite: str
    file: str
    started_at: str
    session: SessionFacts | None = None
    finished: bool
    stopped: str | None = None
    failed_fast: bool = False
    allow_unjudged: bool = False
    runs: list[SuiteRun]
    open: list[OpenRun]
    skipped: list[SkippedScenario] = []
    warnings: list[str] = []
    statistics: Summary | None = None
    gates: list[GateOutcome] = []
    comparison: Comparison | None = None
    unweighed: bool = False

    @computed_field
    @property
    def totals(self) -> Totals:
        """How many runs there are, and of which kind."""
        return Totals(
            runs=len(self.runs) + len(self.open),
            passed=sum(run.success is True for run in self.runs),
            failed=sum(run.success is False for run in self.runs),
            inconclusive=sum(run.success is None for run in self.runs),
            open=len(self.open),
            skipped=len(self.skipped),
        )

    @computed_field
    @property
    def exit_code(self) -> int:
        """0 every run passed, 1 the agent failed in one, 2 anything else: also a suite that somebody stopped.

        A threshold of the pass rate, or a baseline, says in place of the single runs how many may fail; a suite that
        stopped at the first failure has failed by it.
        """
        if self.unweighed:
            return 2
        codes = [outcome.exit_code for outcome in self.gates]
        if self.comparison is not None:
            codes.append(self.comparison.exit_code)
        rate_is_set = any(outcome.gate == "pass_rate" for outcome in self.gates)
        if self.failed_fast or (self.comparison is None and not rate_is_set):
            codes.append(self._exit_code_of_runs)
        return 1 if 1 in codes else max(codes)

    @property
    def _exit_code_of_runs(self) -> int:
        if (self.stopped is None or self.failed_fast) and any(run.success is False for run in self.runs):
            return 1
        return 0 if self.finished and all(run.success for run in self.runs) else 2


def in_one_line(text: str) -> str:
    """Return a text on one line, without runs of blanks."""
    return " ".join(one_line(text).split())


def write_suite(folder: Path, result: SuiteResult) -> Path:
    """Write ``suite.json`` into a folder, atomically, and return its path.

    Raises:
        OSError: It can't be written.
    """
    path = folder / FILE_NAME
    write_atomically(path, suite_text(result))
    return path


def suite_text(result: SuiteResult) -> str:
    """Return what ``suite.json`` holds."""
    return result.model_dump_json(indent=2) + "\n"


def read_suite(folder: Path) -> SuiteResult:
    """Return the suite in a folder.

    Raises:
        UsageError: There is none, or it is not readable.
    """
    return read_model(folder / FILE_NAME, SuiteResult, "suite")


def by_scenario(result: SuiteResult) -> list[Sequence[SuiteRun | OpenRun | SkippedScenario]]:
    """Return the runs of each scenario, with and without results, and each scenario that was skipped."""
    grouped: dict[tuple[str, str], list[SuiteRun | OpenRun | SkippedScenario]] = {}
    for run in (*result.runs, *result.open, *result.skipped):
        grouped.setdefault((run.file, run.scenario), []).append(run)
    return list(grouped.values())
