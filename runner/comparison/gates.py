"""Thresholds of a suite: judged with intervals, missed only where chance does not explain it.

A point estimate is no judge: a p95 against its own true value fails in 30 to 45 % of cases.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from runner.comparison.facts import RunFacts
from runner.comparison.intervals import first_that, wilson
from runner.comparison.levels import MAX_INCONCLUSIVE_SHARE

if TYPE_CHECKING:
    from runner.comparison.latencies import Values

ALLOWED_ABOVE_P95 = 0.05
MAX_RUNS_NEEDED = 100_000


class Gates(BaseModel):
    """The thresholds of a suite.

    Attributes:
        pass_rate: The least share of decided runs that pass, from 0 to 1.
        p95_latency_ms: The longest latency that 95 of 100 turns may take.
    """

    model_config = ConfigDict(frozen=True)

    pass_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    p95_latency_ms: Annotated[float, Field(gt=0)] | None = None


class GateStatus(StrEnum):
    """What became of a threshold."""

    MET = "met"
    """Even the worse end of the interval meets it."""
    MISSED = "missed"
    """Even the better end of the interval misses it."""
    TOO_FEW = "too_few"
    """The threshold lies inside the interval: too few runs to say."""


class GateOutcome(BaseModel):
    """What became of a threshold.

    Attributes:
        gate: Its name in the suite file.
        observed: The pass rate as a share; the 95th percentile in milliseconds. Null where nothing was decided or
            measured.
        low: Of the pass rate, where the true one lies in 95 of 100 cases; of a latency the same of the share of turns
            above the limit. From here.
        high: To here.
        count: Runs that passed; turns above the limit.
        total: Decided runs; turns.
        inconclusive: Runs left out; more than 20 % of all, and the threshold is neither kept nor missed.
        is_kept: Whether what was observed keeps the threshold, however uncertain that is.
        runs_needed: With too few runs: how many it would take in all, if the share stays as it is. Null where that is
            not known.
    """

    model_config = ConfigDict(frozen=True)

    gate: str
    limit: float
    status: GateStatus
    observed: float | None
    low: float | None
    high: float | None
    count: int
    total: int
    inconclusive: int = 0
    is_kept: bool
    runs_needed: int | None = None

    @property
    def exit_code(self) -> int:
        """0 where it is met or kept so far, 1 where it is missed, 2 where too few runs leave it open."""
        if self.status is GateStatus.MISSED:
            return 1
        return 0 if self.is_kept else 2


def judge_gates(gates: Gates, runs: Sequence[RunFacts]) -> list[GateOutcome]:
    """Return what became of each threshold; runs without a verdict are left out. Needs scipy (extra ``compare``)."""
    decided = [run for run in runs if run.success is not None]
    outcomes: list[GateOutcome] = []
    if gates.pass_rate is not None:
        outcomes.append(_pass_rate(gates.pass_rate, decided))
    if gates.p95_latency_ms is not None:
        outcomes.append(_p95(gates.p95_latency_ms, decided))
    inconclusive = len(runs) - len(decided)
    open_: dict[str, Any] = {"status": GateStatus.TOO_FEW, "is_kept": False, "runs_needed": None}
    update = open_ if inconclusive > MAX_INCONCLUSIVE_SHARE * len(runs) else {}
    return [outcome.model_copy(update={"inconclusive": inconclusive, **update}) for outcome in outcomes]


def _pass_rate(limit: float, decided: Sequence[RunFacts]) -> GateOutcome:
    passed, runs = sum(run.success is True for run in decided), len(decided)
    observed = passed / runs if runs else None
    is_kept = observed is not None and observed >= limit
    outcome = _open("pass_rate", limit, observed, passed, runs, is_kept)
    if not runs:
        return outcome

    def status(low: float, high: float) -> GateStatus:
        return GateStatus.MISSED if high < limit else GateStatus.MET if low >= limit else GateStatus.TOO_FEW

    return _judged(outcome, runs, lambda count: wilson(passed * count / runs, count), status)


def _p95(limit_ms: float, decided: Sequence[RunFacts]) -> GateOutcome:
    """Judge the share of turns above the limit: of the 95th percentile it may be 5 %."""
    import numpy as np

    from runner.comparison.latencies import design_effect

    by_scenario = latencies_by_scenario(decided)
    latencies_ms = np.array([ms for run in decided for ms in run.latencies_ms if ms is not None])
    above, turns = int((latencies_ms > limit_ms).sum()), len(latencies_ms)
    observed = round(float(np.percentile(latencies_ms, 95)), 1) if turns else None
    is_kept = turns > 0 and above <= ALLOWED_ABOVE_P95 * turns
    outcome = _open("p95_latency_ms", limit_ms, observed, above, turns, is_kept)
    if not turns:
        return outcome
    effect = design_effect(by_scenario)
    calls = sum(len(table) for table in by_scenario.values())

    def interval(count: int) -> tuple[float, float]:
        worth = turns / effect * count / calls
        return wilson(above / turns * worth, worth)

    def status(low: float, high: float) -> GateStatus:
        if low > ALLOWED_ABOVE_P95:
            return GateStatus.MISSED
        return GateStatus.MET if high <= ALLOWED_ABOVE_P95 else GateStatus.TOO_FEW

    return _judged(outcome, calls, interval, status)


def _open(gate: str, limit: float, observed: float | None, count: int, total: int, is_kept: bool) -> GateOutcome:
    return GateOutcome(
        gate=gate,
        limit=limit,
        status=GateStatus.TOO_FEW,
        observed=observed,
        low=None,
        high=None,
        count=count,
        total=total,
        is_kept=is_kept,
    )


def _judged(
    outcome: GateOutcome,
    have: int,
    interval: Callable[[int], tuple[float, float]],
    status: Callable[[float, float], GateStatus],
) -> GateOutcome:
    """Return an outcome with what the interval of so many runs says; with too few, from how many on it would say."""

    def says(count: int) -> bool:
        return status(*interval(count)) is not GateStatus.TOO_FEW

    low, high = interval(have)
    needed = None if says(have) else first_that(says, have, MAX_RUNS_NEEDED)
    return outcome.model_copy(update={"status": status(low, high), "low": low, "high": high, "runs_needed": needed})


def latencies_by_scenario(decided: Sequence[RunFacts]) -> Mapping[str, "Values"]:
    """Return the latencies of each scenario: a row for each call that has any, with NaN where a turn has none."""
    from runner.comparison.latencies import matrix

    rows: dict[str, list[Sequence[float | None]]] = {}
    for run in decided:
        if any(latency is not None for latency in run.latencies_ms):
            rows.setdefault(run.scenario, []).append(run.latencies_ms)
    return {scenario: matrix(table) for scenario, table in rows.items()}
