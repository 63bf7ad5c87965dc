"""The agent's side of a session: whoever starts it, in memory."""

import json
from collections.abc import Sequence
from typing import Any

import anyio
import httpx
import pytest

from runner.errors import RoomError

SECRET = "s3cr3t"
Answer = httpx.Response | type[httpx.HTTPError] | Sequence[Any] | dict[str, Any] | str | None


class Side:
    """Gives one answer after the other, the last for good, and keeps what it was asked.

    Args:
        answers: Responses, errors, or the JSON of an answer with status 200.
        takes_s: How long each answer takes.
        starts_s: How long the first takes, where that is another time.
    """

    def __init__(self, *answers: Answer, takes_s: float = 0, starts_s: float | None = None):
        self._answers = list(answers)
        self._takes_s = takes_s
        self._starts_s = takes_s if starts_s is None else starts_s
        self.answered = 0
        self.requests: list[httpx.Request] = []
        self.at_s: list[float] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.at_s.append(anyio.current_time())
        await anyio.sleep(self._starts_s if len(self.requests) == 1 else self._takes_s)
        self.answered += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, httpx.Response):
            return answer
        if isinstance(answer, type):
            raise answer(f"with {SECRET}")
        return httpx.Response(200, json=answer)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self), follow_redirects=True)

    @property
    def asked(self) -> dict[str, Any]:
        return json.loads(self.requests[0].content)

    @property
    def lines(self) -> list[str]:
        return [f"{request.method} {request.url}" for request in self.requests]

    @property
    def keys(self) -> list[str | None]:
        """What was presented with each request."""
        return [request.headers.get("Authorization") for request in self.requests]

    @property
    def waits_s(self) -> list[float]:
        return [later - at for at, later in zip(self.at_s, self.at_s[1:], strict=False)]


def fit_to_show(caught: pytest.ExceptionInfo[RoomError]) -> RoomError:
    """Return an error, which is one line without a secret."""
    text = str(caught.value)
    assert SECRET not in text and "\n" not in text
    return caught.value
