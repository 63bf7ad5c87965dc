"""What a client may send, and how often."""

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, event

from runner.api import auth
from runner.api.app import create_app
from runner.api.auth import Keys
from runner.api.services import Services
from runner.protocol.messages import MAX_REPORT_BYTES, PART_BYTES
from runner.records.database import Database
from runner.records.keys import revoke_key
from tests.api.conftest import Client, client_of, new_key

pytestmark = pytest.mark.anyio

PROJECTS = "/user/v1/projects"
AGENTS = "/test_framework/v2/aiagents/"
REPORT = "/worker/v1/report"
ARTEFACT = "/worker/v1/runs/1/artefacts/recording.wav?attempt=1&executor=e&offset=0&size=9"


def limited(services: Services, **limits: Any) -> FastAPI:
    """Return an application with limits of its own."""
    server = services.settings.server.model_copy(update=limits)
    return create_app(dataclasses.replace(services, settings=services.settings.model_copy(update={"server": server})))


async def chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 500):
        yield b"x" * 500


async def test_what_workers_send_may_be_larger_than_other_bodies(services: Services, worker_key: str) -> None:
    app = limited(services, max_body_bytes=2_000, max_artefact_bytes=4_000_000)
    async with client_of(app, worker_key) as worker:
        for content in (b"x" * (PART_BYTES + 1), chunks(PART_BYTES + 1)):
            assert (await worker.put(ARTEFACT, content=content)).status_code in (409, 413)
        assert (await worker.put(ARTEFACT, content=b"x" * (PART_BYTES + 1))).status_code == 413
        assert (await worker.put(ARTEFACT, content=b"x" * 3_000)).status_code != 413
        assert (await worker.put(f"{ARTEFACT}000000", content=b"x")).status_code == 413, "all of it is too large"
        assert (await worker.post(REPORT, content=b"x" * 3_000)).status_code == 415
        assert (await worker.post(REPORT, content=b"x" * (MAX_REPORT_BYTES + 1))).status_code == 413


async def test_a_length_that_is_no_number_is_not_believed(services: Services, user_key: str) -> None:
    async with client_of(limited(services, max_body_bytes=2_000), user_key) as client:
        for length in ("x", "-1", "9" * 30):
            headers = {"Content-Type": "application/json", "Content-Length": length}
            assert (await client.post(AGENTS, content=chunks(2_500), headers=headers)).status_code == 413


async def test_nul_characters_in_addresses_are_refused(client: Client) -> None:
    assert (await client.get(f"{AGENTS}?search=%00")).status_code == 400
    assert (await client.get("/test_framework/%00/")).status_code == 400


async def test_too_many_requests_are_told_when_to_come_again(services: Services, user_key: str) -> None:
    app = limited(services, requests_per_minute=3)
    async with client_of(app, user_key) as client:
        answers = [await client.get(PROJECTS) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    assert "throttled" in answers[-1].json()["detail"]


async def test_one_key_does_not_use_up_anothers_share(services: Services, user_key: str) -> None:
    app = limited(services, requests_per_minute=3)
    async with client_of(app, user_key) as greedy, client_of(app, await new_key(services)) as modest:
        for _ in range(6):
            await greedy.get(PROJECTS)
        assert (await greedy.get(PROJECTS)).status_code == 429
        assert (await modest.get(PROJECTS)).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"X-CEKURA-API-KEY": "psr_{}"}, {"X-CEKURA-API-KEY": "no key"}])
async def test_what_has_no_right_key_counts_for_its_address(services: Services, headers: dict[str, str]) -> None:
    app = limited(services, requests_per_minute=3)
    async with client_of(app) as stranger:
        made_up = [{name: value.format(number) for name, value in headers.items()} for number in range(6)]
        statuses = [(await stranger.get(PROJECTS, headers=one)).status_code for one in made_up]
        assert statuses == [401, 401, 401, 429, 429, 429]
        # Nor does a key's name help where none is asked for.
        assert (await stranger.get("/openapi.json", headers=made_up[0])).status_code == 429


async def test_a_right_key_gets_through_among_wrong_ones(services: Services, user_key: str, worker_key: str) -> None:
    app = limited(services, requests_per_minute=3)
    async with client_of(app) as anyone:
        for number in range(9):
            await anyone.get(PROJECTS, headers={"X-CEKURA-API-KEY": f"psr_{number}"} if number % 2 else {})
        # Neither was ever seen before.
        assert (await anyone.get(PROJECTS, headers={"X-CEKURA-API-KEY": user_key})).status_code == 200
        refused = await anyone.get(PROJECTS, headers={"X-CEKURA-API-KEY": worker_key})
        assert refused.status_code == 403


