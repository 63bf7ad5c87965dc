"""When a worker is overloaded, and when it is well again: by a virtual clock."""

import pytest

from runner.worker.watch import LoadWatch


def sampled(watch: LoadWatch, from_s: float, to_s: float, lag_ms: float = 1.0) -> list[float]:
    """Take a sample every 100 ms; return when the state changed."""
    times = [from_s + index / 10 for index in range(round((to_s - from_s) * 10))]
    return [now_s for now_s in times if watch.sample(now_s, lag_ms)]


def test_a_worker_on_time_is_not_overloaded() -> None:
    watch = LoadWatch()
    assert sampled(watch, 0, 600, 59.0) == []
    assert watch.loop_lag_ms == 59.0


def test_being_late_again_and_again_is_too_much() -> None:
    watch = LoadWatch()
    assert [watch.sample(now_s, 80.0) for now_s in (0.0, 1.0, 2.0)] == [False, False, True]
    assert watch.is_overloaded


def test_being_late_now_and_then_is_not() -> None:
    watch = LoadWatch()
    for second in range(0, 600, 3):
        assert not watch.sample(second, 80.0)
    assert not watch.is_overloaded


@pytest.mark.parametrize(("lag_ms", "overloaded"), [(900.0, False), (1_100.0, True)])
def test_standing_still_for_long_is_too_much_by_itself(lag_ms: float, overloaded: bool) -> None:
    watch = LoadWatch()
    watch.sample(0.0, lag_ms)
    assert watch.is_overloaded is overloaded


def test_a_call_without_audio_to_send_is_too_much() -> None:
    watch = LoadWatch()
    assert watch.underrun(1.0)
    assert not watch.underrun(1.5)
    assert watch.underruns == 2


def test_it_is_well_again_after_five_quiet_seconds_and_no_sooner() -> None:
    watch = LoadWatch()
    watch.underrun(0.0)
    assert sampled(watch, 0.1, 20) == [5.0]
    for now_s in (20.0, 20.1, 20.2):
        watch.sample(now_s, 100.0)
    assert watch.is_overloaded
    assert sampled(watch, 20.3, 24) == []
    watch.sample(24.0, 70.0)
    assert sampled(watch, 24.1, 40) == [pytest.approx(29.0, abs=0.11)]


def test_the_longest_lag_is_of_the_last_seconds() -> None:
    watch = LoadWatch()
    watch.sample(0.0, 40.0)
    sampled(watch, 0.1, 4.9)
    assert watch.loop_lag_ms == 40.0
    sampled(watch, 4.9, 5.2)
    assert watch.loop_lag_ms == 1.0


def test_what_was_late_can_be_forgotten() -> None:
    watch = LoadWatch()
    watch.sample(0.0, 9_000.0)
    watch.underrun(0.0)
    watch.forget()
    assert not watch.is_overloaded and not watch.sample(0.1, 1.0)
    assert watch.loop_lag_ms == 1.0 and watch.underruns == 1


def test_an_hour_takes_no_more_room_than_a_minute() -> None:
    watch = LoadWatch()
    sampled(watch, 0, 3_600, 100.0)
    assert len(watch._samples) <= 51 and len(watch._late_s) <= 3
