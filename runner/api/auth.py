"""Who asks, and who may read a result: keys in ``X-CEKURA-API-KEY`` or ``Authorization: Bearer``.

Whose key came with a request is found out before anything else (:class:`runner.api.limits.RateLimit`). Which kind of
key a route asks for it says by what it depends on: :data:`UserKey`, :data:`ProjectId`, :data:`WorkerKey`. Both are
held against each other before any of the body is read (:class:`runner.api.routing.Door`).
"""

import time
from collections import OrderedDict
from dataclasses import dataclass
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
from runner.records.keys import KeyIdentity, KeyKind, could_be_key, digest_of, find_key, identify, which_exist
from runner.records.results import shared_result
from runner.records.sharing import Sharing

KEY_HEADER = "X-CEKURA-API-KEY"
SHARE_HEADER = "X-VOCERA-SHAREABLE-LINK-TOKEN"

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
_share = APIKeyHeader(
    name=SHARE_HEADER, auto_error=False, scheme_name="ShareableLink", description="Reads one result and its runs."
)
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
    """

    def __init__(self, database: Database):
        self._database = database
        self._right: OrderedDict[str, tuple[float, KeyIdentity]] = OrderedDict()
        self._strangers: set[str] = set()
        self._sharing = Sharing()
        self._looked_s = -LOOK_EVERY_S

    async def identify(self, presented: str) -> KeyIdentity | None:
        """Return whose key this is; None where it is nobody's or revoked."""
        if not could_be_key(presented):
            return None
        digest = digest_of(presented)
        right = self._right.get(digest)
        if right is None:
            self._strangers.add(digest)
            if digest not in await self._sharing.read("strangers", self._look):
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

    async def _look(self) -> set[str]:
        """Return which of those never seen before, and asked for by now, there are."""
        wanted, self._strangers = self._strangers, set()
        found: set[str] = set()
        try:
            for begin in range(0, len(wanted), MAX_AT_ONCE):
                await anyio.sleep(max(self._looked_s + LOOK_EVERY_S - time.monotonic(), 0))
                try:
                    found |= await which_exist(self._database, list(wanted)[begin : begin + MAX_AT_ONCE])
                finally:
                    self._looked_s = time.monotonic()
        except anyio.get_cancelled_exc_class():
            # Whoever waited for this look begins another.
            self._strangers |= wanted
            raise
        return found


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


@dataclass(frozen=True)
class Reading:
    """What a reader may see.

    Attributes:
        project_id: Nothing of another project.
        result_id: Only this result and its runs; None for all of the project.
    """

    project_id: int
    result_id: int | None = None

    def sees(self, result_id: int) -> bool:
        """Return whether a result of the project is among it."""
        return self.result_id is None or self.result_id == result_id


async def _reading(
    request: Request,
    header: Annotated[str | None, Depends(_header)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    share: Annotated[str | None, Depends(_share)],
) -> Reading:
    if share and presented_key(request.scope) is None:
        async with services_of(request).database.reading() as session:
            shared = await shared_result(session, share)
        if shared is None:
            raise Unauthorized("The link is unknown or has expired.")
        return Reading(*shared)
    return Reading(project_of_user(identity_of(request.scope)))


async def still_reads(request: Request) -> bool:
    """Return whether who was let in to read still would be: meanwhile keys are revoked, and links expire."""
    key = presented_key(request.scope)
    async with services_of(request).database.reading() as session:
        if key is not None:
            return await find_key(session, key) is not None
        return await shared_result(session, request.headers.get(SHARE_HEADER, "")) is not None


Reader = Annotated[Reading, Depends(_reading)]
"""A user's key, or the token of a link to one result.

Raises:
    Unauthorized: There is neither, or one that is unknown, revoked or expired.
    Forbidden: It is a worker's key.
"""
