"""Who sees the page, and who can make it do something."""

import httpx
import pytest
from fastapi import FastAPI

from runner.api.services import Services
from runner.records.keys import revoke_key
from runner.records.page_sessions import MAX_SESSIONS, begin_session, find_session
from runner.web.app import _GET, _POST
from runner.web.visits import SESSION_COOKIE, Access
from tests.api.conftest import client_of
from tests.web.conftest import OWN, send, sign_in

pytestmark = pytest.mark.anyio

GUARDED = [path for path, _, access in _GET if access is not Access.ANYONE]
FORMS = [path for path, _, access in _POST if access is Access.OWNER]
OPEN_FORMS = [path for path, _, access in _POST if access is Access.ANYONE]


def at(path: str) -> str:
    return path.replace("{id:id}", "1").replace("{name}", "run.json")


async def test_every_page_asks_a_stranger_to_sign_in(anonymous: httpx.AsyncClient) -> None:
    for path in GUARDED:
        answer = await anonymous.get(at(path))
        assert (answer.status_code, answer.headers["Location"].partition("?")[0]) == (303, "/sign-in"), path


async def test_a_key_opens_a_session_that_scripts_cannot_read(anonymous: httpx.AsyncClient, user_key: str) -> None:
    answer = await sign_in(anonymous, user_key, "/runs?verdict=failed")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/runs?verdict=failed")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Secure" not in cookie
    assert user_key not in cookie
    assert (await anonymous.get("/runs")).status_code == 200


async def test_over_tls_the_cookie_is_for_tls_alone(app: FastAPI, user_key: str) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="https://runner.test") as visitor:
        headers = {"Origin": "https://runner.test"}
        answer = await visitor.post("/sign-in", data={"key": user_key}, headers=headers)
    assert "Secure" in answer.headers["Set-Cookie"]


async def test_an_unknown_key_opens_nothing(anonymous: httpx.AsyncClient) -> None:
    for key in ("", "psr_unknown", "nonsense", "psr_" + "x" * 500):
        answer = await sign_in(anonymous, key)
        assert answer.status_code == 403 and "Set-Cookie" not in answer.headers
        assert "unknown" in answer.text and (not key or key not in answer.text)


async def test_a_workers_key_opens_nothing(anonymous: httpx.AsyncClient, worker_key: str) -> None:
    answer = await sign_in(anonymous, worker_key)
    assert answer.status_code == 403 and "can only report" in answer.text


async def test_signing_in_leads_to_this_server_alone(anonymous: httpx.AsyncClient, user_key: str) -> None:
    for where in ("//evil.test", "https://evil.test", "/\\evil.test", "javascript:alert(1)", "/a\nb"):
        assert (await sign_in(anonymous, user_key, where)).headers["Location"] == "/", where
        anonymous.cookies.clear()


async def test_a_revoked_key_ends_its_sessions(visitor: httpx.AsyncClient, services: Services, user_key: str) -> None:
    assert (await visitor.get("/")).status_code == 200
    async with services.database.session() as session:
        assert await revoke_key(session, user_key)
    assert (await visitor.get("/")).status_code == 303


async def test_signing_out_ends_the_session_itself(visitor: httpx.AsyncClient, app: FastAPI) -> None:
    cookie = visitor.cookies[SESSION_COOKIE]
    assert (await send(visitor, "/sign-out")).status_code == 303
    async with client_of(app) as thief:
        thief.cookies.set(SESSION_COOKIE, cookie)
        assert (await thief.get("/")).status_code == 303


async def test_a_key_has_a_bounded_number_of_sessions(services: Services, user_key: str) -> None:
    from runner.records.keys import find_key

    async with services.database.session() as session:
        key = await find_key(session, user_key)
        assert key is not None
        tokens = [await begin_session(session, key) for _ in range(MAX_SESSIONS + 1)]
        assert await find_session(session, tokens[0]) is None
        assert await find_session(session, tokens[1]) == key
        assert await find_session(session, "x" * 5_000) is None


async def test_a_session_does_not_open_the_api(visitor: httpx.AsyncClient) -> None:
    assert (await visitor.get("/test_framework/v1/results/")).status_code == 401


async def test_a_link_from_elsewhere_does_not_ask_to_sign_in_again(anonymous: httpx.AsyncClient) -> None:
    answer = await anonymous.get("/results/1", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 401 and 'http-equiv="refresh"' in answer.text


async def test_forms_of_other_sites_are_refused(visitor: httpx.AsyncClient) -> None:
    token = {"form_token": (await visitor.get("/launch")).text.partition('form_token" value="')[2][:64]}
    elsewhere = [{}, {"Origin": "https://evil.test"}, {"Origin": "null"}, {"Sec-Fetch-Site": "same-site"}]
    for path in [*FORMS, *OPEN_FORMS]:
        for headers in elsewhere:
            answer = await visitor.post(at(path), data=token, headers=headers)
            assert answer.status_code == 403, (path, headers)


async def test_forms_need_the_token_of_the_session(visitor: httpx.AsyncClient) -> None:
    for path in FORMS:
        for fields in ({"name": "x"}, {"form_token": "0" * 64}):
            answer = await visitor.post(at(path), data=fields, headers=OWN)
            assert answer.status_code == 403, path


async def test_only_plain_forms_are_taken(visitor: httpx.AsyncClient) -> None:
    answer = await visitor.post("/launch", content=b"{}", headers={**OWN, "Content-Type": "text/plain"})
    assert answer.status_code == 400
    assert (await send(visitor, "/launch", name="a\0b")).status_code == 400


async def test_a_form_that_is_too_large_is_refused(visitor: httpx.AsyncClient) -> None:
    assert (await send(visitor, "/scenarios/new", content="x" * 2_100_000)).status_code == 413


async def test_no_page_can_be_framed_or_run_foreign_code(visitor: httpx.AsyncClient) -> None:
    for path in ("/", "/sign-in", "/live", "/trends", "/launch", "/schedules/new", "/docs", "/results/999"):
        answer = await visitor.get(path)
        policy, headers = answer.headers["Content-Security-Policy"], answer.headers
        assert "frame-ancestors 'none'" in policy and "unsafe" not in policy and "default-src 'none'" in policy
        assert headers["X-Frame-Options"] == "DENY" and headers["Cache-Control"] == "private, no-store"
        assert "<style" not in answer.text and " style=" not in answer.text and " onclick" not in answer.text


async def test_only_known_files_are_given_and_browsers_keep_them(anonymous: httpx.AsyncClient) -> None:
    page = (await anonymous.get("/sign-in")).text
    style = page.partition('href="/static/')[2].partition('"')[0]
    answer = await anonymous.get(f"/static/{style}")
    assert answer.status_code == 200 and "immutable" in answer.headers["Cache-Control"]
    for name in ("../answers.py", "%2e%2e/answers.py", "nothing.js"):
        assert (await anonymous.get(f"/static/x/{name}")).status_code == 404
