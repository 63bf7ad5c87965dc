"""The record over HTTP: what a refusal means, and that nothing secret is in an error."""

from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

import anyio
import httpx
import pytest
from pydantic import SecretStr

from runner.worker.errors import RecordError
from runner.worker.record_client import Problem, RecordClient
from tests.worker.record_double import RecordDouble, job

pytestmark = pytest.mark.anyio
_T = TypeVar("_T")


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


@pytest.mark.parametrize(
    ("status", "heard", "silent"),
    [
        (200, True, False),
        (409, True, False),
        (500, True, True),
        # The record's own, where its database is away, or that of what stands before it.
        (503, True, True),
        (502, False, True),
        (None, False, True),
    ],
)
async def test_it_knows_when_the_record_last_answered_and_since_when_it_does_nothing(
    status: int | None, heard: bool, silent: bool
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
    assert (client.silent_s > 0) is silent


@pytest.mark.parametrize(("status", "welcome"), [(200, True), (401, False), (403, False)])
async def test_knocking_tells_whether_the_key_is_taken(status: int, welcome: bool) -> None:
    client = answering(httpx.MockTransport(lambda _: httpx.Response(status, json={"runs": []})))
    if welcome:
        await client.knock()
    else:
        with pytest.raises(RecordError) as caught:
            await client.knock()
        assert caught.value.status == status


async def at_once(*sending: Awaitable[_T]) -> list[_T | RecordError]:
    """Send at the same moment; return the answers, in order."""
    answers: dict[int, _T | RecordError] = {}

    async def send(place: int, one: Awaitable[_T]) -> None:
        try:
            answers[place] = await one
        except RecordError as error:
            answers[place] = error

    async with anyio.create_task_group() as tasks:
        for place, one in enumerate(sending):
            tasks.start_soon(send, place, one)
    return [answers[place] for place in range(len(sending))]


async def test_claims_of_the_same_moment_are_one_request_and_each_gets_its_own_job() -> None:
    record = RecordDouble(jobs={run_id: job(run_id) for run_id in (7, 8, 9)}, attempts={9: 2})
    client = record.client()
    jobs = await at_once(
        client.claim(9, 2, "me"), client.claim(7, 1, "me"), client.claim(8, 2, "me"), client.claim(99, 1, "me")
    )
    assert [taken and not isinstance(taken, RecordError) and (taken.run_id, taken.attempt) for taken in jobs] == [
        (9, 2),
        (7, 1),
        None,
        None,
    ]
    assert record.told == ["claims"]


async def test_outcomes_of_the_same_moment_are_one_request_and_each_gets_its_own_answer() -> None:
    record = RecordDouble(jobs={7: job(7), 8: job(8), 9: job(9)}, attempts={9: 2})
    client = record.client()
    problem = Problem(cause="room", reason="token-refused", detail="")
    answers = await at_once(
        client.outcome(9, 1, {"is": "stale"}),
        client.outcome(7, 1, {"is": "good"}),
        client.outcome(8, 1, problem),
        client.outcome(7, 1, {}),
    )
    assert answers[:3] == [False, True, True]
    assert isinstance(answers[3], RecordError) and (answers[3].transient, answers[3].status) == (False, 400)
    assert record.told == ["outcomes"]
    assert record.outcomes == [
        {"run_id": 7, "attempt": 1, "run": {"is": "good"}, "error": None},
        {"run_id": 8, "attempt": 1, "run": None, "error": problem.model_dump()},
    ]


@pytest.mark.parametrize("status", [404, 405, 413, 422, 500])
async def test_a_record_that_takes_no_several_is_told_one_by_one(status: int) -> None:
    """Also one of an older version, which knows no such request."""
    record = RecordDouble(jobs={7: job(7), 8: job(8)}, refusals={"claims": [status] * 9, "outcomes": [status] * 9})
    client = record.client()
    for _ in range(2):
        claims = await at_once(client.claim(7, 1, "me"), client.claim(8, 1, "me"))
        outcomes = await at_once(client.outcome(7, 1, {"a": 1}), client.outcome(8, 1, {"a": 1}))
        if isinstance(claims[0], RecordError):
            errors = [error for error in (*claims, *outcomes) if isinstance(error, RecordError)]
            assert [(error.transient, error.status) for error in errors] == [(True, status)] * 4
    assert [taken and not isinstance(taken, RecordError) and taken.run_id for taken in claims] == [7, 8]
    assert outcomes == [True, True]
    assert sorted(record.told) == ["claim", "claim", "claims", "outcome", "outcome", "outcomes"]


@pytest.mark.parametrize("answer", [{"jobs": [{"planted": 1}], "answers": [{"planted": 1}]}, {"answers": []}])
async def test_an_answer_for_several_that_can_not_be_read_is_asked_for_again(answer: dict[str, object]) -> None:
    client = answering(httpx.MockTransport(lambda _: httpx.Response(200, json=answer)))
    for errors in (
        await at_once(client.claim(7, 1, "me"), client.claim(8, 1, "me")),
        await at_once(client.outcome(7, 1, {}), client.outcome(8, 1, {})),
    ):
        assert [isinstance(error, RecordError) and error.transient for error in errors] == [True, True]
        assert all("can't be read" in str(error) and "planted" not in str(error) for error in errors)
