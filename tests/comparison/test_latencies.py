"""Latencies: published values, one value a call, and what can't be computed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from runner.comparison.facts import RunFacts
from runner.comparison.latencies import (
    call_values,
    calls_needed,
    design_effect,
    holm,
    matrix,
    percentile_ms,
    pooled_difference,
    stratified_difference,
)
from tests.examples import examples

values = st.lists(st.floats(100, 5_000), min_size=3, max_size=8).filter(lambda v: float(np.std(v)) > 2).map(np.array)


def call(name: str, *latencies_ms: float | None) -> RunFacts:
    return RunFacts(
        id=name, scenario="s", session="s", started_at="t", success=True, latencies_ms=tuple(latencies_ms)
    )


def test_welch_is_that_of_clickhouse() -> None:
    # The example of its welchTTest, which is checked against scipy there.
    base, current = np.array([18.9, 20.3, 19.0]), np.array([20.3, 22.1, 21.9])
    scale = 100  # Variances have a floor of one square millisecond.
    found = stratified_difference([(base * scale, current * scale)])
    assert found.p == pytest.approx(0.05181, abs=1e-5)
    assert [bound / scale for bound in found.interval_ms] == pytest.approx([-0.0263, 4.0930], abs=1e-4)


@settings(max_examples=examples(30), deadline=None)
@given(values, values)
def test_a_single_scenario_is_tested_as_scipy_does(base: np.ndarray, current: np.ndarray) -> None:
    for found, equal_var in (
        (pooled_difference(base, current), True),
        (stratified_difference([(base, current)]), False),
    ):
        expected = ttest_ind(current, base, equal_var=equal_var)
        assert found.p == pytest.approx(expected.pvalue, rel=1e-6)
        interval = expected.confidence_interval(0.95)
        assert found.interval_ms == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-6)


def test_more_scenarios_make_a_difference_more_certain() -> None:
    base = np.array([700.0, 800, 900])
    one, four = (stratified_difference([(base, base + 100)] * n) for n in (1, 4))
    assert one.ms == four.ms == pytest.approx(100)
    assert four.se_ms == pytest.approx(one.se_ms / 2)
    assert four.shows_ms(0.05) < one.shows_ms(0.05)


def test_equal_values_are_no_certainty_and_no_error() -> None:
    same = np.array([800.0, 800, 800])
    assert pooled_difference(same, same).p == 1
    assert pooled_difference(same, same + 0.5).p > 0.5
    assert stratified_difference([(same, same + 500)]).p < 0.001


def test_a_single_session_is_tested_against_many() -> None:
    found = pooled_difference(np.array([790.0, 800, 810, 805, 795]), np.array([1_100.0]))
    assert found.df == 4 and found.p < 0.0125 and found.ms == 300


def test_an_agent_that_fails_early_is_not_slower_for_it() -> None:
    # The second turn takes longer for everybody; those that fail do not get to it.
    base = [call(f"b{n}", 500 + n, 2_000 + n) for n in range(5)]
    current = [call(f"c{n}", 500 + n) for n in range(5)]
    found = call_values(base, current)
    assert [found[f"c{n}"] for n in range(5)] == pytest.approx([found[f"b{n}"] for n in range(5)], abs=1)


def test_calls_without_latencies_have_no_value() -> None:
    assert call_values([call("a"), call("b", None, None)], [call("c", None, 700.0)]) == {"c": 0.0}
    assert call_values([], []) == {}


@pytest.mark.slow
@settings(max_examples=examples(40), deadline=None)
@given(st.lists(st.floats(0.0001, 1), max_size=10))
def test_holm_is_that_of_statsmodels(p: list[float]) -> None:
    # Brings pandas with it: only where it is asked.
    from statsmodels.stats.multitest import multipletests

    expected = list(multipletests(p, alpha=0.0083, method="holm")[0]) if p else []
    assert holm(p, 0.0083) == expected


def test_the_calls_needed_would_show_what_was_seen() -> None:
    rng = np.random.default_rng(1)
    base, current = rng.normal(800, 200, 5), rng.normal(1_000, 200, 5)
    found = pooled_difference(base, current)
    needed = calls_needed(found, 5, 5, 0.0083)
    assert needed is not None and needed > 5
    many = pooled_difference(np.tile(base, needed), np.tile(current, needed))
    assert many.shows_ms(0.0083) <= abs(found.ms)
    assert calls_needed(pooled_difference(base, base + 0.1), 5, 5, 0.0083) is None


def test_percentiles_have_the_same_interval_every_time() -> None:
    table = matrix([[700.0, None], [800.0, 900.0], [1_000.0]])
    assert percentile_ms(table, 50) == percentile_ms(table, 50)
    value, low, high = percentile_ms(table, 50)
    assert value == 850 and low <= value <= high
    assert percentile_ms(matrix([[700.0]]), 95) == (700, 700, 700)


def test_turns_of_a_call_that_are_alike_count_as_one() -> None:
    rng = np.random.default_rng(2)
    of_call = np.exp(rng.normal(0, 0.3, (200, 1)))
    assert design_effect({"s": 800 * of_call * np.ones((1, 4))}) == pytest.approx(4)
    alone = design_effect({"s": 800 * np.exp(rng.normal(0, 0.3, (200, 4)))})
    assert alone == pytest.approx(1, abs=0.2)
    half = of_call * np.exp(rng.normal(0, 0.3, (200, 4)))
    assert design_effect({"s": 800 * half}) == pytest.approx(1 + 3 * 0.5, abs=0.3)
    assert design_effect({"s": matrix([[700.0, 800.0, 900.0]])}) == 3, "one call tells nothing of that"


def test_percentiles_of_rows_are_those_of_numpy() -> None:
    rng = np.random.default_rng(3)
    table = rng.normal(800, 100, (40, 5))
    table[:, 1:][rng.random((40, 4)) < 0.4] = np.nan
    for percent in (0, 50, 95, 100):
        value, low, high = percentile_ms(table, percent)
        assert value == pytest.approx(float(np.nanpercentile(table, percent)))
        assert low <= value <= high
