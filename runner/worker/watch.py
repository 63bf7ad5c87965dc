"""Whether a worker keeps up with its calls: pure, with the time passed in."""

import math
from collections import deque

LATE_MS = 60.0
"""An event loop that is later than this has let frames of audio go out late."""

LATE_SAMPLES = 3
WINDOW_S = 5.0
"""Being late so many times within this is too much, and so is one call without audio to send. Once nothing was late
for so long, all is well again."""

STILL_MS = 1_000.0
"""Being later than this is too much by itself."""

SAMPLE_INTERVAL_MS = 100.0
"""How often the event loop is looked at."""


class LoadWatch:
    """Watches how late a worker is. Times are in seconds, on a clock that only goes forward."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque()
        self._late_s: deque[float] = deque(maxlen=LATE_SAMPLES)
        self._underrun_s: float | None = None
        self.underruns = 0
        self.is_overloaded = False

    @property
    def allowed(self) -> float:
        """How many calls may be on: one at a time always, as nothing else would tell that it can do it."""
        return 1 if self.is_overloaded else math.inf

    @property
    def loop_lag_ms(self) -> float:
        """The longest the event loop was late within the window."""
        return max((lag_ms for _, lag_ms in self._samples), default=0.0)

    def sample(self, now_s: float, lag_ms: float) -> bool:
        """Take in how late the event loop is; return whether it became overloaded by that, or well again."""
        self._samples.append((now_s, lag_ms))
        while self._samples[0][0] <= now_s - WINDOW_S:
            self._samples.popleft()
        if lag_ms > LATE_MS:
            self._late_s.extend([now_s] * (LATE_SAMPLES if lag_ms > STILL_MS else 1))
        return self._judge(now_s)

    def underrun(self, now_s: float) -> bool:
        """Take in that a call had no audio to send; return whether it became overloaded by that."""
        self.underruns += 1
        self._underrun_s = now_s
        return self._judge(now_s)

    def forget(self) -> None:
        """Begin anew: what was late is over, and so are the calls that had to wait for it."""
        self._samples.clear()
        self._late_s.clear()
        self._underrun_s = None
        self.is_overloaded = False

    def _judge(self, now_s: float) -> bool:
        since_s = now_s - WINDOW_S
        under = self._underrun_s is not None and self._underrun_s > since_s
        late = sum(at_s > since_s for at_s in self._late_s)
        was_overloaded = self.is_overloaded
        self.is_overloaded = under or late >= LATE_SAMPLES or (was_overloaded and late > 0)
        return self.is_overloaded != was_overloaded
