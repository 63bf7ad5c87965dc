"""Which waiting run goes to which worker: in order of priority, and within every limit there is.

All of it is decided in one transaction that no other process decides in at the same time, from what the record holds:
a limit is never exceeded, not even for a moment.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from runner.records.changes import Change, RunChange, note
from runner.records.statuses import FINAL_RUN, RunStatus
from runner.records.tables import Agent, ResultRow, RunRow, utc_now

MAX_CALLS = "max_calls"
"""What of an agent's ``session`` says how many calls it takes at once."""

_LOCK = 0x61736E73
"""What processes that decide about the same PostgreSQL database hold, one after the other."""

_BATCH = 100
_OPEN_RUN = [status.value for status in RunStatus if status not in FINAL_RUN]


@dataclass(frozen=True)
class Assignment:
    """A run that is given to a worker.

    Attributes:
        run_id: The run.
        attempt: Which attempt at it this is.
        executor: The worker.
    """

    run_id: int
    attempt: int
    executor: str


@dataclass(frozen=True)
class Capacity:
    """What a worker can take.

    Attributes:
        executor: The worker.
        calls: How many calls it makes at once, those included that it has.
        rooms: The kinds of rooms it can enter, as :class:`runner.rooms.urls.RoomKind` has them.
    """

    executor: str
    calls: int
    rooms: frozenset[str]


@dataclass(frozen=True)
class Limits:
    """How many calls may be on at once, besides what workers can take and launches ask for.

    Attributes:
        all: Of all; None for as many as there are workers for.
        per_agent: Of one agent that has no limit of its own; None likewise.
    """

    all: int | None = None
    per_agent: int | None = None


@dataclass
class _Taken:
    """What the runs need that workers have, and with it who can have no more."""

    limits: Limits
    workers: dict[str, Capacity]
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
            limit = _agent_limit(run.session, self.limits)
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
        return (self.limits.all is not None and self.total >= self.limits.all) or not self._free()

    def may_go(self) -> ColumnElement[bool]:
        """Return the condition that a run waits, and for none of what is taken."""
        kinds = {kind for worker in self._free() for kind in worker.rooms}
        return (
            waiting()
            & is_due(utc_now())
            & RunRow.result_id.not_in(self.full_results)
            & or_(RunRow.agent_id.is_(None), RunRow.agent_id.not_in(self.full_agents))
            & or_(RunRow.room_key.is_(None), RunRow.room_key.not_in(self.rooms))
            & or_(RunRow.room_kind.is_(None), RunRow.room_kind.in_(kinds))
        )

    def _free(self) -> list[Capacity]:
        return [worker for worker in self.workers.values() if worker.calls > self.by_worker[worker.executor]]


def waiting() -> ColumnElement[bool]:
    """Return the condition that a run waits for a worker."""
    return (RunRow.status == RunStatus.PENDING.value) & RunRow.executor.is_(None)


def is_due(now: datetime) -> ColumnElement[bool]:
    """Return the condition that the delay of a run is over, if it had one."""
    return or_(RunRow.not_before.is_(None), RunRow.not_before <= now)


def taken() -> ColumnElement[bool]:
    """Return the condition that a worker has a run."""
    # By the statuses there are, and not by those there are not: runs that have ended are not even looked at.
    return RunRow.status.in_(_OPEN_RUN) & RunRow.executor.is_not(None)


async def assign(session: AsyncSession, workers: Sequence[Capacity], limits: Limits) -> list[Assignment]:
    """Give waiting runs to workers: as many as they can take, lower priority numbers first, then older runs.

    Args:
        session: A transaction, in which the runs are to be handed over as well.
        workers: Those that take runs.
        limits: What holds besides.
    """
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    now = _Taken(limits, {worker.executor: worker for worker in workers})
    for run in await session.execute(_runs(RunRow.executor).where(taken())):
        now.add(run, run.executor)
    given: list[Assignment] = []
    while not now.is_full:
        # Locked, and none waited for: whoever cancels some of them locks them in another order.
        due = _runs().where(now.may_go()).order_by(RunRow.priority, RunRow.id).limit(_BATCH)
        runs = (await session.execute(due.with_for_update(of=RunRow, skip_locked=True))).all()
        chosen: dict[str, list[int]] = {}
        for run in runs:
            executor = now.worker_for(run)
            if executor is not None:
                now.add(run, executor)
                chosen.setdefault(executor, []).append(run.id)
        for executor, ids in chosen.items():
            # One that was cancelled meanwhile stays as it is; its place is given away the next time.
            rows = await session.execute(
                update(RunRow)
                .where(RunRow.id.in_(ids), waiting())
                .values(executor=executor, updated_at=utc_now())
                .returning(RunRow.id, RunRow.attempt)
            )
            for run_id, attempt in rows:
                given.append(Assignment(run_id, attempt, executor))
                note(session, RunChange(run_id, attempt, Change.GIVEN, executor))
        if len(runs) < _BATCH or not chosen:
            break
    return sorted(given, key=lambda assignment: assignment.run_id)


def _runs(*more: Any) -> Any:
    return (
        select(
            RunRow.id,
            RunRow.result_id,
            RunRow.agent_id,
            RunRow.room_key,
            RunRow.room_kind,
            ResultRow.concurrency_limit,
            Agent.session,
            *more,
        )
        .join(ResultRow, ResultRow.id == RunRow.result_id)
        .outerjoin(Agent, Agent.id == RunRow.agent_id)
    )


def _agent_limit(session: Mapping[str, Any] | None, limits: Limits) -> int | None:
    own = (session or {}).get(MAX_CALLS)
    return limits.per_agent if own is None else int(own)
