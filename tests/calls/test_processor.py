"""A machine that has more to do than it can is noticed by how long we wait for a processor."""

import threading
import time
from collections.abc import Iterator

import pytest

from bots.clock import NS_PER_MS, NS_PER_S
from bots.timeline import MachineBusy
from runner.calls import processor
from runner.calls.processor import LEAST_NS, WINDOW_NS, ProcessorWatch, processor_times

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that goes on by a window each time somebody sleeps."""

    def __init__(self) -> None:
        self.now = 5 * NS_PER_S

    def now_ns(self) -> int:
        return self.now

    async def sleep(self, delay_s: float) -> None:
        self.now += round(delay_s * NS_PER_S)


async def seen(monkeypatch: pytest.MonkeyPatch, *counted: tuple[int, int] | None) -> list[MachineBusy]:
    """Watch while the counts, in milliseconds, are these, until nobody counts any more."""
    clock, noted = Clock(), list[MachineBusy]()
    counts: Iterator[tuple[int, int] | None] = iter([*counted, None])

    def times() -> tuple[int, int] | None:
        count = next(counts)
        return None if count is None else (count[0] * NS_PER_MS, count[1] * NS_PER_MS)

    monkeypatch.setattr(processor.anyio, "sleep", clock.sleep)
    await ProcessorWatch(clock, noted.append, times, shared=True).run()  # type: ignore[arg-type]
    return noted


async def test_long_waits_for_a_processor_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = await seen(monkeypatch, (1_000, 50), (1_200, 60), (1_400, 860), (1_600, 1_000))
    assert noted == [
        MachineBusy(at_ns=5 * NS_PER_S + WINDOW_NS, duration_ms=WINDOW_NS / NS_PER_MS, waited=0.8, shared=True)
    ]


class Over(Exception):
    """The call is over."""


@pytest.mark.parametrize(("lasts_s", "noted"), [(1.6, [1_600.0]), (0.3, [])])
async def test_the_last_stretch_of_a_call_is_looked_at_too(
    monkeypatch: pytest.MonkeyPatch, lasts_s: float, noted: list[float]
) -> None:
    clock, seen = Clock(), list[MachineBusy]()
    counts = iter([(0, 0), (10 * NS_PER_MS, 90 * NS_PER_MS)])
    watch = ProcessorWatch(clock, seen.append, lambda: next(counts), shared=True)  # type: ignore[arg-type]

    async def until_the_end(delay_s: float) -> None:
        await clock.sleep(lasts_s)
        watch.look()
        raise Over

    monkeypatch.setattr(processor.anyio, "sleep", until_the_end)
    with pytest.raises(Over):
        await watch.run()
    assert [busy.duration_ms for busy in seen] == noted


async def test_a_process_that_hardly_runs_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    least_ms = LEAST_NS // NS_PER_MS
    assert await seen(monkeypatch, (0, 0), (1, least_ms - 2), (2, 2 * least_ms - 4)) == []


async def test_where_nobody_counts_nothing_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await seen(monkeypatch) == []


@pytest.mark.skipif(processor_times() is None, reason="only Linux counts it")
def test_the_machine_counts_what_a_thread_ran() -> None:
    counts: list[tuple[int, int] | None] = []

    def work() -> None:
        began_ns = time.thread_time_ns()
        counts.append(processor_times())
        while time.thread_time_ns() - began_ns < 50 * NS_PER_MS:
            pass
        counts.append(processor_times())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    before, after = counts
    assert before is not None
    assert after is not None
    assert after[0] - before[0] >= 40 * NS_PER_MS
    assert after[1] >= before[1]
