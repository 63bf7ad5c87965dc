"""What is logged of requests: no headers, no bodies, no tokens."""

import re
import time
import uuid
from typing import Any

from loguru import logger
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runner.api.metrics import Metrics
from runner.json_log import Lately

_REQUEST_ID_HEADER = b"x-request-id"
UNMATCHED = "unmatched"
"""Stands for the route of a request that no route takes."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_IDS_IN_PATHS = re.compile(r"/(runs|results)(?:-external)?/\{(\w+)\}")


class RequestLog:
    """Gives each request an id, logs and counts its answer, and answers for what went wrong inside.

    The id is the caller's own (``X-Request-ID``) where it sends a plain one, and goes back in the same header.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app = app
        self._metrics = metrics
        self._lately = Lately()

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
                message["headers"] = [*message.get("headers", ()), (_REQUEST_ID_HEADER, request_id.encode())]
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
        if name == _REQUEST_ID_HEADER:
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
