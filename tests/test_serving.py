"""The web server on real sockets: who opens connections and says nothing keeps nobody else out."""

import resource
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from anyio.abc import SocketStream
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from runner.serving import WebServer, listening

pytestmark = pytest.mark.anyio

ENDS_S = 5.0
"""No test waits that long, unless it fails."""

HALF = b"GET /hello HTTP/1.1\r\nHost: x\r\n"
WHOLE = HALF + b"\r\n"
BIG_BYTES = 8_000_000
"""More than the sockets' buffers hold."""


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


async def hello(_: Request) -> Response:
    return PlainTextResponse("hello")


async def late(_: Request) -> Response:
    await anyio.sleep(0.3)
    return PlainTextResponse("late")


async def stream(_: Request) -> Response:
    async def pieces() -> AsyncGenerator[str]:
        for _ in range(3):
            await anyio.sleep(0.1)
            yield "piece "

    return StreamingResponse(pieces())


async def size(request: Request) -> Response:
    try:
        return PlainTextResponse(str(len(await request.body())))
    except ClientDisconnect:
        return PlainTextResponse("it stopped", 408)


async def big(_: Request) -> Response:
    return Response(bytes(BIG_BYTES))


APP = Starlette(
    routes=[
        Route("/hello", hello),
        Route("/late", late),
        Route("/stream", stream),
        Route("/size", size, methods=["POST"]),
        Route("/big", big),
    ]
)


class Server:
    """A server, and ways to talk with it."""

    def __init__(self, web: WebServer, port: int):
        self.web = web
        self.port = port

    @property
    def connections(self) -> int:
        return len(self.web.server_state.connections)

    async def connect(self, sent: bytes = b"") -> SocketStream:
        connection = await anyio.connect_tcp("127.0.0.1", self.port)
        if sent:
            await connection.send(sent)
        return connection

    async def ask(self, path: str = "/hello") -> str:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}") as client:
            return (await client.get(path)).text


@asynccontextmanager
async def serving(**limits: Any) -> AsyncIterator[Server]:
    with listening("127.0.0.1", 0, options="--") as listener:
        web = WebServer(APP, connections_limit_s=1, **limits)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(web.serve, [listener])
            await web.ready.wait()
            try:
                with anyio.fail_after(ENDS_S):
                    yield Server(web, listener.getsockname()[1])
            finally:
                web.should_exit = True


async def heard(connection: SocketStream) -> bytes:
    """Return what comes over a connection until the server ends it."""
    came = b""
    while True:
        try:
            came += await connection.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return came


async def heard_until(connection: SocketStream, end: bytes) -> None:
    """Wait until what comes over a connection ends in this way."""
    came = b""
    while not came.endswith(end):
        came += await connection.receive()


async def is_open(connection: SocketStream) -> bool:
    with anyio.move_on_after(0.05):
        await heard(connection)
        return False
    return True


async def test_half_sent_requests_are_ended_while_others_are_answered() -> None:
    async with serving(headers_limit_s=0.3) as server, AsyncExitStack() as stack:
        halves = [
            await stack.enter_async_context(await server.connect(HALF if number % 3 else b""))
            for number in range(300)
        ]
        assert await server.ask() == "hello"
        for half in halves:
            assert await heard(half) == b""
        assert await server.ask() == "hello"


async def test_headers_that_come_byte_by_byte_get_no_more_time() -> None:
    async with serving(headers_limit_s=0.15) as server, await server.connect() as connection:
        with pytest.raises((anyio.BrokenResourceError, anyio.ClosedResourceError)):
            for byte in WHOLE * 2:
                await connection.send(bytes([byte]))
                await anyio.sleep(0.02)


async def test_a_connection_is_ended_some_time_after_its_last_answer() -> None:
    async with serving(headers_limit_s=0.15) as server, await server.connect(WHOLE) as connection:
        for _ in range(3):
            await heard_until(connection, b"hello")
            await anyio.sleep(0.1)
            await connection.send(WHOLE)
        assert (await heard(connection)).count(b"hello") == 1


