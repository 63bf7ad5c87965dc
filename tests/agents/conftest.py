"""Agents started as processes on free ports, and killed whatever happens."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Agents:
    """The agents that run, the newest last."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *options: str, **environment: str) -> str:
        """Start ``python -m bots.agents.<name>`` and return its address once it answers."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        log = self._logs / f"{name}-{port}.log"
        command = [sys.executable, "-m", f"bots.agents.{name}", "-t", "webrtc", "--host", "127.0.0.1"]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*command, "--port", str(port), *options],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)
        base = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < deadline and process.poll() is None:
            try:
                opener.open(f"{base}/status", timeout=1).close()
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
            else:
                return base
        raise AssertionError(f"{name} did not start:\n{log.read_text()}")

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
