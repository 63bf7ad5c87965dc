"""Scenario files as pytest collects them: a test for each scenario, a call for each test."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from _pytest.outcomes import Failed

from runner.calls.request import CallMaker, new_run_id
from runner.calls.suite import SuiteRunner
from runner.calls.suite_file import SuiteResult
from runner.errors import RunnerError, UsageError
from runner.pytest_plugin.agent import AGENT
from runner.reports.evidence import run_lines
from runner.scenarios.evals import load_file
from runner.scenarios.model import Scenario

FOLDER_PROPERTY = "run_folder"


class AgentFailed(Failed):
    """The agent failed in a call."""

    __module__ = "builtins"  # pytest names an exception with its module, but for the builtin ones


class Inconclusive(Failed):
    """There is no verdict on a call, for no fault of the agent."""

    __module__ = "builtins"


class NoCall(Failed):
    """No call could be made."""

    __module__ = "builtins"


class ScenarioFile(pytest.File):
    """A scenario file."""

    def collect(self) -> "Iterator[ScenarioItem]":
        """Yield a test for each scenario.

        Raises:
            pytest.Collector.CollectError: Something in the file is wrong; names the line.
        """
        path = self.path.relative_to(Path.cwd()) if self.path.is_relative_to(Path.cwd()) else self.path
        try:
            scenarios = load_file(path, self.config.stash[AGENT].settings)
        except UsageError as error:
            raise self.CollectError(str(error)) from None
        for scenario in scenarios:
            for tag in scenario.tags:
                self.config.addinivalue_line("markers", f"{tag}: a tag of scenarios")
            name = scenario.name.partition("/")[2] or scenario.name
            yield ScenarioItem.from_parent(self, name=name, scenario=scenario)


class ScenarioItem(pytest.Item):
    """A scenario. The call is made while the test is set up, so that one without a verdict is an error of pytest's.

    Attributes:
        scenario: The scenario.
        make_call: Prepares a call; None: a real one.
    """

    make_call: CallMaker | None = None

    def __init__(self, *, scenario: Scenario, **of_pytest: Any):
        super().__init__(**of_pytest)
        self.scenario = scenario
        self._failed: str | None = None
        for tag in scenario.tags:
            self.add_marker(tag)
        if scenario.refusal is not None:
            self.add_marker(pytest.mark.skip(reason=f"can't be played in a room: {scenario.refusal}"))

    def setup(self) -> None:
        """Make the call.

        Raises:
            Inconclusive: There is no verdict on the agent.
            NoCall: No call could be made.
        """
        agent = self.config.stash[AGENT]
        folder = agent.settings.runs_dir / f"pytest-{new_run_id()}"

        async def make() -> SuiteResult:
            runner = SuiteRunner(agent.suite_of(self.scenario), agent.settings, folder)
            runner.make_call = self.make_call or runner.make_call
            return await runner.make()

        try:
            result = anyio.run(make, backend_options={"use_uvloop": sys.platform != "win32"})
        except RunnerError as error:
            raise NoCall(str(error), pytrace=False) from None
        (run,) = result.runs
        self.user_properties.append((FOLDER_PROPERTY, str(folder if run.folder is None else folder / run.folder)))
        told = "\n".join(run_lines(run, folder))
        if run.success is None:
            raise Inconclusive(f"(cause: {run.cause or 'unknown'}) {told}", pytrace=False)
        self._failed = None if run.success else told

    def runtest(self) -> None:
        """Judge the call.

        Raises:
            AgentFailed: The agent failed in it.
        """
        if self._failed is not None:
            raise AgentFailed(self._failed, pytrace=False)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return where the scenario stands, and its name."""
        return self.path, self.scenario.line - 1, self.name
