"""Time in simulated calls passes where there is nothing to do, and stands still while anything works."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.to_thread
import pytest

from bots.clock import NS_PER_S
from tests.simulated import virtual_time
from tests.simulated.virtual_time import Stall, VirtualClock, run_virtually

S = NS_PER_S


def at_the_end(main: Callable[[VirtualClock], Coroutine[Any, Any, None]], *stalls: Stall) -> int:
    clock = VirtualClock(stalls)
    run_virtually(clock, lambda: main(clock))
    return clock.now_ns()


def test_an_hour_passes_at_once() -> None:
    async def main(clock: VirtualClock) -> None:
        await asyncio.sleep(3_600)
        with anyio.move_on_after(60):
            await anyio.sleep_forever()

    assert at_the_end(main) == 3_660 * S


def test_what_is_due_first_happens_first() -> None:
    happened: list[tuple[str, int]] = []

    async def main(clock: VirtualClock) -> None:
        async def after(seconds: float, name: str) -> None:
            await anyio.sleep(seconds)
            happened.append((name, clock.now_ns()))

        async with anyio.create_task_group() as tasks:
            for seconds, name in ((3, "c"), (1, "a"), (2, "b")):
                tasks.start_soon(after, seconds, name)

    at_the_end(main)
    assert happened == [("a", 1 * S), ("b", 2 * S), ("c", 3 * S)]


@pytest.mark.parametrize("run", [asyncio.to_thread, anyio.to_thread.run_sync])
def test_no_time_passes_while_a_thread_works(run: Callable[..., Coroutine[Any, Any, bool]]) -> None:
    ended = threading.Event()

    async def main(clock: VirtualClock) -> None:
        async def work() -> None:
            await run(ended.wait, 0.05)
            assert clock.now_ns() == 0

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            await anyio.sleep(1)

    assert at_the_end(main) == 1 * S


def test_no_time_passes_while_it_is_held() -> None:
    async def main(clock: VirtualClock) -> None:
        async def work() -> None:
            with virtual_time.running_loop().holding():
                process = await asyncio.create_subprocess_exec("sleep", "0.05")
                await process.wait()
            assert clock.now_ns() == 0

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            await anyio.sleep(1)

    assert at_the_end(main) == 1 * S


def test_what_a_thread_raises_comes_back() -> None:
    async def main(clock: VirtualClock) -> None:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)

    at_the_end(main)


def test_what_is_due_in_a_stall_happens_at_its_end() -> None:
    woke: list[int] = []

    async def main(clock: VirtualClock) -> None:
        for seconds in (1, 1, 1):
            await anyio.sleep(seconds)
            woke.append(clock.now_ns())

    at_the_end(main, Stall(1_500_000_000, 4 * S))
    assert woke == [1 * S, 4 * S, 5 * S]


def test_waiting_for_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_time, "DEADLOCK_S", 0.01)

    async def main(clock: VirtualClock) -> None:
        await anyio.sleep_forever()

    with pytest.raises(RuntimeError, match="nothing is waited for"):
        at_the_end(main)
