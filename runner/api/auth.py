"""Who asks: keys in ``X-CEKURA-API-KEY`` or ``Authorization: Bearer``."""

import time
from collections import OrderedDict
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from runner.api.errors import Forbidden, Unauthorized
from runner.api.services import Services
from runner.records.keys import KeyIdentity, KeyKind, identify

KEY_HEADER = "X-CEKURA-API-KEY"

KEY_MEMORY_S = 2.0
"""So long after it was shown a worker's key opens what it opened, although it was revoked meanwhile."""

MAX_KEYS = 1_000
"""How many workers' keys are remembered."""

_header = APIKeyHeader(name=KEY_HEADER, auto_error=False, scheme_name="ApiKey")
_bearer = HTTPBearer(auto_error=False, scheme_name="Bearer", description="The same key as a bearer token.")


def services_of(request: Request) -> Services:
    """Return what the routes work with."""
    services: Services = request.app.state.services
    return services


AppServices = Annotated[Services, Depends(services_of)]


class WorkerKeys:
    """The workers' keys that were shown lately: workers show theirs many times a second."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, tuple[float, KeyIdentity]] = OrderedDict()

    def find(self, presented: str) -> KeyIdentity | None:
        """Return whose key this was a moment ago; None where that is too long ago."""
        seen = self._seen.get(presented)
        return seen[1] if seen is not None and time.monotonic() - seen[0] < KEY_MEMORY_S else None

    def keep(self, presented: str, identity: KeyIdentity) -> None:
        """Remember whose key this is, if it is a worker's."""
        if identity.kind is KeyKind.WORKER:
            self._seen[presented] = (time.monotonic(), identity)
            self._seen.move_to_end(presented)
            while len(self._seen) > MAX_KEYS:
                self._seen.popitem(last=False)


async def _identify(
    request: Request,
    header: Annotated[str | None, Depends(_header)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> KeyIdentity:
    return await identify_request(request, header or (bearer.credentials if bearer is not None else None))


async def identify_request(request: Request, presented: str | None) -> KeyIdentity:
    """Return whose key came with a request.

    Raises:
        Unauthorized: There is none, or it is unknown or revoked.
    """
    if not presented:
        raise Unauthorized("Authentication credentials were not provided.")
    keys: WorkerKeys = request.app.state.worker_keys
    identity = keys.find(presented)
    if identity is None:
        identity = await identify(services_of(request).database, presented)
        if identity is None:
            request.state.refused_key = True
            raise Unauthorized("Invalid API key.")
        keys.keep(presented, identity)
    # For the limits and the log, which are around the routes.
    request.state.key = identity
    return identity


async def _user(identity: Annotated[KeyIdentity, Depends(_identify)]) -> KeyIdentity:
    project_of_user(identity)
    return identity


def project_of_user(identity: KeyIdentity) -> int:
    """Return the project that a user's key opens.

    Raises:
        Forbidden: It is a worker's.
    """
    if identity.kind is not KeyKind.USER or identity.project_id is None:
        raise Forbidden("This is a worker's key: it can only report.")
    return identity.project_id


async def _worker(identity: Annotated[KeyIdentity, Depends(_identify)]) -> KeyIdentity:
    if identity.kind is not KeyKind.WORKER:
        raise Forbidden("Only a worker's key can report.")
    return identity


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
