"""A pytest plugin: scenario files are collected as tests, each a call to the agent that an option names.

Without such an option it does nothing, and imports nothing else of this package: every pytest of an environment loads
it. A YAML file is a scenario file where it has ``name`` at its top, one of ``scenarios``, ``turns`` and ``persona``,
and no ``agent``, which suites have. A file that is named on the command line is taken for one in any case.
"""

import re
from pathlib import Path

import pytest

AGENT_OPTIONS = ("agent_url", "agent_start_url", "agent_suite")

_SUFFIXES = (".yaml", ".yml")
_MAX_BYTES = 1_000_000
_KEY = re.compile(rb"^(name|agent|scenarios|turns|persona)[ \t]*:", re.MULTILINE)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that say which agent is called."""
    group = parser.getgroup("voice agents", "scenario files as tests (scenario-runner)")
    group.addoption("--agent-url", metavar="URL", help="Call the agent at this address: scenario files become tests.")
    group.addoption("--agent-start-url", metavar="URL", help="Post to this address for each test's session.")
    group.addoption("--agent-suite", metavar="FILE", help="Call the agent of this suite file.")
    group.addoption("--agent-config", metavar="FILE", help="Settings file (default: config/runner.toml).")


def pytest_configure(config: pytest.Config) -> None:
    """Read which agent is called, where an option names one."""
    given = [name for name in AGENT_OPTIONS if config.getoption(name) is not None]
    if not given:
        return
    if len(given) > 1:
        options = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise pytest.UsageError(f"{options}: name one agent")
    from runner.pytest_plugin.agent import AGENT, read_agent

    config.stash[AGENT] = read_agent(config)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect a scenario file, where an agent is named that can be called."""
    if file_path.suffix not in _SUFFIXES or all(parent.config.getoption(name) is None for name in AGENT_OPTIONS):
        return None
    if not parent.session.isinitpath(file_path) and not is_scenario_file(file_path):
        return None
    from runner.pytest_plugin.items import ScenarioFile

    return ScenarioFile.from_parent(parent, path=file_path)


def is_scenario_file(path: Path) -> bool:
    """Return whether a file is a scenario file, by the keys that begin its lines; it need not be valid YAML."""
    try:
        with path.open("rb") as file:
            keys = set(_KEY.findall(file.read(_MAX_BYTES)))
    except OSError:
        # Whoever meant it names it, and is told then.
        return False
    return b"name" in keys and b"agent" not in keys and len(keys) > 1
