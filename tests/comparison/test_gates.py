"""Thresholds: met, missed, or too few runs to say."""

import pytest

from runner.comparison.facts import RunFacts
from runner.comparison.gates import Gates, GateStatus, judge_gates
from runner.comparison.summary import summarise
from runner.comparison.wording import gate_line
from tests.comparison.runs import runs


def rate(limit: float, passed: int, failed: int = 0, inconclusive: int = 0) -> tuple[GateStatus, int]:
    (outcome,) = judge_gates(Gates(pass_rate=limit), runs("a", passed, failed, inconclusive=inconclusive))
    return outcome.status, outcome.exit_code


@pytest.mark.parametrize(
    ("passed", "failed", "expected"),
    [
        (73, 0, (GateStatus.MET, 0)),
        (72, 0, (GateStatus.TOO_FEW, 0)),
        (20, 0, (GateStatus.TOO_FEW, 0)),
        (18, 2, (GateStatus.TOO_FEW, 2)),
        (14, 6, (GateStatus.MISSED, 1)),
        (0, 1, (GateStatus.MISSED, 1)),
        (0, 0, (GateStatus.TOO_FEW, 2)),
    ],
)
def test_a_pass_rate_is_missed_only_outside_its_interval(
    passed: int, failed: int, expected: tuple[GateStatus, int]
) -> None:
    assert rate(0.95, passed, failed) == expected
    assert rate(0.95, passed, failed, inconclusive=(passed + failed) // 4) == expected


@pytest.mark.parametrize("passed", [10, 50])
def test_a_limit_of_one_is_kept_where_every_run_passed(passed: int) -> None:
    (outcome,) = judge_gates(Gates(pass_rate=1), runs("a", passed))
    assert (outcome.status, outcome.exit_code, outcome.runs_needed) == (GateStatus.TOO_FEW, 0, None)


def test_many_inconclusive_runs_leave_every_threshold_open() -> None:
    assert rate(0.95, 73, inconclusive=19) == (GateStatus.TOO_FEW, 2)
    assert rate(0.95, 14, 6, inconclusive=6) == (GateStatus.TOO_FEW, 2)
    (outcome,) = judge_gates(Gates(pass_rate=0.95), runs("a", 73, inconclusive=19))
    assert gate_line(outcome).endswith("73/73 (100 %, 95 to 100 %); 19 inconclusive")


def test_how_many_runs_it_takes_is_said() -> None:
    (outcome,) = judge_gates(Gates(pass_rate=0.95), runs("a", 20))
    assert outcome.runs_needed == 73
    assert gate_line(outcome) == (
        "pass_rate ≥ 0.95 too few runs to say: 20/20 (100 %, 84 to 100 %); kept so far; 73 such runs would tell"
    )
    (never,) = judge_gates(Gates(pass_rate=0.95), runs("a", 19, 1))
    assert never.runs_needed is None and never.is_kept


def calls(count: int, *latencies_ms: float) -> list[RunFacts]:
    return [
        RunFacts(id=str(n), scenario="s", session="s", started_at="t", success=True, latencies_ms=latencies_ms)
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("made", "status"),
    [
        (calls(100, 900.0), GateStatus.MET),
        (calls(20, 900.0), GateStatus.TOO_FEW),
        (calls(20, 2_500.0), GateStatus.MISSED),
        ([], GateStatus.TOO_FEW),
    ],
)
def test_a_p95_is_judged_by_the_share_of_turns_above(made: list[RunFacts], status: GateStatus) -> None:
    (outcome,) = judge_gates(Gates(p95_latency_ms=2_000), made)
    assert outcome.status is status
    assert gate_line(outcome).startswith("p95_latency_ms ≤ 2000 ms ")


def test_turns_of_one_call_count_for_less_than_as_many_calls() -> None:
    # A hundred turns that are all alike in each of twenty calls say no more than twenty turns.
    alike = [
        run.model_copy(update={"latencies_ms": (ms, ms, ms, ms, ms)})
        for run, ms in zip(calls(20), range(800, 1_000, 10), strict=False)
    ]
    (outcome,) = judge_gates(Gates(p95_latency_ms=2_000), alike)
    assert outcome.total == 100 and outcome.status is GateStatus.TOO_FEW
    assert outcome.runs_needed == pytest.approx(73, abs=1)


def test_no_thresholds_give_no_outcomes() -> None:
    assert judge_gates(Gates(), calls(3, 900.0)) == []


def test_repeats_say_how_often_and_how_fast() -> None:
    summary = summarise([*runs("a", 3, 1, inconclusive=1), *runs("a", 4, scenario="other", latency_ms=None)])
    assert [(of.scenario, of.passed, of.decided, of.inconclusive) for of in summary.scenarios] == [
        ("booking", 3, 4, 1),
        ("other", 4, 4, 0),
    ]
    booking, other = summary.scenarios
    assert booking.pass_hat_k == [0.75, 0.5, 0.25, 0.0]
    assert summary.all.pass_hat_k == [0.875, 0.75, 0.625, 0.5]
    assert booking.pass_rate is not None and booking.pass_rate.low < 0.75 < booking.pass_rate.high
    assert booking.p50_latency_ms is not None and other.p50_latency_ms is None
    (nothing,) = summarise(runs("a", 0, inconclusive=2)).scenarios
    assert nothing.pass_rate is None and nothing.pass_hat_k == []
