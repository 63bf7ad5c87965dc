"""An agent that runs on this machine for as long as it is needed."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from anyio.abc import Process

from runner.errors import RunnerError

START_TIMEOUT_S = 60.0
"""An agent may load models before it answers."""

STOP_TIMEOUT_S = 5.0
POLL_INTERVAL_S = 0.05
LOG_TAIL_LINES = 12


def reference_agent_command(name: str, port: int, options: Sequence[str] = ()) -> list[str]:
    """Return the command that serves one of the reference agents."""
    return [
        sys.executable,
        "-m",
        f"bots.agents.{name}",
        "-t",
        "webrtc",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        *options,
    ]


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def local_agent(command: Sequence[str], port: int, env: dict[str, str] | None = None) -> AsyncGenerator[str]:
    """Run an agent, and yield its base address once it answers there.

    The agent and everything it started end with the context.

    Args:
        command: What starts it.
        port: Where it listens, on this machine.
        env: Further environment variables.

    Raises:
        RunnerError: It can't be started, ended at once, or did not listen within :data:`START_TIMEOUT_S`; holds the
            end of what it printed.
    """
    with TemporaryDirectory(prefix="scenario-runner-") as folder:
        log = Path(folder) / "agent.log"
        with log.open("wb") as output:
            try:
                # A session of its own: a Ctrl-C at the terminal is ours to handle, and its children end with it.
                process = await anyio.open_process(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(env or {})},
                    start_new_session=True,
                )
            except OSError as error:
                raise RunnerError(f"the agent can't be started: {command[0]}: {error.strerror}") from error
        try:
            await _wait_until_it_listens(process, port, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            with anyio.CancelScope(shield=True):
                await _stop(process)


async def _wait_until_it_listens(process: Process, port: int, log: Path) -> None:
    with anyio.move_on_after(START_TIMEOUT_S):
        while process.returncode is None:
            try:
                stream = await anyio.connect_tcp("127.0.0.1", port)
            except OSError:
                await anyio.sleep(POLL_INTERVAL_S)
                continue
            await stream.aclose()
            return
    ended = f"ended with exit code {process.returncode}" if process.returncode is not None else "does not listen"
    raise RunnerError(f"the agent {ended} (port {port}); the end of what it printed:\n{_tail(log)}")


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return "\n".join(f"  {line}" for line in lines) or "  (nothing)"


async def _stop(process: Process) -> None:
    for stop in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, stop)
        except ProcessLookupError:
            break
        with anyio.move_on_after(STOP_TIMEOUT_S):
            await process.wait()
            return
