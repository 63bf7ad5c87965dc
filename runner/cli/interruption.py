"""Ctrl-C and its like: the first ends what is under way in good order, the second ends everything at once."""

import os
import signal
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import anyio
from anyio.abc import TaskStatus

from runner.errors import USAGE_EXIT_CODE, RunnerError

_SIGNALS = tuple(
    number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None
)


class Stoppable(Protocol):
    """Something that takes its time and can be ended in good order: a call, a suite, a server."""

    def cancel(self, detail: str | None = None) -> None:
        """End it."""
        ...


class _Interruption:
    def __init__(self) -> None:
        self.stoppables: list[Stoppable] = []
        self.by: str | None = None

    async def watch(
        self, scope: anyio.CancelScope, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        with anyio.open_signal_receiver(*_SIGNALS) as signals:
            task_status.started()
            async for number in signals:
                name = signal.Signals(number).name
                if self.by is not None:
                    _end_at_once()
                self.by = name
                if not self.stoppables:
                    # Nothing that could end in good order: what is open closes on the way out.
                    scope.cancel()
                for stoppable in self.stoppables:
                    stoppable.cancel(f"stopped by {name}")


_current: ContextVar[_Interruption | None] = ContextVar("interruption", default=None)


async def run_interruptibly(command: Callable[[], Awaitable[int | None]]) -> int | None:
    """Run a command to its exit code, taking care of signals for as long as it runs.

    Raises:
        RunnerError: A signal ended it while nothing was under way that could end in good order.
    """
    interruption = _Interruption()
    token = _current.set(interruption)
    outcome: list[int | Exception | None] = []
    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(interruption.watch, tasks.cancel_scope)
            try:
                outcome.append(await command())
            except Exception as error:
                # Raised here it would come out wrapped in a group.
                outcome.append(error)
            tasks.cancel_scope.cancel()
    finally:
        _current.reset(token)
    if not outcome:
        raise RunnerError(f"stopped by {interruption.by}")
    (result,) = outcome
    if isinstance(result, Exception):
        raise result
    return result


@contextmanager
def ending_in_good_order(stoppable: Stoppable) -> Generator[None]:
    """Within this context a signal ends the command by ending ``stoppable``."""
    interruption = _current.get()
    if interruption is None:
        yield
        return
    interruption.stoppables.append(stoppable)
    try:
        yield
    finally:
        interruption.stoppables.remove(stoppable)


def _end_at_once() -> None:
    from runner.sessions.local_agent import kill_local_agents

    kill_local_agents()
    os._exit(USAGE_EXIT_CODE)
