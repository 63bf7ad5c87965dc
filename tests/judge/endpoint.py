"""A local endpoint that speaks OpenAI's chat completions, and answers as it is told to."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from runner.settings import JudgeSettings

Body = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """What the endpoint sends back.

    Attributes:
        body: JSON if no string.
        status: The HTTP status.
        headers: Further headers.
        hangs: Nothing is sent at all.
    """

    body: Body | str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hangs: bool = False


HANGS = Reply(hangs=True)


def completion(content: str | None, sent: int | None = 100, answered: int | None = 10) -> Reply:
    """Return a chat completion with so many tokens used; without any where the service does not say."""
    body: Body = {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
    }
    if sent is not None and answered is not None:
        body["usage"] = {"prompt_tokens": sent, "completion_tokens": answered, "total_tokens": sent + answered}
    return Reply(body)


def verdict(choice: str, probability: float = 0.97) -> Reply:
    """Return the answer to a question about a reply."""
    rest = round((1 - probability) / 2, 6)
    probabilities = {option: probability if option == choice else rest for option in ("yes", "no", "continue")}
    return completion(json.dumps({"verdict": {"choice": choice, "probabilities": probabilities}}))


def call_verdict(probability: float) -> Reply:
    """Return the answer to a question about a function call."""
    return completion(json.dumps({"answer": {"probability": probability}}))


def reason(text: str) -> Reply:
    """Return a reason for a verdict."""
    return completion(json.dumps({"reason": text}))


def asks_for_reason(body: Body) -> bool:
    """Whether a request asks why, and not whether."""
    return "reason" in body["response_format"]["json_schema"]["schema"]["properties"]


def prompt(body: Body) -> str:
    """Return all that a request tells the model."""
    return "\n".join(str(message["content"]) for message in body["messages"])


class Endpoint:
    """The endpoint.

    Args:
        answer: Makes the reply to a request.
    """

    def __init__(self, answer: Callable[[Body], Reply]):
        self.bodies: list[Body] = []
        self.keys: list[str | None] = []
        self.closed = threading.Event()
        endpoint = self

        class _Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.bodies.append(body)
                endpoint.keys.append(self.headers.get("Authorization"))
                reply = answer(body)
                if reply.hangs:
                    endpoint.closed.wait(30)
                    return
                text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
                self.send_response(reply.status)
                self.send_header("Content-Type", "application/json")
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class _Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that gave up waiting

        self.server = _Server(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def settings(self, **given: Any) -> JudgeSettings:
        return JudgeSettings(**{"base_url": self.url, "model": "m", "timeout_s": 5, **given})

    @property
    def questions(self) -> list[Body]:
        """The requests that ask whether."""
        return [body for body in self.bodies if not asks_for_reason(body)]


@contextmanager
def serve(answer: Callable[[Body], Reply] | Reply) -> Iterator[Endpoint]:
    """Serve an endpoint while the context is open."""
    endpoint = Endpoint(answer if callable(answer) else lambda _: answer)
    thread = threading.Thread(target=endpoint.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.closed.set()
        endpoint.server.shutdown()
        endpoint.server.server_close()
