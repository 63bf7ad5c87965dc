"""What a client may send, and how often."""

import dataclasses
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from runner.api.app import create_app
from runner.api.services import Services
from runner.records.keys import revoke_key
from tests.api.conftest import client_of, new_key

pytestmark = pytest.mark.anyio

PROJECTS = "/user/v1/projects"
AGENTS = "/test_framework/v2/aiagents/"
ARTEFACT = "/worker/v1/runs/1/artefacts/recording.wav?attempt=1"


def limited(services: Services, **limits: int) -> FastAPI:
    """Return an application with limits of its own."""
    server = services.settings.server.model_copy(update=limits)
    return create_app(dataclasses.replace(services, settings=services.settings.model_copy(update={"server": server})))


async def chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 500):
        yield b"x" * 500


async def test_large_bodies_are_refused_by_length_or_when_too_much_has_come(
    services: Services, user_key: str
) -> None:
    async with client_of(limited(services, max_body_bytes=2_000), user_key) as client:
        json = {"Content-Type": "application/json"}
        for content in (b" " * 2_001, chunks(2_500)):
            answer = await client.post(AGENTS, content=content, headers=json)
            assert (answer.status_code, answer.json()) == (413, {"detail": "The body is larger than 2000 bytes."})
        body = b'{"name": "x"}'
        answer = await client.post(AGENTS, content=body.ljust(2_000), headers=json)
        assert answer.status_code == 201


async def test_artefacts_may_be_larger_than_other_bodies(services: Services, worker_key: str) -> None:
    app = limited(services, max_body_bytes=2_000, max_artefact_bytes=4_000)
    async with client_of(app, worker_key) as worker:
        for content in (b"x" * 4_001, chunks(4_500)):
            assert (await worker.put(ARTEFACT, content=content)).status_code in (404, 409, 413)
        assert (await worker.put(ARTEFACT, content=b"x" * 4_001)).status_code == 413
        assert (await worker.put(ARTEFACT, content=b"x" * 3_000)).status_code != 413
        assert (await worker.post(AGENTS, content=b"x" * 3_000)).status_code == 413


async def test_a_length_that_is_no_number_is_not_believed(services: Services, user_key: str) -> None:
    async with client_of(limited(services, max_body_bytes=2_000), user_key) as client:
        for length in ("x", "-1", "9" * 30):
            headers = {"Content-Type": "application/json", "Content-Length": length}
            assert (await client.post(AGENTS, content=chunks(2_500), headers=headers)).status_code == 413


async def test_nul_characters_in_addresses_are_refused(client: httpx.AsyncClient) -> None:
    assert (await client.get(f"{AGENTS}?search=%00")).status_code == 400
    assert (await client.get("/test_framework/%00/")).status_code == 400


async def test_too_many_requests_are_told_when_to_come_again(services: Services, user_key: str) -> None:
    app = limited(services, requests_per_minute=3)
    async with client_of(app, user_key) as client:
        # The first one counts for its address: the key is not known yet.
        answers = [await client.get(PROJECTS) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 429]
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    assert "throttled" in answers[-1].json()["detail"]


async def test_one_key_does_not_use_up_anothers_share(services: Services, user_key: str) -> None:
    app = limited(services, requests_per_minute=3)
    async with client_of(app, user_key) as greedy, client_of(app, await new_key(services)) as modest:
        assert (await modest.get(PROJECTS)).status_code == 200
        for _ in range(6):
            await greedy.get(PROJECTS)
        assert (await greedy.get(PROJECTS)).status_code == 429
        assert (await modest.get(PROJECTS)).status_code == 200


async def test_made_up_keys_all_count_for_their_address(services: Services) -> None:
    app = limited(services, requests_per_minute=3)
    async with client_of(app) as stranger:
        statuses = [
            (await stranger.get(PROJECTS, headers={"X-CEKURA-API-KEY": f"psr_{n}"})).status_code for n in range(5)
        ]
        assert statuses == [401, 401, 401, 429, 429]
        # Nor does a key's name help where none is asked for.
        assert (await stranger.get("/openapi.json", headers={"X-CEKURA-API-KEY": "psr_9"})).status_code == 429


async def test_a_revoked_key_counts_for_its_address_again(services: Services, user_key: str) -> None:
    app = limited(services, requests_per_minute=4)
    async with client_of(app, user_key) as client:
        assert (await client.get(PROJECTS)).status_code == 200
        async with services.database.session() as session:
            await revoke_key(session, user_key)
        statuses = [(await client.get(PROJECTS)).status_code for _ in range(9)]
    # Nine, for a minute that ends in between lets as many through again.
    assert statuses[:4] == [401] * 4 and statuses[-1] == 429


async def test_workers_and_watchers_are_not_limited(services: Services, worker_key: str) -> None:
    app = limited(services, requests_per_minute=2)
    async with client_of(app, worker_key) as worker, client_of(app) as anonymous:
        for _ in range(6):
            answer = await worker.post("/worker/v1/runs/999/claim", json={"attempt": 1, "executor": "e"})
            assert answer.status_code in (404, 409)
            assert (await anonymous.get("/healthz/")).status_code == 200
