"""Which waiting run goes to which worker: in order of priority, and within every limit there is.

All of it is decided in one transaction that no other process decides in at the same time, from what the record holds:
a limit is never exceeded, not even for a moment.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, bindparam, func, or_, select, update
from sqlalchemy.orm import Session

from runner.protocol.messages import WorkerInfo
from runner.records.changes import Change, note
from runner.records.tables import AGENTS, RESULTS, RUNS, utc_now
from runner.settings import ServerSettings

MAX_CALLS = "max_calls"
"""What of an agent's ``session`` says how many calls it takes at once."""

_LOCK = 0x61736E73
"""What processes that decide about the same PostgreSQL database hold, one after the other."""

BATCH = 100


@dataclass
class _Taken:
    """What the runs need that workers have, and with it who can have no more."""

    limits: ServerSettings
    workers: Sequence[WorkerInfo]
    by_worker: Counter[str] = field(default_factory=Counter[str])
    by_result: Counter[int] = field(default_factory=Counter[int])
    by_agent: Counter[int] = field(default_factory=Counter[int])
    rooms: set[str] = field(default_factory=set[str])
    total: int = 0
    full_results: set[int] = field(default_factory=set[int])
    full_agents: set[int] = field(default_factory=set[int])

    def add(self, run: Any, executor: str) -> None:
        """Count a run that a worker has."""
        self.total += 1
        self.by_worker[executor] += 1
        self.by_result[run.result_id] += 1
        if run.concurrency_limit is not None and self.by_result[run.result_id] >= run.concurrency_limit:
            self.full_results.add(run.result_id)
        if run.agent_id is not None:
            self.by_agent[run.agent_id] += 1
            own = (run.session or {}).get(MAX_CALLS)
            limit = self.limits.max_calls_per_agent if own is None else own
            if limit is not None and self.by_agent[run.agent_id] >= limit:
                self.full_agents.add(run.agent_id)
        if run.room_key is not None:
            self.rooms.add(run.room_key)

    def worker_for(self, run: Any) -> str | None:
        """Return the worker with the most room for a run; None if it has to wait."""
        if (
            run.result_id in self.full_results
            or run.agent_id in self.full_agents
            or run.room_key in self.rooms
            or self.is_full
        ):
            return None
        able = [worker for worker in self._free() if run.room_kind is None or run.room_kind in worker.rooms]
        if not able:
            return None
        return max(able, key=lambda worker: worker.calls - self.by_worker[worker.executor]).executor

    @property
    def is_full(self) -> bool:
        """Whether nobody can take anything more."""
        return (self.limits.max_calls is not None and self.total >= self.limits.max_calls) or not self._free()

    def may_go(self) -> ColumnElement[bool]:
        """Return the condition that a run waits, and for none of what is taken."""
        kinds = {kind for worker in self._free() for kind in worker.rooms}
        conditions = [waiting(), is_due(utc_now()), RUNS.c.room_kind.is_(None) | RUNS.c.room_kind.in_(kinds)]
        if self.full_results:
            conditions.append(RUNS.c.result_id.not_in(self.full_results))
        if self.full_agents:
            conditions.append(RUNS.c.agent_id.is_(None) | RUNS.c.agent_id.not_in(self.full_agents))
        if self.rooms:
            conditions.append(RUNS.c.room_key.is_(None) | RUNS.c.room_key.not_in(self.rooms))
        return and_(*conditions)

    @property
    def places(self) -> int:
        """How many runs could be given now, as far as workers and the limit of all go."""
        free = sum(worker.calls - self.by_worker[worker.executor] for worker in self._free())
        return free if self.limits.max_calls is None else min(free, self.limits.max_calls - self.total)

    def _free(self) -> list[WorkerInfo]:
        return [worker for worker in self.workers if worker.calls > self.by_worker[worker.executor]]


def waiting() -> ColumnElement[bool]:
    """Return the condition that a run waits for a worker."""
    return RUNS.c.ended_at.is_(None) & RUNS.c.executor.is_(None)


def is_due(now: datetime | ColumnElement[datetime]) -> ColumnElement[bool]:
    """Return the condition that the delay of a run is over, if it had one."""
    return or_(RUNS.c.not_before.is_(None), RUNS.c.not_before <= now)


def taken() -> ColumnElement[bool]:
    """Return the condition that a worker has a run."""
    # Not that it is not null: so SQLite, too, looks at these alone. What was reported nobody has any more, though it
    # may still be judged.
    return RUNS.c.ended_at.is_(None) & (RUNS.c.executor > "") & RUNS.c.reported.is_(None)


def assign(session: Session, workers: Sequence[WorkerInfo], limits: ServerSettings) -> list[Row[int, int, str]]:
    """Give waiting runs to workers: as many as they can take, lower priority numbers first, then older runs.

    Args:
        session: A transaction.
        workers: Those that take runs.
        limits: How many calls may be on at once, besides what workers can take and launches ask for.

    Returns:
        Of each run that was given: its id, the attempt, and the worker, in the order of the ids.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(_HOLD)
    now = _Taken(limits, workers)
    for run in session.execute(_TAKEN_RUNS):
        now.add(run, run.executor)
    given: list[Row[int, int, str]] = []
    while not now.is_full:
        # Locked, and none waited for: whoever cancels some of them locks them in another order.
        most = min(BATCH, now.places)
        runs = session.execute(_WAITING_RUNS.where(now.may_go()).limit(most)).all()
        chosen: dict[str, list[int]] = {}
        for run in runs:
            executor = now.worker_for(run)
            if executor is not None:
                now.add(run, executor)
                chosen.setdefault(executor, []).append(run.id)
        for executor, ids in chosen.items():
            # One that was cancelled meanwhile stays as it is; its place is given away the next time.
            of_worker = {"of_runs": ids, "executor": executor, "updated_at": utc_now()}
            for one in session.execute(_GIVE, of_worker):
                given.append(one)
                note(session, one.id, one.attempt, Change.GIVEN, executor)
        if len(runs) < most or not chosen:
            break
    return sorted(given, key=lambda one: one.id)


_HOLD = select(func.pg_advisory_xact_lock(_LOCK))
_OF_RUN = (
    select(
        *RUNS.c["id", "result_id", "agent_id", "room_key", "room_kind", "executor"],
        RESULTS.c.concurrency_limit,
        AGENTS.c.session,
    )
    .join_from(RUNS, RESULTS, RESULTS.c.id == RUNS.c.result_id)
    .outerjoin(AGENTS, AGENTS.c.id == RUNS.c.agent_id)
)
_TAKEN_RUNS = _OF_RUN.where(taken())
_WAITING_RUNS = _OF_RUN.order_by(RUNS.c.priority, RUNS.c.id).with_for_update(of=RUNS, skip_locked=True)
_GIVE = (
    update(RUNS)
    .where(RUNS.c.id.in_(bindparam("of_runs", expanding=True)), waiting())
    .returning(RUNS.c.id, RUNS.c.attempt, RUNS.c.executor)
)
