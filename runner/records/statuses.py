"""The statuses of runs, results and firings, and which way they move: forward, but for a run that is released."""

from collections.abc import Iterable
from enum import StrEnum


class RunStatus(StrEnum):
    """How far a run has come. Written as Cekura writes it."""

    PENDING = "pending"
    """Waits for a worker, or for the one that has it to begin: launched, or released."""
    RUNNING = "running"
    """A worker has begun it: its session starts, or its call is on."""
    EVALUATING = "evaluating"
    """The call is over; its words are being recognised and judged."""
    COMPLETED = "completed"
    """The call took place. Whether the agent passed is another matter (``success``)."""
    FAILED = "failed"
    """There was no call: for a reason of the room, the network, the harness, or an agent that never came."""
    CANCELLED = "cancelled"


class ResultStatus(StrEnum):
    """How far a result has come: never back, and it always ends in completed, failed or cancelled."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class FiringState(StrEnum):
    """How far a firing of a schedule is, and what it came to."""

    QUEUED = "queued"
    """It waits until the one before it has ended."""
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    """A run failed, a scenario got worse than in the baseline, or nothing could be launched."""
    INCONCLUSIVE = "inconclusive"
    SKIPPED = "skipped"


FINAL_RUN = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})
"""Statuses a run never leaves."""
OPEN_RUN = tuple(status for status in RunStatus if status not in FINAL_RUN)
"""Those of runs that wait or are under way."""

FINAL_RESULT = frozenset({ResultStatus.COMPLETED, ResultStatus.FAILED, ResultStatus.CANCELLED})
"""Statuses a result never leaves."""


def result_status(runs: Iterable[RunStatus]) -> ResultStatus:
    """Return the status of a result from those of its runs.

    Completed when all have ended and at least one completed (as Cekura counts); cancelled when all that ended were
    cancelled; failed otherwise.
    """
    statuses = list(runs)
    if any(status not in FINAL_RUN for status in statuses):
        begun = any(status is not RunStatus.PENDING for status in statuses)
        return ResultStatus.RUNNING if begun else ResultStatus.PENDING
    if RunStatus.COMPLETED in statuses:
        return ResultStatus.COMPLETED
    if all(status is RunStatus.CANCELLED for status in statuses):
        return ResultStatus.CANCELLED
    return ResultStatus.FAILED
