"""The rule: which verdict two sets of runs come to."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.comparison.changes import Change, Comparison
from runner.comparison.compare import DRIFT, compare, compare_sets
from runner.comparison.facts import RunFacts
from runner.errors import UsageError
from tests.comparison.runs import run_set, runs
from tests.examples import examples

NAMES = [f"scenario {n}" for n in range(20)]


def suite(side: str, passed: int, failed: int = 0, **options: object) -> list[RunFacts]:
    return [run for name in NAMES for run in runs(side, passed, failed, scenario=name, **options)]  # pyright: ignore


def changes(comparison: Comparison) -> list[Change]:
    return [scenario.change for scenario in comparison.scenarios]


def one(base: Sequence[RunFacts], current: Sequence[RunFacts]) -> Change:
    (scenario,) = compare(base, current).scenarios
    return scenario.change


@pytest.mark.parametrize(
    ("base", "current", "change"),
    [
        ((20, 0), (5, 0), Change.UNCHANGED),
        ((20, 0), (1, 4), Change.REGRESSED),
        ((0, 20), (5, 0), Change.IMPROVED),
        ((5, 0), (0, 5), Change.REGRESSED),
        ((10, 10), (5, 5), Change.FLAKY),
        ((4, 1), (1, 4), Change.FLAKY),
        ((5, 0), (4, 1), Change.TOO_FEW),
        ((20, 0), (4, 0), Change.TOO_FEW),
        ((4, 0), (0, 4), Change.TOO_FEW),
        ((1, 0), (1, 0), Change.TOO_FEW),
        ((0, 1), (1, 0), Change.TOO_FEW),
        ((0, 20), (0, 20), Change.UNCHANGED),
    ],
)
def test_pass_rates_of_one_scenario(base: tuple[int, int], current: tuple[int, int], change: Change) -> None:
    assert one(runs("base", *base, latency_ms=None), runs("current", *current, latency_ms=None)) is change


@pytest.mark.parametrize(
    ("slower_ms", "calls", "change"),
    [
        (0, 5, Change.UNCHANGED),
        (140, 20, Change.UNCHANGED),
        (160, 5, Change.REGRESSED),
        (-160, 5, Change.IMPROVED),
        (90, 20, Change.UNCHANGED),
    ],
)
def test_latencies_of_one_scenario(slower_ms: float, calls: int, change: Change) -> None:
    # Between 100 and 150 ms it is the suite's gate that fires, and names the scenario.
    current = runs("current", calls, latency_ms=800 + slower_ms)
    found = compare(runs("base", calls), current)
    expected = Change.REGRESSED if slower_ms == 140 else change
    assert found.scenarios[0].change is expected
    assert found.change is expected


def test_a_difference_of_latency_that_may_be_chance_takes_more_runs() -> None:
    base, current = runs("base", 5, spread_ms=200), runs("current", 5, latency_ms=980, spread_ms=200)
    comparison = compare(base, current)
    (scenario,) = comparison.scenarios
    assert scenario.change is Change.TOO_FEW and scenario.latency is not None
    assert scenario.latency.shows_ms is not None and scenario.latency.shows_ms > 180
    assert scenario.runs_needed is not None and 5 < scenario.runs_needed < 100
    assert comparison.exit_code == 2


def test_latencies_that_are_missing_take_no_number_of_runs() -> None:
    base = [*runs("base", 19, latency_ms=None), *runs("one", 1, session="base")]
    (scenario,) = compare(base, runs("current", 20, latency_ms=None)).scenarios
    assert scenario.why_too_few == "fewer than 3 calls with a latency on a side"
    assert scenario.runs_needed is None


def test_one_scenario_that_breaks_is_found_among_twenty() -> None:
    broken = runs("current", 0, 5, scenario=NAMES[0])
    comparison = compare(suite("base", 5), [*broken, *suite("current", 5)[5:]])
    assert changes(comparison) == [Change.REGRESSED, *[Change.UNCHANGED] * 19]
    assert comparison.change is Change.REGRESSED and comparison.exit_code == 1


def test_a_drop_everywhere_is_found_though_no_scenario_shows_it() -> None:
    comparison = compare(suite("base", 5), suite("current", 4, 1))
    assert comparison.pass_rate.significant and comparison.pass_rate.difference_points == -20
    assert comparison.change is Change.REGRESSED
    assert set(changes(comparison)) == {Change.TOO_FEW}


def test_scenarios_that_moved_with_their_suite_are_named() -> None:
    # Alone 1 of 5 would not be enough among twenty scenarios.
    current = [
        run
        for place, name in enumerate(NAMES)
        for run in (runs("current", 1, 4, scenario=name) if place < 6 else runs("current", 5, scenario=name))
    ]
    comparison = compare(suite("base", 5), current)
    assert changes(comparison) == [*[Change.REGRESSED] * 6, *[Change.UNCHANGED] * 14]
    alone = compare(suite("base", 5), [*runs("current", 1, 4, scenario=NAMES[0]), *suite("current", 5)[5:]])
    assert changes(alone)[0] is Change.TOO_FEW


def test_a_small_slowdown_everywhere_is_found() -> None:
    comparison = compare(suite("base", 5), suite("current", 5, latency_ms=920))
    assert comparison.latency is not None and comparison.latency.significant
    assert comparison.latency.difference_ms == pytest.approx(120)
    assert comparison.change is Change.REGRESSED
    faster = compare(suite("base", 5), suite("current", 5, latency_ms=600))
    assert faster.change is Change.IMPROVED and faster.exit_code == 0


def test_a_difference_below_the_minimum_is_no_change() -> None:
    comparison = compare(suite("base", 20), suite("current", 20, latency_ms=890))
    assert comparison.latency is not None and comparison.latency.p is not None and comparison.latency.p < 1e-6
    assert comparison.change is Change.UNCHANGED and set(changes(comparison)) == {Change.UNCHANGED}


@pytest.mark.parametrize(
    ("base", "current", "why"),
    [
        ((20, 0, 6), (20, 0, 0), "6 of 26 runs of the base side are inconclusive"),
        ((20, 0, 0), (0, 7, 2), "2 of 9 runs of the current side are inconclusive"),
        ((100, 0, 0), (9, 8, 2), "the sides differ in inconclusive runs (0 and 2)"),
    ],
)
def test_inconclusive_runs_leave_nothing_to_say(
    base: tuple[int, int, int], current: tuple[int, int, int], why: str
) -> None:
    comparison = compare(
        runs("base", *base[:2], inconclusive=base[2]), runs("current", *current[:2], inconclusive=current[2])
    )
    assert (comparison.change, comparison.why_too_few) == (Change.TOO_FEW, why)
    assert comparison.scenarios[0].why_too_few == why


def test_few_inconclusive_runs_are_left_out_and_counted() -> None:
    comparison = compare(runs("base", 20, inconclusive=1), runs("current", 0, 5, inconclusive=1))
    (scenario,) = comparison.scenarios
    assert scenario.change is Change.REGRESSED
    assert (scenario.pass_rate.base_runs, scenario.pass_rate.current_runs) == (20, 5)
    assert (scenario.base_inconclusive, scenario.current_inconclusive) == (1, 1)


def test_runs_that_are_all_inconclusive_are_no_error() -> None:
    comparison = compare(runs("base", 5), runs("current", 0, inconclusive=3))
    assert comparison.change is Change.TOO_FEW and comparison.exit_code == 2


def nights(count: int, *, slower_ms: float = 0.0) -> list[RunFacts]:
    return [
        run
        for night in range(count)
        for run in runs("base", 5, session=f"night {night}", latency_ms=800 + 120 * (night % 3) + slower_ms)
    ]


def test_many_sessions_of_a_base_make_drift_no_change() -> None:
    tonight = runs("current", 5, latency_ms=1_050)
    one_night = compare(nights(1), tonight)
    assert one_night.change is Change.REGRESSED and one_night.warnings == [DRIFT]
    five = compare(nights(5), tonight)
    assert five.by_session and five.change is not Change.REGRESSED and five.warnings == []
    assert compare(nights(5), runs("current", 5, latency_ms=2_000)).change is Change.REGRESSED


def test_runs_of_one_session_are_interleaved_and_need_no_warning() -> None:
    comparison = compare(runs("base", 5, session="one"), runs("current", 5, session="one"))
    assert comparison.interleaved and not comparison.by_session and comparison.warnings == []


def test_what_only_one_side_has_is_named_and_not_compared() -> None:
    base = [*runs("base", 5), *runs("base", 5, scenario="gone")]
    comparison = compare(base, [*runs("current", 5), *runs("current", 0, 5, scenario="new")])
    assert (comparison.only_in_base, comparison.only_in_current) == (["gone"], ["new"])
    assert [scenario.scenario for scenario in comparison.scenarios] == ["booking"]
    assert comparison.change is Change.UNCHANGED
    with pytest.raises(UsageError, match="no scenario in common"):
        compare(runs("base", 5, scenario="a"), runs("current", 5, scenario="b"))


def test_a_run_is_not_compared_with_itself() -> None:
    with pytest.raises(UsageError, match="the same runs"):
        compare(runs("base", 5), runs("base", 5))


def test_an_edited_scenario_is_warned_of() -> None:
    comparison = compare(runs("base", 5), runs("current", 5, scenario_hash="other"))
    assert "not the same on both sides" in comparison.warnings[-1] and "booking" in comparison.warnings[-1]
    assert comparison.scenarios[0].was_edited
    assert compare(runs("base", 5), runs("current", 5, scenario_hash=None)).scenarios[0].was_edited is None


def test_digests_of_different_kinds_tell_nothing() -> None:
    def was_edited(base: str, current: str) -> bool | None:
        sides = runs("base", 5, scenario_hash=base), runs("current", 5, scenario_hash=current)
        return compare(*sides).scenarios[0].was_edited

    assert was_edited("record:a", "a") is None
    assert (was_edited("record:a", "record:a"), was_edited("record:a", "record:b")) == (False, True)


def test_other_circumstances_are_warned_of() -> None:
    base = run_set(runs("base", 5), host="laptop", versions={"runner": "1", "agent": "a"}, settings={"tts": "x"})
    current = run_set(
        runs("current", 5), host="server", versions={"runner": "2", "agent": "b"}, settings={"tts": "x"}
    )
    assert compare_sets(base, current).warnings == [
        DRIFT,
        "host differs: laptop in the base, server now",
        "version of runner differs: 1 in the base, 2 now",
    ]
    # A result of the record knows of none: that is no difference.
    assert compare_sets(run_set(runs("result", 5)), current).warnings == [DRIFT]
    auto = run_set(runs("auto", 5), host="server", concurrency="auto", settings={"tts": "x", "seed": "0"})
    one = run_set(runs("one", 5), concurrency=1, settings={"tts": "x"})
    assert compare_sets(auto, one).warnings == [
        DRIFT,
        "concurrency differs: auto in the base, 1 now",
        "setting seed differs: 0 in the base, none now",
    ]


sides = st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(0, 2)).filter(lambda side: sum(side) > 0)


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.tuples(sides, sides), min_size=1, max_size=3), st.floats(0, 400))
def test_swapping_the_sides_turns_the_verdict(
    pairs: list[tuple[tuple[int, int, int], ...]], slower_ms: float
) -> None:
    base, current = (
        [
            run
            for name, pair in zip(NAMES, pairs, strict=False)
            for run in runs(
                f"side {side}",
                *pair[side][:2],
                inconclusive=pair[side][2],
                scenario=name,
                latency_ms=800 + side * slower_ms,
                session="one",
            )
        ]
        for side in (0, 1)
    )
    forth, back = compare(base, current), compare(current, base)
    turned = {Change.REGRESSED: Change.IMPROVED, Change.IMPROVED: Change.REGRESSED}
    for one_way, other_way in zip(forth.scenarios, back.scenarios, strict=True):
        rate, latency = one_way.pass_rate, one_way.latency
        both = rate.significant and latency is not None and latency.significant
        # Better in one and worse in the other is worse, whichever way it is looked at.
        if not both and {one_way.change, other_way.change} != {Change.REGRESSED}:
            assert other_way.change is turned.get(one_way.change, one_way.change)
    assert Comparison.model_validate_json(forth.model_dump_json()) == forth
