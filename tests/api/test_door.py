"""What stands before every route: first the key, then the size of the body, then the body, out of everybody's way."""

import dataclasses
import json
import threading
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from pydantic import AfterValidator, BaseModel, Field
from starlette.types import Message

from runner.api.app import create_app
from runner.api.auth import UserKey, WorkerKey
from runner.api.limits import takes_bytes
from runner.api.routing import LARGE_BYTES, CompatRouter, JsonRoute
from runner.api.services import Services
from tests.api.conftest import Client, client_of

pytestmark = pytest.mark.anyio

OPEN = {"/healthz", "/readyz", "/metrics"}
WRITING = {"POST", "PUT", "PATCH"}
JSON = {"Content-Type": "application/json"}


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Yield method and path of every route that may have a body."""
    for route in app.routes:
        if isinstance(route, APIRoute):
            path = route.path_format.replace("{id}", "1").replace("{name}", "recording.wav")
            yield from ((method, path) for method in route.methods if method in WRITING)


async def asked_before_the_body(app: FastAPI, method: str, path: str, key: str | None) -> int:
    """Return the status of the answer to a request of which no byte of the body may be read."""

    async def receive() -> Message:
        raise AssertionError(f"the body of {method} {path} is read")

    statuses: list[int] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = {
        "Content-Type": "application/json",
        "Content-Length": "9" * 15,
        **({"Authorization": key} if key else {}),
    }
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"attempt=1",
        "scheme": "http",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("192.0.2.1", 1),
        "server": ("testserver", 80),
    }
    await app(scope, receive, send)
    return statuses[0]


async def test_nothing_of_a_body_is_read_without_a_known_key(app: FastAPI) -> None:
    asked = list(routes(app))
    assert len(asked) > 40
    for method, path in asked:
        for key in (None, "Bearer psr_made-up", "Basic x"):
            assert await asked_before_the_body(app, method, path, key) == 401, (method, path, key)


async def test_nothing_of_a_body_is_read_with_a_key_of_the_wrong_kind(
    app: FastAPI, user_key: str, worker_key: str
) -> None:
    for method, path in routes(app):
        wrong, right = (user_key, worker_key) if path.startswith("/worker/") else (worker_key, user_key)
        assert await asked_before_the_body(app, method, path, f"Bearer {wrong}") == 403, (method, path)
        assert await asked_before_the_body(app, method, path, f"Bearer {right}") == 413, (method, path)


async def test_a_key_is_not_asked_for_where_none_is_needed(anonymous: Client) -> None:
    for path in OPEN:
        assert (await anonymous.get(path)).status_code in (200, 503)
    assert (await anonymous.get("/openapi.json")).status_code == 200


threads: list[int] = []


def _note_thread(value: Any) -> Any:
    threads.append(threading.get_ident())
    return value


class Texts(BaseModel):
    texts: Annotated[list[str], AfterValidator(_note_thread), Field(max_length=5)]
    count: int = 0
    others: list[str] = []


class Lenient(JsonRoute):
    @staticmethod
    def read(content: bytes) -> Any:
        return json.loads(content.replace(b"NaN", b"0"))


@pytest.fixture
def echo(services: Services) -> FastAPI:
    """An application with routes that take bodies of several sizes."""
    server = services.settings.server.model_copy(update={"max_body_bytes": 200_000, "max_artefact_bytes": 400_000})
    app = create_app(dataclasses.replace(services, settings=services.settings.model_copy(update={"server": server})))
    router = CompatRouter("/echo")

    @router.post("/default")
    async def default(request: Request, key: UserKey, body: Texts) -> int:
        return len(await request.body())

    @router.post("/small")
    @takes_bytes(1_000)
    async def small(request: Request, key: UserKey, body: Texts) -> int:
        return len(await request.body())

    @router.put("/raw")
    @takes_bytes(lambda server: server.max_artefact_bytes)
    async def raw(request: Request, key: WorkerKey) -> int:
        return sum([len(piece) async for piece in request.stream()])

    lenient = CompatRouter("/lenient")
    lenient.route_class = Lenient

    @lenient.post("/")
    async def count(key: UserKey, body: Texts) -> int:
        return body.count

    app.router.routes.extend([*router.routes, *lenient.routes])
    return app


def body_of(size: int, **more: Any) -> bytes:
    return json.dumps({"texts": ["x"], **more}).encode().ljust(size)


@pytest.mark.parametrize(("path", "most"), [("/echo/default", 200_000), ("/echo/small", 1_000)])
async def test_the_limit_of_a_body_is_its_routes(echo: FastAPI, user_key: str, path: str, most: int) -> None:
    async with client_of(echo, user_key) as client:

        async def pieces() -> Any:
            yield body_of(most)
            yield b" "

        for content in (body_of(most + 1), pieces()):
            answer = await client.post(path, content=content, headers=JSON)
            assert (answer.status_code, answer.json()) == (413, {"detail": f"The body is larger than {most} bytes."})
        assert (await client.post(path, content=body_of(most), headers=JSON)).json() == most


async def test_a_limit_may_be_a_setting(echo: FastAPI, worker_key: str) -> None:
    async with client_of(echo, worker_key) as worker:
        assert (await worker.put("/echo/raw", content=b"x" * 400_000)).json() == 400_000
        assert (await worker.put("/echo/raw", content=b"x" * 400_001)).status_code == 413


async def test_large_bodies_are_read_and_checked_in_a_thread(echo: FastAPI, user_key: str) -> None:
    async with client_of(echo, user_key) as client:
        for size, is_large in ((LARGE_BYTES - 1, False), (LARGE_BYTES, True)):
            threads.clear()
            answer = await client.post("/echo/default", content=body_of(size), headers=JSON)
            assert answer.json() == size
            # Once: what a thread has checked is not checked again.
            assert [thread != threading.get_ident() for thread in threads] == [is_large]


WRONG: list[tuple[bytes, int, dict[str, Any]]] = [
    (b'{"texts": ["x"], "count": "x"}', 400, {"count": ["A valid integer is required."]}),
    (b'{"texts": [1, "x"]}', 400, {"texts": {"0": ["Not a valid string."]}}),
    (b"{}", 400, {"texts": ["This field is required."]}),
    (b"[]", 400, {"non_field_errors": ["Invalid data. Expected a dictionary."]}),
    (
        b'{"texts": ["\\u0000"]}',
        400,
        {"detail": "JSON parse error - a text holds a NUL character, or half a character"},
    ),
    (b"{", 400, {"detail": "JSON parse error - Expecting property name enclosed in double quotes"}),
    (b'{"count": NaN}', 400, {"detail": "JSON parse error - NaN and Infinity are not valid JSON"}),
]


@pytest.mark.parametrize(("content", "status", "body"), WRONG)
@pytest.mark.parametrize("size", [0, LARGE_BYTES])
async def test_a_wrong_body_is_answered_the_same_whatever_its_size(
    echo: FastAPI, user_key: str, size: int, content: bytes, status: int, body: dict[str, Any]
) -> None:
    async with client_of(echo, user_key) as client:
        answer = await client.post("/echo/default", content=content.ljust(size), headers=JSON)
        assert (answer.status_code, answer.json()) == (status, body)
        answer = await client.post(
            "/echo/default", content=content.ljust(size), headers={"Content-Type": "text/plain"}
        )
        assert answer.status_code == 415


@pytest.mark.parametrize("size", [0, LARGE_BYTES])
async def test_a_route_may_read_bodies_in_its_own_way(echo: FastAPI, user_key: str, size: int) -> None:
    async with client_of(echo, user_key) as client:
        answer = await client.post("/lenient", content=b'{"texts": [], "count": NaN}'.ljust(size), headers=JSON)
        assert (answer.status_code, answer.json()) == (200, 0)


@pytest.mark.parametrize("item", [0, {}, []])
async def test_a_body_of_too_many_values_is_not_read(client: Client, item: Any) -> None:
    answer = await client.post("/test_framework/v1/scenarios/", json={"name": "x", "extra": [item] * 250_001})
    assert (answer.status_code, answer.json()) == (400, {"detail": "JSON parse error - more than 250000 values"})


async def test_a_body_with_too_much_wrong_is_told_so_at_once(echo: FastAPI, user_key: str) -> None:
    async with client_of(echo, user_key) as client:
        for count, named in ((4_000, "others"), (4_001, "non_field_errors")):
            answer = await client.post(
                "/echo/default", json={"texts": [], "others": [0] * count + ["x" * LARGE_BYTES]}
            )
            assert answer.status_code == 400
            assert list(answer.json()) == [named]
        assert answer.json()[named] == ["More than 4000 values are wrong."]
