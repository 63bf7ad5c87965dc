"""How late things were: the spread of delays over a while."""

from collections import deque

from bots.clock import NS_PER_MS

KEPT = 3_000
"""A minute of packets."""

WORST_PERCENT = 95


class Lags:
    """The latest delays, at most :data:`KEPT` of them."""

    def __init__(self) -> None:
        self._lags_ns: deque[int] = deque(maxlen=KEPT)

    def add(self, lag_ns: int) -> None:
        self._lags_ns.append(lag_ns)

    def clear(self) -> None:
        self._lags_ns.clear()

    @property
    def worst_ms(self) -> float:
        """What 95 of 100 delays were not above, in milliseconds; 0 where there were none."""
        if not self._lags_ns:
            return 0.0
        ordered = sorted(self._lags_ns)
        return round(ordered[(len(ordered) - 1) * WORST_PERCENT // 100] / NS_PER_MS, 3)

    @property
    def spread_ms(self) -> float:
        """By how much :attr:`worst_ms` is above the least delay, in milliseconds."""
        if not self._lags_ns:
            return 0.0
        return round(self.worst_ms - min(self._lags_ns) / NS_PER_MS, 3)
