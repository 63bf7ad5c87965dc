"""Two suites in turns: whatever changes around them while they run changes for both."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import anyio

from runner.calls.suite import SuiteRunner, prepare
from runner.calls.suite_file import SuiteResult
from runner.errors import RunnerError

LEAD = 2
"""So many more runs than the other a suite may have begun."""


class Turns:
    """Lets two suites begin their runs in turns, also where the machine allows one of them fewer at once."""

    def __init__(self, most_at_once: int):
        self._free = most_at_once
        self._begun = {"base": 0, "current": 0}
        self._over: set[str] = set()
        self._changed = anyio.Condition()

    @asynccontextmanager
    async def turn(self, side: str) -> AsyncGenerator[None]:
        """Wait until a side may begin a run, and hold its place until the run is over."""
        async with self._changed:
            while not self._may_begin(side):
                await self._changed.wait()
            self._free -= 1
            self._begun[side] += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            self._free += 1
            await self._tell()

    async def end(self, side: str) -> None:
        """Wait for a side no more: it is over."""
        self._over.add(side)
        await self._tell()

    def _may_begin(self, side: str) -> bool:
        other = "base" if side == "current" else "current"
        return self._free > 0 and (other in self._over or self._begun[side] < self._begun[other] + LEAD)

    async def _tell(self) -> None:
        with anyio.CancelScope(shield=True):
            async with self._changed:
                self._changed.notify_all()


@dataclass
class Interleaved:
    """Makes the runs of two suites in turns: one of the base, one of the current side, and so on.

    Together they make no more runs at once than the current suite would alone. Both get the same session.

    Args:
        base: What is compared with.
        current: What may have changed.
    """

    base: SuiteRunner
    current: SuiteRunner
    _results: dict[str, SuiteResult] = field(default_factory=dict[str, SuiteResult])
    _errors: list[RunnerError] = field(default_factory=list[RunnerError])

    async def make(self) -> tuple[SuiteResult, SuiteResult]:
        """Make all runs, and return what became of the base and of the current side.

        Raises:
            RunnerError: As for a suite; the other one was stopped in good order.
        """
        turns = Turns(self.current.most_at_once)
        self.base.session = self.current.session
        for side, runner in (("base", self.base), ("current", self.current)):
            runner.turn = partial(turns.turn, side)
            await prepare(runner.suite, runner.settings)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._make, "base", self.base, turns)
            tasks.start_soon(self._make, "current", self.current, turns)
        if self._errors:
            raise self._errors[0]
        return self._results["base"], self._results["current"]

    def cancel(self, detail: str | None = None) -> None:
        """Stop both suites in good order."""
        self.base.cancel(detail)
        self.current.cancel(detail)

    async def _make(self, side: str, runner: SuiteRunner, turns: Turns) -> None:
        try:
            result = self._results[side] = await runner.make()
            if result.failed_fast:
                # There is nothing to compare any more.
                self.cancel(result.stopped)
        except RunnerError as error:
            self._errors.append(error)
            self.cancel("the other side of the comparison can't be run")
        finally:
            await turns.end(side)
