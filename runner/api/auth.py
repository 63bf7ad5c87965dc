"""Who asks: keys in ``X-CEKURA-API-KEY`` or ``Authorization: Bearer``.

Whose key came with a request is found out before anything else (:class:`runner.api.limits.RateLimit`). Which kind of
key a route asks for it says by what it depends on: :data:`UserKey`, :data:`ProjectId`, :data:`WorkerKey`. Both are
held against each other before any of the body is read (:class:`runner.api.routing.Door`).
"""

import time
from collections import OrderedDict
from typing import Annotated

import anyio
from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.types import Scope

from runner.api.errors import Forbidden, Unauthorized
from runner.api.services import Services
from runner.records.database import Database
from runner.records.keys import KeyIdentity, KeyKind, could_be_key, digest_of, identify, which_exist

KEY_HEADER = "X-CEKURA-API-KEY"

KEY_MEMORY_S = 2.0
"""So long after it was shown a worker's key opens what it opened, although it was revoked meanwhile: workers show
theirs many times a second."""

MAX_KEYS = 10_000
"""So many keys that were right are remembered."""

LOOK_EVERY_S = 0.05
"""How soon after the last look among all keys there may be the next one."""

MAX_AT_ONCE = 500
"""So many keys are looked for at once."""

_header = APIKeyHeader(name=KEY_HEADER, auto_error=False, scheme_name="ApiKey")
_bearer = HTTPBearer(auto_error=False, scheme_name="Bearer", description="The same key as a bearer token.")


def services_of(request: Request) -> Services:
    """Return what the routes work with."""
    services: Services = request.app.state.services
    return services


async def _services(request: Request) -> Services:
    """Do the same. What is no coroutine the framework does in a thread, and waits for it."""
    return services_of(request)


AppServices = Annotated[Services, Depends(_services)]


class Keys:
    """Whose keys those are that are shown.

    A key that was right before is looked up for itself. Those never seen before are looked for together, in one look
    after another and never more often than every ``LOOK_EVERY_S``: whoever makes up keys costs the database no more
    than that, and a right key in their midst is found all the same.

    Args:
        database: Where the keys are.
    """

    def __init__(self, database: Database):
        self._database = database
        self._right: OrderedDict[str, tuple[float, KeyIdentity]] = OrderedDict()
        self._strangers = _Strangers(database)

    async def identify(self, presented: str) -> KeyIdentity | None:
        """Return whose key this is; None where it is nobody's or revoked."""
        if not could_be_key(presented):
            return None
        digest = digest_of(presented)
        right = self._right.get(digest)
        if right is None:
            if not await self._strangers.exists(digest):
                return None
        elif right[1].kind is KeyKind.WORKER and time.monotonic() - right[0] < KEY_MEMORY_S:
            return right[1]
        identity = await identify(self._database, presented)
        if identity is None:
            self._right.pop(digest, None)
            return None
        self._right[digest] = (time.monotonic(), identity)
        self._right.move_to_end(digest)
        while len(self._right) > MAX_KEYS:
            self._right.popitem(last=False)
        return identity


class _Look:
    """One look among all keys.

    Attributes:
        wanted: The digests to look for.
        found: Those that are there; None before the look.
        error: Why there was no look.
    """

    def __init__(self) -> None:
        self.wanted: set[str] = set()
        self.found: set[str] | None = None
        self.error: Exception | None = None


class _Strangers:
    """Looks for keys that were not seen before."""

    def __init__(self, database: Database):
        self._database = database
        self._turn = anyio.Lock()
        self._next = _Look()
        self._looked_s = -LOOK_EVERY_S

    async def exists(self, digest: str) -> bool:
        """Return whether there is such a key."""
        if len(self._next.wanted) >= MAX_AT_ONCE:
            self._next = _Look()
        look = self._next
        look.wanted.add(digest)
        async with self._turn:
            # Whoever comes first looks for all that have come meanwhile.
            if look.found is None and look.error is None:
                await self._do(look)
        if look.error is not None:
            raise look.error
        return look.found is not None and digest in look.found

    async def _do(self, look: _Look) -> None:
        wait_s = self._looked_s + LOOK_EVERY_S - time.monotonic()
        if wait_s > 0:
            await anyio.sleep(wait_s)
        if look is self._next:
            self._next = _Look()
        try:
            look.found = await which_exist(self._database, look.wanted)
        except Exception as error:
            # All who wait for it are told so: each trying for itself would take as many times as long.
            look.error = error
        finally:
            self._looked_s = time.monotonic()


def presented_key(scope: Scope) -> str | None:
    """Return the key that came with a request; None where there is none."""
    headers = Headers(scope=scope)
    scheme, _, credentials = headers.get("Authorization", "").partition(" ")
    return headers.get(KEY_HEADER) or (credentials.strip() if scheme.lower() == "bearer" else None) or None


def identity_of(scope: Scope) -> KeyIdentity:
    """Return whose key came with a request.

    Raises:
        Unauthorized: There is none, or it is unknown or revoked.
    """
    identity: KeyIdentity | None = scope.get("state", {}).get("key")
    if identity is None:
        raise Unauthorized(
            "Invalid API key." if presented_key(scope) else "Authentication credentials were not provided."
        )
    return identity


def project_of_user(identity: KeyIdentity) -> int:
    """Return the project that a user's key opens.

    Raises:
        Forbidden: It is a worker's.
    """
    if identity.kind is not KeyKind.USER or identity.project_id is None:
        raise Forbidden("This is a worker's key: it can only report.")
    return identity.project_id


def admit(scope: Scope, kind: KeyKind) -> KeyIdentity:
    """Return whose key came with a request, if it is of the kind that is asked for.

    Raises:
        Unauthorized: There is none, or it is unknown or revoked.
        Forbidden: It is of another kind.
    """
    identity = identity_of(scope)
    if kind is KeyKind.USER:
        project_of_user(identity)
    elif identity.kind is not kind:
        raise Forbidden("Only a worker's key can report.")
    return identity


async def _identify(
    request: Request,
    header: Annotated[str | None, Depends(_header)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> KeyIdentity:
    """Return whose key came; both headers are here for the API's description."""
    return identity_of(request.scope)


async def _user(request: Request, identity: Annotated[KeyIdentity, Depends(_identify)]) -> KeyIdentity:
    return admit(request.scope, KeyKind.USER)


async def _worker(request: Request, identity: Annotated[KeyIdentity, Depends(_identify)]) -> KeyIdentity:
    return admit(request.scope, KeyKind.WORKER)


def key_asked_for(dependant: Dependant) -> KeyKind | None:
    """Return which kind of key a route can't do without; None where there is none, or a link does as well."""
    for part in dependant.dependencies:
        kind = _ASKS_FOR.get(part.call) or key_asked_for(part)
        if kind is not None:
            return kind
    return None


_ASKS_FOR: dict[object, KeyKind] = {_user: KeyKind.USER, _worker: KeyKind.WORKER}

UserKey = Annotated[KeyIdentity, Depends(_user)]
"""A user's key: sees and changes everything in its project, and nothing else.

Raises:
    Unauthorized: There is no key, or it is unknown or revoked.
    Forbidden: It is a worker's.
"""

WorkerKey = Annotated[KeyIdentity, Depends(_worker)]
"""A worker's key: reports on runs of every project, and nothing else.

Raises:
    Unauthorized: There is no key, or it is unknown or revoked.
    Forbidden: It is a user's.
"""


async def _project(key: UserKey) -> int:
    return project_of_user(key)


ProjectId = Annotated[int, Depends(_project)]
"""The project of a user's key."""
