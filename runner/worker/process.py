"""One process that makes calls: it is a worker, and when that worker is lost it becomes another one."""

import asyncio
import gc
import importlib.metadata
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Protocol

import anyio
import anyio.to_thread
import httpx
from loguru import logger
from pydantic import SecretStr

from runner.calls.call import Call
from runner.calls.loading import load
from runner.dispatch.dbos_queue import DbosWorker
from runner.dispatch.lease import Beat, Lease, Load, Registration, new_executor_id
from runner.dispatch.queue import WorkerQueue
from runner.dispatch.states import WORKER_LOST, WorkerState
from runner.errors import RunnerError
from runner.records.data_dir import data_dir
from runner.rooms.urls import RoomKind
from runner.settings import Settings
from runner.worker.checks import check_database, check_same
from runner.worker.errors import RecordError
from runner.worker.outbox import Outbox, Shelf
from runner.worker.record_client import QUICK_TIMEOUT_S, RecordClient
from runner.worker.status import STARTING, WorkerStatus
from runner.worker.watch import SAMPLE_INTERVAL_MS, LoadWatch
from runner.worker.worker import CallMaker, Counts, Worker

OUTBOX_FOLDER = "outbox"

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 5.0
"""How long to wait before a life is begun again that could not be begun."""

SILENCE_LIMIT_S = 3.0
"""For how long the record may not answer, or fail, until nothing more is taken."""

LISTENING_INTERVAL_S = 1.0
"""How often it is asked then whether it does again."""

KNOCK_AFTER_S = 3.0
"""After so long without an answer it is asked in any case: what is given to a worker it must be able to begin."""

DEAF_AFTER_S = KNOCK_AFTER_S + LISTENING_INTERVAL_S + QUICK_TIMEOUT_S + 1.0
"""After so long without an answer nobody can have asked for one: the event loop hangs, and begins nothing either."""

FAILING_AFTER_S = 10.0
FAILING_INTERVAL_S = 5.0
"""A record that does not answer for so long is asked less often."""

GIVE_UP_LIMIT_S = 10.0
"""How long calls that were hung up may take to end."""

_ROOM_MODULES = {RoomKind.DAILY: "daily", RoomKind.SMALLWEBRTC: "aiortc"}


class QueueMaker(Protocol):
    """Makes the queue's side of a worker (see :class:`runner.dispatch.dbos_queue.DbosWorker`)."""

    def __call__(self, database_url: str, *, executor: str) -> WorkerQueue:
        """Return it, not started."""
        ...


class KeptLease(Protocol):
    """A worker's sign of life (see :class:`runner.dispatch.lease.Lease`)."""

    def start(self) -> None:
        """Begin to keep it."""
        ...

    def nudge(self) -> None:
        """Write what changed."""
        ...

    def stop(self) -> None:
        """End it in good order."""
        ...


class LeaseMaker(Protocol):
    """Makes a worker's sign of life."""

    def __call__(
        self,
        database_url: str,
        registration: Registration,
        *,
        beat: Callable[[], Beat],
        lost: Callable[[str], None],
        heard_s: Callable[[], float],
    ) -> KeptLease:
        """Return it, not started."""
        ...


@dataclass
class _Life:
    """What the process is for as long as nobody gives it up for lost."""

    worker: Worker
    shelf: Shelf
    queue: WorkerQueue
    lease: KeptLease
    over: anyio.Event = field(default_factory=anyio.Event)
    is_lost: bool = False


