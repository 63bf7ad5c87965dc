"""What a comparison says, on the page of a suite and on one of its own."""

import pytest

from runner.comparison.changes import Change, Comparison, LatencyChange, RateChange, ScenarioChange
from runner.comparison.gates import GateOutcome, GateStatus
from runner.reports.html.changes import gates_of, listed_changes, scenario_changes, signed
from runner.reports.html.comparison_page import comparison_page
from runner.reports.html.render import render_comparison
from tests.reports.html.test_render import HOSTILE, Page

RATE = RateChange(base_passed=20, base_runs=20, current_passed=20, current_runs=20, shows_points=30)
WORSE = ScenarioChange(
    scenario="stops",
    change=Change.REGRESSED,
    pass_rate=RateChange(
        base_passed=8,
        base_runs=8,
        current_passed=3,
        current_runs=8,
        difference_points=-62.5,
        low_points=-86,
        high_points=-17,
        p=0.03,
        significant=True,
    ),
    current_inconclusive=1,
)
SLOWER = ScenarioChange(
    scenario="books",
    change=Change.REGRESSED,
    pass_rate=RATE,
    latency=LatencyChange(
        base_calls=20,
        current_calls=20,
        difference_ms=270,
        low_ms=140,
        high_ms=400,
        p=0.001,
        significant=True,
        shows_ms=200,
    ),
)
SAME = ScenarioChange(scenario="greets", change=Change.UNCHANGED, pass_rate=RATE)
FEW = ScenarioChange(
    scenario="new",
    change=Change.TOO_FEW,
    pass_rate=RateChange(base_passed=2, base_runs=2, current_passed=1, current_runs=2),
    runs_needed=12,
)


def comparison(*scenarios: ScenarioChange, change: Change = Change.REGRESSED) -> Comparison:
    return Comparison(
        change=change,
        pass_rate=RATE,
        latency=None,
        scenarios=list(scenarios),
        base_sessions=1,
        current_sessions=1,
        interleaved=False,
        by_session=False,
        base_inconclusive=0,
        current_inconclusive=0,
        warnings=["another host"],
    )


def test_what_got_worse_is_listed_first_and_no_difference_is_one_line() -> None:
    found = listed_changes(comparison(SAME, FEW, SLOWER, WORSE))
    assert [(change.kind, change.name, change.text) for change in found] == [
        ("worse", "books", "passed 20 of 20, was 20 of 20; answers +0.27 s, between +0.14 and +0.40 "
         "(from 0.20 s on it would show)."),
        ("worse", "stops", "passed 3 of 8, was 8 of 8: −62 points, between −86 and −17."),
        ("unsure", "new", "passed 1 of 2, was 2 of 2; 12 runs a side would tell."),
        ("same", "No difference to be seen: 1 scenario", "With so many runs a drop of less than about 30 points can "
         "stay unseen in one scenario."),
    ]  # fmt: skip


def test_each_scenario_has_its_word() -> None:
    briefs = {name: change.brief for name, change in scenario_changes(comparison(SAME, FEW, SLOWER, WORSE)).items()}
    assert briefs == {
        "greets": "no difference",
        "new": "too few runs to say",
        "books": "slower",
        "stops": "worse, was 8 of 8",
    }


@pytest.mark.parametrize(
    ("change", "icon", "title"),
    [
        (Change.REGRESSED, "fail", "Regressed: all 2 scenarios together, none alone."),
        (Change.UNCHANGED, "pass", "No difference to be seen: 2 scenarios compared."),
        (Change.TOO_FEW, "unsure", "Too few runs to say: 2 scenarios compared."),
    ],
)
def test_the_title_says_what_it_came_to(change: Change, icon: str, title: str) -> None:
    found = comparison_page(comparison(SAME, FEW, change=change), "base.json", "runs/suite-1")
    assert (found.icon, found.title) == (icon, title)
    assert "1 no difference, 1 too few runs to say." in found.sub
    assert found.warnings == ["another host"]


def test_the_title_counts_what_changed() -> None:
    assert comparison_page(comparison(SAME, SLOWER, WORSE), "a", "b").title == "Regressed: 2 of 3 scenarios."


def test_worse_lies_on_the_left_whatever_is_measured() -> None:
    rows = {row.name: row for row in comparison_page(comparison(SLOWER, WORSE, SAME), "a", "b").rows}
    rate, latency = rows["stops"].rate, rows["books"].latency
    assert rate is not None and latency is not None
    assert (rate.low, rate.value, rate.high, rate.kind) == (7.0, 18.75, 41.5, "worse")
    assert latency.low < latency.value < latency.high < 50 and latency.kind == "worse"
    assert rows["stops"].current == "3 of 8, 1 inconclusive"
    assert (rows["greets"].rate, rows["greets"].latency) == (None, None)


def test_a_comparison_is_a_page_without_holes() -> None:
    made = comparison(WORSE.model_copy(update={"scenario": HOSTILE}), SLOWER, SAME, FEW)
    page = Page(render_comparison(comparison_page(made, HOSTILE, "b")))
    assert (page.open, page.unclosed, len(page.scripts)) == ([], [], 1)
    assert "img" not in {tag for tag, _ in page.tags}


def test_thresholds_have_the_shapes_of_verdicts() -> None:
    outcome = GateOutcome(
        gate="pass_rate", limit=0.95, status=GateStatus.MISSED, observed=0.7, low=0.48, high=0.85, count=14, total=20,
        is_kept=False,
    )  # fmt: skip
    few = outcome.model_copy(update={"status": GateStatus.TOO_FEW})
    assert [kind for kind, _ in gates_of([outcome, few])] == ["fail", "unsure"]
    assert gates_of([outcome])[0][1].startswith("pass_rate ≥ 0.95 missed: 14/20")


def test_a_difference_has_its_sign() -> None:
    assert [signed(-0.4), signed(-3), signed(3), signed(0.25, 2)] == ["0", "−3", "+3", "+0.25"]
