"""What is on the page of a suite."""

import html
from typing import Any

import pytest

from runner.calls.suite_file import OpenRun, SkippedScenario, SuiteResult
from runner.reports.html.render import render_suite
from runner.reports.html.suite_page import About, SuitePage, suite_page
from runner.reports.html.suite_runs import Change, RunFacts, RunLink, ScenarioRuns, scenarios_of
from tests.reports.html.calls import WRONG_CALL, call_facts, in_suite, judged

PASSED = RunFacts(1, True, latencies_ms=(1_000.0, 2_000.0))
FAILED = RunFacts(2, False, "turn 2: too slow", "late 1", "r2/report.html", latencies_ms=(5_000.0,))
UNSURE = RunFacts(3, None, "the network was lost", "network_trouble None")
OPEN = RunFacts(4, state="not made")


def page(*scenarios: ScenarioRuns, success: bool | None = False, **given: Any) -> SuitePage:
    found = suite_page(About("night", success, **given), scenarios)
    assert found.title in html.unescape(render_suite(found))
    return found


def test_the_worst_scenario_stands_first() -> None:
    found = page(
        ScenarioRuns("a good one", (PASSED, PASSED)),
        ScenarioRuns("never", skipped="needs a browser"),
        ScenarioRuns("unsure", (PASSED, UNSURE)),
        ScenarioRuns("open", (PASSED, OPEN)),
        ScenarioRuns("half", (PASSED, FAILED)),
        ScenarioRuns("whole", (FAILED,)),
    )
    assert [row.name for row in found.rows] == ["whole", "half", "unsure", "open", "a good one", "never"]
    assert found.title == "Failed: 2 of 9 runs, in 2 of 6 scenarios."
    assert found.sub == "5 passed, 2 failed, 1 inconclusive, 1 not made, 1 scenario skipped."
    assert found.filters == [("all", "All", 6), ("failed", "Failed", 2), ("unsure", "Inconclusive", 1)]


def test_each_verdict_has_its_own_shape_and_link() -> None:
    [row] = page(ScenarioRuns("s", (PASSED, FAILED, UNSURE, OPEN))).rows
    assert [(cell.kind, cell.href) for cell in row.cells] == [
        ("ok", None),
        ("fail", "r2/report.html"),
        ("unsure", None),
        ("none", None),
    ]
    assert row.cells[1].label == "run 2: failed: Turn 2: too slow"
    assert row.cells[3].label == "run 4: not made"
    assert row.href == "r2/report.html"


def test_inconclusive_runs_do_not_count_in_the_pass_rate() -> None:
    [row] = page(ScenarioRuns("s", (PASSED, FAILED, UNSURE, OPEN))).rows
    assert row.passed == "1 of 2"
    assert row.rate is not None and row.rate[0] == 50.0 and row.rate[1] < 50 < row.rate[2]
    [nothing] = page(ScenarioRuns("s", (UNSURE,))).rows
    assert (nothing.passed, nothing.rate) == ("–", None)


def test_runs_that_failed_for_one_reason_are_one_group() -> None:
    again = RunFacts(5, False, "turn 2: too slow, by more", "late 1", "r5/report.html")
    other = RunFacts(6, False, "turn 3: said the wrong thing", "wrong 2")
    found = page(ScenarioRuns("s", (PASSED, FAILED, UNSURE, again, other)))
    assert [(g.kind, g.reason, g.of, [link.text for link in g.links]) for g in found.groups] == [
        ("fail", "Turn 2: too slow.", "2 of 5 runs:", ["run 2", "run 5"]),
        ("fail", "Turn 3: said the wrong thing.", "1 of 5 runs:", ["run 6"]),
        ("unsure", "The network was lost.", "1 of 5 runs:", ["run 3"]),
    ]


def test_latencies_share_one_axis() -> None:
    slow = ScenarioRuns("slow", (FAILED,), limit_ms=4_000)
    found = page(slow, ScenarioRuns("fast", (PASSED,)))
    assert [label for _, label in found.axis] == ["0 s", "2 s", "4 s", "6 s"]
    first, second = (row.strip for row in found.rows)
    assert first is not None and second is not None
    assert (first.dots[0][0], first.dots[0][2], first.limit) == (83.333, True, 66.667)
    assert ([x for x, _, _ in second.dots], second.middle, second.low) == ([16.667, 33.333], 25.0, None)
    assert second.told == "2 answers, median 1.50 s"


