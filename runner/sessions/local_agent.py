"""An agent that runs on this machine for as long as it is needed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import anyio
from anyio.abc import Process

from runner.errors import RunnerError
from runner.settings import ENV_PREFIX

START_TIMEOUT_S = 60.0
"""An agent may load models before it answers."""

STOP_TIMEOUT_S = 5.0
POLL_INTERVAL_S = 0.05
WATCH_INTERVAL_S = 0.1
LOG_TAIL_LINES = 12
LOG_TAIL_BYTES = 20_000

PORT_TAKEN = "address already in use"
"""What the system says of a port that another program has: we chose its number, and not the agent."""

PORT_PLACEHOLDER = "{port}"
PYTHON_PLACEHOLDER = "{python}"


class AgentEnded(RunnerError):
    """The command that starts an agent ended before the agent listened.

    Args:
        exit_code: How it ended; negative: by the signal of that number.
        printed: The last lines it printed.
    """

    def __init__(self, message: str, exit_code: int, printed: str):
        super().__init__(message)
        self.exit_code = exit_code
        self.printed = printed


def reference_agent_command(name: str, port: int, options: Sequence[str] = ()) -> list[str]:
    # -P: whoever runs it may have packages of these names in the folder they are in.
    serve = [sys.executable, "-P", "-m", f"bots.agents.{name}"]
    return [*serve, "-t", "webrtc", "--host", "127.0.0.1", "--port", str(port), *options]


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
        port: Where it listens, on this machine.

    Raises:
        RunnerError: It can't be started, ended at once, or did not listen within :data:`START_TIMEOUT_S`; holds the
            end of what it printed.
    """
    with TemporaryDirectory(prefix="scenario-runner-") as folder:
        async with _running(command, port, env or {}, Path(folder) / "agent.log"):
            yield _base_url(port)


