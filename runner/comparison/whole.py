"""All scenarios of a comparison together: whether the suite changed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from runner.comparison import levels
from runner.comparison.changes import Change, LatencyChange, RateChange, ScenarioChange
from runner.comparison.latencies import Difference, pooled_difference, stratified_difference
from runner.comparison.rates import Table, best_suite_p, mean_difference_interval, stratified_tails
from runner.comparison.sides import Pair, session_means


@dataclass
class Whole:
    """All scenarios together."""

    pairs: Sequence[Pair]
    by_session: bool
    trusted: bool
    tables: list[Table] = field(init=False)
    pass_rate: RateChange = field(init=False)
    latency: LatencyChange | None = field(init=False)

    def __post_init__(self) -> None:
        self.tables = [pair.table for pair in self.pairs if pair.has_rates]
        self.pass_rate = self._pass_rate()
        self.latency = self._latency()

    def _pass_rate(self) -> RateChange:
        counts = Table(*map(sum, zip(*(pair.table for pair in self.pairs), strict=True)))._asdict()
        if not self.tables:
            return RateChange(**counts)
        points = 100 * sum(table.difference for table in self.tables) / len(self.tables)
        low, high = mean_difference_interval(self.tables)
        p = stratified_tails(self.tables).doubled_mid_p
        is_large = reaches(points, levels.SUITE_MIN_POINTS)
        return RateChange(
            **counts,
            difference_points=round(points, 1),
            low_points=round(100 * low, 1),
            high_points=round(100 * high, 1),
            p=p,
            significant=self.trusted and p <= levels.SUITE_RATE_LEVEL and is_large,
        )

    def _difference(self) -> Difference | None:
        if self.by_session:
            base, current = (session_means(self.pairs, base=side) for side in (True, False))
            enough = len(base) >= levels.MIN_SESSIONS and len(current) >= 1
            return pooled_difference(base, current) if enough else None
        strata = [pair.calls for pair in self.pairs if min(map(len, pair.calls)) >= 2]
        return stratified_difference(strata) if strata else None

    def _latency(self) -> LatencyChange | None:
        if self.by_session:
            counts = [len(session_means(self.pairs, base=side)) for side in (True, False)]
        else:
            counts = [sum(len(pair.calls[side]) for pair in self.pairs) for side in (0, 1)]
        if not any(counts):
            return None
        level = levels.SUITE_LATENCY_LEVEL
        difference = self._difference()
        significant = difference is not None and difference.p <= level
        return latency_change(difference, counts, level, self.trusted and significant, levels.SUITE_MIN_MS)

    def change(self, scenarios: Sequence[ScenarioChange], doubt: str | None) -> tuple[Change, str | None]:
        """Return what became of the whole; and why too few runs leave it open, if they do."""
        changes = {scenario.change for scenario in scenarios} | {
            direction(slower=metric_is_worse) for metric_is_worse in self._significant()
        }
        if Change.REGRESSED in changes:
            return Change.REGRESSED, None
        if (why := doubt or self._why_open()) is not None:
            return Change.TOO_FEW, why
        return (Change.IMPROVED if Change.IMPROVED in changes else Change.UNCHANGED), None

    def _significant(self) -> list[bool]:
        """Return whether each measure of the suite that changed became worse."""
        rate = [(self.pass_rate.difference_points or 0) < 0] if self.pass_rate.significant else []
        latency = self.latency
        return rate + ([(latency.difference_ms or 0) > 0] if latency is not None and latency.significant else [])

    def _why_open(self) -> str | None:
        """Return why runs that show no regression do not show that there is none either."""
        if not self.tables:
            return "a side has no decided runs"
        fewest = min(self.pass_rate.base_runs, self.pass_rate.current_runs)
        if fewest < levels.MIN_RATE_RUNS:
            return f"{fewest} decided runs on a side, fewer than {levels.MIN_RATE_RUNS}"
        if best_suite_p(self.tables) > levels.SUITE_RATE_LEVEL:
            return "with so few runs no drop of the pass rate could have shown"
        points = self.pass_rate.difference_points or 0.0
        if reaches(-points, levels.SUITE_MIN_POINTS, one_sided=True) and not self.pass_rate.significant:
            return f"the pass rate is {-points:.0f} points lower, which so few runs can't tell from chance"
        latency = self.latency
        if latency is None:
            return None
        if latency.difference_ms is None:
            return "too few calls with a latency to compare them"
        if reaches(latency.difference_ms, levels.SUITE_MIN_MS, one_sided=True) and not latency.significant:
            return f"latencies are {latency.difference_ms:.0f} ms longer, which so few calls can't tell from chance"
        return None


def reaches(difference: float, least: float, *, one_sided: bool = False) -> bool:
    """Whether a difference is as large as it must be, but for what rounding does to floats."""
    return (difference if one_sided else abs(difference)) >= least - 1e-9


def direction(*, slower: bool) -> Change:
    return Change.REGRESSED if slower else Change.IMPROVED


def latency_change(
    difference: Difference | None, counts: Sequence[int], level: float, significant: bool, least_ms: float
) -> LatencyChange:
    base_calls, current_calls = counts
    if difference is None:
        return LatencyChange(base_calls=base_calls, current_calls=current_calls)
    low, high = difference.interval_ms
    return LatencyChange(
        base_calls=base_calls,
        current_calls=current_calls,
        difference_ms=round(difference.ms, 1),
        low_ms=round(low, 1),
        high_ms=round(high, 1),
        p=difference.p,
        significant=significant and reaches(difference.ms, least_ms),
        shows_ms=round(difference.shows_ms(level), 1),
    )
