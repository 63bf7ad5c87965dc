"""How long something will still take, by how long it has taken so far."""

import time
from collections.abc import Callable


class TimeLeft:
    """The time that is left of something that goes on at the same pace."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._began_s = clock()
        self._share = 0.0
        self._at_s = self._began_s

    def done(self, share: float) -> None:
        """Note which share of it is done, from 0 to 1."""
        self._share = share
        self._at_s = self._clock()

    def seconds(self) -> float | None:
        """Return how many seconds are left; None as long as nothing is done."""
        if self._share <= 0:
            return None
        whole_s = (self._at_s - self._began_s) / self._share
        return max(whole_s - (self._clock() - self._began_s), 0.0)

    def words(self) -> str:
        """Return what is left in words, to follow what is being done; empty as long as that is not known."""
        left_s = self.seconds()
        return "" if left_s is None else f", about {duration(left_s)} left"


def duration(duration_s: float) -> str:
    """Return a length of time as a person says it."""
    minutes, seconds = divmod(round(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
