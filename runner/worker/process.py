"""One process that makes calls: it is a worker, and when that worker is given up it becomes another one."""

import importlib.metadata
import math
import os
import secrets
import socket
import time
from collections.abc import Callable
from importlib.util import find_spec

import anyio
import anyio.to_thread
import httpx
from loguru import logger
from pydantic import SecretStr

from runner.calls.call import Call
from runner.calls.loading import load, spare_what_is_loaded
from runner.calls.request import CallMaker
from runner.errors import RunnerError
from runner.files import private_folder
from runner.protocol.messages import VERSION, WORKER_LOST, Load, Poll, WorkerInfo, WorkerState
from runner.rooms.urls import RoomKind
from runner.settings import Settings
from runner.worker.checks import OUTBOX, lack_of_space
from runner.worker.link import Link
from runner.worker.outbox import Outbox, Section
from runner.worker.record_client import FIRST_WAIT_S, LONGEST_WAIT_S, RecordClient
from runner.worker.status import STARTING, WorkerStatus
from runner.worker.watch import SAMPLE_INTERVAL_MS, LoadWatch
from runner.worker.worker import Counts, Worker

LOOK_INTERVAL_S = 1.0
"""How often it is looked whether outcomes can be kept."""

UNANSWERED = "the server does not answer"

_ROOM_MODULES = {RoomKind.DAILY: "daily", RoomKind.SMALLWEBRTC: "aiortc"}


class WorkerProcess:
    """Takes runs in this process, on this event loop, until it is stopped. Runs once.

    Args:
        settings: How to make calls, and how many (``worker.calls``).
        on_change: Is called when :attr:`status` has changed in more than figures.
        free: Returns why outcomes could not be kept; nothing if they could.

    Raises:
        UsageError: The folder for outcomes can't be made.
    """

    def __init__(
        self,
        settings: Settings,
        http: httpx.AsyncClient,
        key: SecretStr,
        name: str,
        *,
        on_change: Callable[[], None] = lambda: None,
        make_call: CallMaker = Call,
        free: Callable[[], str] | None = None,
    ):
        self._settings = settings
        self._name = name
        self._on_change = on_change
        self._make_call = make_call
        self._record = RecordClient(http, key)
        folder = private_folder(settings.worker.data_dir) / OUTBOX
        self._outbox = Outbox(folder, self._record, changed=self.news)
        self._free = free or (lambda: lack_of_space(folder.parent, settings.worker.min_free_bytes))
        self._full = ""
        self._watch = LoadWatch()
        self._counts = Counts()
        self._life: _Life | None = None
        self._drain_limit_s = settings.worker.drain_limit_s
        self._stopping = anyio.Event()
        self._is_forced = False
        self._said = STARTING
        self._began_s = math.inf
        """When this life began."""

    @property
    def status(self) -> WorkerStatus:
        state, why = self._shown
        return WorkerStatus(
            **self.load.model_dump(),
            state=state,
            why=why,
            executor=None if self._life is None else self._life.section.executor,
            live=0 if self._life is None else len(self._life.worker.runs),
            calls=self._settings.worker.calls,
            kept=len(self._outbox.kept),
            rooms_entered=self._counts.rooms_entered,
            setting_up_s=round(self._counts.setting_up_s, 3),
        )

    async def run(self) -> None:
        """Take runs until :meth:`stop`. While the record does not answer it waits."""
        await anyio.to_thread.run_sync(load)
        self._full = await anyio.to_thread.run_sync(self._free)
        # They go on while runs are released, even where this is cancelled.
        background = anyio.CancelScope(shield=True)

        async def in_background() -> None:
            with background:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._outbox.run)
                    tasks.start_soon(self._sample)
                    tasks.start_soon(self._look)

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(in_background)
                try:
                    await self._live()
                finally:
                    background.cancel()
        finally:
            self._outbox.close()

    def stop(self) -> None:
        """Take nothing more, and let calls that are on finish. What is left is released; :meth:`run` returns."""
        self._stopping.set()
        self.news()

    def force_stop(self) -> None:
        """Release at once what :meth:`stop` waits for."""
        self._is_forced = True
        if self._life is not None:
            self._life.worker.force_stop()

    # Its lives.

    async def _live(self) -> None:
        wait_s = FIRST_WAIT_S
        told: set[str] = set()
        while not self._stopping.is_set():
            try:
                # What is given to it before the record answers it could not even release.
                lease_s = (await self._record.hello()).lease_s
                executor = _new_executor_id()
                section = await anyio.to_thread.run_sync(self._outbox.open, executor)
            except (RunnerError, OSError) as error:
                # Each once: it is tried again every few seconds.
                said = str(error)
                logger.bind(worker=self._name).log(
                    "DEBUG" if said in told else "WARNING", "worker {}: can't take runs: {}", self._name, said
                )
                told.add(said)
                with anyio.move_on_after(wait_s):
                    await self._stopping.wait()
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)
                continue
            wait_s = FIRST_WAIT_S
            told.clear()
            spare_what_is_loaded()
            self._watch.forget()
            self._began_s = time.monotonic()
            self._life = life = _Life(self, section, lease_s)
            self.news()
            try:
                await life.run()
            finally:
                self._life = None
                self._began_s = math.inf
                self._outbox.shut(section)
                self.news()

    # What it says of itself.

    @property
    def state(self) -> tuple[WorkerState, str]:
        """What it is ready for, and why it takes nothing."""
        if self._stopping.is_set():
            return WorkerState.DRAINING, ""
        if self._full:
            return WorkerState.PAUSED, self._full
        if self._watch.is_overloaded and self._life is not None and not self._life.worker.load.may_begin():
            late_ms, underruns = self._watch.loop_lag_ms, self._watch.underruns
            return (
                WorkerState.PAUSED,
                f"it is overloaded (its event loop was {late_ms:.0f} ms late; calls without audio to send so far: "
                f"{underruns})",
            )
        return WorkerState.TAKING, ""

    @property
    def _shown(self) -> tuple[str, str]:
        if self._life is None:
            return (WorkerState.DRAINING.value if self._stopping.is_set() else STARTING), ""
        if self._life.is_lost:
            return WorkerState.LOST.value, ""
        state, why = self.state
        if state is not WorkerState.DRAINING and not self._life.link.is_answered:
            return WorkerState.PAUSED.value, UNANSWERED
        return state.value, why

    @property
    def load(self) -> Load:
        return Load(
            loop_lag_ms=round(self._watch.loop_lag_ms, 1),
            underruns=self._watch.underruns,
            calls_made=self._counts.calls_made,
        )

    def news(self) -> None:
        """Let everybody know who goes by it."""
        state, why = self._shown
        if state != self._said:
            self._said = state
            # Of no run, although one may have been the reason.
            with logger.contextualize(run_id=None, attempt=None):
                level = "WARNING" if state in (WorkerState.LOST.value, WorkerState.PAUSED.value) else "INFO"
                said = f"{state}: {why}" if why else state
                logger.bind(worker=self._name, state=state).log(level, "worker {}: {}", self._name, said)
        if self._life is not None:
            self._life.link.news()
        self._on_change()

    async def _look(self) -> None:
        """See whether outcomes can be kept, until cancelled."""
        while True:
            await anyio.sleep(LOOK_INTERVAL_S)
            full = await anyio.to_thread.run_sync(self._free)
            has_changed = bool(full) != bool(self._full)
            self._full = full
            if has_changed:
                self.news()

    async def _sample(self) -> None:
        """See how late the event loop is, until cancelled."""
        while True:
            began_s = time.monotonic()
            await anyio.sleep(SAMPLE_INTERVAL_MS / 1_000)
            now_s = time.monotonic()
            late_ms = max((now_s - began_s) * 1_000 - SAMPLE_INTERVAL_MS, 0.0)
            # What a beginning takes no call has to wait for.
            if self._began_s < began_s and self._watch.sample(now_s, late_ms):
                self.news()

    def new_worker(self, section: Section) -> Worker:
        return Worker(
            self._settings, self._record, section, self._make_call, self._watch, self._counts, changed=self.news
        )

    def new_link(self, worker: Worker, lease_s: float, lose: Callable[[str], None]) -> Link:
        info = WorkerInfo(
            executor=worker.section.executor,
            name=self._name,
            version=importlib.metadata.version("pipecat-scenario-runner"),
            rooms=tuple(kind.value for kind, module in _ROOM_MODULES.items() if find_spec(module) is not None),
            calls=self._settings.worker.calls,
        )

        def said() -> Poll:
            state, why = self.state
            runs, kept = tuple(worker.runs), self._outbox.kept
            return Poll(
                protocol=VERSION, worker=info, number=1, state=state, why=why, runs=runs, kept=kept, load=self.load
            )

        return Link(self._record, lease_s, said, worker.take_in, lose, changed=self.news)

    async def until_stopped(self) -> None:
        await self._stopping.wait()

    @property
    def finishing_s(self) -> float:
        """How long calls that are on may last then."""
        return 0.0 if self._is_forced else self._drain_limit_s


