"""Programs of a cluster: each in a process group of its own, to be stopped, killed and frozen with all it started."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tests.patience import wait_until
from tests.postgres import ends_with_parent

MARK = "TESTS_CLUSTER"
"""The variable that every process of a cluster has in its environment, whoever its parent is by now."""

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 40.0


class Program:
    def __init__(self, name: str, command: Sequence[str], folder: Path, env: Mapping[str, str]):
        self.name = name
        self._command = [*ends_with_parent("KILL"), sys.executable, *command]
        self._folder = folder
        self._env = env
        self.out, self.log = folder / f"{name}.out", folder / f"{name}.log"
        self._began = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen: list[psutil.Process] = []

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; its logs go on where they were."""
        assert not self.is_running, f"{self.name} is running"
        with self.out.open("ab") as out, self.log.open("ab") as log:
            self._began = out.tell()
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
            )

    def says(self, pattern: str, timeout_s: float = START_TIMEOUT_S) -> "re.Match[str]":
        """Wait for something on its standard output since its start."""

        def said() -> "re.Match[str] | None":
            ended = not self.is_running
            found = re.search(pattern, self.said(), re.MULTILINE)
            assert found or not ended, f"{self.name} ended without {pattern!r}: {self.said()}{self.tail()}"
            return found

        return wait_until(said, lambda: f"{self.name} says {pattern!r}: {self.said()}{self.tail()}", timeout_s)

    def said(self) -> str:
        return self.out.read_bytes()[self._began :].decode(errors="replace")

    def tail(self) -> str:
        return "\n".join(["", *self.log.read_text(errors="replace").splitlines()[-20:]])

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def processes(self) -> list[psutil.Process]:
        """Return it and everything it started, the oldest first."""
        if not self.is_running:
            return []
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.pid)
            return [first, *first.children(recursive=True)]
        return []

    def terminate(self) -> None:
        assert self._process is not None
        self._process.terminate()

    def ends(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        assert self._process is not None
        return self._process.wait(timeout_s)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        self.terminate()
        return self.ends(timeout_s)

    def kill(self) -> None:
        """Kill it and everything it started, at one blow (SIGKILL)."""
        killed = self.processes()
        _signal(killed, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        psutil.wait_procs(killed, timeout=5)
        self._frozen = []

    def freeze(self) -> None:
        """Have it and everything it started stand still (SIGSTOP)."""
        self._frozen = self.processes()
        _signal(self._frozen, signal.SIGSTOP)

    def thaw(self) -> None:
        _signal(self._frozen, signal.SIGCONT)
        self._frozen = []


def environment(mark: str, **more: str) -> dict[str, str]:
    """Return the environment of a cluster's program: none of whoever runs the tests' own settings is in it."""
    own = {name: value for name, value in os.environ.items() if not name.upper().startswith("SCENARIO_RUNNER_")}
    return {**own, MARK: mark, "PYTHONUNBUFFERED": "1", **more}


def marked(mark: str) -> list[psutil.Process]:
    """Return every process of a cluster that there is, whoever its parent is."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _signal(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
