"""What a client may send, and how often."""

import ipaddress
import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi.routing import APIRoute
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from loguru import logger
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runner.api.auth import Keys, presented_key
from runner.api.errors import RETRY_AFTER_S
from runner.records.keys import KeyIdentity, KeyKind
from runner.settings import ServerSettings

UNLIMITED_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""What watches the server, and is asked often."""

BodyLimit = int | Callable[[ServerSettings], int]
"""How many bytes a body may have, or how the settings say that."""

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])

_limits: dict[Callable[..., Any], BodyLimit] = {}


def takes_bytes(limit: BodyLimit) -> Callable[[_Endpoint], _Endpoint]:
    """Let the body of a route have so many bytes; without this it has ``server.max_body_bytes``.

    Stands below the route's own decorator::

        @router.post("/outcomes/")
        @takes_bytes(16_000_000)
        async def report(...): ...
    """

    def mark(endpoint: _Endpoint) -> _Endpoint:
        _limits[endpoint] = limit
        return endpoint

    return mark


def body_limit(route: APIRoute) -> BodyLimit:
    """Return how many bytes the body of a route may have."""
    return _limits.get(route.endpoint, _body_bytes)


def _body_bytes(server: ServerSettings) -> int:
    return server.max_body_bytes


def limited(scope: Scope, receive: Receive, most: int) -> Receive:
    """Return what receives a body of at most so many bytes.

    Raises:
        HTTPException: The request says that it has more (413). So does what is returned, once more has come: the
            framework answers with it, whoever is reading.
    """
    refusal = f"The body is larger than {most} bytes."
    said = Headers(scope=scope).get("Content-Length", "")
    # No longer than that is a length that anybody has; what is no number is not believed.
    if said.isascii() and said.isdigit() and len(said) < 20 and int(said) > most:
        raise HTTPException(413, refusal)
    came = 0

    async def receiving() -> Message:
        nonlocal came
        message = await receive()
        came += len(message.get("body", b""))
        if came > most:
            raise HTTPException(413, refusal)
        return message

    return receiving


class RateLimit:
    """Finds out whose key came with a request, and refuses with 429 what comes more often than is allowed.

    A right key counts for itself, whatever else comes from its address; a worker's is not limited: workers ask often,
    for each run they make. What comes without a right key counts for its address.
    """

    def __init__(self, app: ASGIApp, keys: Keys, per_minute: int):
        self._app = app
        self._keys = keys
        self._limit = RateLimitItemPerMinute(per_minute)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http" or scope["path"].rstrip("/") in UNLIMITED_PATHS:
            await self._app(scope, receive, send)
            return
        presented = presented_key(scope)
        try:
            identity = None if presented is None else await self._keys.identify(presented)
        except (SQLAlchemyError, OSError) as error:
            # Here nobody else answers for it: the routes are further in.
            logger.debug("a key could not be looked up ({})", type(error).__name__)
            detail = {"detail": "The record can't be used now."}
            await JSONResponse(detail, 503, {"Retry-After": str(RETRY_AFTER_S)})(scope, receive, send)
            return
        if identity is not None:
            scope.setdefault("state", {})["key"] = identity
        wait_s = await self._wait_s(scope, identity)
        if wait_s:
            answer = JSONResponse(
                {"detail": f"Request was throttled. Expected available in {wait_s} seconds."},
                429,
                {"Retry-After": str(wait_s)},
            )
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _wait_s(self, scope: Scope, identity: KeyIdentity | None) -> int:
        """Count a request, and return how long to wait until it may come again; 0 if it may now."""
        if identity is None:
            counted = ("address", _address(scope))
        elif identity.kind is KeyKind.WORKER:
            return 0
        else:
            counted = ("key", str(identity.id))
        if await self._limiter.hit(self._limit, *counted):
            return 0
        resets_at = (await self._limiter.get_window_stats(self._limit, *counted)).reset_time
        return max(1, math.ceil(resets_at - time.time()))


def _address(scope: Scope) -> str:
    """Return where a request is from. Of IPv6 the network, for whoever has one address there has all of it."""
    client = scope.get("client")
    try:
        address = ipaddress.ip_address(client[0] if client else "")
    except ValueError:
        return "unknown"
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)
