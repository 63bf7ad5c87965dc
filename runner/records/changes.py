"""What changes of runs: noted in the transaction that changes it, and logged once that is committed.

A report that comes again changes nothing, and so is not noted again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncSession

_KEY = "run_changes"


class Change(StrEnum):
    """What changed of a run."""

    GIVEN = "given to a worker"
    CLAIMED = "claimed"
    JOINED = "joined"
    SAID = "said"
    EVALUATING = "evaluating"
    ENDED = "ended"
    GIVEN_BACK = "given back"


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


def note(session: AsyncSession, change: RunChange) -> None:
    """Note a change that a transaction makes."""
    session.info.setdefault(_KEY, []).append(change)


def noted(session: AsyncSession) -> Sequence[RunChange]:
    """Return what was noted in a transaction that is not committed yet."""
    return tuple(cast(list[RunChange], session.info.get(_KEY, ())))


def log_changes(session: AsyncSession) -> None:
    """Log what a transaction that was committed has changed, each change in one line."""
    for made in cast(list[RunChange], session.info.pop(_KEY, ())):
        detail = f": {made.detail}" if made.detail else ""
        logger.bind(run_id=made.run_id, attempt=made.attempt).info("run {}: {}{}", made.run_id, made.change, detail)
