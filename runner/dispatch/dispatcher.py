"""Answers the polls of workers: gives them runs, tells them what to do, and takes runs from workers that are gone.

Every API process has one. What they do at the same time is safe: giving is one transaction at a time, and taking back
counts once for each attempt. It is one loop: its cost is a matter of what happens, not of how many workers wait.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup
from loguru import logger
from sqlalchemy import Row, bindparam, select
from sqlalchemy.orm import Session

from bots.timeline import EndedReason
from runner.dispatch.trying import Trying
from runner.errors import RunnerError, UsageError
from runner.evaluation.verdicts import Cause
from runner.hosts import RESOLVE_TIMEOUT_S
from runner.protocol.messages import (
    WORKER_LOST,
    Answer,
    Gone,
    Job,
    Order,
    Poll,
    Problem,
    WorkerState,
    hold_s,
    leaving_s,
)
from runner.records import leases
from runner.records.assignments import assign, is_due, waiting
from runner.records.database import Database
from runner.records.jobs import job_of
from runner.records.leases import Had, Renewed
from runner.records.runs import end_run, release
from runner.records.secrets import Vault
from runner.records.tables import RUNS, utc_now
from runner.rooms.allowed import RoomGuard, RoomRefused
from runner.settings import Settings

LOOK_INTERVAL_S = 1.0
"""How often it looks when nobody wakes it, or four times a lease if that is more often: for runs whose delay is over,
and for workers that are gone."""

GATHERING_S = 0.02
"""How long it waits after it was woken: launches, outcomes and polls often come in numbers."""

GAP_LOOKS = 2.5
"""Who has missed so many looks knows nothing of what happened meanwhile, and begins to wait anew: while the database
is away, or this process stood still, nobody is given up."""

HANDING_S = RESOLVE_TIMEOUT_S + 1.0
"""How much longer than otherwise a poll waits for runs that are being handed over."""

STALE_S = 10.0
"""After so long without a look nothing is being given to workers."""

STOPPED_DETAIL = "its worker was stopped"
UNKNOWN_DETAIL = f"{WORKER_LOST}: it does not know of this run"

_WAITING = select(RUNS.c.id).where(waiting(), is_due(bindparam("now"))).limit(1)


class WorkerGone(RunnerError):
    """The worker that polls was given up for lost before: what it had is somebody else's."""


class RecordAway(RunnerError):
    """The record can't be used now."""


@dataclass(eq=False)
class _Asked:
    """A poll that is not answered yet."""

    poll: Poll
    """What its worker said last."""
    waits: bool
    is_handed_runs: bool = False
    """Whether its answer is being made: then it is waited for."""
    is_renewed: bool = False
    """Whether the record holds it: from then on its worker keeps its runs for another lease."""
    answer: Answer | None = None
    error: RunnerError | None = None
    done: anyio.Event = field(default_factory=anyio.Event)
    orders: tuple[Order, ...] = ()
    """What was to be done when it was looked last."""

    @property
    def executor(self) -> str:
        return self.poll.worker.executor

    def settle(self, answer: Answer | None = None, error: RunnerError | None = None) -> None:
        """Answer it. Only the first answer counts."""
        if not self.done.is_set():
            self.answer, self.error = answer, error
            self.done.set()


