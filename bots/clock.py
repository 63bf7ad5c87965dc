"""The one clock of a call: monotonic nanoseconds since the call began."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class CallClock:
    """Nanoseconds since the call began, read from the machine's monotonic clock, or another ``source``."""

    origin_ns: int = field(default_factory=time.monotonic_ns)
    source: Callable[[], int] = field(default=time.monotonic_ns, repr=False, compare=False)

    @classmethod
    def begin(cls, source: Callable[[], int] = time.monotonic_ns) -> "CallClock":
        return cls(source(), source)

    def now_ns(self) -> int:
        return self.source() - self.origin_ns

    def at_ns(self, monotonic_ns: int) -> int:
        """Return a reading of the machine's monotonic clock as a time on the call's clock."""
        return monotonic_ns - self.origin_ns


def samples_to_ns(samples: int, rate_hz: int) -> int:
    """Return how long ``samples`` last at ``rate_hz``, in nanoseconds."""
    return samples * NS_PER_S // rate_hz


def ns_to_samples(duration_ns: int, rate_hz: int) -> int:
    return (duration_ns * rate_hz + NS_PER_S // 2) // NS_PER_S
