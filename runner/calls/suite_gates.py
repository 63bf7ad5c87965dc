"""What a finished suite is held against: its thresholds, and a baseline."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from runner.calls.suite_facts import runs_of_suite
from runner.calls.suite_file import SuiteResult
from runner.comparison.facts import RunSet
from runner.comparison.gates import GateOutcome, Gates, judge_gates
from runner.comparison.summary import summarise


def has_statistics() -> bool:
    """Return whether the statistics library is installed (the extra ``compare``)."""
    return find_spec("scipy") is not None


def weigh_suite(folder: Path, result: SuiteResult, gates: Gates, base: RunSet | None = None) -> SuiteResult:
    """Return a suite's result with what its thresholds and a baseline say of it. Blocks.

    A suite that did not get to its end is not weighed: the runs that are missing may be the worst.

    Raises:
        UsageError: A run can't be read, or the baseline has no scenario in common with the suite.
        ModuleNotFoundError: There are thresholds or a baseline, and no statistics libraries.
    """
    repeats = len(result.runs) > len({run.scenario for run in result.runs})
    if not result.finished or (base is None and gates == Gates() and not repeats):
        return result
    runs = runs_of_suite(folder, result)
    comparison = None
    if base is not None:
        from runner.comparison.compare import compare_sets

        comparison = compare_sets(base, runs)
    return result.model_copy(
        update={
            "statistics": summarise(runs.runs) if repeats and has_statistics() else None,
            "gates": judge_gates(gates, runs.runs),
            "comparison": comparison,
        }
    )


def gates_of(outcomes: Sequence[GateOutcome]) -> Gates:
    """Return the thresholds that were judged."""
    return Gates.model_validate({outcome.gate: outcome.limit for outcome in outcomes})