class Dispatcher:
    """Answers polls, from :meth:`run` on."""

    def __init__(self, database: Database, vault: Vault, settings: Settings):
        self._database = database
        self._vault = vault
        self._settings = settings
        self._lease_s = settings.server.lease_s
        self.look_interval_s = min(LOOK_INTERVAL_S, self._lease_s / 4)
        """How often it looks when nobody wakes it, and how soon again where that failed."""
        self._next_look_s = 0.0
        self._woken = anyio.Event()
        self._arrived: list[_Asked] = []
        self._held: dict[str, _Asked] = {}
        """The polls whose answers wait, by their workers."""
        self._something_waits = True
        """Whether some run waited for a worker when it was looked last."""
        self._looked_s: float | None = None
        self._judging_from_s = 0.0
        self.is_watched: Callable[[int], bool] = lambda run_id: False
        """Returns whether somebody watches a run."""
        self.is_listened_to: Callable[[int], bool] = lambda run_id: False
        """Returns whether somebody listens to a run."""

    @property
    def is_looking(self) -> bool:
        """Whether it has looked lately, and the record could be used."""
        return self._looked_s is not None and time.monotonic() - self._looked_s <= STALE_S

    def wake(self) -> None:
        """Let it look at once: there may be something to give, or to tell."""
        self._woken.set()

    async def poll(self, poll: Poll) -> Answer:
        """Answer a poll, once there is something to tell, or its time is over.

        Raises:
            WorkerGone: The worker was given up before.
            RecordAway: The record can't be used.
        """
        asked = _Asked(poll, poll.waits)
        self._arrived.append(asked)
        if poll.runs or not poll.waits or self._something_waits:
            self.wake()
        try:
            with anyio.move_on_after(hold_s(self._lease_s, has_runs=bool(poll.runs))):
                await asked.done.wait()
            if asked.is_handed_runs:
                # Otherwise runs whose names take long to look up would never reach anybody.
                with anyio.move_on_after(min(HANDING_S, self._lease_s / 4)):
                    await asked.done.wait()
        finally:
            # Whoever asked may be gone: from now on it is given nothing by this.
            asked.done.set()
            if self._held.get(asked.executor) is asked:
                del self._held[asked.executor]
            if asked in self._arrived:
                self._arrived.remove(asked)
        if asked.error is not None:
            raise asked.error
        if not asked.is_renewed:
            raise RecordAway("the record can't be used now")
        return asked.answer or Answer(lease_s=self._lease_s, orders=asked.orders)

    async def report_gone(self, gone: Gone) -> None:
        """Take a worker for gone, whose parent says that it is dead: its runs go to others at once."""

        def note(session: Session) -> bool:
            leases.note_kept(session, gone.executor, gone.kept)
            return bool(leases.lose(session, [gone.executor]))

        if await self._database.run(note):
            logger.bind(executor=gone.executor).warning("worker {}: its process is dead", gone.executor)
            self._next_look_s = 0.0

    async def run(self) -> None:
        """Answer until cancelled. What goes wrong is logged, and tried again."""
        self._database.work_changed = self.wake
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._listen)
                await self._loop(tasks)
        finally:
            self._refuse([*self._arrived, *self._held.values()], "the server stops")

    async def _loop(self, tasks: TaskGroup) -> None:
        trying = Trying("no runs are given to workers")
        while True:
            with anyio.move_on_after(self._next_look_s - time.monotonic()):
                await self._woken.wait()
                await anyio.sleep(GATHERING_S)
            self._woken = anyio.Event()
            is_time = time.monotonic() >= self._next_look_s
            if is_time:
                self._next_look_s = time.monotonic() + self.look_interval_s
            arrived, self._arrived = self._arrived, []
            was_failing = trying.is_failing
            if not await trying.succeeds(partial(self._turn, tasks, arrived, is_time=is_time)):
                self._refuse(arrived, "the record can't be used now")
                await anyio.sleep(self.look_interval_s)
            elif was_failing:
                logger.info("runs are given to workers again")

    async def _listen(self) -> None:
        """Hear what other processes commit."""
        while True:
            try:
                await self._database.listen()
            except Exception as error:
                logger.debug("nothing is heard from other processes: {}", type(error).__name__)
            await anyio.sleep(LOOK_INTERVAL_S)

    def _refuse(self, polls: Iterable[_Asked], why: str) -> None:
        for asked in polls:
            asked.settle(error=RecordAway(why))

    async def _turn(self, tasks: TaskGroup, arrived: Sequence[_Asked], *, is_time: bool) -> None:
        """Take in what has arrived, give what can be given, and answer whom there is something to tell."""
        runs = await self._take_in(arrived) if arrived else {}
        given = await self._give()
        # Whoever has nothing, and was given nothing, has nothing to be told.
        concerned = {asked.executor for asked in self._held.values() if asked.poll.runs} | given
        concerned -= runs.keys() - given
        if concerned:
            runs = {**runs, **await self._database.look(lambda session: _runs_of_all(session, sorted(concerned)))}
        # Each once: of those that have arrived some are held by now.
        for asked in dict.fromkeys([*arrived, *self._held.values()]):
            if not asked.done.is_set() and asked.executor in runs:
                self._see_to(tasks, asked, runs[asked.executor])
        if is_time:
            await self._look()

    # Polls.

    async def _take_in(self, arrived: Sequence[_Asked]) -> dict[str, Sequence[Had]]:
        """Take in what polls say; return what each of their workers has."""
        latest: dict[str, _Asked] = {}
        for asked in sorted(arrived, key=lambda one: one.poll.number):
            latest[asked.executor] = asked
        polls = [asked.poll for asked in latest.values()]
        renewed = await self._database.run(lambda session: leases.renew(session, polls))
        for executor, asked in latest.items():
            if executor in renewed.gone:
                continue
            self._note(asked.poll, is_new=executor in renewed.new)
            dropped = [run for run in renewed.runs.get(executor, ()) if not _has(asked.poll, run)]
            for run in dropped if executor not in renewed.late else ():
                if run.has_begun:
                    await self._back(run, UNKNOWN_DETAIL, safe_to_retry=False, was_lost=True)
                elif asked.poll.state is WorkerState.DRAINING:
                    await self._back(run, STOPPED_DETAIL, safe_to_retry=True, only_unbegun=True)
        for asked in arrived:
            self._keep(asked, latest[asked.executor].poll, renewed)
        return {executor: renewed.runs.get(executor, ()) for executor in latest}

    def _keep(self, asked: _Asked, latest: Poll, renewed: Renewed) -> None:
        """Hold a poll that was taken in until there is something to tell, if it waits."""
        asked.is_renewed = True
        held = self._held.get(asked.executor)
        if asked.executor in renewed.gone:
            for one in (asked, held):
                if one is not None:
                    one.settle(error=WorkerGone("the worker was given up for lost"))
            return
        # What one of them said may be out of date.
        said = [latest] if held is None else [latest, held.poll]
        asked.poll = max(said, key=lambda poll: poll.number)
        if held is not None:
            held.poll = asked.poll
        if asked.executor in renewed.late:
            # Another process heard what it said last.
            asked.waits = False
        if asked.waits and not asked.done.is_set():
            if held is not None:
                held.settle(Answer(lease_s=self._lease_s))
            self._held[asked.executor] = asked

    def _note(self, poll: Poll, *, is_new: bool) -> None:
        worker = poll.worker
        if poll.state is WorkerState.STOPPED:
            # What it still has goes on at once.
            self._next_look_s = 0.0
        elif is_new:
            said = logger.bind(worker=worker.name, executor=worker.executor, state=poll.state.value)
            said.info("worker {}: found, makes {} calls at once", worker.name, worker.calls)

    def _see_to(self, tasks: TaskGroup, asked: _Asked, runs: Sequence[Had]) -> None:
        """Answer a poll, unless it waits and there is nothing to tell yet."""
        poll = asked.poll
        by_attempt = {(run.id, run.attempt): run for run in runs}
        asked.orders = orders = tuple(
            self._order(told.run_id, told.attempt, by_attempt.get(told.key)) for told in poll.runs
        )
        new = [run for run in runs if not run.has_begun and not _has(poll, run)]
        if new and poll.state in (WorkerState.TAKING, WorkerState.PAUSED):
            self._held.pop(asked.executor, None)
            asked.is_handed_runs = True
            tasks.start_soon(self._hand_over, asked, new)
            return
        is_told = all(
            (told.is_ending or (order.counts and not order.is_cancelled))
            and (not order.counts or told.is_watched == order.is_watched)
            and (not order.counts or told.is_listened_to in (None, order.is_listened_to))
            for told, order in zip(poll.runs, orders, strict=True)
        )
        if not (asked.waits and is_told):
            asked.settle(Answer(lease_s=self._lease_s, orders=orders))

    def _order(self, run_id: int, attempt: int, run: Had | None) -> Order:
        if run is None or not run.has_begun:
            return Order(run_id=run_id, attempt=attempt, counts=False)
        return Order(
            run_id=run_id,
            attempt=attempt,
            counts=True,
            is_cancelled=run.is_cancelled,
            is_watched=self.is_watched(run_id),
            is_listened_to=self.is_listened_to(run_id),
        )

    async def _hand_over(self, asked: _Asked, runs: Sequence[Had]) -> None:
        """Answer a poll with runs to make."""
        try:
            jobs = await self._jobs(runs)
        except Exception as error:
            # They are given to it again with its next poll.
            logger.opt(exception=True).warning("runs could not be handed over ({})", type(error).__name__)
            asked.settle(error=RecordAway("the record can't be used now"))
            return
        asked.settle(Answer(lease_s=self._lease_s, jobs=tuple(jobs), orders=asked.orders))

    async def _jobs(self, runs: Sequence[Had]) -> list[Job]:
        """Return what is needed to make runs; those that can't be made end here."""

        def read(session: Session) -> list[tuple[Had, Job | UsageError | None]]:
            found: list[tuple[Had, Job | UsageError | None]] = []
            for run in runs:
                try:
                    found.append((run, job_of(session, self._vault, run.id, run.attempt, run.executor)))
                except UsageError as error:
                    # Not by another worker either: the record's key is not the one that things were encrypted with.
                    found.append((run, error))
                except (KeyError, TypeError, ValueError) as error:
                    # Nor this one; and whoever is given it would be given nothing else.
                    logger.opt(exception=True).error("run {}: can't be read ({})", run.id, type(error).__name__)
                    found.append(
                        (run, UsageError(f"what the record holds of it can't be read ({type(error).__name__})"))
                    )
            return found

        found = await self._database.look(read)
        guard = RoomGuard(self._settings)
        await guard.look_up([url for _, job in found if isinstance(job, Job) for url in _addresses(job)])
        jobs: list[Job] = []
        for run, job in found:
            if isinstance(job, UsageError):
                await self._refuse_run(run, Cause.HARNESS, EndedReason.RUNNER_ERROR, str(job))
            elif job is not None:
                refusal = await _refusal(guard, job)
                if refusal is None:
                    # What comes with its session the worker holds to the same rules.
                    server = self._settings.server
                    rules = {"allowed_rooms": tuple(server.allowed_rooms), "allow_loopback": server.allow_loopback}
                    jobs.append(job.model_copy(update=rules))
                else:
                    await self._refuse_run(run, Cause.ROOM, EndedReason.ROOM_UNREACHABLE, refusal)
        return jobs

    async def _refuse_run(self, run: Had, cause: Cause, reason: EndedReason, detail: str) -> None:
        problem = Problem(cause=cause.value, reason=reason.value, detail=detail[:4_000])
        await self._database.run(lambda session: end_run(session, run.id, run.attempt, problem))

    # Giving.

    async def _give(self) -> set[str]:
        """Give runs to the workers whose polls wait; return those that were given some."""
        able = [asked.poll.worker for asked in self._held.values() if asked.poll.state is WorkerState.TAKING]
        # Looking takes no turn at writing, of which SQLite has one.
        self._something_waits = await self._database.look(_anything_waits)
        if self._something_waits and self._arrived:
            # They came before that was known, and wake nobody.
            self.wake()
        if not able or not self._something_waits:
            return set()

        def give(session: Session) -> set[str]:
            # A poll that is held here may not be the last thing that its worker said, or was its parent's.
            taking = leases.takers(session, [worker.executor for worker in able])
            takers = [worker for worker in able if worker.executor in taking]
            return {run.executor for run in assign(session, takers, self._settings.server)}

        return await self._database.run(give)

    # Taking back.

    async def _look(self) -> None:
        """See who is gone, and what has to be taken from them."""
        now_s = time.monotonic()
        gap_s = GAP_LOOKS * self.look_interval_s
        if self._looked_s is None or now_s - self._looked_s > gap_s:
            # Nobody can have polled meanwhile: everybody gets a whole lease to come back.
            self._judging_from_s = now_s + self._lease_s + leaving_s(self._lease_s)
        may_judge = now_s >= self._judging_from_s
        limit_s = self._lease_s + leaving_s(self._lease_s)

        def look(session: Session) -> tuple[list[str], Sequence[Row[*tuple[Any, ...]]], bool]:
            silent = leases.silent_workers(session, longer_than_s=limit_s) if may_judge else []
            left = leases.orphans(session, unknown_too=may_judge)
            return silent, left, leases.may_forget(session)

        silent, left, is_old = await self._database.look(look)
        # If the record stood still within this look, nobody could poll either.
        if silent and time.monotonic() - now_s <= gap_s:
            lost = await self._database.run(lambda session: leases.lose(session, silent, longer_than_s=limit_s))
            for executor in lost:
                logger.bind(executor=executor).warning("worker {}: lost, it does not poll any more", executor)
        if is_old:
            await self._database.run(leases.forget)
        self._looked_s = now_s
        failures: list[Exception] = []
        for run in left:
            try:
                await self._take_from_gone(run)
            except Exception as error:
                # The others are not its fault.
                failures.append(error)
        if failures:
            raise failures[0]

    async def _take_from_gone(self, run: Row[*tuple[Any, ...]]) -> None:
        was_stopped = run.state == WorkerState.STOPPED
        # Whether the record knew, when its worker went, what was said in its calls.
        was_in_touch = run.state is not None and run.gone_at - run.seen_at <= timedelta(seconds=self._lease_s / 2)
        detail = STOPPED_DETAIL if was_stopped else WORKER_LOST
        await self._back(run, detail, safe_to_retry=was_stopped or was_in_touch, was_lost=not was_stopped)

    async def _back(self, run: Row[*tuple[Any, ...]], detail: str, **how: bool) -> None:
        """Take a run back (see :func:`runner.records.runs.release`)."""
        await self._database.run(lambda session: release(session, run.id, run.attempt, detail=detail, **how))


def _runs_of_all(session: Session, executors: Sequence[str]) -> Mapping[str, Sequence[Had]]:
    """Return what workers have, also of those that have nothing."""
    found = leases.runs_of(session, executors)
    return {executor: found.get(executor, ()) for executor in executors}


def _anything_waits(session: Session) -> bool:
    return session.execute(_WAITING, {"now": utc_now()}).first() is not None


def _has(poll: Poll, run: Had) -> bool:
    """Return whether a worker says that it has a run, or its outcome."""
    return (run.id, run.attempt) in {one.key for one in (*poll.runs, *poll.kept)}


def _addresses(job: Job) -> list[str]:
    """Return what a job makes a worker open."""
    return [url for url in (job.room_url, None if job.session is None else job.session.start_url) if url is not None]


async def _refusal(guard: RoomGuard, job: Job) -> str | None:
    """Return why a job's room or start URL must not be opened: where a name leads can change after a launch."""
    try:
        if job.room_url is not None:
            await guard.check_room(job.room_url)
        if job.session is not None:
            await guard.check_start_url(job.session.start_url)
    except (UsageError, RoomRefused) as error:
        return str(error)
    return None
