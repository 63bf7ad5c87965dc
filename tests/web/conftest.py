"""Visitors of the page, without sockets and without a browser."""

import re
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from runner.api.app import create_app
from runner.api.services import Services
from runner.web.app import add_pages
from tests.api.conftest import (
    BASE_URL,
    anonymous,
    client,
    client_of,
    database_kind,
    migrated,
    record,
    server_settings,
    services,
    user_key,
    worker_key,
)
from tests.api.conftest import (
    worker as worker_client,
)

__all__ = [
    "anonymous",
    "client",
    "database_kind",
    "migrated",
    "record",
    "server_settings",
    "services",
    "user_key",
    "worker_client",
    "worker_key",
]

OWN = {"Origin": BASE_URL}


@pytest.fixture
def app(services: Services) -> FastAPI:
    made = create_app(services)
    add_pages(made)
    return made


async def sign_in(visitor: httpx.AsyncClient, key: str, where: str = "/") -> httpx.Response:
    """Sign in with a key."""
    return await visitor.post("/sign-in", data={"key": key, "next": where}, headers=OWN)


async def send(visitor: httpx.AsyncClient, path: str, **fields: object) -> httpx.Response:
    """Send a form as the page's own forms are sent."""
    shown = (await visitor.get("/sign-in")).text
    token = re.search(r'name="form_token" value="([0-9a-f]+)"', shown)
    return await visitor.post(path, data={"form_token": token[1] if token else "", **fields}, headers=OWN)


@pytest.fixture
async def visitor(app: FastAPI, user_key: str) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody who signed in with a key of project 1."""
    async with client_of(app) as found:
        assert (await sign_in(found, user_key)).status_code == 303
        yield found
