"""Keeps what comes again and again from filling a timeline, and loses none of it."""

from collections.abc import Callable
from typing import NamedTuple

from bots.clock import NS_PER_MS, NS_PER_S

KEPT = 500
"""So many stretches are noted one by one."""

JOINED_NS = 10 * NS_PER_S
"""Of those that follow, all that begin within this time are one."""


class Stretch(NamedTuple):
    """Part of a call in which something was not as it should be.

    Attributes:
        at_ns: When it began, on the call's clock.
        duration_ms: How long it was; of several, how long they were together.
        late_ms: How late it came at most.
    """

    at_ns: int
    duration_ms: float
    late_ms: float = 0.0


class Stretches:
    """Notes stretches, each or many as one.

    Args:
        whole: Whether those that are joined are noted with what lies between them.
    """

    def __init__(self, note: Callable[[Stretch], None], *, whole: bool):
        self._note = note
        self._whole = whole
        self._noted = 0
        self._joined: Stretch | None = None

    def add(self, stretch: Stretch) -> None:
        """Take the next one."""
        if self._noted < KEPT:
            self._noted += 1
            self._note(stretch)
            return
        first = self._joined
        if first is None or stretch.at_ns - first.at_ns > JOINED_NS:
            self.flush()
            self._joined = stretch
            return
        duration_ms = first.duration_ms + stretch.duration_ms
        if self._whole:
            duration_ms = (stretch.at_ns - first.at_ns) / NS_PER_MS + stretch.duration_ms
        self._joined = Stretch(first.at_ns, duration_ms, max(first.late_ms, stretch.late_ms))

    def flush(self) -> None:
        """Note what others could still have joined."""
        joined, self._joined = self._joined, None
        if joined is not None:
            self._note(joined)