async def test_made_up_keys_cost_hardly_a_look_each(services: Services, user_key: str) -> None:
    looks: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "FROM api_keys" in statement:
            looks.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    statuses: list[int] = []

    async def ask(client: Client, key: str) -> None:
        statuses.append((await client.get(PROJECTS, headers={"X-CEKURA-API-KEY": key})).status_code)

    try:
        async with (
            client_of(limited(services, requests_per_minute=1_000)) as anyone,
            anyio.create_task_group() as tasks,
        ):
            for number in range(300):
                tasks.start_soon(ask, anyone, f"psr_{number}")
            tasks.start_soon(ask, anyone, user_key)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert statuses.count(200) == 1 and statuses.count(401) == 300
    assert len(looks) < 10


async def test_a_look_that_fails_is_no_verdict_on_a_key(
    services: Services, user_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[None] = []
    statuses: list[int] = []

    async def broken(*_: Any) -> set[str]:
        looks.append(None)
        await anyio.sleep(0.02)
        raise OSError("the database is away")

    async def ask(key: str) -> None:
        statuses.append((await client.get(PROJECTS, headers={"X-CEKURA-API-KEY": key})).status_code)

    async with client_of(limited(services), user_key) as client:
        with monkeypatch.context() as away:
            away.setattr("runner.api.auth.which_exist", broken)
            async with anyio.create_task_group() as tasks:
                for key in (user_key, *(f"psr_{number}" for number in range(9))):
                    tasks.start_soon(ask, key)
        assert statuses == [503] * 10
        # None of them tries again for itself what has failed for all.
        assert len(looks) <= 2
        assert (await client.get(PROJECTS)).status_code == 200


async def test_who_gives_up_asking_leaves_no_right_key_unknown(
    services: Services, user_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, look, looks = Keys(services.database), auth.which_exist, [anyio.Event() for _ in range(3)]
    gives_up, go_on = anyio.CancelScope(), anyio.Event()
    found: dict[str, object] = {}
    begun = iter(looks)

    async def slowly(database: Database, digests: list[str]) -> set[str]:
        this = next(begun)
        this.set()
        await (anyio.Event() if this is looks[1] else go_on).wait()
        return await look(database, digests)

    async def ask(key: str, scope: anyio.CancelScope) -> None:
        with scope:
            found[key] = await keys.identify(key)

    monkeypatch.setattr(auth, "which_exist", slowly)
    async with anyio.create_task_group() as tasks:
        # While one is looked for two more come; who is to look for both gives up in it.
        tasks.start_soon(ask, "psr_1", anyio.CancelScope())
        await looks[0].wait()
        for key, scope in (("psr_2", gives_up), (user_key, anyio.CancelScope())):
            tasks.start_soon(ask, key, scope)
            await anyio.wait_all_tasks_blocked()
        go_on.set()
        await looks[1].wait()
        gives_up.cancel()
    assert found["psr_1"] is None and found.keys() == {"psr_1", user_key}
    assert found[user_key] is not None


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
            assert (await worker.get("/worker/v1/hello")).status_code == 200
            assert (await anonymous.get("/healthz/")).status_code == 200


def asking(app: FastAPI, address: str) -> Client:
    """Return a client that asks from an address."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(address, 1)), base_url="http://testserver")


async def statuses_of(client: Client, *forwarded_for: str) -> list[int]:
    return [(await client.get(PROJECTS, headers={"X-Forwarded-For": one})).status_code for one in forwarded_for]


async def test_who_asks_through_a_trusted_proxy_counts_for_themselves(services: Services) -> None:
    app = limited(services, requests_per_minute=1, trusted_proxies=["10.0.0.0/8"])
    async with asking(app, "10.1.2.3") as proxy, asking(app, "192.0.2.9") as stranger:
        # What a client says of itself comes first: only the proxy's own word counts.
        assert await statuses_of(proxy, "192.0.2.1", "192.0.2.2", "x, 192.0.2.1", "192.0.2.2") == [401, 401, 429, 429]
        assert await statuses_of(stranger, "192.0.2.3", "192.0.2.4") == [401, 429]


async def test_an_ipv6_network_counts_as_one_address(services: Services) -> None:
    app = limited(services, requests_per_minute=1)
    async with (
        asking(app, "2001:db8::1") as one,
        asking(app, "2001:db8::2") as same,
        asking(app, "2001:db8:1::1") as other,
    ):
        assert [(await client.get(PROJECTS)).status_code for client in (one, same, other)] == [401, 429, 401]


async def test_links_are_to_where_a_trusted_proxy_was_asked(services: Services, user_key: str) -> None:
    path = "/test_framework/v1/test-profiles"
    async with client_of(limited(services), user_key) as client:
        for name in ("a", "b"):
            assert (await client.post(path, json={"name": name})).status_code == 201
        page = await client.get(f"{path}?page_size=1", headers={"X-Forwarded-Proto": "https"})
        assert page.json()["next"].startswith("https://testserver/")