class WorkerProcess:
    """Takes runs in this process, on this event loop, until it is stopped. Belongs to one event loop; runs once.

    Args:
        settings: How to make calls, and how many (``worker.calls``).
        http: A client with the record's base address, or with its application behind it.
        key: A worker's key.
        database_url: The queue's database.
        name: What the worker is called.
        on_change: Is called when :attr:`status` has changed in more than figures.
        make_queue: Makes the queue's side of a worker.
        make_lease: Makes its sign of life.
        make_call: Prepares a call.

    Raises:
        UsageError: The data folder can't be made.
    """

    def __init__(
        self,
        settings: Settings,
        http: httpx.AsyncClient,
        key: SecretStr,
        database_url: str,
        name: str,
        *,
        on_change: Callable[[], None] = lambda: None,
        make_queue: QueueMaker = DbosWorker,
        make_lease: LeaseMaker = Lease,
        make_call: CallMaker = Call,
    ):
        self._settings = settings
        self._url = database_url
        self._name = name
        self._on_change = on_change
        self._make_queue = make_queue
        self._make_lease = make_lease
        self._make_call = make_call
        self._key = key
        self._record = RecordClient(http, key, refused=self._leave)
        self._outbox = Outbox(data_dir(settings.server) / OUTBOX_FOLDER, self._record, changed=self._changed)
        self._watch = LoadWatch()
        self._counts = Counts()
        self._life: _Life | None = None
        self._drain_limit_s = settings.worker.drain_limit_s
        self._stopping = anyio.Event()
        self._hurrying = False
        self._said = STARTING
        self._shown: tuple[str, str, int] | None = None
        """Its id and its state, as they were when a sign of life was last hurried."""
        self._began_s = math.inf
        """When this life began."""
        self._has_lived = False
        self.ready = anyio.Event()
        """It takes runs, or did."""
        self.ended = anyio.Event()
        """It is stopped, and :meth:`run` returns."""

    @property
    def status(self) -> WorkerStatus:
        """How it fares."""
        return WorkerStatus(
            state=self._state,
            live=0 if self._life is None else len(self._life.worker.live),
            calls=self._settings.worker.calls,
            held=len(self._outbox.held),
            loop_lag_ms=round(self._watch.loop_lag_ms, 1),
            underruns=self._watch.underruns,
            calls_made=self._counts.calls_made,
            rooms_entered=self._counts.rooms_entered,
            setting_up_s=round(self._counts.setting_up_s, 3),
        )

    async def run(self) -> None:
        """Take runs until :meth:`stop`. While the database can't be reached it waits."""
        await anyio.to_thread.run_sync(load)
        # They go on while runs are given back, even where this is cancelled.
        background = anyio.CancelScope(shield=True)

        async def in_background() -> None:
            with background:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._outbox.run)
                    tasks.start_soon(self._sample)
                    tasks.start_soon(self._listen)

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(in_background)
                try:
                    await self._live()
                finally:
                    background.cancel()
        finally:
            self._outbox.close()
            self.ended.set()

    def stop(self, *, limit_s: float | None = None) -> None:
        """Take nothing more, and let calls that are on finish. What is left is given back; :meth:`run` returns.

        Args:
            limit_s: How long they may last; by default as the settings say.
        """
        if limit_s is not None:
            self._drain_limit_s = limit_s
        self._stopping.set()
        if self._life is not None:
            self._life.over.set()
        self._changed()

    def hurry(self) -> None:
        """Give back at once what :meth:`stop` waits for."""
        self._hurrying = True
        if self._life is not None:
            self._life.queue.hurry()

    # Its lives.

    async def _live(self) -> None:
        wait_s = FIRST_WAIT_S
        told: set[str] = set()
        while not self._stopping.is_set():
            try:
                self._life = life = await self._begin()
            except Exception as error:
                said = str(error) if isinstance(error, RunnerError) else type(error).__name__
                # Each once: it is tried again every few seconds.
                level = "DEBUG" if said in told else "WARNING"
                logger.bind(worker=self._name).log(level, "worker {}: can't take runs: {}", self._name, said)
                told.add(said)
                with anyio.move_on_after(wait_s):
                    await self._stopping.wait()
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)
                continue
            wait_s = FIRST_WAIT_S
            told.clear()
            limit_s = 0.0
            try:
                if self._stopping.is_set():
                    life.over.set()
                self._freeze()
                self._watch.forget()
                self._began_s = time.monotonic()
                self.ready.set()
                self._changed()
                await life.over.wait()
                limit_s = GIVE_UP_LIMIT_S if life.is_lost else self._drain_limit_s
            finally:
                with anyio.CancelScope(shield=True):
                    await self._end(life, limit_s)
                    self._life = None
                    self._began_s = math.inf
                    self._changed()

    async def _begin(self) -> _Life:
        """Become a worker.

        Raises:
            RunnerError: The database can't be reached, has no tables, or is of another record; or the record does not
                answer, or refuses the key.
            OSError: The outbox can't be written.
        """
        # It gives up after a moment, which the engine itself does not.
        await anyio.to_thread.run_sync(check_database, self._url)
        # What it is given it could not even give back where the record does not answer.
        await self._record.knock()
        await check_same(self._url, self._key)
        loop = asyncio.get_running_loop()
        executor = new_executor_id()
        shelf = await anyio.to_thread.run_sync(self._outbox.open, executor)
        try:
            worker = Worker(
                self._settings, self._record, shelf, self._make_call, self._watch, self._counts, self._changed
            )
            queue = self._make_queue(self._url, executor=executor)

            def lost(reason: str) -> None:
                loop.call_soon_threadsafe(self._lose, life, reason)

            lease = self._make_lease(
                self._url,
                self._registration(executor),
                beat=lambda: self._beat(worker),
                lost=lost,
                heard_s=lambda: self._record.heard_s,
            )
            life = _Life(worker, shelf, queue, lease)
            await queue.start(worker.see_through)
            try:
                # From now on it is given runs.
                await anyio.to_thread.run_sync(lease.start)
            except BaseException:
                await queue.stop(timeout_s=0)
                raise
        except BaseException:
            self._outbox.shut(shelf)
            raise
        return life

    async def _end(self, life: _Life, limit_s: float) -> None:
        """Be this worker no more: its calls may go on for so long."""
        life.worker.drain()
        if self._hurrying:
            life.queue.hurry()
        for end in (lambda: life.queue.stop(timeout_s=limit_s), lambda: anyio.to_thread.run_sync(life.lease.stop)):
            try:
                await end()
            except Exception as error:
                logger.opt(exception=True).warning(
                    "worker {}: did not end in good order ({})", self._name, type(error).__name__
                )
        self._outbox.shut(life.shelf)

    def _lose(self, life: _Life, reason: str) -> None:
        """Hang up: somebody else may be given what was here."""
        life.is_lost = True
        life.worker.give_up(f"{WORKER_LOST}: {reason}")
        life.over.set()
        self._changed()

    def _leave(self) -> None:
        """Take nothing more until the record takes the key again: nothing that comes of it could be told."""
        if self._life is not None and not self._life.over.is_set():
            logger.bind(worker=self._name).warning("worker {}: the record refuses its key", self._name)
            self._life.over.set()
            self._changed()

    def _registration(self, executor: str) -> Registration:
        rooms = tuple(kind.value for kind, module in _ROOM_MODULES.items() if find_spec(module) is not None)
        version = importlib.metadata.version("pipecat-scenario-runner")
        return Registration(executor, self._name, version, rooms, self._settings.worker.calls)

    def _freeze(self) -> None:
        """Keep what is there from the beginning out of full collections: one takes longer than a frame of audio."""
        if not self._has_lived:
            self._has_lived = True
            gc.collect()
            gc.freeze()

    # What it says of itself.

    def _beat(self, worker: Worker) -> Beat:
        """Return what to say with a sign of life. Called in a thread."""
        load_now = Load(round(self._watch.loop_lag_ms, 1), self._watch.underruns, self._counts.calls_made)
        return Beat(self._working_state, worker.live, self._outbox.held, self._outbox.outcomes, load_now)

    @property
    def _working_state(self) -> WorkerState:
        if self._stopping.is_set() or (self._life is not None and self._life.over.is_set()):
            return WorkerState.DRAINING
        unheard_s = time.monotonic() - self._record.heard_s
        if self._record.silent_s > SILENCE_LIMIT_S or unheard_s > DEAF_AFTER_S:
            return WorkerState.CUT_OFF
        # One call at a time there always is: nothing else would tell that it can do it.
        has_calls = self._life is not None and bool(self._life.worker.live)
        return WorkerState.OVERLOADED if has_calls and self._watch.is_overloaded else WorkerState.TAKING

    @property
    def _state(self) -> str:
        if self._life is None:
            return WorkerState.DRAINING.value if self._stopping.is_set() else STARTING
        return WorkerState.LOST.value if self._life.is_lost else self._working_state.value

    def _changed(self) -> None:
        """Let everybody know who goes by it."""
        state = self._state
        if state != self._said:
            self._said = state
            self._log(state)
        if self._life is not None:
            # What others go by at once: above all that a dead worker's outcomes were found. Which runs it works on
            # itself is soon enough told with the next sign of life.
            shown = (self._life.shelf.executor, state, self._outbox.adopted)
            if shown != self._shown:
                self._shown = shown
                self._life.lease.nudge()
        self._on_change()

    def _log(self, state: str) -> None:
        # Of no run, although one may have been the reason.
        with logger.contextualize(run_id=None, attempt=None):
            self._log_of_worker(state)

    def _log_of_worker(self, state: str) -> None:
        said = logger.bind(worker=self._name, state=state)
        if state == WorkerState.OVERLOADED.value:
            late_ms, underruns = self._watch.loop_lag_ms, self._watch.underruns
            said.warning(
                "worker {}: overloaded (its event loop was {:.0f} ms late; calls without audio to send so far: {})",
                self._name,
                late_ms,
                underruns,
            )
        elif state == WorkerState.CUT_OFF.value:
            said.warning("worker {}: cut off, the record does not answer or fails", self._name)
        else:
            level = "WARNING" if state == WorkerState.LOST.value else "INFO"
            said.log(level, "worker {}: {}", self._name, state)

    async def _listen(self) -> None:
        """Notice when the record does not answer, and ask until it does, until cancelled."""
        while True:
            is_failing = self._record.silent_s > FAILING_AFTER_S
            await anyio.sleep(FAILING_INTERVAL_S if is_failing else LISTENING_INTERVAL_S)
            if self._record.silent_s > 0 or time.monotonic() - self._record.heard_s > KNOCK_AFTER_S:
                with suppress(RecordError):
                    await self._record.knock()
            if self._state != self._said:
                self._changed()

    async def _sample(self) -> None:
        """See how late the event loop is, until cancelled."""
        while True:
            began_s = time.monotonic()
            await anyio.sleep(SAMPLE_INTERVAL_MS / 1_000)
            now_s = time.monotonic()
            late_ms = max((now_s - began_s) * 1_000 - SAMPLE_INTERVAL_MS, 0.0)
            # What a beginning takes no call has to wait for.
            if self._began_s < began_s and self._watch.sample(now_s, late_ms):
                self._changed()
