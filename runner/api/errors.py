"""What the API answers when it refuses: bodies in the shapes Cekura's clients know.

A wrong field is ``{field: [message, …]}``, nested where fields are; everything else is ``{"detail": …}``. No answer
repeats what was sent: it may hold a token.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, JsonValue, RootModel
from sqlalchemy.exc import TimeoutError as DatabaseTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from runner.records.honoured import NOT_KNOWN

NON_FIELD = "non_field_errors"
"""Where messages go that belong to no field of their own."""

MAX_ERRORS = 4_000
"""So many problems of one body are named, which takes 25 ms; the others show when these are mended."""

RETRY_AFTER_S = 2
"""When whoever found the record busy may try again."""

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

_IS_NAME = re.compile(r"[a-z]+(?:_[a-z]+){0,5}")

REQUIRED = "This field is required."


class Detail(BaseModel):
    """Why a request was refused, in one line."""

    detail: str


class FieldErrors(RootModel[dict[str, JsonValue]]):
    """What is wrong, by field: a list of messages, or the same again for the fields within."""


class ApiError(Exception):
    """A request is refused."""

    def __init__(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None):
        super().__init__(f"{status}")
        self.status = status
        self.body = dict(body)
        self.headers = dict(headers or {})


class BadRequest(ApiError):
    """Fields are wrong (400). Each value is a list of messages, or nested as the fields are."""

    def __init__(self, errors: Mapping[str, Any]):
        super().__init__(400, errors)


class _Refused(ApiError):
    _status: int
    _headers: Mapping[str, str]

    def __init_subclass__(cls, status: int, **headers: str):
        cls._status, cls._headers = status, {name.replace("_", "-"): value for name, value in headers.items()}

    def __init__(self, detail: str):
        super().__init__(self._status, {"detail": detail}, self._headers)


class Unauthorized(_Refused, status=401, WWW_Authenticate="Bearer"):
    """There is no key, or none that is known."""


class Forbidden(_Refused, status=403):
    """The key is known and may not do this."""


class NotFound(_Refused, status=404):
    """There is no such thing, or none in the key's project."""

    def __init__(self, detail: str = "Not found."):
        super().__init__(detail)


class Conflict(_Refused, status=409):
    """It can't be done any more, or not now."""


class Gone(_Refused, status=410):
    """What is spoken of was given up."""


class TooLarge(_Refused, status=413):
    """More was sent than is kept."""


class UpgradeRequired(_Refused, status=426):
    """Whoever asks is of another version."""


class Unavailable(_Refused, status=503, Retry_After="1"):
    """It can't be done now, and may be a moment later."""


class OutOfStorage(_Refused, status=507):
    """It can't be kept now."""


Responses = dict[int | str, dict[str, Any]]

_DETAILS = {
    401: "No key, or none that is known.",
    403: "The key may not do this.",
    404: "There is no such thing in the key's project.",
    409: "It can't be done any more, or not now.",
    408: "The body did not come to its end.",
    410: "It was given up.",
    413: "The body is too large.",
    415: "The Content-Type says that the body is not JSON.",
    426: "Whoever asks is of another version.",
    429: "Too many requests; Retry-After says for how many seconds.",
    503: "It can't be done now; Retry-After says for how many seconds.",
    507: "It can't be kept now.",
}


def refusals(*statuses: int) -> Responses:
    """Return what a route's ``responses`` says of the statuses it refuses with.

    Every route has 400, 401, 403, 408, 413, 415, 429 and 503 besides those given.
    """
    declared: Responses = {400: {"model": FieldErrors, "description": "Something in the request is wrong."}}
    for status in sorted({401, 403, 408, 413, 415, 429, 503, *statuses} - {400}):
        declared[status] = {"model": Detail, "description": _DETAILS[status]}
    return declared


def missing(kind_id: int) -> str:
    """Return the message about an id of which there is nothing in the key's project."""
    return f'Invalid pk "{kind_id}" - object does not exist.'


def install(app: FastAPI) -> None:
    """Let an application answer errors in these shapes."""

    async def refused(_: Request, error: Exception) -> JSONResponse:
        problem = cast(ApiError, error)
        return JSONResponse(problem.body, problem.status, problem.headers)

    async def http(request: Request, error: Exception) -> JSONResponse:
        problem = cast(HTTPException, error)
        detail = "Not found." if problem.status_code == 404 else str(problem.detail)
        headers = dict(problem.headers or {})
        if problem.status_code == 405:
            headers["Allow"] = ", ".join(_allowed(request))
        return JSONResponse({"detail": detail}, problem.status_code, headers)

    async def unfinished(_: Request, error: Exception) -> JSONResponse:
        # Nobody may hear it: the connection broke, unless the server has waited for too long.
        return JSONResponse({"detail": "The body did not come to its end."}, 408)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        return _answer_invalid(cast(RequestValidationError, error))

    async def busy(_: Request, __: Exception) -> JSONResponse:
        detail = f"Too many requests wait for the record. Try again in {RETRY_AFTER_S} s."
        return JSONResponse({"detail": detail}, 503, {"Retry-After": str(RETRY_AFTER_S)})

    app.add_exception_handler(ApiError, refused)
    # Also where a pool has run out of connections.
    app.add_exception_handler(DatabaseTimeoutError, busy)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(ClientDisconnect, unfinished)
    app.add_exception_handler(RequestValidationError, invalid)


