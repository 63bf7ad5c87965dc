"""Starts a worker's processes, and starts one that died again. Makes no calls itself, and loads nothing that does."""

import json
import signal
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import ByteReceiveStream, Process, TaskGroup
from loguru import logger
from pydantic import ValidationError

from runner.errors import UsageError
from runner.protocol.messages import WorkerState
from runner.worker.status import DRAIN, FORCE_STOP, SILENT, STARTING, WorkerStatus

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
"""How long to wait before a process is started again: longer each time, until it lives for :data:`STEADY_S`."""

STEADY_S = 60.0
START_LIMIT_S = 60.0
"""How long a process may say nothing after its start."""

SILENCE_LIMIT_S = 5.0
"""How long it may say nothing later: an event loop that is silent for so long does not go on."""

HUNG_LIMIT_S = 60.0
"""How much longer than either it may be silent before it is killed and another one started: it makes no calls any
more, whether it is frozen or its event loop hangs."""

LOOK_INTERVAL_S = 5.0
"""How often it is looked whether a process is hung."""

END_LIMIT_S = 45.0
"""How long processes may take to end once their calls have had their time; then they are killed."""

_MAX_LINE_BYTES = 65_536


@dataclass
class Child:
    """A process, and what it says of itself. Its name is what the worker in it is called."""

    name: str
    status: WorkerStatus = field(default_factory=WorkerStatus)
    restarts: int = 0
    is_running: bool = False
    started_s: float = 0.0
    said_s: float | None = None
    error: str | None = None
    """Why it can't be started as it was told to."""

    def is_healthy(self, now_s: float) -> bool:
        """Return whether it lives and its event loop goes on, at a time of :func:`time.monotonic`."""
        if self.said_s is None:
            return self.is_running and now_s - self.started_s <= START_LIMIT_S
        return self.is_running and now_s - self.said_s <= SILENCE_LIMIT_S

    def state(self, now_s: float) -> str:
        """Return its state, one of :data:`runner.worker.status.STATES`."""
        return self.status.state if self.is_healthy(now_s) else SILENT

    def takes_runs(self, now_s: float) -> bool:
        return self.state(now_s) == WorkerState.TAKING


