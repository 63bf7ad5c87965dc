"""What a suite was held against, in lines: its repeats, its thresholds, and a baseline."""

from collections.abc import Iterator

from runner.calls.suite_file import SuiteResult
from runner.comparison.changes import Change, Comparison
from runner.comparison.wording import gate_line, repeats_line, scenario_line, suite_lines


def weighed_lines(result: SuiteResult) -> Iterator[str]:
    """Yield what there is to say of a suite besides its runs."""
    if result.statistics is not None:
        lines = [repeats_line(result.statistics.all)]
        if len(result.statistics.scenarios) > 1:
            lines += [repeats_line(of_scenario) for of_scenario in result.statistics.scenarios]
        yield from (line for line in lines if line)
    yield from (f"gate: {gate_line(outcome)}" for outcome in result.gates)
    if result.comparison is not None:
        yield from comparison_lines(result.comparison)


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """Yield a comparison, a line for each scenario: what became worse comes first."""
    order = [Change.REGRESSED, Change.FLAKY, Change.TOO_FEW, Change.IMPROVED, Change.UNCHANGED]
    for scenario in sorted(comparison.scenarios, key=lambda scenario: order.index(scenario.change)):
        yield scenario_line(scenario)
    yield from suite_lines(comparison)
    yield from (f"note: {warning}" for warning in comparison.warnings)
