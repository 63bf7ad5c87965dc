"""Runs to compare, made up."""

from collections.abc import Sequence

from runner.comparison.facts import RunFacts, RunSet, SessionFacts
from runner.evaluation.verdicts import Cause


def runs(
    side: str,
    passed: int,
    failed: int = 0,
    *,
    inconclusive: int = 0,
    scenario: str = "booking",
    latency_ms: float | None = 800.0,
    spread_ms: float = 20.0,
    session: str | None = None,
    scenario_hash: str | None = "same",
) -> list[RunFacts]:
    """Return runs of a scenario; their latencies lie around the one that is given, two steps up and down."""
    verdicts = [*[True] * passed, *[False] * failed, *[None] * inconclusive]
    return [
        RunFacts(
            id=f"{side}-{session}-{scenario}-{index}",
            scenario=scenario,
            scenario_hash=scenario_hash,
            session=session or side,
            started_at=f"2026-01-01T00:00:{index:02}.000Z",
            success=success,
            cause={True: None, False: Cause.AGENT, None: Cause.NETWORK}[success],
            latencies_ms=() if latency_ms is None else (latency_ms + spread_ms * (index % 5 - 2),),
        )
        for index, success in enumerate(verdicts)
    ]


def run_set(of: Sequence[RunFacts], **circumstances: object) -> RunSet:
    """Return runs with their sessions, all made in the same circumstances."""
    sessions = [
        SessionFacts.model_validate({"id": session, "started_at": f"2026-01-0{place}T00:00:00.000Z", **circumstances})
        for place, session in enumerate(dict.fromkeys(run.session for run in of), start=1)
    ]
    return RunSet(sessions=tuple(sessions), runs=tuple(of))
