"""Agents started as processes on free ports, and killed whatever happens."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from runner.sessions.local_agent import free_port

ROOT = Path(__file__).parents[2]


class Agents:
    """The agents that run, the newest last."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *options: str, **environment: str) -> str:
        """Start ``python -m bots.agents.<name>`` and return its address once it answers."""
        where = ("-t", "webrtc", "--host", "127.0.0.1", "--port", "{port}")
        return self.run("-m", f"bots.agents.{name}", *where, *options, **environment)

    def run(self, *arguments: str, **environment: str) -> str:
        """Start Python, with a free port in place of ``{port}``, and return the address once it answers."""
        port = str(free_port())
        self.log = self._logs / f"{port}.log"
        with self.log.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, *(argument.replace("{port}", port) for argument in arguments)],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        self.processes.append(process)
        base = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            try:
                httpx.get(f"{base}/status", timeout=1, trust_env=False)
            except httpx.HTTPError:
                time.sleep(0.05)
            else:
                return base
        raise AssertionError(f"{arguments} did not start:\n{self.log.read_text()}")

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agents]:
    running = Agents(tmp_path_factory.mktemp("agents"))
    try:
        yield running
    finally:
        running.kill()