class LastingAgent:
    """An agent that is there whenever it is asked for: started at first, and again when it has died.

    An async context manager; the agent and everything it started end with it.

    Args:
        command: What starts it; ``{port}`` stands for the port it is to listen on, ``{python}`` for this interpreter.
        env: Further environment variables, in which the same stand for the same.
        log: Gets what it prints.
        folder: Where it is started; None: in the working directory.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path, folder: Path | None = None):
        self._command = command
        self._env = env
        self._folder = folder
        self.log = log
        self._port = 0
        self._process: Process | None = None
        self._stack = AsyncExitStack()
        self.starts = 0
        """How often it was started."""
        self.ended_ns: int | None = None
        """When it was seen to have ended by itself, on this machine's monotonic clock."""

    async def become(self, command: Sequence[str], env: Mapping[str, str], folder: Path | None) -> None:
        """Be another agent from now on, if this is another; the one that runs is ended then."""
        if (command, env, folder) != (self._command, self._env, self._folder):
            await self.stop()
            self._command, self._env, self._folder = command, env, folder

    async def address(self) -> str:
        """Return its base address; it listens there.

        Raises:
            AgentEnded: It ended before it listened, and not because its port was taken.
            RunnerError: It can't be started, its port was taken, or it did not listen within :data:`START_TIMEOUT_S`.
                As with the other error, the first line says so, and the others hold the end of what it printed.
        """
        if not await self.is_alive():
            await self.stop()
            self._port = free_port()
            command = [self._filled_in(argument) for argument in self._command]
            env = {name: self._filled_in(value) for name, value in self._env.items()}
            self.starts += 1
            self.ended_ns = None
            self._process = await self._stack.enter_async_context(
                _running(command, self._port, env, self.log, self._folder)
            )
        return _base_url(self._port)

    async def is_alive(self) -> bool:
        """Whether it runs and takes connections."""
        return self._process is not None and self._process.returncode is None and await _listens(self._port)

    @property
    def exit_code(self) -> int | None:
        """How it ended, if it ended by itself; negative: by this signal."""
        return None if self._process is None else self._process.returncode

    async def watch(self) -> None:
        """See when it ends, until cancelled."""
        while True:
            if self.exit_code is not None and self.ended_ns is None:
                self.ended_ns = time.monotonic_ns()
            await anyio.sleep(WATCH_INTERVAL_S)

    async def wait_ended(self, timeout_s: float) -> None:
        """Wait until it has ended by itself, but no longer than a while."""
        if self._process is not None:
            with anyio.move_on_after(timeout_s):
                await self._process.wait()

    @property
    def printed_bytes(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def log_tail(self, since_bytes: int = 0) -> str:
        """Return the last lines it printed; blocks a little.

        Args:
            since_bytes: Of what it printed after so much.
        """
        return "\n".join(_tail(self.log, since_bytes)) if self.log.exists() else ""

    async def stop(self) -> None:
        """End it, if it runs; the next who asks for it gets a new one."""
        self._process = None
        await self._stack.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _filled_in(self, text: str) -> str:
        return text.replace(PORT_PLACEHOLDER, str(self._port)).replace(PYTHON_PLACEHOLDER, sys.executable)


_process_groups: set[int] = set()


def kill_local_agents() -> None:
    """Kill every agent of this process at once; for a process that is about to end without closing its contexts."""
    for group in _process_groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


@asynccontextmanager
async def _running(
    command: Sequence[str], port: int, env: Mapping[str, str], log: Path, folder: Path | None = None
) -> AsyncGenerator[Process]:
    """Run an agent, appending what it prints to a file, and yield its process once it listens."""
    # Everything but our own settings, which can hold tokens.
    own = {name: value for name, value in os.environ.items() if not name.upper().startswith(ENV_PREFIX)}
    environment = {**own, **env}
    if shutil.which(command[0], path=environment.get("PATH")) is None:
        raise RunnerError(f"the agent can't be started: there is no program {command[0]}")
    with log.open("ab") as output:
        began = output.tell()
        try:
            # A session of its own: a Ctrl-C at the terminal is ours to handle, and its children end with it. On a
            # leash, so that it ends with this process even where that has no time to end it.
            process = await anyio.open_process(
                [sys.executable, "-P", "-m", "runner.sessions.leash", str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )
        except OSError as error:
            raise RunnerError(f"the agent can't be started: {command[0]}: {error.strerror}") from error
    _process_groups.add(process.pid)
    try:
        await _wait_until_it_listens(process, port, log, began)
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(process)
        _process_groups.discard(process.pid)


def _base_url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


async def _listens(port: int) -> bool:
    try:
        await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
    except OSError:
        return False
    return True


async def _wait_until_it_listens(process: Process, port: int, log: Path, began: int) -> None:
    with anyio.move_on_after(START_TIMEOUT_S):
        while process.returncode is None:
            if await _listens(port):
                return
            await anyio.sleep(POLL_INTERVAL_S)
    exit_code = process.returncode
    ended = "does not listen" if exit_code is None else f"ended with exit code {exit_code}"
    lines = _tail(log, began)
    summary = f"the agent {ended} (port {port}): {lines[-1].strip() if lines else 'it printed nothing'}"
    message = "\n  ".join([f"{summary}\nthe end of what it printed:", *lines] if lines else [summary])
    printed = "\n".join(lines)
    if exit_code is None or PORT_TAKEN in printed.lower():
        raise RunnerError(message)
    raise AgentEnded(message, exit_code, printed)


def _tail(log: Path, began: int) -> list[str]:
    with log.open("rb") as file:
        size = log.stat().st_size
        # A log that was cut meanwhile may be shorter than it was.
        own = began if began <= size else 0
        file.seek(max(own, size - LOG_TAIL_BYTES))
        if file.tell() > own:
            # In the middle of a line: a secret that was cut in two would not be known again.
            file.readline()
        return file.read().decode(errors="replace").rstrip().splitlines()[-LOG_TAIL_LINES:]


async def _stop(process: Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with anyio.move_on_after(STOP_TIMEOUT_S):
            await process.wait()
        # The agent if it is still there, and what it started and left behind.
        os.killpg(process.pid, signal.SIGKILL)
    with anyio.move_on_after(STOP_TIMEOUT_S):
        await process.wait()
