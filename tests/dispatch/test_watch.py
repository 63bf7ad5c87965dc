"""Who lives: by signs of life alone, on the clock of whoever watches."""

import pytest

from runner.dispatch.watch import FRESH_S, GAP_S, Standing, Watch


def watched(watch: Watch, beats: dict[str, int], *, begin_s: float, end_s: float, step_s: float = 1.0) -> list[str]:
    """Look every so often without anything changing; return who was silent the last time."""
    silent: list[str] = []
    now_s = begin_s
    while now_s <= end_s:
        silent = watch.look(beats, now_s)
        now_s += step_s
    return silent


def test_a_worker_is_lost_after_six_seconds_without_a_sign_of_life() -> None:
    watch = Watch()
    assert watched(watch, {"a": 1}, begin_s=100, end_s=106) == []
    assert watch.look({"a": 1}, 107) == ["a"]


def test_every_sign_of_life_counts_however_clocks_differ() -> None:
    watch = Watch()
    for second in range(60):
        assert watch.look({"a": second}, float(second)) == []


def test_one_s_silence_is_not_another_s() -> None:
    watch = Watch()
    for second in range(7):
        watch.look({"a": second, "b": 1}, float(second))
    assert watch.look({"a": 7, "b": 1}, 7) == ["b"]


@pytest.mark.parametrize("gap_s", [GAP_S + 0.1, 20.0, 3_600.0])
def test_who_did_not_look_waits_anew(gap_s: float) -> None:
    watch = Watch()
    watched(watch, {"a": 1}, begin_s=0, end_s=5)
    assert watched(watch, {"a": 1}, begin_s=5 + gap_s, end_s=5 + gap_s + 6) == []
    assert watch.look({"a": 1}, 5 + gap_s + 7) == ["a"]


def test_a_worker_is_given_runs_for_as_long_as_its_last_sign_of_life_is_fresh() -> None:
    watch = Watch()
    assert not watch.is_fresh("a")
    watch.look({"a": 1}, 0)
    watch.look({"a": 2}, 1)
    assert watch.is_fresh("a")
    watched(watch, {"a": 2}, begin_s=2, end_s=1 + FRESH_S)
    assert watch.is_fresh("a")
    watch.look({"a": 2}, FRESH_S + 2)
    assert not watch.is_fresh("a")
    watch.look({"a": 3}, FRESH_S + 3)
    assert watch.is_fresh("a")


def test_a_worker_that_comes_while_somebody_looks_is_given_runs_at_once_and_what_was_there_before_is_not() -> None:
    watch = Watch()
    watch.look({"left": 5}, 0)
    assert not watch.is_fresh("left")
    watch.look({"left": 5, "new": 1}, 1)
    assert watch.is_fresh("new") and not watch.is_fresh("left")
    # Nobody knows what happened meanwhile.
    watch.look({"left": 5, "new": 1, "another": 1}, 1 + GAP_S + 1)
    assert not watch.is_fresh("new") and not watch.is_fresh("another")
    watch.look({"left": 5, "new": 2, "another": 1}, 1 + GAP_S + 2)
    assert watch.is_fresh("new") and not watch.is_fresh("another")


def test_what_a_worker_left_behind_is_no_sign_of_life() -> None:
    watch = Watch()
    watch.look({"a": 5}, 0)
    assert not watch.was_alive("a")
    watch.look({"a": 6}, 1)
    assert watch.was_alive("a")
    watched(watch, {"a": 6}, begin_s=2, end_s=9)
    assert watch.was_alive("a")
    watch.look({}, 10)
    assert not watch.was_alive("a")


def test_while_nobody_looked_nobody_was_seen_to_live() -> None:
    watch = Watch()
    watched(watch, {"a": 5}, begin_s=0, end_s=1)
    watch.look({"a": 6}, 2)
    watch.look({"a": 6}, 2 + GAP_S + 0.1)
    assert not watch.was_alive("a")
    watch.look({"a": 7}, 3 + GAP_S + 0.1)
    assert watch.was_alive("a")


def test_what_stands_is_timed_from_when_it_was_first_seen_without_a_break() -> None:
    standing = Standing[str]()
    for second in range(5):
        standing.look(["a", "b"] if second > 2 else ["a"], second)
    assert (standing.stood_s("a"), standing.stood_s("b"), standing.stood_s("c")) == (4, 1, 0)
    standing.look(["b"], 5)
    standing.look(["a", "b"], 6)
    assert (standing.stood_s("a"), standing.stood_s("b")) == (0, 3)
    assert "a" in standing and "c" not in standing


@pytest.mark.parametrize(("gap_s", "stood_s"), [(GAP_S, 4 + GAP_S), (GAP_S + 0.1, 4), (3_600, 4)])
def test_time_in_which_nobody_looks_does_not_count(gap_s: float, stood_s: float) -> None:
    standing = Standing[str]()
    for second in range(5):
        standing.look(["a"], second)
    standing.look(["a"], 4 + gap_s)
    assert standing.stood_s("a") == pytest.approx(stood_s)
