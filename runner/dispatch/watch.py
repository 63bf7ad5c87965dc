"""Tells from their signs of life which workers live."""

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from runner.dispatch.lease import BEAT_INTERVAL_S, LOST_AFTER_S

GAP_S = 2.5
"""Who has not looked for so long knows nothing of what happened meanwhile, and begins to wait anew: while the
database is away, or whoever watches stood still, nobody dies."""

FRESH_S = 3 * BEAT_INTERVAL_S
"""A worker whose last sign of life is older is given nothing more."""

_T = TypeVar("_T", bound=Hashable)


@dataclass
class _Seen:
    beat: int
    since_s: float
    alive: bool = False
    """Its count went up."""
    is_new: bool = False
    """It came while somebody was looking, and is not what was left behind before."""


class Watch:
    """Watches signs of life by a clock of its own, so that clocks of machines need not agree."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._looked_s: float | None = None

    def look(self, beats: Mapping[str, int], now_s: float) -> list[str]:
        """Take in the workers' latest signs of life; return those who have shown none for too long.

        Args:
            beats: What each worker has counted up to.
            now_s: The time, on a clock that only goes forward.
        """
        goes_on = self._looked_s is not None and now_s - self._looked_s <= GAP_S
        if not goes_on:
            for seen in self._seen.values():
                seen.since_s, seen.alive, seen.is_new = now_s, False, False
        self._looked_s = now_s
        self._seen = {
            executor: self._updated(executor, beat, now_s, is_new=goes_on) for executor, beat in beats.items()
        }
        return [executor for executor, seen in self._seen.items() if now_s - seen.since_s > LOST_AFTER_S]

    def is_fresh(self, executor: str) -> bool:
        """Return whether a worker has shown a sign of life just now, or has come just now."""
        seen = self._seen.get(executor)
        return (
            seen is not None
            and (seen.alive or seen.is_new)
            and self._looked_s is not None
            and self._looked_s - seen.since_s <= FRESH_S
        )

    def was_alive(self, executor: str) -> bool:
        """Return whether a worker was seen to live since there was no looking, and not only what it left behind."""
        seen = self._seen.get(executor)
        return seen is not None and seen.alive

    def _updated(self, executor: str, beat: int, now_s: float, *, is_new: bool) -> _Seen:
        seen = self._seen.get(executor)
        if seen is None:
            return _Seen(beat, now_s, is_new=is_new)
        if seen.beat != beat:
            return _Seen(beat, now_s, alive=True)
        return seen


class Standing(Generic[_T]):
    """Tells for how long things have stood as they are, by a clock of its own as well."""

    def __init__(self) -> None:
        self._since_s: dict[_T, float] = {}
        self._looked_s = -math.inf

    def look(self, things: Iterable[_T], now_s: float) -> None:
        """Take in what stands now. Time in which nobody looked does not count.

        Args:
            things: What stands.
            now_s: The time, on a clock that only goes forward.
        """
        passed_s = now_s - self._looked_s
        pause_s = passed_s if passed_s > GAP_S else 0.0
        before = self._since_s
        self._since_s = {thing: before[thing] + pause_s if thing in before else now_s for thing in things}
        self._looked_s = now_s

    def __contains__(self, thing: _T) -> bool:
        """Return whether something stood when it was looked last."""
        return thing in self._since_s

    def stood_s(self, thing: _T) -> float:
        """Return for how long something had stood when it was looked last; 0 for what did not."""
        since_s = self._since_s.get(thing)
        return 0.0 if since_s is None else self._looked_s - since_s
