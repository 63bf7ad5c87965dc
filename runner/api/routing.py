"""Routers whose paths are spelled as Cekura's clients spell them, and what stands before each of their routes."""

import functools
import json
import math
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from runner.api.auth import admit, key_asked_for
from runner.api.errors import MAX_ERRORS, NON_FIELD, BadRequest
from runner.api.limits import body_limit, limited

MAX_JSON_DEPTH = 64
"""How deep the values of a body may be nested."""

MAX_JSON_VALUES = 250_000
"""How many values a body may hold: four times those of a call of two hours. They hold others up for 0.1 s at most."""

LARGE_BYTES = 16_000
"""From this size on a body is read in a thread: everybody else would wait for it."""

_STEP_BYTES = 1_000_000

MAX_LARGE_BODIES = 2
"""So many large bodies are read at once: what is read takes many times the memory of its text."""

_reading = anyio.CapacityLimiter(MAX_LARGE_BODIES)
_T = TypeVar("_T")


class _IdConvertor(Convertor[int]):
    """An id in a path. Whatever else stands there belongs to another route, or to none."""

    regex = "[0-9]{1,19}"

    def convert(self, value: str) -> int:
        """Return the id."""
        return int(value)

    def to_string(self, value: int) -> str:
        """Return what stands in the path."""
        return str(value)


register_url_convertor("id", _IdConvertor())


class CompatRouter(APIRouter):
    """Registers every path under several prefixes, as one operation in the API's description.

    Paths may be written with or without a trailing slash: requests are taken with and without one
    (:class:`PlainPaths`), and never redirected. ``{id}`` takes numbers alone. Before each route stands a
    :class:`Door`; bodies are read as :class:`JsonRoute` does.
    """

    def __init__(self, *prefixes: str, tags: list[str] | None = None):
        super().__init__(tags=cast(Any, tags), route_class=JsonRoute, generate_unique_id_function=_operation_id)
        self._prefixes = prefixes or ("",)

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Register a path under every prefix."""
        shown: bool = options.pop("include_in_schema", True)
        for prefix in self._prefixes:
            full = f"{prefix}{path}".replace("{id}", "{id:id}").rstrip("/") or "/"
            is_described = shown and prefix == self._prefixes[0]
            super().add_api_route(full, endpoint, include_in_schema=is_described, **options)
            route = cast(APIRoute, self.routes[-1])
            # Around whatever class of route it is.
            route.app = Door(route)


def _operation_id(route: APIRoute) -> str:
    return "_".join([*(str(tag) for tag in route.tags[:1]), route.name]).replace("-", "_").replace(" ", "_")


class Door:
    """Stands before a route: nothing of a body is read until the key is the one asked for, and not more than allowed.

    Args:
        route: The route. It says which kind of key it asks for by what it depends on, and how large its body may be
            by :func:`runner.api.limits.takes_bytes`.
    """

    def __init__(self, route: APIRoute):
        self._app = route.app
        self._kind = key_asked_for(route.dependant)
        self._limit = body_limit(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request.

        Raises:
            Unauthorized: A key is asked for, and there is none or it is unknown or revoked.
            Forbidden: It is of another kind.
            HTTPException: The body is too large (413).
        """
        if self._kind is not None:
            admit(scope, self._kind)
        server = scope["app"].state.services.settings.server
        most = self._limit if isinstance(self._limit, int) else self._limit(server)
        await self._app(scope, limited(scope, receive, most), send)


class PlainPaths:
    """Takes a path with a trailing slash for the one without, and refuses addresses with what no database takes."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] == "http":
            if "\0" in scope["path"] or b"%00" in scope.get("query_string", b""):
                await JSONResponse({"detail": "The address holds a NUL character."}, 400)(scope, receive, send)
                return
            if len(scope["path"]) > 1 and scope["path"].endswith("/"):
                scope["path"] = scope["path"][:-1]
        await self._app(scope, receive, send)


class JsonRoute(APIRoute):
    """A route whose body is JSON, of which a large one is read and checked in a thread.

    What can't be stored and given out again is refused. A route that takes it all the same has a class of its own,
    with another :meth:`read`.
    """

    @staticmethod
    def read(content: bytes) -> Any:
        """Return the value of a body.

        Raises:
            ValueError: It can't be read.
        """
        return read_json(content)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what handles a request."""
        handle = super().get_route_handler()

        async def with_json(request: Request) -> Response:
            body = _JsonRequest(request, self.read, self._read_large)
            if self.body_field is not None:
                # Here, for whoever calls takes a connection that breaks for a body that is wrong.
                await body.body()
            try:
                return await handle(body)
            except _Wrong as wrong:
                raise wrong.error from None

        return with_json

    @functools.cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        if self.body_field is None or self._embed_body_fields:
            return TypeAdapter(Any)
        return TypeAdapter(cast(Any, self.body_field.field_info.annotation))

    def _read_large(self, content: bytes) -> Any:
        """Return what a route gets for a large body.

        Raises:
            ValueError: It can't be read, or holds too many values.
            _Wrong: It is no such body as the route takes.
        """
        _count_values(content)
        value = self.read(content)
        try:
            return self._adapter.validate_python(value, from_attributes=True)
        except ValidationError as error:
            if error.error_count() > MAX_ERRORS:
                # To name them takes ten times as long as to find them.
                raise _Wrong(BadRequest({NON_FIELD: [f"More than {MAX_ERRORS} values are wrong."]})) from None
            problems = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
            raise _Wrong(RequestValidationError(problems, body=value)) from None


