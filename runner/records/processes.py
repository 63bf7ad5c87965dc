"""Which processes of the API do durable work, and which of them live. The clock is the record's."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.orm import Session

from runner.records.leases import clock
from runner.records.tables import API_PROCESSES

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
"""When a process was seen last that has said that it goes."""

_OF_PROCESS = API_PROCESSES.c.executor == bindparam("of_process")
_LIMIT = bindparam("limit", type_=API_PROCESSES.c.seen_at.type)
_SEEN = update(API_PROCESSES).where(_OF_PROCESS).returning(API_PROCESSES.c.executor)
_SILENT = select(API_PROCESSES.c.executor).where(API_PROCESSES.c.seen_at <= _LIMIT)
_FORGET = delete(API_PROCESSES).where(_OF_PROCESS, API_PROCESSES.c.seen_at <= _LIMIT)


def give_sign(session: Session, executor: str) -> None:
    """Take down that a process lives."""
    now = clock(session)
    if session.execute(_SEEN, {"of_process": executor, "seen_at": now}).first() is None:
        session.execute(API_PROCESSES.insert(), {"executor": executor, "seen_at": now})


def say_goodbye(session: Session, executor: str) -> None:
    """Take down that a process goes: what it leaves is somebody else's at once."""
    session.execute(_SEEN, {"of_process": executor, "seen_at": _LONG_AGO})


def silent(session: Session, *, longer_than_s: float | None) -> list[str]:
    """Return the processes without a sign of life for so long; None: only those that said goodbye."""
    return list(session.scalars(_SILENT, {"limit": _limit(session, longer_than_s)}))


def forget(session: Session, executor: str, *, longer_than_s: float | None) -> None:
    """Remove a process that is gone, unless it has given a sign of life again."""
    session.execute(_FORGET, {"of_process": executor, "limit": _limit(session, longer_than_s)})


def _limit(session: Session, longer_than_s: float | None) -> datetime:
    return _LONG_AGO if longer_than_s is None else clock(session) - timedelta(seconds=longer_than_s)
