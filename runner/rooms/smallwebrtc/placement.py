"""Where received audio belongs on the call's clock: RTP timestamps, anchored by arrival times."""

from collections import deque

from bots.clock import NS_PER_MS, NS_PER_S

RTP_CLOCK_HZ = 48_000
"""Clock rate of Opus in RTP (RFC 7587 section 4.1)."""

STALL_NS = 120 * NS_PER_MS
"""A packet this much later than its timestamp says does not belong where the timestamp puts it."""

SLIP_NS = 10 * NS_PER_MS
"""Drift that is put up with before the stream is moved: a slip is a click, an offset only a number."""

SETTLING_NS = 1 * NS_PER_S
"""While a stream is this young its place is still being found, and is corrected at once."""

WINDOW_NS = 2 * NS_PER_S
"""Drift is judged over this long."""

LEAP_NS = 1 * NS_PER_S
"""A packet this much earlier than the one before it means that the sender's timestamps began anew."""

AHEAD_NS = 10 * NS_PER_S
"""A stream this far ahead of its packets does not catch up any more: no network holds back so much."""


class RtpUnwrapper:
    """Extends 32-bit RTP timestamps to ever-growing ones (RFC 3550 section 5.1)."""

    def __init__(self) -> None:
        self._last: int | None = None

    def unwrap(self, timestamp: int) -> int:
        """Return ``timestamp`` in RTP clock units, extended; reordered packets keep their order."""
        if self._last is None:
            self._last = timestamp
            return timestamp
        delta = (timestamp - self._last) & 0xFFFFFFFF
        if delta >= 1 << 31:
            delta -= 1 << 32
        extended = self._last + delta
        self._last = max(self._last, extended)
        return extended


class Placement:
    """Places packets on the call's clock by timestamp, so that jitter in their arrival does not matter.

    A packet can be late but never early, so the earliest arrival (measured against its timestamp) is the best
    estimate of where the stream lies. The place moves forward at once when a packet is late beyond
    :data:`STALL_NS` (the sender's clock stood still, or the network did), and back only while the agent is
    silent, so that no speech is ever cut out.
    """

    def __init__(self, rate_hz: int = RTP_CLOCK_HZ) -> None:
        self._rate_hz = rate_hz
        self._offset_ns: int | None = None
        self._last_offset_ns = 0
        self._first_arrival_ns = 0
        self._recent: deque[tuple[int, int]] = deque()
        self.reanchored = 0
        self.late_ns = 0
        """How much later than the stream's place, before it was moved, the last packet came; below 0 if sooner, 0
        where that can't be told."""
        self.moved_ns = 0
        """By how much the stream was moved for the last packet; below 0 if back."""

    def place(self, timestamp: int, arrival_ns: int, *, quiet: bool, arrival_known: bool = True) -> int:
        """Return where the packet's first sample lies on the call's clock, in nanoseconds.

        Args:
            quiet: Whether nothing is said in the packet.
            arrival_known: Whether it came when it was seen; not so where we ourselves stood still. What is late
                then says nothing of the stream's place.
        """
        media_ns = timestamp * NS_PER_S // self._rate_hz
        offset_ns = arrival_ns - media_ns
        if self._offset_ns is None:
            self._offset_ns = self._last_offset_ns = offset_ns
            self._first_arrival_ns = arrival_ns
        late_ns = offset_ns - self._offset_ns
        # What was held up comes in a burst, every packet a little earlier than the one before: that is no leap.
        leapt = offset_ns - self._last_offset_ns < -LEAP_NS
        self._last_offset_ns = offset_ns
        self.late_ns = 0 if leapt else late_ns
        before_ns = self._offset_ns
        if not arrival_known and not leapt and late_ns > 0:
            self.late_ns = self.moved_ns = 0
            return media_ns + self._offset_ns
        if late_ns > STALL_NS or leapt or late_ns < -AHEAD_NS:
            self._move_to(offset_ns)
        elif late_ns < 0 and arrival_ns - self._first_arrival_ns < SETTLING_NS:
            self._offset_ns = offset_ns
            self._recent.clear()
        else:
            self._follow_drift(arrival_ns, offset_ns, quiet=quiet)
        self.moved_ns = 0 if leapt else self._offset_ns - before_ns
        return media_ns + self._offset_ns

    def restart(self) -> None:
        """Forget where the stream lies: the next packet begins a new one."""
        self._offset_ns = None
        self._recent.clear()
        self.reanchored += 1

    def _follow_drift(self, arrival_ns: int, offset_ns: int, *, quiet: bool) -> None:
        recent = self._recent
        # A monotonic deque: its front is the earliest arrival of the window.
        while recent and recent[-1][1] >= offset_ns:
            recent.pop()
        recent.append((arrival_ns, offset_ns))
        window_full = False
        while recent[0][0] < arrival_ns - WINDOW_NS:
            recent.popleft()
            window_full = True
        assert self._offset_ns is not None  # noqa: S101 - place() set it
        drift_ns = recent[0][1] - self._offset_ns
        if drift_ns < -SLIP_NS:
            if quiet:
                self._move_to(self._offset_ns + max(drift_ns, -2 * SLIP_NS))
        elif drift_ns > SLIP_NS and window_full:
            self._move_to(recent[0][1])

    def _move_to(self, offset_ns: int) -> None:
        self._offset_ns = offset_ns
        self._recent.clear()
        self.reanchored += 1
