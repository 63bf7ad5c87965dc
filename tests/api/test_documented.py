"""The requests that the documentation shows are taken, one after the other, on a new record."""

import json
import re

import pytest
from fastapi import FastAPI

from tests.api.conftest import Client
from tests.documentation import PROJECT, commands, quoted

pytestmark = pytest.mark.anyio

PAGE = PROJECT / "docs" / "server.md"


def after(option: str, words: list[str]) -> str:
    return words[words.index(option) + 1]


# The page on schedules goes on where the one on the server ends.
@pytest.mark.parametrize(
    ("pages", "count"), [(("docs/server.md", "docs/schedules.md"), 7), (("docs/webhooks.md",), 3)]
)
async def test_requests_that_are_shown_are_taken(client: Client, pages: tuple[str, ...], count: int) -> None:
    requests = [
        words for page in pages for place, words in commands() if place.startswith(page) and words[0] == "curl"
    ]
    assert len(requests) == count
    for words in requests:
        path = after("--url", words).removeprefix("http://localhost:8000")
        answer = await client.request(after("--request", words), path, json=json.loads(after("--data", words)))
        assert answer.status_code in (200, 201), answer.text


def test_routes_that_are_named_exist(app: FastAPI) -> None:
    named = [found for text in quoted(PAGE) if (found := re.fullmatch(r"([A-Z]+) (?:…)?(/\S+)", text))]
    served = [
        (method.upper(), path.rstrip("/")) for path, methods in app.openapi()["paths"].items() for method in methods
    ]
    assert len(named) >= 5
    for found in named:
        method, path = found[1], found[2].rstrip("/")
        assert [there for there in served if there[0] == method and there[1].endswith(path)], found[0]
