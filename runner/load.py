"""Who starts calls when: all at once, so many at a time, or as many as a machine carries. The clock is passed in."""

import math
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Protocol

Kind = tuple[str, Hashable]
"""What calls have in common, such as ``("agent", 3)``: how many of a kind may be on can be limited."""


class Carrier(Protocol):
    """Says how many calls a machine carries."""

    @property
    def allowed(self) -> float:
        """How many may be on now."""
        ...


class Load:
    """The calls that are on, and whether one more may begin.

    Args:
        most: How many may be on at once; None for as many as there are.
        carrier: What the machine carries; by default whatever is asked of it.
        clock_s: Seconds, on a clock that only goes forward.
    """

    def __init__(
        self,
        most: int | None = None,
        *,
        carrier: Carrier | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ):
        self._most = math.inf if most is None else most
        self._carrier = carrier
        self.clock_s = clock_s
        self.on = 0
        """How many calls are on."""
        self._on: Counter[Kind] = Counter()
        self._full: set[Kind] = set()

    @property
    def allowed(self) -> float:
        """How many calls may be on, of whatever kind."""
        return min(self._most, math.inf if self._carrier is None else self._carrier.allowed)

    @property
    def left(self) -> float:
        """How many more may begin, of whatever kind; 0 where more are on than may be."""
        return max(self.allowed - self.on, 0)

    def may_begin(self, kinds: Iterable[Kind] = ()) -> bool:
        """Return whether one more call of these kinds may begin."""
        return self.left > 0 and self._full.isdisjoint(kinds)

    def begin(self, limits: Mapping[Kind, int | None] | None = None) -> None:
        """Count a call as on.

        Args:
            limits: What kinds it is of, and how many of each may be on; None for any number.
        """
        self.on += 1
        for kind, limit in (limits or {}).items():
            self._on[kind] += 1
            if limit is not None and self._on[kind] >= limit:
                self._full.add(kind)

    def end(self, kinds: Iterable[Kind] = ()) -> None:
        """Count a call as over: one that was begun with these kinds."""
        self.on -= 1
        for kind in kinds:
            self._on[kind] -= 1
            self._full.discard(kind)

    def of(self, kind: Kind) -> int:
        """Return how many calls of a kind are on."""
        return self._on[kind]

    def full(self, what: str) -> set[Hashable]:
        """Return those of what may have no more calls, such as the agents for ``agent``."""
        return {value for name, value in self._full if name == what}
