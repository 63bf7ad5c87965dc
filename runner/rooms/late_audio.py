"""Where the agent's audio came late: it may have been heard later than its place in the recording says."""

from collections import deque
from collections.abc import Callable

from bots.clock import NS_PER_MS

NOTED_NS = 40 * NS_PER_MS
"""What is less late is as exact as any: a receiver holds more than this ready."""

IN_A_ROW = 5
"""So many packets (100 ms) are late together where their sender, or we, stood still. The network's jitter leaves an
early one among them, and the earliest give the place."""

CAUGHT_UP_WITHIN_NS = 1_000 * NS_PER_MS
"""A stream that was given a later place and is ahead of it again so soon was late; else its sender had paused."""

JOINED_NS = 400 * NS_PER_MS
"""What is late again so soon is one stretch: a busy machine is late again and again."""

LateSink = Callable[[int, float, float], None]
"""(where it begins on the call's clock, how long it is in ms, how late it came at most in ms)."""


class Stretches:
    """Puts neighbouring stretches together, and tells of each when no other can join it any more.

    Args:
        joined_ns: What begins so soon after another is one with it.
        told_after_ns: How long after its end a stretch is told.
        sink: Takes each.
    """

    def __init__(self, joined_ns: int, told_after_ns: int, sink: LateSink):
        self._joined_ns = joined_ns
        self._told_after_ns = told_after_ns
        self._sink = sink
        self._pending: tuple[int, int, int] | None = None

    def add(self, from_ns: int, to_ns: int, late_ns: int = 0) -> None:
        if self._pending is not None and from_ns - self._pending[1] > self._joined_ns:
            self.flush()
        if self._pending is not None:
            from_ns = min(from_ns, self._pending[0])
            to_ns = max(to_ns, self._pending[1])
            late_ns = max(late_ns, self._pending[2])
        self._pending = (from_ns, to_ns, late_ns)

    def tick(self, now_ns: int) -> None:
        if self._pending is not None and now_ns - self._pending[1] > self._told_after_ns:
            self.flush()

    def flush(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            from_ns, to_ns, late_ns = pending
            self._sink(from_ns, (to_ns - from_ns) / NS_PER_MS, late_ns / NS_PER_MS)


class LateAudio:
    """Finds stretches of audio that came late, packet after packet."""

    def __init__(self, sink: LateSink):
        self._stretches = Stretches(JOINED_NS, JOINED_NS, sink)
        self.tick, self.flush = self._stretches.tick, self._stretches.flush
        self._recent: deque[tuple[int, int]] = deque(maxlen=IN_A_ROW)
        self._move: tuple[int, int] | None = None
        self._moved_back_ns = self._caught_up_ns = 0

    def add(self, at_ns: int, end_ns: int, late_ns: int) -> None:
        """Take a packet, in the order of the stream.

        Args:
            at_ns: Its place on the call's clock.
            end_ns: Where its audio ends.
            late_ns: How much later than its place says it came; below 0 if sooner.
        """
        self._catch_up(at_ns, -late_ns)
        self._recent.append((at_ns, late_ns))
        lates_ns = [late for _, late in self._recent]
        if len(lates_ns) == IN_A_ROW and (min(lates_ns) >= NOTED_NS or max(lates_ns) <= -NOTED_NS):
            # Sooner than its place says: the place is that of audio that was late before.
            self._stretches.add(self._recent[0][0], end_ns, max(map(abs, lates_ns)))
        else:
            self.tick(at_ns)

    def moved(self, from_ns: int, to_ns: int) -> None:
        """Note that the stream was given another place. What comes next tells whether it had been late."""
        self._recent.clear()
        if to_ns - from_ns >= NOTED_NS:
            self._move = (from_ns if self._move is None else self._move[0], to_ns)
            self._moved_back_ns = self._caught_up_ns = 0
        elif to_ns < from_ns:
            self._moved_back_ns += from_ns - to_ns
            self._catch_up(to_ns, 0)

    def _catch_up(self, at_ns: int, ahead_ns: int) -> None:
        if self._move is None:
            return
        from_ns, to_ns = self._move
        caught_up_ns = min(self._moved_back_ns + ahead_ns, to_ns - from_ns)
        if at_ns - to_ns > CAUGHT_UP_WITHIN_NS:
            self._move = None
        elif caught_up_ns >= max(NOTED_NS, self._caught_up_ns + 1):
            # By the rest its sender paused.
            self._caught_up_ns = caught_up_ns
            self._stretches.add(to_ns - caught_up_ns, to_ns, caught_up_ns)
