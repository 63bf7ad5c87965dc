"""A receiver of webhooks, which answers as it is told to and keeps what it is sent."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.content)


@dataclass(frozen=True)
class Answer:
    """What is answered. Without a status nothing is, for as long as the receiver is there."""

    status: int | None = 200
    headers: dict[str, str] = field(default_factory=dict[str, str])


class Receiver:
    def __init__(self, answer: Callable[[Received], Answer]):
        self.answer = answer
        self.received: list[Received] = []
        self.closing = threading.Event()
        self.port = 0

    def url(self, path: str = "/hook", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def of(self, event: str) -> list[Received]:
        return [one for one in self.received if one.body.get("event_type") == event]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that gave up


def answers(*statuses: int | None) -> Callable[[Received], Answer]:
    """Return answers with these statuses in turn; the last one from then on."""
    left = list(statuses)
    return lambda _: Answer(left.pop(0) if len(left) > 1 else left[0])


@contextmanager
def receiving(
    answer: Callable[[Received], Answer] = lambda _: Answer(), *, port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[Receiver]:
    receiver = Receiver(answer)

    class _Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.received.append(one := Received(self.path, headers, content))
            said = receiver.answer(one)
            if said.status is None:
                receiver.closing.wait(30)
                return
            self.send_response(said.status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = _Server(("127.0.0.1", port), _Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.closing.set()
        server.shutdown()
        server.server_close()
