"""A web server within a process that does other things as well."""

import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import anyio
import uvicorn

from runner.errors import UsageError


class WebServer(uvicorn.Server):
    """Answers on a socket, and leaves signals to others.

    Args:
        app: What answers.
        connections_limit_s: How long open connections may last once it is told to stop (``should_exit``).
    """

    def __init__(self, app: Any, *, connections_limit_s: int):
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=connections_limit_s,
            )
        )
        self.ready = anyio.Event()
        """Requests are answered."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Capture none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self.ready.set()


@contextmanager
def listening(host: str, port: int, *, options: str) -> Generator[socket.socket]:
    """Listen.

    Args:
        host: The address.
        port: The port; 0 takes a free one.
        options: How the options begin that name others: ``--`` for ``--host`` and ``--port``.

    Raises:
        UsageError: Nobody can listen there.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family)
    except UnicodeError:
        # What a name of a host can't be is found out where it is encoded.
        raise UsageError(f"{host}: is no name of a host; name another {options}host") from None
    except OSError as error:
        raise UsageError(
            f"{host}:{port}: can't be listened on ({error.strerror}); name another {options}port"
        ) from None
    with listener:
        yield listener
