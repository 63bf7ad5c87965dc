"""Whether the machine is too busy: how long what is ready to run waits for a processor."""

import threading
from collections.abc import Callable
from pathlib import Path

import anyio

from bots.clock import NS_PER_MS, NS_PER_S, CallClock
from bots.timeline import MachineBusy

WINDOW_NS = 2 * NS_PER_S
"""Each stretch of this length is looked at by itself."""

BUSY_SHARE = 0.5
"""Who waits for a processor for more than this share of the time in which it is ready to run is noted.

Measured on two cores, in a call to an agent that recognises speech there: .05 to .34 alone, .15 to .46 beside a
process that uses a whole core, .62 to .74 beside four of them, with which the agent answered too late."""

LEAST_WINDOW_NS = 500 * NS_PER_MS
"""The last stretch of a call is looked at if it is no shorter."""

LEAST_NS = 10 * NS_PER_MS
"""Less time than this, running and waiting together, tells nothing."""

ProcessorTimes = Callable[[], tuple[int, int] | None]
"""Returns for how long this thread ran, and for how long it waited to, in nanoseconds since it began; None where
nobody counts it."""


def processor_times() -> tuple[int, int] | None:
    """Return what Linux counts for the thread that asks (``schedstat``, its first two numbers)."""
    try:
        ran, waited, _ = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()
        return int(ran), int(waited)
    except (OSError, ValueError):
        # Not Linux, or a kernel that does not count.
        return None


class ProcessorWatch:
    """Notes when the thread of the event loop waits long for a processor: others on the machine then do, too.

    Args:
        note: Takes every stretch in which it waited long.
        times: Counts.
        shared: Whether the agent is known to run on this machine.
    """

    def __init__(self, clock: CallClock, note: Callable[[MachineBusy], None], times: ProcessorTimes, *, shared: bool):
        self._clock = clock
        self._note = note
        self._times = times
        self._shared = shared
        self._before: tuple[int, int] | None = None
        self._began_ns = 0

    async def run(self) -> None:
        """Watch until cancelled, or return where nobody counts."""
        self._before, self._began_ns = self._times(), self._clock.now_ns()
        while self._before is not None:
            await anyio.sleep(WINDOW_NS / NS_PER_S)
            self.look()

    def look(self) -> None:
        """Look at the time since the last look. Called before a call ends, too."""
        now_ns, before = self._clock.now_ns(), self._before
        if before is None or now_ns - self._began_ns < LEAST_WINDOW_NS:
            return
        began_ns, self._began_ns, self._before = self._began_ns, now_ns, self._times()
        if self._before is None:
            return
        ran_ns, waited_ns = self._before[0] - before[0], self._before[1] - before[1]
        wanted_ns = ran_ns + waited_ns
        if wanted_ns >= LEAST_NS and waited_ns > BUSY_SHARE * wanted_ns:
            self._note(
                MachineBusy(
                    at_ns=began_ns,
                    duration_ms=(now_ns - began_ns) / NS_PER_MS,
                    waited=round(waited_ns / wanted_ns, 3),
                    shared=self._shared,
                )
            )
