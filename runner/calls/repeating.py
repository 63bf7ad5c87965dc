"""Calls that are made again, because nothing was found out of the agent."""

from runner.calls.run_file import EarlierAttempt, Run
from runner.calls.suite_file import SuiteRun
from runner.evaluation.outcome import Status
from runner.evaluation.verdicts import Cause

_WORTH_REPEATING = frozenset({Cause.HARNESS, Cause.NETWORK})


def reason_to_repeat(run: Run | SuiteRun) -> str | None:
    """Return why a call is worth making again; None if it is not.

    That is where there is no verdict because of our own side or of the network: nothing was found out of the agent.
    """
    if run.success is None and run.status is not Status.CANCELLED and run.cause in _WORTH_REPEATING:
        return f"inconclusive (cause: {run.cause})"
    return None


def earlier_attempt(run: Run | SuiteRun, repeated_because: str, *, folder: str | None = None) -> EarlierAttempt:
    """Return a call that is made again, as the run that counts remembers it."""
    return EarlierAttempt(
        repeated_because=repeated_because,
        folder=folder,
        started_at=run.started_at,
        duration_s=run.duration_s,
        status=run.status,
        success=run.success,
        cause=run.cause,
        ended_reason=run.ended_reason,
        detail=run.detail,
        failure=run.failure,
    )
