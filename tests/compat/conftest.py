"""A whole server in a process of its own, an agent to call, and the unmodified client that drives them.

Nothing here reaches past HTTP: what is proven is what a team sees that points its SDK or CLI at this server.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from cekura import Cekura
from fastapi import FastAPI

from runner.api.app import create_app
from runner.api.services import Services
from runner.records.database import Database
from runner.records.keys import KeyKind, create_key
from runner.sessions.local_agent import free_port, reference_agent_command
from runner.settings import ServerSettings
from tests.api.conftest import migrated, services_on

__all__ = ["migrated"]

API = "/test_framework/v1"
START_LIMIT_S = 60.0
CALL_LIMIT_S = 45.0

ANSWERS = """
name: answers
turns:
  - expect:
      - { event: response, within_ms: 10000 }
  - user: "Hello there."
    expect:
      - { event: response, within_ms: 10000 }
"""
"""The metronome passes this."""

LISTENS = "name: listens\nturns:\n  - expect:\n      - { event: response, within_ms: 10000 }\n"
"""This too, and sooner: the caller says nothing."""

WANTS_A_TABLE = """
name: wants_a_table
turns:
  - expect:
      - { event: response, text_contains: "what time would you like the table", within_ms: 2500 }
"""
"""The metronome fails this: it says something else."""

WAITS = "name: waits\nturns:\n  - silence_ms: 60000\n"
"""A call that lasts until somebody ends it."""

SCRIPTS = {"answers": ANSWERS, "listens": LISTENS, "wants a table": WANTS_A_TABLE, "waits": WAITS}


@dataclass
class Server:
    """A server that runs.

    Attributes:
        process: Its process.
        url: Where it is reached.
        key: The key it printed when it first started.
        data: Its data directory.
        log: What it wrote to standard error.
        output: What it wrote to standard output, as far as it was read.
    """

    process: "subprocess.Popen[str]"
    url: str
    key: str
    data: Path
    log: Path
    output: str

    def client(self, key: str | None = None, **headers: str) -> httpx.Client:
        """Return a plain client, with a key or without."""
        given = {"X-CEKURA-API-KEY": key} if key else {}
        return httpx.Client(base_url=self.url, headers={**given, **headers}, timeout=15)

    def stop(self) -> int:
        """Tell it to stop, and return how it ended."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        self.output += self.process.stdout.read()
        return self.process.wait(timeout=40)


@contextmanager
def starting_server(folder: Path, *options: str) -> Generator[Callable[[], Server]]:
    """Start a server, and yield what waits until it is there: others can start in the meantime."""
    log, data = folder / "serve.log", folder / "data"
    command = [sys.executable, "-m", "runner.cli", "serve", "--port", "0", "--data-dir", str(data), *options]
    # From an empty folder and without settings: nothing of this checkout's configuration is taken.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SCENARIO_RUNNER_", "CEKURA_"))}
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
        )

    def ready() -> Server:
        assert process.stdout is not None
        shown = process.stdout.readline()
        said = process.stdout.readline()
        found = re.match(r"serving on (http://127\.0\.0\.1:\d+) ", said)
        assert found, shown + said + log.read_text()
        key = shown.rpartition(" ")[2].strip()
        assert key.startswith("psr_"), shown
        return Server(process, found[1], key, data, log, shown + said)

    try:
        yield ready
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def starting_agent(name: str) -> Generator[Callable[[], str]]:
    """Start a reference agent, and yield what waits until it listens, and returns its base address."""
    port = free_port()
    process = subprocess.Popen(
        reference_agent_command(name, port),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def ready() -> str:
        deadline_s = time.monotonic() + START_LIMIT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return f"http://127.0.0.1:{port}"
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline_s, f"{name} does not listen"
                time.sleep(0.05)

    try:
        yield ready
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Stage:
    """A server and an agent that it can call."""

    server: Server
    agent: str


@pytest.fixture(scope="package")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with (
        starting_agent("metronome") as agent_ready,
        starting_server(tmp_path_factory.mktemp("server")) as server_ready,
    ):
        yield Stage(server_ready(), agent_ready())


@pytest.fixture(scope="package")
def server(stage: Stage) -> Server:
    return stage.server


@pytest.fixture(scope="package")
def room(stage: Stage) -> str:
    """Return the address that a launch names: offers are taken there."""
    return f"{stage.agent}/api/offer"


@pytest.fixture(scope="package")
def sdk(server: Server) -> Iterator[Cekura]:
    """The client as its users make it: a key and a base address."""
    with Cekura(api_key=server.key, base_url=server.url) as client:
        yield client


@pytest.fixture(scope="package")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client(server.key) as client:
        yield client


@pytest.fixture(scope="package")
def agent(sdk: Cekura, stage: Stage) -> int:
    """Return an agent that can be started, too."""
    made = sdk.agents.create(
        name="metronome",
        telephony={"inbound": True, "phone_number": "+11234567890"},
        provider={"type": "pipecat"},
        session={"start_url": f"{stage.agent}/start", "transport": "webrtc"},
    )
    return made["id"]


@pytest.fixture(scope="package")
def scenarios(sdk: Cekura, agent: int) -> dict[str, int]:
    """Return the ids of what is played, by name."""
    made = {
        name: sdk.scenarios.create(name=name, agent=agent, personality=693, pipecat_eval=text, tags=[name])["id"]
        for name, text in SCRIPTS.items()
    }
    sings = {"pipecat_eval": LISTENS, "expected_outcome_prompt": "must sing an opera"}
    return {**made, "sings": sdk.scenarios.create(name="sings", agent=agent, personality=693, **sings)["id"]}


def until(read: Callable[[], Any], wanted: Callable[[Any], Any], timeout_s: float = CALL_LIMIT_S) -> Any:
    """Read until it is as wanted, and return it."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        found = read()
        if wanted(found):
            return found
        assert time.monotonic() < deadline_s, found
        time.sleep(0.05)


@dataclass
class InProcess:
    """An application on a record of its own, without sockets and without calls."""

    app: FastAPI
    services: Services


def application(migrated: Path, folder: Path) -> InProcess:
    """Return an application; its database is opened by whoever asks first. Its dispatcher does not run."""
    shutil.copytree(migrated, folder, dirs_exist_ok=True)
    server = ServerSettings(
        data_dir=folder, allow_loopback=True, requests_per_minute=1_000_000, duplicate_window_s=0, lease_s=1.0
    )
    services = services_on(server)
    return InProcess(create_app(services), services)


def keys_of(under_test: InProcess, *kinds: KeyKind) -> list[str]:
    """Make keys, in a loop of their own: the application's runs elsewhere."""

    async def make() -> list[str]:
        database = Database(under_test.services.database.url)
        async with database.session() as session:
            made = [
                await create_key(session, kind, project_id=1 if kind is KeyKind.USER else None, name="a test's")
                for kind in kinds
            ]
        await database.close()
        return made

    return anyio.run(make)
