"""What the record holds of the artefacts of a run: which came, and which are still to come."""

from collections.abc import Mapping
from enum import StrEnum
from typing import cast

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from runner.records.statuses import FINAL_RUN
from runner.records.tables import RUNS, utc_now

MAX_ARTEFACTS = 10
"""How many artefacts an attempt may bring."""

_RUN = RUNS.c.id == bindparam("of_run")
_FOUND = (
    select(RUNS.c.artefacts, RUNS.c.status)
    .where(_RUN, RUNS.c.attempt == bindparam("of_attempt"), RUNS.c.executor == bindparam("of_executor"))
    .with_for_update()
)
_SET = update(RUNS).where(_RUN)


class Upload(StrEnum):
    """What becomes of an artefact that a worker brings."""

    WANTED = "wanted"
    THERE = "there"
    """It is there, and stays as it is."""
    TOO_MANY = "too many"
    """The attempt has brought as many as it may."""
    VOID = "void"
    """The attempt does not count (any more), or its run has ended and nothing of this name was to come."""


def expect_artefact(session: Session, run_id: int, attempt: int, executor: str, name: str) -> Upload:
    """Take down that a worker brings an artefact, if it is wanted: while its attempt is open, and each name once."""
    found = session.execute(_FOUND, {"of_run": run_id, "of_attempt": attempt, "of_executor": executor}).first()
    if found is None:
        return Upload.VOID
    artefacts = cast(dict[str, int | None], found.artefacts)
    if name in artefacts:
        return Upload.WANTED if artefacts[name] is None else Upload.THERE
    if found.status in FINAL_RUN:
        return Upload.VOID
    if sum("/" not in one for one in artefacts) >= MAX_ARTEFACTS:
        return Upload.TOO_MANY
    _keep(session, run_id, {**artefacts, name: None})
    return Upload.WANTED


def add_artefact(session: Session, run_id: int, attempt: int, executor: str, name: str, size: int) -> bool:
    """Take down that the store holds an artefact of so many bytes; return whether that was still to come."""
    found = session.execute(_FOUND, {"of_run": run_id, "of_attempt": attempt, "of_executor": executor}).first()
    artefacts = {} if found is None else cast(dict[str, int | None], found.artefacts)
    if artefacts.get(name, size) is not None:
        return False
    _keep(session, run_id, {**artefacts, name: size})
    return True


def set_aside(artefacts: Mapping[str, int | None], attempt: int) -> dict[str, int | None]:
    """Return what the store holds of a run whose attempt does not count any more: kept in mind to be deleted."""
    return {name if "/" in name else f"{attempt}/{name}": size for name, size in artefacts.items()}


def _keep(session: Session, run_id: int, artefacts: Mapping[str, int | None]) -> None:
    session.execute(_SET, {"of_run": run_id, "artefacts": artefacts, "updated_at": utc_now()})
