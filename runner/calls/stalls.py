"""Whether our own side stood still: a watch that is to look up again and again, and notices when it did so late."""

from collections.abc import Callable

import anyio

from bots.clock import NS_PER_MS, NS_PER_S, CallClock
from bots.timeline import CallCalibrated, HarnessStalled
from runner.rooms.base import Timeliness
from runner.rooms.lags import Lags

WATCH_NS = 50 * NS_PER_MS
"""How often the watch looks up."""

STALL_NS = 250 * NS_PER_MS
"""Later than this is a stall: it is heard in a conversation, and moves what is decided by the time."""


class StallWatch:
    """Notices when the event loop, or the whole process, stood still."""

    def __init__(self, clock: CallClock, note: Callable[[HarnessStalled], None]):
        self._clock = clock
        self._note = note
        self._due_ns: int | None = None
        self.lags = Lags()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            self._due_ns = self._clock.now_ns() + WATCH_NS
            await anyio.sleep(WATCH_NS / NS_PER_S)
            self.lags.add(max(self._clock.now_ns() - self._due_ns, 0))
            self.look()

    def look(self) -> None:
        """Note a stall that has just ended. Called before anything is decided by what the time is."""
        now_ns = self._clock.now_ns()
        if self._due_ns is None or now_ns - self._due_ns <= STALL_NS:
            return
        stalled_ns, self._due_ns = now_ns - self._due_ns, now_ns
        self._note(HarnessStalled(at_ns=now_ns - stalled_ns, duration_ms=stalled_ns / NS_PER_MS))

    def calibrated(self, timely: Timeliness) -> CallCalibrated:
        """Return what our own side adds to what is measured, as far as it and the room have shown by now."""
        return CallCalibrated(
            at_ns=self._clock.now_ns(),
            loop_lag_ms=self.lags.worst_ms,
            send_lag_ms=timely.send_lag_ms,
            arrival_jitter_ms=timely.arrival_jitter_ms,
            library_ms=timely.library_ms,
        )
