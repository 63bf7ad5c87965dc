"""Who may read a result: its project's keys, and whoever has a link to it."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from runner.api.auth import KEY_HEADER, identity_of, presented_key, project_of_user, services_of
from runner.api.errors import Unauthorized
from runner.records.keys import find_key
from runner.records.results import shared_result

SHARE_HEADER = "X-VOCERA-SHAREABLE-LINK-TOKEN"

_header = APIKeyHeader(name=KEY_HEADER, auto_error=False, scheme_name="ApiKey")
_bearer = HTTPBearer(auto_error=False, scheme_name="Bearer", description="The same key as a bearer token.")
_share = APIKeyHeader(
    name=SHARE_HEADER, auto_error=False, scheme_name="ShareableLink", description="Reads one result and its runs."
)


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
