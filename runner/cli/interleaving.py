"""Runs two suites in turns, shown as one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from runner.calls.interleaved import Interleaved
from runner.calls.run_file import EarlierAttempt
from runner.calls.suite import SuiteRunner
from runner.calls.suite_facts import runs_of_suite
from runner.calls.suite_file import SuiteResult, SuiteRun
from runner.cli.interruption import ending_in_good_order
from runner.comparison.facts import RunSet
from runner.reports.suite import SuiteReport
from runner.scenarios.suites import PlannedRun, Suite

if TYPE_CHECKING:
    from rich.console import Console


async def run_interleaved(
    console: "Console", current: SuiteRunner, against: Suite, base_folder: Path
) -> tuple[SuiteResult, RunSet | None]:
    """Run a suite in turns with another, showing both; return its result, and the other's runs.

    If the other did not get to its end there is nothing to compare with, and the suite counts as stopped as well.

    Raises:
        RunnerError: One of them can't be run.
    """
    base = SuiteRunner(
        against,
        current.settings,
        base_folder,
        allow_unjudged=current.allow_unjudged,
        make_call=current.make_call,
    )
    both = Interleaved(base, current)
    shown = [
        _shown(run, side, first)
        for side, first, suite in (("base", 0, against), ("current", len(against.runs), current.suite))
        for run in suite.runs
    ]
    together = replace(current.suite, runs=tuple(shown))
    with SuiteReport(console, together, most_at_once=current.most_at_once) as report:
        base.watcher = _Side(report, shown, 0)
        current.watcher = _Side(report, shown, len(against.runs))
        with ending_in_good_order(both):
            base_result, result = await both.make()
    if not base_result.finished:
        return result.model_copy(update={"finished": False, "stopped": result.stopped or base_result.stopped}), None
    return result, await anyio.to_thread.run_sync(runs_of_suite, base_folder, base_result)


def _shown(run: PlannedRun, side: str, first: int) -> PlannedRun:
    scenario = replace(run.scenario, name=f"{side}: {run.scenario.name}")
    return replace(run, index=first + run.index, scenario=scenario)


@dataclass(frozen=True)
class _Side:
    """Watches one of the suites, and shows its runs among those of both."""

    report: SuiteReport
    shown: Sequence[PlannedRun]
    first: int

    def begun(self, run: PlannedRun) -> None:
        self.report.begun(self.shown[self.first + run.index])

    def call_over(self, run: PlannedRun) -> None:
        self.report.call_over(self.shown[self.first + run.index])

    def ended(self, run: PlannedRun, result: SuiteRun | None) -> None:
        self.report.ended(self.shown[self.first + run.index], result)

    def repeats(self, run: PlannedRun, attempt: EarlierAttempt) -> None:
        self.report.repeats(self.shown[self.first + run.index], attempt)

    def limited(self, allowed: int, warning: str | None) -> None:
        self.report.limited(allowed, warning)
