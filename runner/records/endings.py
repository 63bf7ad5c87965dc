"""What a run comes to: what a worker reports of it, as the record keeps it."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError

from bots.timeline import EndedReason
from runner.calls.run_file import RunReport
from runner.evaluation.ending import CEKURA_ENDED_REASON
from runner.evaluation.outcome import Status
from runner.evaluation.turns import TurnMeasures
from runner.evaluation.verdicts import Cause
from runner.metrics.latency import latency
from runner.protocol.messages import Problem
from runner.records.statuses import RunStatus
from runner.records.tables import utc_now

MAX_STORED_DEPTH = 100
"""How deep what is kept of a report may be nested."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_CAUSES = {cause.value for cause in Cause}


@dataclass(frozen=True)
class Ending:
    """What a run comes to, in the words of its columns."""

    status: RunStatus
    success: bool | None
    cause: str | None
    ended_reason: str
    call_ended_reason: str
    error_message: str
    duration_s: float | None = None
    outcome: dict[str, Any] | None = None

    @property
    def in_words(self) -> str:
        """What to log of it: words of ours alone."""
        if self.status is RunStatus.CANCELLED:
            return self.status.value
        cause = f", cause {self.cause}" if self.cause in _CAUSES else ""
        return f"{self.status.value}, success {json.dumps(self.success)}{cause}"

    @property
    def digest(self) -> str:
        """What tells it from other reports."""
        what = [self.status.value, self.ended_reason, self.error_message, self.outcome]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    @property
    def latencies_ms(self) -> list[float]:
        """How long the agent took to answer, for every turn that it answered."""
        turns = [TurnMeasures.model_validate(turn) for turn in (self.outcome or {}).get("turns", ())]
        return [sample.value for sample in latency.measure(turns)]

    def values(self) -> dict[str, Any]:
        """Return what the run's columns become."""
        now = utc_now()
        values: dict[str, Any] = {
            "status": self.status.value,
            "success": self.success,
            "cause": self.cause,
            "ended_reason": self.ended_reason,
            "call_ended_reason": self.call_ended_reason,
            "error_message": self.error_message,
            "room_token": None,
            "ended_at": now,
            "updated_at": now,
        }
        if self.outcome is not None:
            values |= {"duration_s": self.duration_s, "outcome": self.outcome}
            if self.outcome.get("expectations"):
                values["expects"] = True
        return values


def ending_of(report: RunReport | Problem) -> Ending:
    """Return what a run comes to by what a worker reports of it."""
    if isinstance(report, Problem):
        return _failed(report)
    return Ending(
        status=RunStatus(report.status.value),
        success=report.success,
        cause=None if report.cause is None else report.cause.value,
        ended_reason=report.ended_reason.value,
        call_ended_reason=report.call_ended_reason,
        error_message=_error_message(report),
        duration_s=report.duration_s,
        outcome=storable(report.model_dump(mode="json", exclude={"script"})),
    )


def cancelled() -> Ending:
    """Return what a run comes to that somebody cancelled."""
    return Ending(
        status=RunStatus.CANCELLED,
        success=None,
        cause=None,
        ended_reason=EndedReason.CANCELLED,
        call_ended_reason=CEKURA_ENDED_REASON[EndedReason.CANCELLED],
        error_message="the run was cancelled",
    )


def lost(detail: str) -> Ending:
    """Return what a run comes to whose worker was lost."""
    return _failed(Problem(cause=Cause.HARNESS, reason=EndedReason.RUNNER_ERROR, detail=detail))


def read_outcome(reported: Mapping[str, Any]) -> RunReport:
    """Return a reported ``run.json`` without its script, checked.

    Raises:
        ValueError: It is none; says what is wrong with it, and quotes nothing of it.
    """
    try:
        return RunReport.model_validate(reported)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ValueError(f"{where}: {problem['msg']}") from None


def storable(value: Any, depth: int = MAX_STORED_DEPTH) -> Any:
    """Return a JSON value without what no database takes: NUL, halves of surrogate pairs, numbers that are none.

    What is nested deeper than ``depth`` is left out.
    """
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | dict) and depth == 0:
        return None
    if isinstance(value, list):
        return [storable(item, depth - 1) for item in cast(list[Any], value)]
    if isinstance(value, dict):
        return {storable(key): storable(item, depth - 1) for key, item in cast(dict[Any, Any], value).items()}
    return value


def _failed(problem: Problem) -> Ending:
    if problem.reason == EndedReason.CANCELLED:
        return cancelled()
    try:
        words = CEKURA_ENDED_REASON[EndedReason(problem.reason)]
    except ValueError:
        words = "call-failed-unknown-error"
    return Ending(
        status=RunStatus.FAILED,
        success=None,
        cause=cast(str, storable(problem.cause)),
        ended_reason=cast(str, storable(problem.reason)),
        call_ended_reason=words,
        error_message=cast(str, storable(problem.detail)) or f"no call took place ({problem.reason})",
    )


def _error_message(outcome: RunReport) -> str:
    detail = cast(str | None, storable(outcome.detail))
    if outcome.status is Status.CANCELLED:
        return detail or "the run was cancelled"
    if outcome.status is Status.FAILED:
        return detail or f"no call took place ({outcome.ended_reason.value})"
    if outcome.success is None:
        said = detail or "there is no verdict"
        return said if said.startswith("inconclusive") else f"inconclusive: {said}"
    return ""
