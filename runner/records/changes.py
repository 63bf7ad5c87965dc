"""What changes of runs: noted in the transaction that changes it, and logged once that is committed.

A report that comes again changes nothing, and so is not noted again.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

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


@dataclass(frozen=True)
class RunChange:
    """A change of a run.

    Attributes:
        run_id: The run.
        attempt: The attempt at it that was under way.
        change: What changed.
        detail: More about it, in a few words of ours; nothing that was sent.
    """

    run_id: int
    attempt: int
    change: Change
    detail: str = ""


def note(session: Session, change: RunChange) -> None:
    """Note a change that a transaction makes."""
    session.info.setdefault(_KEY, []).append(change)


def work_changed(session: Session) -> None:
    """Note that a transaction may let a run go to a worker, or changes what one is to do: they hear of it at once."""
    session.info[_WORK] = True


def has_changed_work(info: dict[Any, Any]) -> bool:
    """Return whether a transaction has noted that, once.

    Args:
        info: The ``info`` of its session.
    """
    return bool(info.pop(_WORK, False))


def log_changes(info: dict[Any, Any]) -> None:
    """Log what a transaction that was committed has changed, each change in one line.

    Args:
        info: The ``info`` of its session.
    """
    for made in cast(list[RunChange], info.pop(_KEY, ())):
        detail = f": {made.detail}" if made.detail else ""
        logger.bind(run_id=made.run_id, attempt=made.attempt).info("run {}: {}{}", made.run_id, made.change, detail)
