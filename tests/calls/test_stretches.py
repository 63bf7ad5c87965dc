"""Stretches of trouble are kept one by one, and where there are very many some seconds of them as one."""

from bots.clock import NS_PER_MS, NS_PER_S
from runner.calls.stretches import KEPT, Stretch, Stretches

EACH_NS = 2 * NS_PER_S


def noted(count: int, *, whole: bool) -> list[Stretch]:
    """Return what is noted of stretches of 20 ms, every two seconds, each later than the one before."""
    kept: list[Stretch] = []
    stretches = Stretches(kept.append, whole=whole)
    for number in range(count):
        stretches.add(Stretch(number * EACH_NS, 20.0, float(number)))
    stretches.flush()
    return kept


def test_few_are_kept_as_they_are() -> None:
    assert noted(KEPT, whole=True) == [Stretch(n * EACH_NS, 20.0, float(n)) for n in range(KEPT)]


def test_of_many_none_is_lost() -> None:
    kept = noted(KEPT + 13, whole=False)
    assert [stretch.duration_ms for stretch in kept[KEPT:]] == [120, 120, 20]
    assert [stretch.at_ns for stretch in kept[KEPT:]] == [(KEPT + n) * EACH_NS for n in (0, 6, 12)]


def test_those_that_say_how_late_all_was_cover_the_time_between() -> None:
    first, _, last = noted(KEPT + 13, whole=True)[KEPT:]
    assert first == Stretch(KEPT * EACH_NS, 5 * EACH_NS / NS_PER_MS + 20, KEPT + 5.0)
    assert last == Stretch((KEPT + 12) * EACH_NS, 20, KEPT + 12.0)