class Supervisor:
    """Keeps a worker's processes running, until it is stopped.

    Args:
        names: What the worker in each of them is called.
        env: The environment of them all: their settings.
        drain_limit_s: How long their calls may last once they are told to stop.
        ready: Is called once, when all of them take runs, or say why they don't for now.
        report_gone: Tells the record that a worker is dead, by its id: its runs need not wait for its lease to end.
    """

    def __init__(
        self,
        names: Sequence[str],
        env: Mapping[str, str],
        *,
        drain_limit_s: float,
        ready: Callable[[], None] = lambda: None,
        report_gone: Callable[[str], Coroutine[Any, Any, None]] | None = None,
        # What lies in the working directory is none of ours.
        command: Sequence[str] = (sys.executable, "-P", "-m", "runner.worker.child"),
    ):
        self.children = [Child(name) for name in names]
        self._env = dict(env)
        self._command = command
        self._drain_limit_s = drain_limit_s
        self._ready = ready
        self._report_gone = report_gone
        self._started: set[str] = set()
        self._failure: str | None = None
        self._stopping = anyio.Event()
        self._forced = anyio.Event()

    async def run(self) -> None:
        """Keep them running until :meth:`stop`, and return when they have ended.

        Raises:
            UsageError: They can't be started as they were told to.
        """
        async with anyio.create_task_group() as tasks:
            for child in self.children:
                tasks.start_soon(self._keep, tasks, child)
        if self._failure is not None:
            raise UsageError(self._failure)

    async def obey(self, signals: AsyncIterator[signal.Signals]) -> None:
        """Stop at the first signal, and force it at another one."""
        async for number in signals:
            again = self._stopping.is_set()
            logger.info("{}: {}", "stopping at once" if again else "stopping", number.name)
            (self.force_stop if again else self.stop)()

    def stop(self) -> None:
        """Let all processes take nothing more, see their calls through for a while, and end."""
        self._stopping.set()

    def force_stop(self) -> None:
        """Let them end without waiting for calls."""
        self._stopping.set()
        self._forced.set()

    async def _keep(self, tasks: TaskGroup, child: Child) -> None:
        wait_s = FIRST_WAIT_S
        while not self._stopping.is_set():
            child.started_s, child.said_s, child.error = time.monotonic(), None, None
            try:
                code = await self._live(child)
            except OSError as error:
                code = None
                logger.error("worker {}: can't be started ({})", child.name, error.strerror)
            child.is_running = False
            executor = child.status.executor
            if code != 0 and executor is not None and self._report_gone is not None:
                tasks.start_soon(self._report_gone, executor)
            # What it said last is over.
            child.status = child.status.model_copy(update={"state": STARTING, "executor": None, "live": 0})
            if self._stopping.is_set():
                break
            if child.error is not None and not self._started:
                # Nobody could be started: it is not a matter of time.
                self._failure = child.error
                self.stop()
                break
            if time.monotonic() - child.started_s >= STEADY_S:
                wait_s = FIRST_WAIT_S
            logger.bind(worker=child.name).warning(
                "worker {}: {}; it is started again in {:g} s", child.name, _how(child, code), wait_s
            )
            child.restarts += 1
            with anyio.move_on_after(wait_s):
                await self._stopping.wait()
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)

    async def _live(self, child: Child) -> int:
        """Run a process to its end, and return its exit code."""
        # Signals of the terminal are for the supervisor alone.
        process = await anyio.open_process(
            [*self._command, child.name], env=self._env, stderr=None, start_new_session=True
        )
        code = 0
        async with process, anyio.create_task_group() as tasks:
            child.is_running = True
            logger.bind(worker=child.name).info("worker {}: process {} is started", child.name, process.pid)
            tasks.start_soon(self._order, child, process)
            tasks.start_soon(self._watch, child, process)
            if process.stdout is not None:
                async for line in _lines(process.stdout):
                    self._take(child, line)
            code = await process.wait()
            tasks.cancel_scope.cancel()
        return code

    async def _order(self, child: Child, process: Process) -> None:
        """Tell a process to stop when it is time, and see that it does."""
        await self._stopping.wait()
        await _send(process, DRAIN)
        with anyio.move_on_after(self._drain_limit_s + END_LIMIT_S):
            await self._forced.wait()
            await _send(process, FORCE_STOP)
            await anyio.sleep(END_LIMIT_S)
        logger.warning("worker {}: does not end, and is killed", child.name)
        with suppress(ProcessLookupError):
            process.kill()

    async def _watch(self, child: Child, process: Process) -> None:
        """Kill a process that is silent for so long that it won't come back.

        Its silence is counted in looks, of which there are none while the supervisor stands still: where a whole
        machine was frozen, its processes have time to say that they go on.
        """
        silent_s, said_s = 0.0, child.said_s
        while True:
            await anyio.sleep(LOOK_INTERVAL_S)
            silent_s = silent_s + LOOK_INTERVAL_S if child.said_s == said_s else 0.0
            said_s = child.said_s
            if silent_s > HUNG_LIMIT_S + (START_LIMIT_S if said_s is None else SILENCE_LIMIT_S):
                break
        logger.bind(worker=child.name).error(
            "worker {}: has said nothing for {:g} s, and is killed", child.name, silent_s
        )
        with suppress(ProcessLookupError):
            process.kill()

    def _take(self, child: Child, line: bytes) -> None:
        """Take in what a process says of itself."""
        try:
            said = json.loads(line)
            if "error" in said:
                child.error = str(said["error"])
                return
            child.status = WorkerStatus.model_validate(said)
        except (ValueError, TypeError, ValidationError):
            logger.warning("worker {}: says something that is no status", child.name)
            return
        child.said_s = time.monotonic()
        if child.status.state in (WorkerState.TAKING, WorkerState.PAUSED) and child.name not in self._started:
            self._started.add(child.name)
            if len(self._started) == len(self.children):
                self._ready()


def _how(child: Child, code: int | None) -> str:
    if child.error is not None:
        return f"can't start: {child.error}"
    if code is None:
        return "could not be started"
    if code < 0:
        with suppress(ValueError):
            return f"was killed ({signal.Signals(-code).name})"
    return f"ended (exit code {code})"


async def _send(process: Process, order: str) -> None:
    # It may have ended.
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        if process.stdin is not None:
            await process.stdin.send(f"{order}\n".encode())


async def _lines(stream: ByteReceiveStream) -> AsyncGenerator[bytes]:
    left = b""
    with suppress(anyio.BrokenResourceError):
        async for chunk in stream:
            *lines, left = (left + chunk).split(b"\n")
            for line in lines:
                yield line
            left = left[:_MAX_LINE_BYTES]
