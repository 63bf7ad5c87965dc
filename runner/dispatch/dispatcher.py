"""Gives waiting runs to workers, and takes them from workers that are gone.

Every API process has one. What they do at the same time is safe: giving is one transaction at a time, and taking back
counts once for each attempt.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import anyio
from loguru import logger
from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.orm import Session

from runner.dispatch.lease import PROTOCOL
from runner.dispatch.queue import Queue
from runner.dispatch.states import WORKER_LOST, WorkerState
from runner.dispatch.watch import Standing, Watch
from runner.records.assignments import Capacity, Limits, assign, is_due, taken, waiting
from runner.records.database import Database
from runner.records.runs import give_back
from runner.records.statuses import RunStatus
from runner.records.tables import RUNS, WorkerRow, utc_now

INTERVAL_S = 1.0
"""How often it looks, when nobody wakes it."""

GATHERING_S = 0.05
"""How long it does nothing after it was woken: what frees a place often comes in numbers."""

STALE_S = 10.0
"""After so long without a look nothing is being given to workers."""

UNKNOWN_LIMIT_S = 10.0
"""How long a worker that lives may have a run without saying so."""

UNBEGUN_LIMIT_S = 20.0
"""How long a worker that lives may have a run without beginning it: it may not reach the record."""

PASSED_OVER_S = 30.0
"""For how long a worker that did not begin a run is given nothing more."""

HELD_LIMIT = timedelta(minutes=15)
"""How long an outcome may lie on the disk of a worker that is gone, before its run is taken for lost as well."""

REMEMBERED = timedelta(hours=1)
"""How long a worker that is gone is shown."""

_TAKEN = select(RUNS.c.id, RUNS.c.attempt, RUNS.c.executor, RUNS.c.status).where(taken()).order_by(RUNS.c.id)
_WAITING = select(RUNS.c.id).where(waiting(), is_due(bindparam("now"))).limit(1)

STOPPED_DETAIL = "its worker was stopped"
UNBEGUN_DETAIL = "its worker did not begin it"
UNKNOWN_DETAIL = f"{WORKER_LOST}: it does not know of this run"


@dataclass(frozen=True)
class _Taken:
    """A run that a worker has."""

    run_id: int
    attempt: int
    executor: str
    begun: bool


class Dispatcher:
    """Gives runs to workers and takes them back, from :meth:`run` on.

    Args:
        database: The record.
        queue: Brings runs to workers.
        limits: What holds for all workers together.
    """

    def __init__(self, database: Database, queue: Queue, limits: Limits):
        self._database = database
        self._queue = queue
        self._limits = limits
        self._watch = Watch()
        self._woken = anyio.Event()
        self._workers: list[WorkerRow] = []
        self._known: dict[str, str] = {}
        self._retired: set[str] = set()
        self._unbegun = Standing[_Taken]()
        self._unknown = Standing[_Taken]()
        self._passed_over: dict[str, float] = {}
        """The workers that did not begin a run, and until when they are given nothing."""
        self._lost_cut_off: set[str] = set()
        """The workers that were lost after they had been cut off: what was said in their calls nobody knows."""
        self._looked_s: float | None = None

    @property
    def is_looking(self) -> bool:
        """Whether it has looked lately, and the record and the queue could be used."""
        return self._looked_s is not None and time.monotonic() - self._looked_s <= STALE_S

    def wake(self) -> None:
        """Let it look at once: there may be something to give, or somebody to give it to."""
        self._woken.set()

    async def run(self) -> None:
        """Look until cancelled. What goes wrong is logged, and tried again."""
        failing = False
        while True:
            try:
                await self.look()
                if failing:
                    logger.info("runs are given to workers again")
                failing = False
                await self._give_when_woken()
            except Exception as error:
                # Once: while the database is away this comes every second.
                logger.opt(exception=not failing).log(
                    "DEBUG" if failing else "WARNING", "no runs are given to workers: {}", type(error).__name__
                )
                failing = True
                await anyio.sleep(INTERVAL_S)

    async def look(self) -> None:
        """Look once: who lives, what has to be taken back, and what can be given."""
        seen = await self._database.look(_see)
        self._workers = await self._living(seen.workers)
        failures = await self._take_back(seen.taken)
        await self._give()
        if failures:
            raise failures[0]
        self._looked_s = time.monotonic()
        await self._forget([worker for worker in self._workers if worker.gone_at is not None])

    async def _give_when_woken(self) -> None:
        """Until it is time to look again, give runs whenever there may be some: who lives was seen a moment ago."""
        with anyio.move_on_after(INTERVAL_S):
            while True:
                await self._woken.wait()
                self._woken = anyio.Event()
                with anyio.CancelScope(shield=True):
                    await self._give()
                await anyio.sleep(GATHERING_S)

    # Who lives.

    async def _living(self, workers: list[WorkerRow]) -> list[WorkerRow]:
        """Return all workers, those given up for lost that have shown no sign of life for too long."""
        silent = set(self._watch.look({worker.executor: worker.beat for worker in workers}, time.monotonic()))
        for worker in workers:
            if worker.executor in silent and worker.gone_at is None and await self._give_up(worker):
                worker.state, worker.gone_at = WorkerState.LOST.value, utc_now()
            self._note(worker)
            was_cut_off = self._known.get(worker.executor) == WorkerState.CUT_OFF.value
            if was_cut_off and worker.state == WorkerState.LOST.value:
                self._lost_cut_off.add(worker.executor)
        self._known = {worker.executor: worker.state for worker in workers}
        self._lost_cut_off.intersection_update(self._known)
        return workers

    async def _give_up(self, worker: WorkerRow) -> bool:
        """Give a worker up for lost, unless it shows a sign of life in this very moment."""
        marking = (
            update(WorkerRow)
            .where(
                WorkerRow.executor == worker.executor,
                WorkerRow.beat == worker.beat,
                WorkerRow.gone_at.is_(None),
            )
            .values(state=WorkerState.LOST.value, gone_at=utc_now())
            .returning(WorkerRow.executor)
        )
        async with self._database.session() as session:
            return (await session.execute(marking)).first() is not None

    def _note(self, worker: WorkerRow) -> None:
        """Write down what a worker can't say itself."""
        before = self._known.get(worker.executor)
        said = logger.bind(worker=worker.name, executor=worker.executor, state=worker.state)
        if worker.state == WorkerState.LOST.value:
            if before not in (None, worker.state):
                said.warning("worker {}: lost", worker.name)
        elif before is None and worker.gone_at is None:
            if worker.protocol == PROTOCOL:
                said.info("worker {}: found, makes {} calls at once", worker.name, worker.calls)
            else:
                said.warning(
                    "worker {}: is of version {}, which this one can't work with, and is given nothing",
                    worker.name,
                    worker.version,
                )

    # Taking back.

    async def _take_back(self, taken: Sequence[_Taken]) -> list[Exception]:
        """Take runs from workers that will not see them through; return what went wrong with some of them."""
        by_executor = {worker.executor: worker for worker in self._workers}
        for run in taken:
            if run.begun and replace(run, begun=False) in self._unbegun:
                # Whoever begins one can begin others.
                self._passed_over.pop(run.executor, None)
        now_s = time.monotonic()
        self._unbegun.look([run for run in taken if not run.begun], now_s)
        self._unknown.look([run for run in taken if not _says(by_executor.get(run.executor), run)], now_s)
        held = _outcomes(self._workers, taken)
        failures: list[Exception] = []
        for run in taken:
            try:
                await self._judge(run, by_executor.get(run.executor), is_held=(run.run_id, run.attempt) in held)
            except Exception as error:
                # The others are not its fault.
                failures.append(error)
        return failures

    async def _judge(self, run: _Taken, worker: WorkerRow | None, *, is_held: bool) -> None:
        if worker is None or worker.gone_at is not None:
            await self._from_gone(run, worker, is_held=is_held)
        elif worker.state == WorkerState.DRAINING.value and not run.begun and not _says(worker, run):
            await self._back(run, STOPPED_DETAIL, unsaid=True, only_unbegun=True)
        elif not self._watch.is_fresh(run.executor):
            # It may be gone: that is soon known.
            return
        elif self._unknown.stood_s(run) > UNKNOWN_LIMIT_S:
            if not run.begun:
                self._pass_over(worker, run)
            await self._back(run, UNKNOWN_DETAIL, unsaid=False, was_lost=True, only_unbegun=not run.begun)
        elif self._unbegun.stood_s(run) > UNBEGUN_LIMIT_S:
            self._pass_over(worker, run)
            await self._back(run, UNBEGUN_DETAIL, unsaid=True, only_unbegun=True)

    def _pass_over(self, worker: WorkerRow, run: _Taken) -> None:
        """Give a worker nothing more for a while that takes runs and does not begin them."""
        if worker.state != WorkerState.TAKING.value:
            # It knows, and when it says that it takes runs it will begin them.
            return
        if worker.executor not in self._passed_over:
            logger.bind(worker=worker.name, run_id=run.run_id).warning(
                "worker {}: did not begin run {}, and is given nothing for {:g} s",
                worker.name,
                run.run_id,
                PASSED_OVER_S,
            )
        self._passed_over[worker.executor] = time.monotonic() + PASSED_OVER_S

    async def _from_gone(self, run: _Taken, worker: WorkerRow | None, *, is_held: bool) -> None:
        if (
            is_held
            and run.begun
            and (worker is None or worker.gone_at is None or utc_now() - worker.gone_at < HELD_LIMIT)
        ):
            # Its call is over, and its outcome on a disk: whoever finds it there reports it.
            return
        stopped = worker is not None and worker.state == WorkerState.STOPPED.value
        await self._back(
            run,
            STOPPED_DETAIL if stopped else WORKER_LOST,
            unsaid=stopped or (self._watch.was_alive(run.executor) and run.executor not in self._lost_cut_off),
            was_lost=not stopped,
        )

    async def _back(
        self, run: _Taken, detail: str, *, unsaid: bool, was_lost: bool = False, only_unbegun: bool = False
    ) -> None:
        """Take a run back (see :func:`runner.records.runs.give_back`)."""

        def back(session: Session) -> None:
            give_back(
                session,
                run.run_id,
                run.attempt,
                detail=detail,
                unsaid=unsaid,
                was_lost=was_lost,
                only_unbegun=only_unbegun,
            )

        await self._database.run(back)

    async def _forget(self, gone: Sequence[WorkerRow]) -> None:
        """Remove what the queue has of workers that are gone, and after a while what the record has."""
        # Another process may have removed some.
        self._retired.intersection_update([worker.executor for worker in gone])
        for worker in gone:
            if worker.executor not in self._retired:
                await self._queue.retire(worker.executor)
                self._retired.add(worker.executor)
        old = [w.executor for w in gone if w.gone_at is not None and utc_now() - w.gone_at > REMEMBERED]
        if old:
            async with self._database.session() as session:
                await session.execute(delete(WorkerRow).where(WorkerRow.executor.in_(old)))

    # Giving.

    async def _give(self) -> None:
        """Give runs to the workers that were seen last."""
        now_s = time.monotonic()
        cut_off = {worker.executor for worker in self._workers if worker.state == WorkerState.CUT_OFF.value}
        self._passed_over = {
            executor: until_s
            for executor, until_s in self._passed_over.items()
            if until_s > now_s and executor not in cut_off
        }
        able = [
            Capacity(worker.executor, worker.calls, frozenset(worker.rooms))
            for worker in self._workers
            if worker.state == WorkerState.TAKING.value
            and worker.protocol == PROTOCOL
            and self._watch.is_fresh(worker.executor)
            and worker.executor not in self._passed_over
        ]
        # Looking takes no turn at writing, of which SQLite has one.
        if not able or not await self._database.look(_anything_waits):
            return

        def give(session: Session) -> None:
            given = assign(session, able, self._limits)
            if given:
                self._queue.hand_over(session.connection(), given)

        await self._database.run(give)


