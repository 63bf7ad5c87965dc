"""The runs of both sides: of a scenario, or of all."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from runner.comparison import levels
from runner.comparison.facts import RunFacts
from runner.comparison.latencies import Difference, Values, call_values, pooled_difference
from runner.comparison.rates import Table, fisher_p


@dataclass(frozen=True)
class Side:
    """The runs of a side, of one scenario or of all."""

    runs: Sequence[RunFacts]

    @cached_property
    def decided(self) -> list[RunFacts]:
        return [run for run in self.runs if run.success is not None]

    @cached_property
    def passed(self) -> int:
        return sum(run.success is True for run in self.runs)

    @property
    def inconclusive(self) -> int:
        return len(self.runs) - len(self.decided)

    @property
    def is_mixed(self) -> bool:
        return 0 < self.passed < len(self.decided)

    @property
    def sessions(self) -> set[str]:
        return {run.session for run in self.runs}


def doubt_of(base: Side, current: Side) -> str | None:
    """Return why inconclusive runs leave nothing to be said; None if they do not."""
    for name, side in (("base", base), ("current", current)):
        if side.inconclusive > levels.MAX_INCONCLUSIVE_SHARE * len(side.runs):
            return f"{side.inconclusive} of {len(side.runs)} runs of the {name} side are inconclusive"
    if not base.inconclusive and not current.inconclusive:
        return None
    table = Table(base.inconclusive, len(base.runs), current.inconclusive, len(current.runs))
    if fisher_p(table) <= levels.UNEQUAL_LEVEL:
        return f"the sides differ in inconclusive runs ({base.inconclusive} and {current.inconclusive})"
    return None


@dataclass(frozen=True)
class Pair:
    """A scenario on both sides."""

    base: Side
    current: Side
    name: str
    by_session: bool

    @cached_property
    def table(self) -> Table:
        return Table(self.base.passed, len(self.base.decided), self.current.passed, len(self.current.decided))

    @property
    def has_rates(self) -> bool:
        return bool(self.table.base_runs and self.table.current_runs)

    @property
    def is_rate_tested(self) -> bool:
        return min(self.table.base_runs, self.table.current_runs) >= levels.MIN_RATE_RUNS

    @cached_property
    def doubt(self) -> str | None:
        return doubt_of(self.base, self.current)

    @cached_property
    def value_of(self) -> dict[str, float]:
        return call_values(self.base.decided, self.current.decided)

    @cached_property
    def values(self) -> tuple[Values, Values]:
        """What is tested: a value for each call, or for each session its mean."""
        if not self.by_session:
            return self.calls
        return session_means([self], base=True), session_means([self], base=False)

    @cached_property
    def calls(self) -> tuple[Values, Values]:
        value_of = self.value_of
        base, current = (
            np.array([value_of[run.id] for run in side.decided if run.id in value_of])
            for side in (self.base, self.current)
        )
        return base, current

    @cached_property
    def difference(self) -> Difference | None:
        """The difference of latency; None where there are too few calls, or sessions, to test it."""
        base, current = self.values
        if min(map(len, self.calls)) < levels.MIN_LATENCY_RUNS:
            return None
        if self.by_session and len(base) < levels.MIN_SESSIONS:
            return None
        return pooled_difference(base, current)

    @property
    def was_edited(self) -> bool | None:
        """Whether something else was played on the other side; None where nothing tells."""
        base, current = (_hashes(side) for side in (self.base, self.current))
        kinds = base.keys() & current.keys()
        if not kinds or None in base or None in current:
            return None
        return any(base[kind] != current[kind] for kind in kinds)


def _hashes(side: Side) -> dict[str | None, set[str]]:
    """Return the digests of what was played, by their kind; that of an unknown one is None."""
    found: dict[str | None, set[str]] = {}
    for run in side.runs:
        kind = None if run.scenario_hash is None else run.scenario_hash.rpartition(":")[0]
        found.setdefault(kind, set()).add(run.scenario_hash or "")
    return found


def session_means(pairs: Sequence[Pair], *, base: bool) -> Values:
    """Return for each session of a side the mean over scenarios of its calls' mean."""
    means: dict[str, list[float]] = {}
    for pair in pairs:
        of_session: dict[str, list[float]] = {}
        for run in (pair.base if base else pair.current).decided:
            if run.id in pair.value_of:
                of_session.setdefault(run.session, []).append(pair.value_of[run.id])
        for session, values in of_session.items():
            means.setdefault(session, []).append(sum(values) / len(values))
    return np.array([sum(values) / len(values) for values in means.values()])