def test_many_answers_are_drawn_as_fewer_dots() -> None:
    run = RunFacts(1, True, latencies_ms=tuple(float(n) for n in range(10_000)))
    [row] = page(ScenarioRuns("s", (run,)), success=True).rows
    assert row.strip is not None and len(row.strip.dots) == 300
    assert row.strip.low is not None


@pytest.mark.parametrize(
    ("runs", "success", "stopped", "title"),
    [
        ((PASSED,), True, None, "Passed: the 1 run."),
        ((PASSED, PASSED), True, None, "Passed: all 2 runs."),
        ((PASSED, UNSURE), None, None, "Inconclusive: 1 of 2 runs, in 1 of 1 scenario."),
        ((PASSED, OPEN), None, None, "Inconclusive: not every run was made."),
        ((FAILED, OPEN), None, "Ctrl-C", "Stopped before its end: 1 of 2 runs made."),
    ],
)
def test_the_title_says_what_the_suite_came_to(
    runs: tuple[RunFacts, ...], success: bool | None, stopped: str | None, title: str
) -> None:
    assert page(ScenarioRuns("s", runs), success=success, stopped=stopped).title == title


@pytest.mark.parametrize(
    ("success", "gate", "title"),
    [
        (True, "pass", "Passed: 1 of 2 runs passed, and every gate is met."),
        (True, None, "Passed: 1 of 2 runs passed, and nothing got worse since the baseline."),
        (False, "fail", "Failed: 1 of 2 runs, in 1 of 1 scenario."),
        (None, "unsure", "Inconclusive: too few runs to say."),
    ],
)
def test_gates_and_baseline_decide_in_place_of_the_runs(success: bool | None, gate: str | None, title: str) -> None:
    gates = [] if gate is None else [(gate, "pass_rate ≥ 0.5")]
    found = page(ScenarioRuns("s", (PASSED, FAILED)), success=success, gates=gates)
    assert (found.title, found.gates) == (title, gates)


@pytest.mark.parametrize(
    ("gates", "title"),
    [([("fail", "p95")], "Failed: a gate was missed."), ([], "Failed: it got worse since the baseline.")],
)
def test_a_suite_can_fail_although_each_run_passed(gates: list[tuple[str, str]], title: str) -> None:
    assert page(ScenarioRuns("s", (PASSED, PASSED)), gates=gates).title == title


def test_changes_since_the_baseline_stand_in_the_sentence_and_the_row() -> None:
    change = Change("worse", "s", "passed 1 of 2, was 8 of 8", "worse, was 8 of 8")
    found = page(ScenarioRuns("s", (PASSED, FAILED), change=change), changes=[change])
    assert found.sub.endswith("Since the baseline: 1 worse.")
    assert "changed" in found.rows[0].classes
    assert found.filters[-1] == ("changed", "Changed", 1)


def test_a_suite_on_disk_becomes_scenarios() -> None:
    made = in_suite(judged(WRONG_CALL, call_facts()), "one")
    result = SuiteResult(
        suite="n",
        file="n.yaml",
        started_at="x",
        finished=False,
        runs=[made, in_suite(None, None, repeat=2)],
        open=[OpenRun(scenario=made.scenario, file=made.file, repeat=3, under_way=True)],
        skipped=[SkippedScenario(scenario="z", file="b.yaml", reason="needs a browser")],
    )
    limits = {("b.yaml", made.scenario): 4_000.0}
    first, second = scenarios_of(result, {"one": RunLink("one/report.html", "turn 2: wrong")}, limits)
    assert [(run.success, run.href, run.state) for run in first.runs] == [
        (False, "one/report.html", ""),
        (None, None, ""),
        (None, None, "under way"),
    ]
    assert first.limit_ms == 4_000.0
    assert first.runs[0].reason == "turn 2: wrong"
    assert first.runs[1].reason == "nothing answers at http://localhost:1"
    assert (second.name, second.skipped) == ("z", "needs a browser")
