"""A server as its users start it, in a process of its own, and what they ask of it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from runner.sessions.local_agent import free_port, reference_agent_command
from tests.cluster.program import Program
from tests.patience import wait_until

API = "/test_framework/v1"


@dataclass
class Server:
    """A server that runs."""

    process: "subprocess.Popen[str]"
    url: str
    key: str
    log: Path

    def client(self, key: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"X-CEKURA-API-KEY": key}, timeout=10)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=40)


@contextmanager
def serving(folder: Path, *options: str, first: bool = True, env: dict[str, str] | None = None) -> Generator[Server]:
    """Serve in a process of its own, with its data and its log in ``folder``."""
    log = folder / "serve.log"
    command = [sys.executable, "-m", "runner.cli", "serve", "--port", "0", "--data-dir", str(folder / "data")]
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [*command, *options],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **(env or {})},
        )
    try:
        assert process.stdout is not None
        key = process.stdout.readline().rpartition(" ")[2].strip() if first else ""
        said = process.stdout.readline()
        found = re.match(r"serving on (http://127\.0\.0\.1:\d+) ", said)
        assert found, said + log.read_text()
        yield Server(process, found[1], key, log)
        # Nothing is said after that.
        assert process.poll() is None or process.stdout.read() == ""
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def until(client: httpx.Client, path: str, wanted: Any, timeout_s: float = 60) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while True:
        body = client.get(path).raise_for_status().json()
        if wanted(body):
            return body
        assert time.monotonic() < deadline, body
        time.sleep(0.05)


def launch(client: httpx.Client, scenario: int, agent: str, **entry: Any) -> dict[str, Any]:
    # Another name each time: the same launch again is the same result.
    body = {"scenarios": [{"scenario": scenario, "pipecat_room_url": agent, **entry}], "agent": 1}
    body["name"] = f"launch {time.monotonic_ns()}"
    answer = client.post(f"{API}/scenarios/run_scenarios_pipecat/", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def make_scenario(client: httpx.Client, name: str, text: str) -> int:
    body = {
        "name": name,
        "agent": 1,
        "personality": 693,
        "scenario_type": "conditional_actions",
        "pipecat_eval": text,
    }
    answer = client.post(f"{API}/scenarios/", json={**body, "pipecat_eval": text})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


@contextmanager
def metronome(folder: Path) -> Generator[str]:
    """Run an agent to call, with its log in ``folder``, and yield the address that its offers go to."""
    port = free_port()
    program = Program("agent", reference_agent_command("metronome", port)[1:], folder, dict(os.environ))
    program.start()

    def answers() -> bool:
        with suppress(httpx.ConnectError):
            return httpx.get(f"http://127.0.0.1:{port}/").status_code > 0
        return False

    try:
        wait_until(answers, program.tail)
        yield f"http://127.0.0.1:{port}/api/offer"
    finally:
        program.kill()
