"""pytest in a project of its own runs the example scenarios against the reference agent, in real calls."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from junitparser import Failure, JUnitXml

from runner.calls.run_file import read_run
from runner.calls.suite_file import read_suite
from runner.sessions.local_agent import free_port, local_agent, reference_agent_command

pytestmark = [pytest.mark.slow, pytest.mark.webrtc, pytest.mark.timeout(900)]

PROJECT = Path(__file__).parents[2]
SCENARIOS = PROJECT / "config" / "scenarios"
INSTALLED = any(entry.name == "scenario_runner" for entry in entry_points(group="pytest11"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that has nothing of ours but the example scenarios, and a test of its own."""
    voice = tmp_path / "tests" / "voice"
    voice.mkdir(parents=True)
    for path in SCENARIOS.glob("*.yaml"):
        (voice / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tests" / "test_own.py").write_text("def test_own(): ...\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    (tmp_path / "slow.yaml").write_text(
        "name: slow\nagent:\n"
        '  command: ["{python}", -P, -m, bots.agents.restaurant, -t, webrtc, --port, "{port}", --fault, slow]\n'
    )
    return tmp_path


def run_pytest(project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    # As installed: the packages are found, and the folder one is in is not looked through for them.
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTEST_ADDOPTS": ""}
    plugin = [] if INSTALLED else ["-p", "runner.pytest_plugin"]
    command = [sys.executable, "-P", "-m", "pytest", *plugin, "-p", "no:schemathesis", *options]
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=850, check=False)


@pytest.mark.anyio
async def test_the_example_scenarios_pass(project: Path) -> None:
    port = free_port()
    async with local_agent(reference_agent_command("restaurant", port), port) as url:
        done = await anyio.to_thread.run_sync(
            run_pytest, project, "--agent-url", url, "--junit-xml", "junit.xml", "-n", "2"
        )
    assert done.returncode == 0, done.stdout + done.stderr
    cases = [case for suite in JUnitXml.fromfile(str(project / "junit.xml")) for case in suite]
    runs = [run for folder in (project / "runs").glob("pytest-*") for run in read_suite(folder).runs]
    assert len(cases) == len(runs) + 1 >= 6, "each scenario, and the project's own test"
    assert all(run.success for run in runs)


def test_an_agent_that_is_too_slow_fails_with_expected_and_heard(project: Path) -> None:
    done = run_pytest(project, "--agent-suite", "slow.yaml", "--junit-xml", "junit.xml", "-k", "answers_in_time")
    assert done.returncode == 1, done.stdout + done.stderr
    [folder] = (project / "runs").glob("pytest-*")
    [run] = read_suite(folder).runs
    kept = read_run(folder / str(run.folder))
    assert kept.failure is not None and kept.failure.headline in done.stdout
    assert f"    expected  {kept.failure.expected}" in done.stdout.splitlines()
    assert f"run: runs/{folder.name}/{run.folder}" in done.stdout
    [failure] = next(case for suite in JUnitXml.fromfile(str(project / "junit.xml")) for case in suite).result
    assert isinstance(failure, Failure)
