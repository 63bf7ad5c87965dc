"""Simulated suites for the benchmark of gates: agents with known pass rates and latencies."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runner.comparison.changes import Change, Comparison
from runner.comparison.compare import compare
from runner.comparison.facts import RunFacts

TURNS = 5
SD_OF_LOG = 0.3
WITHIN_CALL = 0.45
"""The correlation of the turns of one call."""
TURN_FACTORS = np.array([0.7, 0.85, 1.0, 1.15, 1.3])
PASS_RATES = (1.0, 1.0, 0.95, 0.95, 0.8)
FASTEST_MS, SLOWEST_MS = 880.0, 1_850.0
"""The medians of the scenarios lie between these; the one that changes alone is the fastest, and always passes."""
DRIFT = 0.05
"""How far the latencies of a session are from those of another, as a share."""


@dataclass(frozen=True)
class Effect:
    """What is different about the current agent.

    Attributes:
        name: What the table calls it.
        factor: All pass rates become so many times what they were.
        slower_ms: All turns take so much longer.
        one_rate: The first scenario's pass rate; None: as it is.
        one_slower_ms: The first scenario's turns take so much longer.
        worse: The first scenario has to be named, or only something about the suite.
    """

    name: str
    factor: float = 1.0
    slower_ms: float = 0.0
    one_rate: float | None = None
    one_slower_ms: float = 0.0

    @property
    def is_of_one(self) -> bool:
        """Whether only the first scenario is different, and has to be named."""
        return self.one_rate is not None or self.one_slower_ms > 0


NONE = Effect("false alarm")
EFFECTS = (
    Effect("all pass rates × 0.8", factor=0.8),
    Effect("all +150 ms", slower_ms=150),
    Effect("all +300 ms", slower_ms=300),
    Effect("one 1 → 0", one_rate=0.0),
    Effect("one 1 → 0.2", one_rate=0.2),
    Effect("one +500 ms", one_slower_ms=500),
    Effect("one +1000 ms", one_slower_ms=1_000),
)


@dataclass(frozen=True)
class Design:
    """How many scenarios and runs.

    Attributes:
        scenarios: How many scenarios.
        base: Runs of each in a session of the base.
        current: Runs of each on the current side.
        base_sessions: Sessions of the base; 0: both sides in one session.
        drift: How far sessions are apart, as a share.
    """

    scenarios: int
    base: int
    current: int
    base_sessions: int = 0
    drift: float = 0.0

    def __str__(self) -> str:
        sessions = f", base of {self.base_sessions} sessions" if self.base_sessions else ""
        return f"{self.scenarios}, {self.base}v{self.current}{sessions}"


def runs_of(rng: np.random.Generator, design: Design, runs: int, session: str, effect: Effect) -> list[RunFacts]:
    """Return the runs of a session."""
    medians_ms = np.linspace(FASTEST_MS, SLOWEST_MS, design.scenarios)
    shared = np.exp(rng.normal(0, design.drift)) if design.drift else 1.0
    made: list[RunFacts] = []
    for scenario, median_ms in enumerate(medians_ms):
        rate = PASS_RATES[scenario % len(PASS_RATES)] * effect.factor
        slower_ms = effect.slower_ms
        if scenario == 0:
            rate = rate if effect.one_rate is None else effect.one_rate
            slower_ms += effect.one_slower_ms
        passed = rng.random(runs) < rate
        # An agent that fails does so at some turn, and the call ends there.
        reached = np.where(passed, TURNS, rng.integers(1, TURNS + 1, runs))
        of_call = rng.normal(size=(runs, 1)) * np.sqrt(WITHIN_CALL)
        of_turn = rng.normal(size=(runs, TURNS)) * np.sqrt(1 - WITHIN_CALL)
        latencies_ms = shared * median_ms * TURN_FACTORS * np.exp(SD_OF_LOG * (of_call + of_turn)) + slower_ms
        made += [
            RunFacts.model_construct(
                id=f"{session}-{scenario}-{index}",
                scenario=f"scenario {scenario}",
                scenario_hash="same",
                session=session.partition("/")[0],
                started_at="2026-01-01T00:00:00.000Z",
                success=bool(passed[index]),
                latencies_ms=tuple(latencies_ms[index, : reached[index]].tolist()),
            )
            for index in range(runs)
        ]
    return made


def simulated(design: Design, effect: Effect, seed: int) -> Comparison:
    """Compare a simulated agent with one that differs in a known way."""
    rng = np.random.default_rng(seed)
    if not design.base_sessions:
        sides = (
            runs_of(rng, design, design.base, "one/a", NONE),
            runs_of(rng, design, design.current, "one/b", effect),
        )
        return compare(*sides)
    base = [run for n in range(design.base_sessions) for run in runs_of(rng, design, design.base, f"s{n}", NONE)]
    return compare(base, runs_of(rng, design, design.current, "now", effect))


def is_found(comparison: Comparison, effect: Effect) -> bool:
    """Return whether a comparison says what is so; of an agent and itself: whether it says anything."""
    first = comparison.scenarios[0]
    if effect.is_of_one:
        return first.change is Change.REGRESSED
    if effect is NONE:
        return has_change(comparison)
    return comparison.change is Change.REGRESSED


def has_change(comparison: Comparison) -> bool:
    """Return whether a comparison says that something changed, for better or worse."""
    suite = [comparison.pass_rate, *([comparison.latency] if comparison.latency else [])]
    moved = {Change.IMPROVED, Change.REGRESSED}
    return any(level.significant for level in suite) or any(one.change in moved for one in comparison.scenarios)


def share_found(job: tuple[Design, Effect, int, int]) -> float:
    """Return in what share of repetitions it is found: a design, an effect, the first seed, and how many."""
    design, effect, first_seed, count = job
    return (
        sum(is_found(simulated(design, effect, seed), effect) for seed in range(first_seed, first_seed + count))
        / count
    )


Share = Callable[[Design, Effect], float]
