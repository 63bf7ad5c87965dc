"""What a client may send, and how often."""

import hashlib
import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runner.api.auth import KEY_HEADER
from runner.records.keys import KeyKind
from runner.settings import ServerSettings

UNLIMITED_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""What watches the server, and is asked often."""

REPORTS = "/worker/v1/"
"""Where workers report to."""

MAX_REPORT_BYTES = 64_000_000
"""The largest outcome: two hours of talk, with everything that was said and expected, are a fraction of it."""

ARTEFACTS = "/artefacts/"
"""In the path of a recording or timeline that a worker sends."""

MAX_KNOWN_KEYS = 10_000
"""So many keys that were found valid are remembered; their owners are counted for themselves."""

_KEY_HEADER = KEY_HEADER.lower().encode()


class BodyLimit:
    """Refuses bodies that are too large with 413, by their ``Content-Length`` or when too much has come.

    Also refuses NUL characters in addresses, which no database takes.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings):
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if "\0" in scope["path"] or b"%00" in scope.get("query_string", b""):
            await JSONResponse({"detail": "The address holds a NUL character."}, 400)(scope, receive, send)
            return
        is_artefact = scope["method"] == "PUT" and ARTEFACTS in scope["path"]
        is_report = scope["path"].startswith(REPORTS)
        most = self._settings.max_artefact_bytes if is_artefact else self._settings.max_body_bytes
        if is_report and not is_artefact:
            # What a call came to must not be lost for being long.
            most = max(most, MAX_REPORT_BYTES)
        refusal = f"The body is larger than {most} bytes."
        if _declared_bytes(scope) > most:
            await JSONResponse({"detail": refusal}, 413)(scope, receive, send)
            return
        came = 0

        async def receiving() -> Message:
            nonlocal came
            message = await receive()
            if message["type"] == "http.request":
                came += len(message.get("body", b""))
                if came > most:
                    # The framework answers with it, whoever is reading.
                    raise HTTPException(413, refusal)
            return message

        await self._app(scope, receiving, send)


class RateLimit:
    """Refuses more requests a minute than are allowed with 429, for each key and for each address without one.

    A key counts for itself once it was found valid; until then, and for whoever has none, the address counts. Workers
    ask often, for each run they make: theirs are not limited.
    """

    def __init__(self, app: ASGIApp, per_minute: int):
        self._app = app
        self._limit = RateLimitItemPerMinute(per_minute)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._known: dict[str, KeyKind] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http" or scope["path"].rstrip("/") in UNLIMITED_PATHS:
            await self._app(scope, receive, send)
            return
        digest = _key_digest(scope)
        kind = self._known.get(digest or "")
        if kind is not KeyKind.WORKER:
            counted = ("key", digest) if digest is not None and kind is not None else ("address", _address(scope))
            if not self._limiter.hit(self._limit, *counted):
                resets_at = self._limiter.get_window_stats(self._limit, *counted).reset_time
                wait_s = max(1, math.ceil(resets_at - time.time()))
                answer = JSONResponse(
                    {"detail": f"Request was throttled. Expected available in {wait_s} seconds."},
                    429,
                    {"Retry-After": str(wait_s)},
                )
                await answer(scope, receive, send)
                return
        scope.setdefault("state", {})
        await self._app(scope, receive, send)
        identity = scope["state"].get("key")
        if digest is not None:
            if identity is not None:
                if len(self._known) >= MAX_KNOWN_KEYS and digest not in self._known:
                    self._known.pop(next(iter(self._known)))
                self._known[digest] = identity.kind
            elif kind is not None and scope["state"].get("refused_key"):
                del self._known[digest]


def _declared_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) < 20 else 0
    return 0


def _key_digest(scope: Scope) -> str | None:
    presented: bytes | None = None
    for name, value in scope["headers"]:
        if name == _KEY_HEADER and value:
            presented = value
            break
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            presented = value[7:].strip()
    return hashlib.sha256(presented).hexdigest() if presented else None


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"