class _Life:
    """What the process is until it is stopped, or given up."""

    def __init__(self, process: WorkerProcess, section: Section, lease_s: float):
        self._process = process
        self.section = section
        self.worker = process.new_worker(section)
        self.link = process.new_link(self.worker, lease_s, self._lose)
        self.is_lost = False
        self._over = anyio.Event()

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.worker.run)
            tasks.start_soon(self.link.run)
            tasks.start_soon(self._until_stopped)
            try:
                await self._over.wait()
            finally:
                with anyio.CancelScope(shield=True):
                    # Given up, there is nothing left to wait for.
                    in_good_order = self._over.is_set() and not self.is_lost
                    await self.worker.finish(self._process.finishing_s if in_good_order else 0.0)
                    if not self.is_lost:
                        await self._say_stopped()
                tasks.cancel_scope.cancel()

    async def _until_stopped(self) -> None:
        await self._process.until_stopped()
        self._over.set()

    async def _say_stopped(self) -> None:
        try:
            await self.link.say_stopped()
        except RunnerError as error:
            # Its lease ends by itself, a little later.
            logger.warning("worker {}: could not say that it ended ({})", self.section.executor, error)

    def _lose(self, reason: str) -> None:
        if not self.is_lost:
            self.is_lost = True
            self.worker.give_up(f"{WORKER_LOST}: {reason}")
            logger.warning("worker {}: gives its calls up: {}", self.section.executor, reason)
            self._over.set()
            self._process.news()


def _new_executor_id() -> str:
    host = "".join(c if c.isascii() and (c.isalnum() or c in ".-") else "-" for c in socket.gethostname())[:100]
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
