"""A project with packages of its own that are called ``runner`` and ``bots`` can call its agent all the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.sessions.local_agent import free_port, local_agent, reference_agent_command

PROJECT = Path(__file__).parents[1]
SPEECH = """
import asyncio
from bots.caller.speech import apart
print(asyncio.run(apart.run(asyncio.sleep, 0, "slept")))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with both packages, which can't be imported without being noticed."""
    for name in ("runner", "bots"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('the project\\'s own {name} was imported')\n")
    return tmp_path


def run(project: Path, *arguments: str) -> str:
    # As installed: the packages are found, and the folder one is in is not looked through for them.
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-P", *arguments]
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_command_starts(project: Path) -> None:
    assert "call" in run(project, "-m", "runner.cli", "--help")


def test_the_speech_process_starts(project: Path) -> None:
    assert run(project, "-c", SPEECH) == "slept\n"


@pytest.mark.anyio
async def test_a_reference_agent_starts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    port = free_port()
    async with local_agent(reference_agent_command("quickstart", port), port) as address:
        assert str(port) in address
