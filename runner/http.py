"""Asks the agent's side, and reads its answer: no longer than it may take, no more than it may say."""

import json
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
from pydantic import SecretStr

from bots.timeline import EndedReason
from runner.errors import RoomError
from runner.text import UNSENDABLE, fits_header, public_url

MAX_ANSWER_BYTES = 1024 * 1024
"""A session description has some 10 KB."""


class AnswerTooLarge(httpx.HTTPError):
    """The answer is larger than :data:`MAX_ANSWER_BYTES`."""


@dataclass(frozen=True)
class Answer:
    """What was answered.

    Attributes:
        status: HTTP status.
        content: The body, decompressed.
        headers: What came before it.
    """

    status: int
    content: bytes
    headers: httpx.Headers = field(default_factory=httpx.Headers)

    def json(self) -> Any:
        """Return the body's JSON value.

        Raises:
            ValueError: It is not JSON, or nested beyond measure.
        """
        try:
            return json.loads(self.content)
        except RecursionError:
            raise ValueError("nested too deep") from None


async def post_json(
    http: httpx.AsyncClient, url: str, token: SecretStr | None, content: Any, *, timeout_s: float
) -> Answer:
    """Post a JSON value, and return the answer, whatever its status. Redirects are not followed.

    Args:
        http: The client to use.
        url: Where to.
        token: Goes along as a bearer header, if there is one.
        content: The JSON value.
        timeout_s: How long it may take until the whole answer is there.

    Raises:
        httpx.HTTPError: No whole answer came.
        RoomError: The token or the address can't be sent as it is.
    """
    return await ask(http, "POST", url, token, json.dumps(content).encode(), timeout_s=timeout_s)


async def ask(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    token: SecretStr | None,
    content: bytes | None = None,
    *,
    timeout_s: float,
) -> Answer:
    """Make a request, and return the answer, whatever its status. Redirects are not followed.

    Args:
        http: The client to use.
        method: ``GET``, ``POST``, ``DELETE``.
        url: Where to.
        token: Goes along as a bearer header, if there is one.
        content: A JSON text.
        timeout_s: How long it may take until the whole answer is there.

    Raises:
        httpx.HTTPError: No whole answer came.
        RoomError: The token or the address can't be sent as it is.
    """
    headers = {} if content is None else {"Content-Type": "application/json"}
    if token:
        secret = token.get_secret_value()
        if not fits_header(secret):
            # The HTTP library would quote it in its error.
            raise RoomError(EndedReason.TOKEN_REFUSED, f"the token can't be sent: it {UNSENDABLE}")
        headers["Authorization"] = f"Bearer {secret}"
    body = bytearray()
    try:
        # The client's own limit is for each piece of the answer: one that trickles in would never be late.
        with anyio.fail_after(timeout_s):
            async with http.stream(
                method, url, content=content, headers=headers, timeout=timeout_s, follow_redirects=False
            ) as response:
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        raise AnswerTooLarge(f"more than {MAX_ANSWER_BYTES} bytes")
                return Answer(response.status_code, bytes(body), response.headers)
    except TimeoutError:
        raise httpx.ReadTimeout(f"no whole answer within {timeout_s:g} s") from None
    except httpx.InvalidURL as error:
        raise RoomError(EndedReason.ROOM_UNREACHABLE, f"{public_url(url)} is no address to post to") from error
