"""Structured logs: a JSON object a line. No headers, no bodies, no tokens."""

import json
import logging
import re
import sys
import time
import traceback
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TextIO, cast

from loguru import logger
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runner.api.metrics import Metrics
from runner.errors import RunnerError

REQUEST_ID_HEADER = "X-Request-ID"
UNMATCHED = "unmatched"
"""Stands for the route of a request that no route takes."""

AGAIN_S = 60.0
"""How soon the same is told again that comes again and again: while a database is away every request fails, and the
queue's engine says so every second."""

_BEGINNING = 50
"""So many characters say what a message of its is about."""

_REMEMBERED = 100

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_FIELDS = ("request_id", "key_id", "run_id", "attempt", "result_id")
_IDS_IN_PATHS = re.compile(r"/(runs|results)(?:-external)?/\{(\w+)\}")


def log_as_json(level: str, stream: TextIO | None = None) -> int:
    """Let everything that is logged, by loguru or by the standard library, go out as JSON lines.

    A line has ``time``, ``level``, ``message`` and, where they are known, ``request_id``, ``key_id``, ``run_id``,
    ``attempt`` and ``result_id``. Of an exception it has the type and where it was raised; its words only if they are
    this project's own, for those of libraries can quote what was sent. For the same reason libraries that use the
    standard library's logging are heard from warnings on: below, some write down SQL with its values, and addresses
    with their queries.

    Args:
        level: The lowest level that is logged.
        stream: Where to; standard error by default.

    Returns:
        The sink's id, for ``logger.remove``.
    """
    target = stream or sys.stderr

    def write(message: Any) -> None:
        target.write(_line(cast(Mapping[str, Any], message.record)) + "\n")
        target.flush()

    logger.remove()
    sink = logger.add(write, level=level, format="{message}", backtrace=False, diagnose=False)
    lowest = max(logging.getLevelNamesMapping().get(level, 0), logging.WARNING)
    logging.basicConfig(handlers=[_ToLoguru()], level=lowest, force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        standard = logging.getLogger(name)
        standard.handlers = []
        standard.propagate = name != "uvicorn.access"
    return sink


def _line(record: Mapping[str, Any]) -> str:
    entry: dict[str, Any] = {
        "time": record["time"].astimezone().isoformat(timespec="milliseconds"),
        "level": record["level"].name,
        "message": record["message"],
    }
    entry.update({name: record["extra"][name] for name in _FIELDS if record["extra"].get(name) is not None})
    if (raised := record["exception"]) is not None and raised.value is not None:
        error: BaseException = raised.value
        entry["error"] = type(error).__name__
        if isinstance(error, RunnerError):
            entry["reason"] = str(error)
        frames = traceback.extract_tb(raised.traceback)
        entry["raised_at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-20:]]
    return json.dumps(entry, default=str)


class _Lately:
    """Remembers what was said within the last minute."""

    def __init__(self) -> None:
        self._said_s: OrderedDict[str, float] = OrderedDict()

    def was_said(self, text: str) -> bool:
        """Return whether a text was said lately; from now on it was."""
        now_s = time.monotonic()
        said_s = self._said_s.get(text)
        if said_s is not None and now_s - said_s < AGAIN_S:
            return True
        self._said_s[text] = now_s
        self._said_s.move_to_end(text)
        while len(self._said_s) > _REMEMBERED:
            self._said_s.popitem(last=False)
        return False


class _ToLoguru(logging.Handler):
    """Hands on what the standard library logs."""

    def __init__(self) -> None:
        super().__init__()
        self._lately = _Lately()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        text = record.getMessage()
        if record.name == "dbos":
            # Every thread of its says every second that the database is away, with a traceback in its words.
            text = text.partition("\n")[0].removesuffix("Traceback (most recent call last):").rstrip(": ")
            raised = record.exc_info[0] if record.exc_info else None
            # Cancelling what a worker left behind is no error.
            if self._lately.was_said(text[:_BEGINNING]) or (raised is not None and "Cancelled" in raised.__name__):
                level = "DEBUG"
        logger.opt(exception=record.exc_info).log(level, "{}", text)


class RequestLog:
    """Gives each request an id, logs and counts its answer, and answers for what went wrong inside.

    The id is the caller's own (``X-Request-ID``) where it sends a plain one, and goes back in the same header.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app = app
        self._metrics = metrics
        self._lately = _Lately()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        request_id = _request_id(scope)
        begun_s = time.perf_counter()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        with logger.contextualize(request_id=request_id):
            try:
                await self._app(scope, receive, sending)
            except Exception as error:
                if not self._lately.was_said(f"{_route(scope)} {type(error).__name__}"):
                    logger.opt(exception=True).bind(**_ids(scope)).error("a request could not be answered")
                if status:
                    raise
                await JSONResponse({"detail": "Something went wrong on the server."}, 500)(scope, receive, sending)
            finally:
                took_s = time.perf_counter() - begun_s
                route = _route(scope)
                self._metrics.answered(route, scope["method"], status or 499, took_s)
                line = f"{scope['method']} {route} {status or 499} {took_s * 1_000:.1f} ms"
                logger.bind(**_ids(scope)).log("WARNING" if status >= 500 else "INFO", "{}", line)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(given):
                return given
    return uuid.uuid4().hex


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path_format", UNMATCHED)


def _ids(scope: Scope) -> dict[str, Any]:
    """Return the ids a request is about: of its key, and of run and result where its path names one."""
    ids: dict[str, Any] = {}
    key = scope["state"].get("key")
    if key is not None:
        ids["key_id"] = key.id
    for kind, parameter in _IDS_IN_PATHS.findall(_route(scope)):
        value = str(scope.get("path_params", {}).get(parameter, ""))
        if value.isdecimal():
            ids["run_id" if kind == "runs" else "result_id"] = int(value)
    return ids
