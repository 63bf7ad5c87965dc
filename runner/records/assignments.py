"""Which waiting run goes to which worker: in order of priority, and within every limit there is.

All of it is decided in one transaction that no other process decides in at the same time, from what the record holds:
a limit is never exceeded, not even for a moment.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, bindparam, func, or_, select, update
from sqlalchemy.orm import Session

from runner.load import Load
from runner.protocol.messages import WorkerInfo
from runner.records.changes import Change, note
from runner.records.tables import AGENTS, RESULTS, RUNS, utc_now
from runner.settings import ServerSettings

MAX_CALLS = "max_calls"
"""What of an agent's ``session`` says how many calls it takes at once."""

_LOCK = 0x61736E73
"""What processes that decide about the same PostgreSQL database hold, one after the other."""

BATCH = 100


class _Taken:
    """What the runs need that workers have, and with it who can have no more."""

    def __init__(self, limits: ServerSettings, workers: Sequence[WorkerInfo]):
        self._limits = limits
        self._workers = workers
        self._load = Load(limits.max_calls)

    def add(self, run: Any, executor: str) -> None:
        """Count a run that a worker has."""
        own = (run.session or {}).get(MAX_CALLS)
        of_agent = self._limits.max_calls_per_agent if own is None else int(own)
        self._load.begin(
            {("worker", executor): None}
            | {("result", run.result_id): run.concurrency_limit}
            | ({} if run.agent_id is None else {("agent", run.agent_id): of_agent})
            | ({} if run.room_key is None else {("room", run.room_key): 1})
        )

    def worker_for(self, run: Any) -> str | None:
        """Return the worker with the most room for a run; None if it has to wait."""
        if not self._load.may_begin((("result", run.result_id), ("agent", run.agent_id), ("room", run.room_key))):
            return None
        able = [worker for worker in self._free() if run.room_kind is None or run.room_kind in worker.rooms]
        return max(able, key=self._free_in).executor if able else None

    @property
    def places(self) -> int:
        """How many runs could be given now, as far as workers and the limit of all go."""
        return int(min(sum(map(self._free_in, self._free())), self._load.left))

    def may_go(self) -> ColumnElement[bool]:
        """Return the condition that a run waits, and for none of what is taken."""
        kinds = {kind for worker in self._free() for kind in worker.rooms}
        conditions = [waiting(), is_due(utc_now()), RUNS.c.room_kind.is_(None) | RUNS.c.room_kind.in_(kinds)]
        for what, column in (("result", RUNS.c.result_id), ("agent", RUNS.c.agent_id), ("room", RUNS.c.room_key)):
            if full := self._load.full(what):
                conditions.append(column.is_(None) | column.not_in(full))
        return and_(*conditions)

    def _free_in(self, worker: WorkerInfo) -> int:
        return worker.calls - self._load.of(("worker", worker.executor))

    def _free(self) -> list[WorkerInfo]:
        return [worker for worker in self._workers if self._free_in(worker) > 0]


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

    Return of each run that was given its id, the attempt, and the worker, in the order of the ids.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(_HOLD)
    now = _Taken(limits, workers)
    for run in session.execute(_TAKEN_RUNS):
        now.add(run, run.executor)
    given: list[Row[int, int, str]] = []
    while now.places > 0:
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
