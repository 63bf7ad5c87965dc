"""Which workers of this machine are alive: each holds a lock for as long as its process lives.

The kernel lets go of a lock when its process ends, however it ends. So a worker whose file is there and whose lock is
free is dead, and one without a file here runs on another machine, of which nothing is known.
"""

import fcntl
import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path

_SUFFIX = ".lock"


def new_executor_id() -> str:
    """Return an id for a worker's process that no other has, nor one before it."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


class ExecutorLocks:
    """The locks of the workers that share a folder.

    Args:
        folder: Where the locks are; is made.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._held: dict[str, int] = {}

    def hold(self, executor: str) -> None:
        """Say that a worker lives, until :meth:`bury` or the end of the process.

        Raises:
            OSError: The folder can't be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        # Locked before it has its name: nobody finds it free.
        unnamed = self._folder / f".{executor}"
        descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        unnamed.rename(self._path(executor))
        self._held[executor] = descriptor

    def take_dead(self) -> list[str]:
        """Return the workers that are dead. Their locks are held from then on: nobody else gets to see to them."""
        dead: list[str] = []
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            executor = path.name.removesuffix(_SUFFIX)
            if executor in self._held:
                continue
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    os.close(descriptor)
                    continue
                self._held[executor] = descriptor
                dead.append(executor)
        return dead

    def let_go(self, executor: str) -> None:
        """Let go of a worker's lock and leave the file: whoever looks takes it for dead."""
        descriptor = self._held.pop(executor, None)
        if descriptor is not None:
            os.close(descriptor)

    def bury(self, executor: str) -> None:
        """Remove a worker that left nothing behind."""
        with suppress(OSError):
            self._path(executor).unlink()
        self.let_go(executor)

    def _path(self, executor: str) -> Path:
        return self._folder / f"{executor}{_SUFFIX}"
