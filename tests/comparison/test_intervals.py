"""Intervals against published values."""

import pytest

from runner.comparison.intervals import median, median_interval, newcombe, wilson


@pytest.mark.parametrize(
    ("passed", "runs", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_of_a_rate_is_wilsons(passed: int, runs: int, low: float, high: float) -> None:
    assert wilson(passed, runs) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_of_a_difference_is_newcombes() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table II, method 10.
    assert newcombe((48, 80), (56, 70)) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "current"), [((56, 70), (48, 80)), ((5, 5), (5, 5)), ((0, 3), (3, 3)), ((7, 9), (2, 8))]
)
def test_intervals_are_those_of_statsmodels(base: tuple[int, int], current: tuple[int, int]) -> None:
    # Brings pandas with it: only where it is asked.
    from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

    assert wilson(*base) == pytest.approx(proportion_confint(*base, method="wilson"), abs=1e-6)
    theirs = confint_proportions_2indep(*current, *base, compare="diff", method="newcomb")
    assert newcombe(base, current) == pytest.approx(theirs, abs=1e-6)


def test_nothing_is_known_of_a_rate_without_runs() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


# Ranks for 95 %: 6 values lie between the first and the last, 10 between the 2nd and the 9th, 20: 6th and 15th.
@pytest.mark.parametrize(("number", "ranks"), [(5, None), (6, (1, 6)), (10, (2, 9)), (20, (6, 15)), (100, (40, 61))])
def test_the_interval_of_a_median_is_between_values(number: int, ranks: tuple[int, int] | None) -> None:
    assert median_interval([float(n) for n in range(number, 0, -1)]) == ranks


def test_many_values_give_about_the_ranks_of_the_normal_distribution() -> None:
    assert median_interval(list(range(10_000))) == pytest.approx((4_902, 5_097), abs=2)


def test_the_median_of_an_even_number_lies_between_two() -> None:
    assert (median([3, 1, 2]), median([4, 1, 2, 3])) == (2, 2.5)
