"""The record over HTTP: what a refusal means, and that nothing secret is in an error."""

from contextlib import suppress

import httpx
import pytest
from pydantic import SecretStr

from runner.worker.record_client import Problem, RecordClient, RecordError
from tests.worker.record_double import RecordDouble, job

pytestmark = pytest.mark.anyio


def answering(handler: httpx.MockTransport) -> RecordClient:
    return RecordClient(httpx.AsyncClient(transport=handler, base_url="http://record"), SecretStr("psw_secret"))


@pytest.mark.parametrize(("status", "transient"), [(500, True), (503, True), (429, True), (401, True), (400, False)])
async def test_an_answer_says_whether_it_is_worth_trying_again(status: int, transient: bool) -> None:
    client = answering(httpx.MockTransport(lambda _: httpx.Response(status)))
    with pytest.raises(RecordError, match=f"HTTP {status}") as caught:
        await client.outcome(7, 1, Problem(cause="harness", reason="runner-error", detail=""))
    assert (caught.value.transient, caught.value.status) == (transient, status)
    assert "psw_secret" not in str(caught.value)


async def test_no_answer_is_worth_trying_again() -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("psw_secret")

    with pytest.raises(RecordError, match="does not answer") as caught:
        await answering(httpx.MockTransport(fail)).claim(7, 1, "me")
    assert caught.value.transient
    assert "psw_secret" not in str(caught.value)


@pytest.mark.parametrize("status", [404, 409])
async def test_a_run_that_is_gone_or_refused_is_not_wanted(status: int) -> None:
    client = answering(httpx.MockTransport(lambda _: httpx.Response(status)))
    assert await client.claim(7, 1, "me") is None
    assert await client.release(7, 1, detail="stopped", said=False) is None


async def test_an_answer_of_another_version_is_an_error_that_quotes_nothing() -> None:
    client = answering(httpx.MockTransport(lambda _: httpx.Response(200, json={"token": "planted"})))
    with pytest.raises(RecordError, match="another version") as caught:
        await client.claim(7, 1, "me")
    assert "planted" not in str(caught.value)


async def test_a_wrong_key_is_told_apart_from_a_run_that_is_gone() -> None:
    record = RecordDouble(jobs={7: job()})
    with pytest.raises(RecordError, match="401"):
        await record.client("psw_wrong").claim(7, 1, "me")
    taken = await record.client().claim(7, 1, "me")
    assert taken is not None and taken.run_id == 7


@pytest.mark.parametrize(("status", "heard"), [(200, True), (409, True), (500, True), (502, False), (None, False)])
async def test_it_knows_when_the_record_last_answered(
    status: int | None, heard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if status is None:
            raise httpx.ConnectError("no")
        return httpx.Response(status, json={"runs": []})

    client = answering(httpx.MockTransport(answer))
    client.heard_s = 0.0
    with suppress(RecordError):
        await client.progress([])
    assert (client.heard_s > 0) is heard


@pytest.mark.parametrize(("status", "welcome"), [(200, True), (401, False), (403, False)])
async def test_knocking_tells_whether_the_key_is_taken(status: int, welcome: bool) -> None:
    client = answering(httpx.MockTransport(lambda _: httpx.Response(status, json={"runs": []})))
    if welcome:
        await client.knock()
    else:
        with pytest.raises(RecordError) as caught:
            await client.knock()
        assert caught.value.status == status
