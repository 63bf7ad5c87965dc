"""What repeats say of an agent: pass rates, pass^k, and latencies, each with its interval: to look at.

Importing this needs no statistics library; :func:`summarise` needs scipy (the extra ``compare``).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from runner.comparison.facts import RunFacts
from runner.comparison.gates import latencies_by_scenario
from runner.comparison.intervals import wilson

if TYPE_CHECKING:
    from runner.comparison.latencies import Values

MAX_K = 5
"""Pass^k is given for k up to that."""


class Estimate(BaseModel):
    """An estimate, and where the true value lies in 95 of 100 cases."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float


class Repeats(BaseModel):
    """What the runs of a scenario, or of all, say.

    Attributes:
        scenario: Its name; null for all scenarios together.
        passed: Runs that passed.
        decided: Runs with a verdict.
        inconclusive: Runs without one: left out of all the rest.
        pass_rate: As a share, with Wilson's interval.
        pass_hat_k: Pass^k for k = 1, 2, …: the chance that k runs of a scenario all pass.
        p50_latency_ms: Median of all turns.
        p95_latency_ms: Their 95th percentile.
    """

    model_config = ConfigDict(frozen=True)

    scenario: str | None
    passed: int
    decided: int
    inconclusive: int
    pass_rate: Estimate | None
    pass_hat_k: list[float] = []
    p50_latency_ms: Estimate | None
    p95_latency_ms: Estimate | None


class Summary(BaseModel):
    """What the runs of a suite say, together and by scenario."""

    model_config = ConfigDict(frozen=True)

    all: Repeats
    scenarios: list[Repeats]


def summarise(runs: Sequence[RunFacts]) -> Summary:
    by_scenario: dict[str, list[RunFacts]] = {}
    for run in runs:
        by_scenario.setdefault(run.scenario, []).append(run)
    return Summary(
        all=_repeats(None, by_scenario), scenarios=[_repeats(name, {name: of}) for name, of in by_scenario.items()]
    )


def _repeats(scenario: str | None, by_scenario: Mapping[str, Sequence[RunFacts]]) -> Repeats:
    from runner.comparison.rates import pass_hat_k

    runs = [run for of_scenario in by_scenario.values() for run in of_scenario]
    decided = [run for run in runs if run.success is not None]
    counts = [
        (sum(run.success is True for run in of), known)
        for of in by_scenario.values()
        if (known := sum(run.success is not None for run in of))
    ]
    passed = sum(count for count, _ in counts)
    low, high = wilson(passed, len(decided)) if decided else (0.0, 0.0)
    longest = min(MAX_K, min((of for _, of in counts), default=0))
    latencies_ms = list(latencies_by_scenario(decided).values())
    return Repeats(
        scenario=scenario,
        passed=passed,
        decided=len(decided),
        inconclusive=len(runs) - len(decided),
        pass_rate=_estimate(passed / len(decided), low, high, digits=4) if decided else None,
        pass_hat_k=[round(pass_hat_k(counts, k), 4) for k in range(1, longest + 1)],
        p50_latency_ms=_percentile(latencies_ms, 50),
        p95_latency_ms=_percentile(latencies_ms, 95),
    )


def _percentile(tables: Sequence["Values"], percent: float) -> Estimate | None:
    from runner.comparison.latencies import matrix, percentile_ms

    rows = [row for table in tables for row in table.tolist()]
    return _estimate(*percentile_ms(matrix(rows), percent), digits=1) if rows else None


def _estimate(value: float, low: float, high: float, *, digits: int) -> Estimate:
    return Estimate(value=round(value, digits), low=round(low, digits), high=round(high, digits))
