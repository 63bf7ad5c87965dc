"""Time that passes only while there is nothing to do: an event loop whose clock jumps to the next timer."""

import asyncio
import bisect
import math
import selectors
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio.to_thread

from bots.clock import NS_PER_S

_T = TypeVar("_T")

NS_PER_US = 1_000
US_PER_S = 1_000_000

FOREVER_S = 86_400.0
"""No loop waits for longer than a day: what is due at no time has it wait for so long again and again."""

DEADLOCK_S = 300.0
"""Real seconds without anything to do, or to wait for, after which nothing will ever happen."""


@dataclass(frozen=True)
class Stall:
    """Our own side stands still: all of the process, or the event loop alone. What is due then is late."""

    begin_ns: int
    end_ns: int
    is_whole: bool = True


class Stalls:
    """Stalls in order, without overlap."""

    def __init__(self, stalls: Iterable[Stall]):
        ordered = list(stalls)
        self._begins = [stall.begin_ns for stall in ordered]
        self._ends = [stall.end_ns for stall in ordered]

    def awake_ns(self, at_ns: int) -> int:
        """Return when what is due at a time is done."""
        before = bisect.bisect_right(self._begins, at_ns) - 1
        return at_ns if before < 0 else max(at_ns, self._ends[before])


class VirtualClock:
    """The time of a virtual loop, in nanoseconds from its beginning; in stalls our own side stands still."""

    def __init__(self, stalls: Sequence[Stall] = ()):
        self._now_ns = 0
        self._stalls = Stalls(stalls)

    def now_ns(self) -> int:
        """Return the time; stands in for ``time.monotonic_ns``."""
        return self._now_ns

    def advance_to(self, at_ns: int) -> None:
        """Let time pass until then, and beyond that to the end of a stall it falls into. It never goes back."""
        self._now_ns = max(self._now_ns, self._stalls.awake_ns(at_ns))


class _JumpingSelector(selectors.DefaultSelector):
    """Lets virtual time pass where a loop would wait."""

    def __init__(self, clock: VirtualClock):
        super().__init__()
        self._clock = clock
        self.held: Callable[[], bool] = lambda: False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self.held():
            # A thread is at work: time stands still until it wakes the loop.
            return super().select(None)
        if timeout is None or timeout >= FOREVER_S:
            ready = super().select(DEADLOCK_S)
            if not ready:
                raise RuntimeError("nothing is due, and nothing is waited for: virtual time has come to its end")
            return ready
        now_ns = self._clock.now_ns()
        # In steps of whole microseconds: where time gets to must not hang on where it stopped on the way.
        due_us = math.ceil(now_ns / NS_PER_US + timeout * US_PER_S - 0.001)
        self._clock.advance_to(max(due_us * NS_PER_US, now_ns + NS_PER_US))
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time.

    Time stands still while code runs, also code in worker threads: what is given to an executor runs at once and in
    place, so that nothing depends on how threads are scheduled; anyio's threads are waited for. Sockets and processes
    live in real time: they are not for this loop, unless time is held meanwhile.
    """

    def __init__(self, clock: VirtualClock):
        self._virtual = clock
        self._holders = 0
        self._selector_of_ours = _JumpingSelector(clock)
        super().__init__(self._selector_of_ours)

    def time(self) -> float:
        """Return virtual time, in seconds."""
        return self._virtual.now_ns() / NS_PER_S

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":
        """Run a function at once."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def hold_while(self, held: Callable[[], bool]) -> None:
        """Let no time pass while ``held()`` is true."""
        self._selector_of_ours.held = lambda: self._holders > 0 or held()

    @contextmanager
    def holding(self) -> Generator[None]:
        """Let no time pass while something is waited for that happens in real time."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1


def run_virtually(clock: VirtualClock, main: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine function to its end in virtual time, and return what it returns."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        return runner.run(_holding(main))


async def _holding(main: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    threads = anyio.to_thread.current_default_thread_limiter()
    running_loop().hold_while(lambda: threads.borrowed_tokens > 0)
    return await main()


VIRTUAL_TIME = ("asyncio", {"loop_factory": lambda: VirtualLoop(VirtualClock())})
"""What anyio runs a test in virtual time with."""


def running_loop() -> VirtualLoop:
    """Return the virtual loop that this runs in."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop
