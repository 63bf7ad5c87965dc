"""What changes of runs: noted in the transaction that changes it, and logged once that is committed.

A report that comes again changes nothing, and so is not noted again.
"""

from enum import StrEnum
from typing import Any

from loguru import logger
from sqlalchemy.orm import Session

_KEY = "run_changes"
_WORK = "work_changed"


class Change(StrEnum):
    """What changed of a run."""

    GIVEN = "given to a worker"
    CLAIMED = "claimed"
    JOINED = "joined"
    SAID = "said"
    EVALUATING = "evaluating"
    REPORTED = "reported"
    ENDED = "ended"
    RELEASED = "released"


def note(session: Session, run_id: int, attempt: int, change: Change, detail: str = "") -> None:
    """Note what a transaction changes of a run, of which an attempt was under way.

    ``detail`` is a few words of ours; nothing that was sent.
    """
    session.info.setdefault(_KEY, []).append((run_id, attempt, f"{change}: {detail}" if detail else change.value))


def work_changed(session: Session) -> None:
    """Note that a transaction may let a run go to a worker, or changes what one is to do: they hear of it at once."""
    session.info[_WORK] = True


def has_changed_work(info: dict[Any, Any]) -> bool:
    """Return whether a transaction with this ``info`` of its session has noted that, once."""
    return bool(info.pop(_WORK, False))


def log_changes(info: dict[Any, Any]) -> None:
    """Log what a transaction that was committed has changed, each change in one line."""
    for run_id, attempt, what in info.pop(_KEY, ()):
        logger.bind(run_id=run_id, attempt=attempt).info("run {}: {}", run_id, what)
