"""A web server within a process that does other things as well."""

import asyncio
import functools
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import uvicorn
from loguru import logger
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from runner.errors import UsageError

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of Prometheus' text format."""

HEADERS_LIMIT_S = 10.0
"""How long a connection may be open until the headers of a request are there, or of the next one."""

TIMES_TO_TAKE = 3
"""So many times ``HEADERS_LIMIT_S`` nothing of an answer may be taken."""

MAX_HEADERS_BYTES = 64_000

BODY_PAUSE_LIMIT_S = 30.0
"""How long nothing may come of a body that is waited for."""

MAX_CONNECTIONS = 10_000
"""How many connections may be open, however many files may."""

WARN_EVERY_S = 60.0


class WebServer(uvicorn.Server):
    """Answers on a socket, and leaves signals to others.

    Connections over which nobody asks anything are ended in time, and the oldest of them at once when there are too
    many connections: whoever opens them and says nothing keeps nobody else out.

    Args:
        app: What answers.
        connections_limit_s: How long open connections may last once it is told to stop (``should_exit``).
        headers_limit_s: How long a connection may be open until the headers of its first or next request are there.
        body_pause_limit_s: How long nothing may come of a body that is waited for; then it is over for the app.
        max_connections: How many may be open; without it so many that a quarter of the files that this process may
            open is left for others.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        connections_limit_s: int,
        headers_limit_s: float = HEADERS_LIMIT_S,
        body_pause_limit_s: float = BODY_PAUSE_LIMIT_S,
        max_connections: int | None = None,
    ):
        self._idle = _Idle(headers_limit_s, max_connections or _most_connections())
        super().__init__(
            uvicorn.Config(
                app,
                http=functools.partial(_Connection, idle=self._idle, body_pause_limit_s=body_pause_limit_s),  # pyright: ignore[reportArgumentType]
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                # The app knows which proxies are believed.
                proxy_headers=False,
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

    async def on_tick(self, counter: int) -> bool:
        """End what is over, ten times a second; return whether to stop."""
        self._idle.expire()
        return await super().on_tick(counter)


@dataclass(frozen=True)
class _Idleness:
    """How idle a connection is.

    Attributes:
        since_s: Since when.
        unsent_bytes: How much of what was answered was not sent then.
        times: How often it was found that nothing of that was taken.
    """

    since_s: float
    unsent_bytes: int
    times: int = 0


class _Idle:
    """The connections over which nothing is asked at the moment, the oldest first.

    Args:
        limit_s: How long they may be that.
        max_connections: How many may be open, with those over which something is asked.
    """

    def __init__(self, limit_s: float, max_connections: int):
        self._limit_s = limit_s
        self._max = max_connections
        self._since: dict[_Connection, _Idleness] = {}
        self._warned_s = -WARN_EVERY_S

    def add(self, connection: "_Connection", count: int) -> None:
        """Let a connection be idle from now on.

        Args:
            connection: The connection.
            count: How many are open.
        """
        self._since.pop(connection, None)
        self._since[connection] = _Idleness(time.monotonic(), connection.unsent_bytes)
        if count > self._max:
            self._warn()
            oldest = next(iter(self._since))
            del self._since[oldest]
            oldest.abort()

    def remove(self, connection: "_Connection") -> None:
        """Let it be idle no more."""
        self._since.pop(connection, None)

    def expire(self) -> None:
        """End those that are it for too long."""
        now_s = time.monotonic()
        while self._since:
            connection, idleness = next(iter(self._since.items()))
            if now_s - idleness.since_s < self._limit_s:
                return
            del self._since[connection]
            unsent_bytes = connection.unsent_bytes
            # The last answer may be on its way to somebody who is slow.
            times = 0 if unsent_bytes < idleness.unsent_bytes else idleness.times + 1
            if unsent_bytes and times < TIMES_TO_TAKE:
                self._since[connection] = _Idleness(now_s, unsent_bytes, times)
            else:
                connection.abort()

    def _warn(self) -> None:
        now_s = time.monotonic()
        if now_s - self._warned_s >= WARN_EVERY_S:
            self._warned_s = now_s
            logger.warning(
                "more than {} connections are open: those that wait longest are ended; let this process open more "
                "files (ulimit -n) if these are its users",
                self._max,
            )


@dataclass(eq=False)
class _Headers:
    """Headers that are not complete yet.

    Attributes:
        bytes: How much of them has come, without what came first.
    """

    bytes: int = 0


class _Connection(HttpToolsProtocol):
    """A connection that is watched while nothing is asked over it, or while a body does not come.

    Args:
        idle: Where it is registered.
        body_pause_limit_s: How long nothing may come of a body that is waited for.
        options: As uvicorn gives them.
    """

    def __init__(self, *, idle: _Idle, body_pause_limit_s: float, **options: Any):
        super().__init__(**options)
        self._idle = idle
        self._body_pause_limit_s = body_pause_limit_s
        self._respond: ASGIApp = self.app  # pyright: ignore[reportAttributeAccessIssue]
        self.app = self._answer
        self._answering = 0
        self._headers: _Headers | None = None

    @property
    def unsent_bytes(self) -> int:
        """How much of what was answered is not sent yet."""
        return self.transport.get_write_buffer_size()

    def abort(self) -> None:
        """End it at once."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Be idle at first."""
        super().connection_made(transport)
        self._idle.add(self, len(self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        """Be idle no more."""
        self._idle.remove(self)
        # Without that each would keep the other.
        self.app = self._respond
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Take what comes for headers from now on."""
        self._headers = _Headers()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Take it for headers no more."""
        self._headers = None
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Refuse headers that have no end: the parser would collect them all."""
        before = self._headers
        super().data_received(data)
        if before is not None and before is self._headers:
            before.bytes += len(data)
            if before.bytes > MAX_HEADERS_BYTES:
                self.abort()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the app answer a request; end the connection if its body did not come."""
        is_whole = has_stopped = False

        async def receiving() -> Message:
            nonlocal is_whole, has_stopped
            if is_whole:
                # What is waited for from here on is that somebody goes away.
                return await receive()
            with anyio.move_on_after(self._body_pause_limit_s):
                message = await receive()
                is_whole = not message.get("more_body", False)
                return message
            is_whole = has_stopped = True
            return {"type": "http.disconnect"}

        self._answering += 1
        self._idle.remove(self)
        try:
            await self._respond(scope, receiving, send)
        finally:
            self._answering -= 1
            if has_stopped:
                self.transport.close()
            # The next one may have been asked by now. What is closed is still watched: somebody has to take the rest.
            if not self._answering and self in self.connections:
                self._idle.add(self, len(self.connections))


def _most_connections() -> int:
    """Return how many connections leave a quarter of the files that this process may open for others."""
    try:
        import resource
    except ImportError:
        # Windows has no such limit.
        return MAX_CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if files == resource.RLIM_INFINITY else min(files * 3 // 4, MAX_CONNECTIONS)


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
