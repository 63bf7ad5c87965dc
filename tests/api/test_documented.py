"""The requests that docs/server.md shows are taken, one after the other, on a new record."""

import json

import httpx
import pytest

from tests.documentation import commands

pytestmark = pytest.mark.anyio

REQUESTS = [words for place, words in commands() if place.startswith("docs/server.md") and words[0] == "curl"]


def after(option: str, words: list[str]) -> str:
    return words[words.index(option) + 1]


async def test_requests_that_are_shown_are_taken(client: httpx.AsyncClient) -> None:
    assert len(REQUESTS) == 3
    for words in REQUESTS:
        path = after("--url", words).removeprefix("http://localhost:8000")
        answer = await client.request(after("--request", words), path, json=json.loads(after("--data", words)))
        assert answer.status_code in (200, 201), answer.text