def _allowed(request: Request) -> list[str]:
    """Return the methods that a path is there for: the framework names those of one route alone."""
    asked = {name: request.scope[name] for name in ("type", "path", "root_path", "headers")}
    return [
        method
        for method in _METHODS
        if any(route.matches({**asked, "method": method})[0] is Match.FULL for route in request.app.router.routes)
    ]


def _answer_invalid(error: RequestValidationError) -> JSONResponse:
    problems = cast(Sequence[Mapping[str, Any]], error.errors())
    sources = {problem["loc"][0] for problem in problems}
    if "path" in sources:
        return JSONResponse({"detail": "Not found."}, 404)
    if any(problem["type"] == "json_invalid" for problem in problems):
        reason = problems[0].get("ctx", {}).get("error", "not valid JSON")
        return JSONResponse({"detail": f"JSON parse error - {reason}"}, 400)
    if "body" in sources and isinstance(error.body, bytes):
        return JSONResponse({"detail": "Unsupported media type; send Content-Type: application/json."}, 415)
    return JSONResponse(field_errors(problems, error.body), 400)


def field_errors(problems: Sequence[Mapping[str, Any]], body: Any) -> dict[str, JsonValue]:
    """Return pydantic's problems as ``{field: [message, …]}``, nested as the fields are.

    Args:
        problems: As ``errors()`` of a ``RequestValidationError`` gives them: each place begins with its source.
        body: What was sent, to tell fields from the names pydantic gives to the members of a union.
    """
    root: dict[str | int, Any] = {}
    for problem in problems[:MAX_ERRORS]:
        source, *places = problem["loc"]
        path = _fields(places, body, problem["type"]) if source == "body" else places
        if problem["type"] == "extra_forbidden" and not _IS_NAME.fullmatch(str(path[-1])):
            # Whatever it is: a token is not repeated because it stands where a name should.
            path = path[:-1]
        _put(root, path, _message(problem))
    found = _shaped(root)
    return cast(dict[str, JsonValue], found if isinstance(found, dict) else {NON_FIELD: found})


def _fields(places: Sequence[str | int], body: Any, kind: str) -> list[str | int]:
    """Return those parts of a place that are fields and items of the body."""
    path: list[str | int] = []
    value = body
    for index, part in enumerate(places):
        if isinstance(value, dict) and part in value:
            value = cast(dict[Any, Any], value)[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(cast(list[Any], value)):
            value = cast(list[Any], value)[part]
        elif not (kind == "missing" and index == len(places) - 1):
            continue
        path.append(part)
    return path


def _put(root: dict[str | int, Any], path: Sequence[str | int], message: str) -> None:
    node = root
    for part in path:
        node = node.setdefault(part, {})
    messages: list[str] = node.setdefault(NON_FIELD, [])
    if message not in messages:
        messages.append(message)


def _shaped(node: dict[str | int, Any]) -> JsonValue:
    messages: list[str] = node.get(NON_FIELD, [])
    children = {key: _shaped(child) for key, child in node.items() if key != NON_FIELD}
    if not children:
        return cast(JsonValue, messages)
    if not messages and all(isinstance(key, int) for key in children):
        if all(isinstance(child, dict) for child in children.values()):
            # The way of Django's serializers: an item without fault is an empty object.
            last = max(cast(list[int], list(children)))
            return [children.get(index, {}) for index in range(last + 1)]
        return {str(key): child for key, child in children.items()}
    named: dict[str, JsonValue] = {str(key): child for key, child in children.items()}
    return {**named, NON_FIELD: cast(JsonValue, messages)} if messages else named


def _message(problem: Mapping[str, Any]) -> str:
    kind: str = problem["type"]
    limits: Mapping[str, Any] = problem.get("ctx") or {}
    if kind == "missing":
        return REQUIRED
    if problem.get("input", ...) is None and (kind.endswith("_type") or kind in ("literal_error", "is_instance_of")):
        return "This field may not be null."
    if kind in ("string_too_short", "too_short") and limits.get("min_length") == 1:
        return "This field may not be blank." if kind == "string_too_short" else "This list may not be empty."
    if kind == "extra_forbidden":
        return NOT_KNOWN
    if kind == "value_error":
        return str(limits.get("error", problem["msg"]))
    for kinds, message in _MESSAGES.items():
        if kind in kinds.split():
            return message.format_map(limits)
    return str(problem["msg"])


_MESSAGES = {
    "int_type int_parsing int_from_float int_parsing_size": "A valid integer is required.",
    "float_type float_parsing finite_number": "A valid number is required.",
    "string_type string_unicode": "Not a valid string.",
    "bool_type bool_parsing": "Must be a valid boolean.",
    "list_type": "Expected a list of items.",
    "dict_type model_type model_attributes_type": "Invalid data. Expected a dictionary.",
    "string_too_long": "Ensure this field has no more than {max_length} characters.",
    "too_long": "Ensure this field has no more than {max_length} elements.",
    "greater_than_equal": "Ensure this value is greater than or equal to {ge}.",
    "less_than_equal": "Ensure this value is less than or equal to {le}.",
    "literal_error enum": "Not a valid choice; it must be {expected}.",
}
"""What is said of pydantic's kinds of errors."""