class _JsonRequest(Request):
    """A request whose body is read by a thread if it is large.

    What it was checked for is then not checked again: a model is itself.
    """

    def __init__(self, request: Request, read: Callable[[bytes], Any], read_large: Callable[[bytes], Any]):
        super().__init__(request.scope, request.receive)
        self._read = read
        self._read_large = read_large

    async def json(self) -> Any:
        """Return the body's value, and of a large one what its route gets for it.

        Raises:
            ValueError: It can't be read.
            _Wrong: It is large, and no such body as its route takes.
        """
        content = await self.body()
        return await off_the_loop(self._read_large, content) if _is_large(content) else self._read(content)


class _Wrong(HTTPException):
    """Carries what is wrong with a body: the framework lets nothing else through while a body is read."""

    def __init__(self, error: BadRequest | RequestValidationError):
        super().__init__(400)
        self.error = error


async def off_the_loop(work: Callable[[bytes], _T], content: bytes) -> _T:
    """Return what comes of a body: of a large one, in a thread."""
    if not _is_large(content):
        return work(content)
    return await anyio.to_thread.run_sync(work, content, limiter=_reading)


def _is_large(content: bytes) -> bool:
    return len(content) >= LARGE_BYTES


def _count_values(content: bytes) -> None:
    """Refuse a text with too many values, by what begins or parts them; what of that stands in texts counts as well.

    Raises:
        json.JSONDecodeError: There are too many.
    """
    left = MAX_JSON_VALUES
    for start in range(0, len(content), _STEP_BYTES):
        left -= sum(content.count(mark, start, start + _STEP_BYTES) for mark in (b",", b"[", b"{"))
        if left < 0:
            raise json.JSONDecodeError(f"more than {MAX_JSON_VALUES} values", "", 0)


def read_json(content: bytes) -> Any:
    """Return the value of a JSON text, which holds only what can be stored and given out again.

    Raises:
        json.JSONDecodeError: It is none, or holds NUL characters, halves of characters, numbers beyond all bounds, or
            more than ``MAX_JSON_DEPTH`` levels. What was sent is not in the error.
    """
    try:
        value = parse_json(content, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise json.JSONDecodeError(error.msg, "", 0) from None
    except UnicodeDecodeError:
        raise json.JSONDecodeError("not UTF-8", "", 0) from None
    except RecursionError:
        raise json.JSONDecodeError(f"nested more than {MAX_JSON_DEPTH} deep", "", 0) from None
    except ValueError:
        raise json.JSONDecodeError("a number is too large", "", 0) from None
    _check(value, text_is_suspect=b"\\u" in content)
    return value


def parse_json(
    content: bytes,
    *,
    parse_constant: Callable[[str], Any] | None = None,
    parse_float: Callable[[str], Any] | None = None,
) -> Any:
    """Return the value of a JSON text as ``json.loads`` does; other threads can go on after each of its objects.

    Raises:
        ValueError: It is none.
    """
    return json.loads(content, object_hook=_let_others_go_on, parse_constant=parse_constant, parse_float=parse_float)


def _let_others_go_on(value: dict[str, Any]) -> dict[str, Any]:
    # Being called is enough: within the parser itself the interpreter stays with one thread.
    return value


def _refuse_constant(_: str) -> Any:
    raise json.JSONDecodeError("NaN and Infinity are not valid JSON", "", 0)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise json.JSONDecodeError("a number is too large", "", 0)
    return number


def _check(value: Any, *, text_is_suspect: bool) -> None:
    """Refuse what can't be stored. Level by level, for a recursion could run out of stack."""
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        if not level:
            return
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                mapping = cast(dict[str, Any], item)
                if text_is_suspect:
                    _check_texts(mapping)
                below.extend(mapping.values())
            elif isinstance(item, list):
                below.extend(cast(list[Any], item))
            elif isinstance(item, str):
                if text_is_suspect:
                    _check_texts((item,))
            elif isinstance(item, int) and abs(item) >= 1 << 63:
                raise json.JSONDecodeError("a number is too large", "", 0)
        level = below
    raise json.JSONDecodeError(f"nested more than {MAX_JSON_DEPTH} deep", "", 0)


def _check_texts(texts: Iterable[str]) -> None:
    for text in texts:
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise json.JSONDecodeError("a text holds a NUL character, or half a character", "", 0)
