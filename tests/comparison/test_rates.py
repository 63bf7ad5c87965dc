"""Pass rates: published values, and what holds for all of them."""

from fractions import Fraction
from itertools import product
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.comparison.intervals import wilson
from runner.comparison.rates import (
    Table,
    attainable_p,
    best_suite_p,
    difference_interval,
    fisher_p,
    mean_difference_interval,
    pass_hat_k,
    power,
    runs_needed,
    smallest_drop_points,
    stratified_tails,
    tarone_limit,
)
from tests.examples import examples

RABBITS = [(0, 6, 0, 5), (3, 3, 0, 6), (6, 0, 2, 4), (5, 1, 6, 0), (2, 0, 5, 0)]
"""R's dataset: of each dose of penicillin cured and died, without delay and after 1.5 hours."""


@st.composite
def tables(draw: st.DrawFn, most: int = 9) -> Table:
    base_runs, current_runs = draw(st.integers(1, most)), draw(st.integers(1, most))
    return Table(draw(st.integers(0, base_runs)), base_runs, draw(st.integers(0, current_runs)), current_runs)


def test_pass_hat_k_is_that_of_tau_bench() -> None:
    counts = [(passed, 4) for passed, tasks in {0: 14, 1: 12, 2: 10, 3: 4, 4: 10}.items() for _ in range(tasks)]
    assert [round(pass_hat_k(counts, k), 3) for k in (1, 2, 3, 4)] == [0.420, 0.273, 0.220, 0.200]


@pytest.mark.slow
def test_the_stratified_test_is_that_of_r() -> None:
    # Brings pandas with it: only where it is asked.
    from statsmodels.stats.contingency_tables import StratifiedTable

    strata = [
        Table(cured_late, cured_late + died_late, cured, cured + died)
        for cured, died, cured_late, died_late in RABBITS
    ]
    tails = stratified_tails(strata)
    assert tails.at + tails.above == pytest.approx(0.01997, abs=1e-5)
    assert 2 * (tails.at + tails.above) == pytest.approx(0.03994, abs=2e-5)
    assert tails.doubled_mid_p < 0.03994
    reference = StratifiedTable(
        [
            [[t.current_passed, t.current_runs - t.current_passed], [t.base_passed, t.base_runs - t.base_passed]]
            for t in strata[:4]
        ]
    )
    assert reference.test_null_odds(correction=True).pvalue == pytest.approx(0.047, abs=1e-3)


def test_intervals_are_the_published_ones() -> None:
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert difference_interval(Table(48, 80, 56, 70)) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert wilson(73, 73)[0] >= 0.95 > wilson(72, 72)[0]


@settings(max_examples=examples(30), deadline=None)
@given(tables(), tables())
def test_two_scenarios_are_tested_exactly(one: Table, other: Table) -> None:
    def chances(table: Table) -> dict[int, Fraction]:
        passed = table.base_passed + table.current_passed
        return {
            c: Fraction(
                comb(table.current_runs, c) * comb(table.base_runs, passed - c),
                comb(table.base_runs + table.current_runs, passed),
            )
            for c in range(max(0, passed - table.base_runs), min(table.current_runs, passed) + 1)
        }

    observed = one.current_passed + other.current_passed
    sums = [(a + b, p * q) for (a, p), (b, q) in product(chances(one).items(), chances(other).items())]
    tails = stratified_tails([one, other])
    assert tails.below == pytest.approx(float(sum(p for n, p in sums if n < observed)), abs=1e-9)
    assert tails.above == pytest.approx(float(sum(p for n, p in sums if n > observed)), abs=1e-9)


@settings(max_examples=examples(50), deadline=None)
@given(tables())
def test_swapping_the_sides_changes_only_the_sign(table: Table) -> None:
    swapped = Table(table.current_passed, table.current_runs, table.base_passed, table.base_runs)
    assert fisher_p(swapped) == pytest.approx(fisher_p(table))
    assert stratified_tails([swapped]).doubled_mid_p == pytest.approx(stratified_tails([table]).doubled_mid_p)
    low, high = difference_interval(table)
    assert difference_interval(swapped) == pytest.approx((-high, -low))
    assert low <= table.difference <= high
    assert 0 < attainable_p(table) <= fisher_p(table) <= 1


@pytest.mark.parametrize("passed", [0, 5])
def test_sides_that_are_all_alike_differ_in_nothing(passed: int) -> None:
    table = Table(passed, 5, passed, 5)
    assert (fisher_p(table), attainable_p(table), stratified_tails([table] * 3).doubled_mid_p) == (1, 1, 1)
    low, high = mean_difference_interval([table] * 4)
    assert low == pytest.approx(-high) and 0 < high < difference_interval(table)[1]


def test_one_run_a_side_can_show_nothing() -> None:
    assert fisher_p(Table(1, 1, 0, 1)) == 1
    assert best_suite_p([Table(1, 1, 1, 1)]) == 0.5
    assert best_suite_p([Table(1, 1, 1, 1)] * 7) < 0.0125 < best_suite_p([Table(1, 1, 1, 1)] * 6)


def test_scenarios_that_can_show_nothing_cost_the_others_nothing() -> None:
    dropped, steady = attainable_p(Table(5, 5, 0, 5)), attainable_p(Table(5, 5, 5, 5))
    assert (dropped, steady) == (pytest.approx(2 / 252), 1)
    assert tarone_limit([dropped, *[steady] * 19], 0.0167) == 0.0167
    assert tarone_limit([dropped] * 2, 0.0167) == 0.0167 / 2
    assert tarone_limit([dropped] * 3, 0.0167) == 0.0167 / 3 < dropped, "too many for so few runs"


@settings(max_examples=examples(50), deadline=None)
@given(st.lists(st.floats(0.0001, 1), max_size=12))
def test_no_more_scenarios_can_be_named_than_share_the_level(attainable: list[float]) -> None:
    limit = tarone_limit(attainable, 0.0167)
    assert sum(p <= limit for p in attainable) * limit <= 0.0167 + 1e-12


def test_runs_needed_are_those_of_simulation() -> None:
    level = 0.0167
    assert [runs_needed(1, rate, level) for rate in (0.5, 0.2)] == [17, 9]
    assert [runs_needed(1, rate, level, 20) for rate in (0.5, 0.2)] == [10, 5]
    assert runs_needed(1, 0.8, level) == pytest.approx(45, abs=1)
    assert runs_needed(1, 0.8, level, 20) is None
    assert runs_needed(0.95, 0.8, level) == pytest.approx(110, abs=5)
    assert runs_needed(0.9, 0.9, level) is None


@pytest.mark.slow
def test_the_power_of_a_large_sample_is_that_of_a_normal_one() -> None:
    from statsmodels.stats.proportion import power_proportions_2indep

    expected = power_proportions_2indep(-0.1, 0.9, 200, alpha=0.05).power
    assert power(0.9, 0.8, 200, 200, 0.05) == pytest.approx(expected, abs=0.05)


def test_the_smallest_drop_shrinks_with_more_runs() -> None:
    drops = [smallest_drop_points(1.0, 20, runs, 0.0167) for runs in (3, 5, 20, 200)]
    assert drops == sorted((drop for drop in drops if drop is not None), reverse=True)
    assert smallest_drop_points(1.0, 2, 2, 0.0167) is None
    assert smallest_drop_points(0.0, 20, 20, 0.0167) is None
