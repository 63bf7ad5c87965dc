"""Signals, and runners that die: whatever they started ends with them, and what is known is kept."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import psutil
import pytest

from runner.cli.interruption import ending_in_good_order, run_interruptibly
from runner.errors import RunnerError
from runner.sessions.local_agent import local_agent
from tests.patience import wait_until

COMMAND = str(Path(sys.executable).with_name("scenario-runner"))

HOLDS_AN_AGENT = """
import anyio, sys
from runner.sessions.local_agent import free_port, local_agent

async def main():
    port = free_port()
    async with local_agent([sys.executable, "-m", "http.server", str(port)], port):
        print("there", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


def demo(folder: Path) -> "subprocess.Popen[str]":
    command = [COMMAND, "demo", "--out", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_an_agent_ends_with_a_runner_that_is_killed() -> None:
    runner = subprocess.Popen([sys.executable, "-c", HOLDS_AN_AGENT], stdout=subprocess.PIPE, text=True)
    assert runner.stdout is not None and runner.stdout.readline() == "there\n"
    agents = children_of(runner)
    assert agents
    runner.kill()
    runner.wait()
    assert not psutil.wait_procs(agents, timeout=10)[1]


@pytest.mark.webrtc
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow), signal.SIGINT]
)
def test_a_signal_before_the_call_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    runner = demo(tmp_path / "run")
    wait_until(lambda: bool(children_of(runner)))
    agents = children_of(runner)
    runner.send_signal(number)
    _, errors = runner.communicate(timeout=60)
    assert runner.returncode == 2
    assert errors.strip().endswith(f"stopped by {number.name}")
    assert not psutil.wait_procs(agents, timeout=10)[1]


@pytest.mark.slow
@pytest.mark.webrtc
def test_a_closed_terminal_ends_the_call_in_good_order(tmp_path: Path) -> None:
    runner = demo(tmp_path / "run")
    timeline = tmp_path / "run" / "timeline.jsonl"
    wait_until(lambda: timeline.is_file() and "client_ready_sent" in timeline.read_text())
    agents = children_of(runner)
    runner.send_signal(signal.SIGHUP)
    runner.communicate(timeout=60)
    assert runner.returncode == 2
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["status"], run["detail"]) == ("cancelled", "stopped by SIGHUP")
    assert not psutil.wait_procs(agents, timeout=10)[1]


class Listening:
    """Goes on until it is cancelled."""

    def __init__(self) -> None:
        self.detail: str | None = None
        self._cancelled = anyio.Event()

    def cancel(self, detail: str | None = None) -> None:
        self.detail = detail
        self._cancelled.set()

    async def make(self) -> None:
        await self._cancelled.wait()


@pytest.mark.anyio
async def test_the_first_signal_ends_what_is_under_way_in_good_order() -> None:
    listening = Listening()

    async def command() -> int:
        with ending_in_good_order(listening):
            os.kill(os.getpid(), signal.SIGTERM)
            await listening.make()
        return 7

    assert await run_interruptibly(command) == 7
    assert listening.detail == "stopped by SIGTERM"


@pytest.mark.anyio
async def test_a_signal_with_nothing_under_way_ends_the_command() -> None:
    async def command() -> int:
        os.kill(os.getpid(), signal.SIGINT)
        await anyio.sleep_forever()
        return 0

    with pytest.raises(RunnerError, match="stopped by SIGINT"):
        await run_interruptibly(command)


@pytest.mark.anyio
@pytest.mark.parametrize("error", [RunnerError("no such room"), ZeroDivisionError()])
async def test_an_error_of_the_command_comes_out_as_it_is(error: Exception) -> None:
    async def command() -> int:
        raise error

    with pytest.raises(type(error)) as raised:
        await run_interruptibly(command)
    assert raised.value is error


@pytest.mark.anyio
async def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(RunnerError, match="there is no program no-such-bot"):
        async with local_agent(["no-such-bot"], 1):
            pass


@pytest.mark.anyio
async def test_an_agent_inherits_none_of_our_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENARIO_RUNNER_TOKEN", "s3cr3t")
    monkeypatch.setenv("BOT_KEY", "its own")
    script = "import os; print(sorted(k for k in os.environ if k in ('SCENARIO_RUNNER_TOKEN', 'BOT_KEY')))"
    with pytest.raises(RunnerError) as raised:
        async with local_agent([sys.executable, "-c", script], 1):
            pass
    assert "['BOT_KEY']" in str(raised.value)
