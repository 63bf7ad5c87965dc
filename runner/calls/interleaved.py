"""Two suites in turns: whatever changes around them while they run changes for both."""

from dataclasses import dataclass, field

import anyio

from runner.calls.suite import SuiteRunner, prepare
from runner.calls.suite_file import SuiteResult
from runner.errors import RunnerError


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
        turns = anyio.CapacityLimiter(self.current.most_at_once)
        self.base.session = self.current.session
        for runner in (self.base, self.current):
            runner.turns = turns
            await prepare(runner.suite, runner.settings)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._make, "base", self.base)
            tasks.start_soon(self._make, "current", self.current)
        if self._errors:
            raise self._errors[0]
        return self._results["base"], self._results["current"]

    def cancel(self, detail: str | None = None) -> None:
        """Stop both suites in good order."""
        self.base.cancel(detail)
        self.current.cancel(detail)

    async def _make(self, side: str, runner: SuiteRunner) -> None:
        try:
            self._results[side] = await runner.make()
        except RunnerError as error:
            self._errors.append(error)
            self.cancel("the other side of the comparison can't be run")