@dataclass(frozen=True)
class _Seen:
    """The workers there are, and the runs they have."""

    workers: list[WorkerRow]
    taken: list[_Taken]


def _see(session: Session) -> _Seen:
    # First the runs: whoever has one of them was there before it.
    taken = [
        _Taken(run_id, attempt, executor, status != RunStatus.PENDING.value)
        for run_id, attempt, executor, status in session.execute(_TAKEN)
    ]
    return _Seen(list(session.scalars(select(WorkerRow))), taken)


def _anything_waits(session: Session) -> bool:
    """Return whether a run waits and is due."""
    return session.execute(_WAITING, {"now": utc_now()}).first() is not None


def _outcomes(workers: Sequence[WorkerRow], taken: Sequence[_Taken]) -> set[tuple[int, int]]:
    """Return the attempts that may end by what lies on the disks of workers."""
    found: set[tuple[int, int]] = set()
    for worker in workers:
        if worker.protocol != PROTOCOL:
            continue
        if "outcomes" in worker.runs:
            found.update((run_id, attempt) for run_id, attempt in worker.runs["outcomes"])
        else:
            # It is of a version that does not tell them apart.
            held = set(worker.runs.get("held", ()))
            found.update((run.run_id, run.attempt) for run in taken if run.run_id in held)
    return found


def _says(worker: WorkerRow | None, run: _Taken) -> bool:
    """Return whether a worker says that it has a run."""
    return worker is not None and any(run.run_id in ids for ids in worker.runs.values())
