"""A comparison in words."""

from runner.comparison.compare import compare
from runner.comparison.summary import summarise
from runner.comparison.wording import repeats_line, scenario_line, suite_lines
from tests.comparison.runs import runs


def test_a_scenario_is_one_line() -> None:
    comparison = compare(runs("base", 20), runs("current", 1, 4, inconclusive=1, latency_ms=840, spread_ms=60))
    (scenario,) = comparison.scenarios
    assert scenario_line(scenario) == (
        "booking REGRESSED 20/20→1/5 (p .0008) · +40 ms [-9,+89] · 1 inconclusive · shows ≥ 89 ms"
    )


def test_too_few_runs_are_said_with_how_many_it_takes() -> None:
    (scenario,) = compare(runs("base", 20, latency_ms=None), runs("current", 2, 2, latency_ms=None)).scenarios
    assert scenario_line(scenario) == (
        "booking TOO FEW RUNS 20/20→2/4 · 4 decided runs on a side, fewer than 5 · "
        "17 runs a side would tell, or 10 with this base"
    )


def test_the_whole_is_one_line_and_one_for_what_is_not_compared() -> None:
    base = [*runs("base", 5), *runs("base", 1, scenario="gone")]
    lines = list(suite_lines(compare(base, runs("current", 5))))
    assert lines == [
        "suite UNCHANGED 5/5→5/5 (p 1) · +0 points [-43,+43] · +0 ms [-46,+46] · shows ≥ 82 ms",
        "only on the base, not compared: gone",
    ]


def test_repeats_are_one_line() -> None:
    assert repeats_line(summarise(runs("a", 3, 1, inconclusive=1)).all) == (
        "all 3/4 passed (30 to 95 %) · pass^4 0.00 · p50 790 ms [760,820] · p95 817 ms [780,820] · 1 inconclusive"
    )
    assert repeats_line(summarise(runs("a", 0, inconclusive=1)).all) == ""
