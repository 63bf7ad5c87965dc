"""Routers whose paths are spelled as Cekura's clients spell them."""

import json
import math
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, cast

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.convertors import Convertor, register_url_convertor
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_JSON_DEPTH = 64
"""How deep the values of a body may be nested."""


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
    (:class:`TrailingSlash`), and never redirected. ``{id}`` takes numbers alone. Bodies are read by
    :class:`StrictRequest`.

    Args:
        prefixes: The first one is the one that is described.
        tags: Tags of the operations.
    """

    def __init__(self, *prefixes: str, tags: list[str] | None = None):
        super().__init__(tags=cast(Any, tags), route_class=_StrictRoute, generate_unique_id_function=_operation_id)
        self._prefixes = prefixes or ("",)

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Register a path under every prefix."""
        shown: bool = options.pop("include_in_schema", True)
        for prefix in self._prefixes:
            full = f"{prefix}{path}".replace("{id}", "{id:id}").rstrip("/") or "/"
            is_described = shown and prefix == self._prefixes[0]
            super().add_api_route(full, endpoint, include_in_schema=is_described, **options)


def _operation_id(route: APIRoute) -> str:
    return "_".join([*(str(tag) for tag in route.tags[:1]), route.name]).replace("-", "_").replace(" ", "_")


class TrailingSlash:
    """Takes a path with a trailing slash for the one without."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] == "http" and len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope["path"] = scope["path"][:-1]
        await self._app(scope, receive, send)


class StrictRequest(Request):
    """A request whose JSON holds only what can be stored and given out again."""

    async def json(self) -> Any:
        """Return the body.

        Raises:
            json.JSONDecodeError: It is no JSON, or holds NUL characters, halves of characters, numbers beyond all
                bounds, or more than ``MAX_JSON_DEPTH`` levels.
        """
        return read_json(await self.body())


def read_json(content: bytes) -> Any:
    """Return the value of a JSON text, as strict as :class:`StrictRequest` is.

    Raises:
        json.JSONDecodeError: It is none. What was sent is not in the error.
    """
    try:
        value = json.loads(content, parse_constant=_refuse_constant, parse_float=_finite)
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


def _refuse_constant(_: str) -> Any:
    raise json.JSONDecodeError("NaN and Infinity are no JSON", "", 0)


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


class _StrictRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strictly