async def test_of_too_many_connections_the_longest_waiting_give_way() -> None:
    async with serving(max_connections=20, headers_limit_s=60) as server, AsyncExitStack() as stack:
        polling = await stack.enter_async_context(await server.connect(WHOLE.replace(b"hello", b"late")))
        silent = [await stack.enter_async_context(await server.connect(HALF)) for _ in range(40)]
        assert await server.ask() == "hello"
        for first in silent[:21]:
            assert await heard(first) == b""
        assert await is_open(silent[-1])
        assert server.connections <= 20
        # It is being answered: nothing that waits takes its place.
        await heard_until(polling, b"late")


async def test_whoever_waits_for_an_answer_is_not_ended() -> None:
    async with serving(headers_limit_s=0.05, body_pause_limit_s=0.05) as server:
        assert await server.ask("/late") == "late"
        assert await server.ask("/stream") == "piece " * 3


async def test_a_body_may_take_its_time_as_long_as_something_comes() -> None:
    async with serving(headers_limit_s=0.1, body_pause_limit_s=0.2) as server, await server.connect() as connection:
        await connection.send(b"POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n")
        for _ in range(6):
            await anyio.sleep(0.05)
            await connection.send(b"x")
        assert (await heard(connection)).endswith(b"\r\n\r\n6")


async def test_a_body_that_stops_is_over() -> None:
    async with serving(headers_limit_s=60, body_pause_limit_s=0.1) as server, await server.connect() as connection:
        await connection.send(b"POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nxxx")
        came = await heard(connection)
        assert came.startswith(b"HTTP/1.1 408 ") and came.endswith(b"it stopped")


async def test_headers_without_an_end_are_not_collected() -> None:
    async with serving(headers_limit_s=60) as server, await server.connect(HALF + b"X: ") as connection:
        with pytest.raises(anyio.BrokenResourceError):
            for _ in range(1_000):
                await connection.send(b"x" * 10_000)
        assert await server.ask() == "hello"


async def test_large_bodies_are_not_taken_for_headers() -> None:
    head = b"POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n"
    async with serving() as server, await server.connect(head) as connection:
        await connection.send(b"\r\n" + b"x" * 499_999)
        # Its end, and how the next one begins, in one.
        await connection.send(b"x" + head)
        await heard_until(connection, b"500000")
        await connection.send(b"\r\n" + b"x" * 500_000)
        await heard_until(connection, b"500000")


def asking_for_big(server: Server) -> socket.socket:
    """Ask for more than sockets hold, and be ready to take little of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(WHOLE.replace(b"hello", b"big"))
    connection.setblocking(False)
    return connection


async def test_whoever_takes_an_answer_slowly_gets_all_of_it() -> None:
    async with serving(headers_limit_s=0.1) as server:
        with asking_for_big(server) as connection:
            came = 0
            while came < BIG_BYTES:
                await anyio.wait_readable(connection)
                piece = connection.recv(200_000)
                assert piece
                came += len(piece)
                await anyio.sleep(0.01)


async def test_whoever_takes_none_of_it_is_ended() -> None:
    async with serving(headers_limit_s=0.05) as server:
        with asking_for_big(server):
            while not server.connections:
                await anyio.sleep(0.01)
            while server.connections:
                await anyio.sleep(0.01)


async def test_a_server_out_of_files_answers_again_once_there_are_some(
    anyio_backend: tuple[str, dict[str, Any]],
) -> None:
    if not anyio_backend[1]["use_uvloop"]:
        pytest.skip("where there is no uvloop there is no such limit")
    async with serving() as server:
        waiting = [socket.socket() for _ in range(3)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            # Fewer than are open: not even the one is left that the loop keeps for this.
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", server.port))
            await anyio.sleep(0.1)
            assert not server.connections
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for one in waiting:
                one.close()
        assert await server.ask() == "hello"
