"""Results of the record as `compare` reads them, over the API."""

import httpx
import pytest
from pydantic import SecretStr

from runner.api.services import Services
from runner.cli.sources import read_result
from runner.errors import UsageError
from runner.evaluation.outcome import Failure, FailureKind
from runner.evaluation.verdicts import Cause
from runner.records.conclusions import run_facts
from runner.records.tables import RunRow
from tests.api.conftest import BASE_URL, Client, new_key
from tests.api.telling import run_launched, show
from tests.api.test_results import ended
from tests.records.outcomes import agent_failed, outcome, undecided

pytestmark = pytest.mark.anyio


async def test_a_result_is_read_run_by_run(
    client: Client, worker: Client, anonymous: Client, services: Services
) -> None:
    failure = Failure(kind=FailureKind.WRONG, cause=Cause.AGENT, headline="it said Tuesday")
    wrong = agent_failed().model_copy(update={"failure": failure})
    result_id, _ = await ended(client, worker, outcome(latencies_ms=(None, 900.0)), wrong, undecided())
    key = SecretStr(await new_key(services))
    told = await read_result(anonymous, BASE_URL, key, result_id)
    assert [(run.scenario, run.success) for run in told.runs] == [
        ("Book a table", True),
        ("Book a table", False),
        ("Book a table", None),
    ]
    assert told.runs[0].latencies_ms == (None, 900.0)
    assert (told.runs[1].headline, told.runs[1].cause) == ("it said Tuesday", Cause.AGENT)
    assert {run.session for run in told.runs} == {f"result:{result_id}"} == {session.id for session in told.sessions}


async def test_a_result_tells_whether_its_scenario_was_edited(
    client: Client, worker: Client, anonymous: Client, services: Services
) -> None:
    key = SecretStr(await new_key(services))
    result_id, (_, edited) = await ended(client, worker, outcome(), outcome())
    async with services.database.session() as session:
        row = await session.get_one(RunRow, edited)
        row.snapshot = {**row.snapshot, "script": {**row.snapshot["script"], "hang_up_after_s": 1.0}}
    told = await read_result(anonymous, BASE_URL, key, result_id)
    first, second = (run.scenario_hash for run in told.runs)
    assert first and second and first != second
    # Schedules and the page, which read the database, take the same.
    facts = await services.database.look(lambda session: run_facts(session, [result_id]))
    assert [run.scenario_hash for run in facts] == [first, second]


async def test_an_api_that_has_too_many_requests_is_asked_again() -> None:
    result = {"created_at": "2026-01-01T00:00:00Z", "runs": []}
    answers = iter([httpx.Response(429, headers={"Retry-After": "0"}), httpx.Response(200, json=result)])
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: next(answers))) as http:
        told = await read_result(http, "http://api", SecretStr("key"), 1)
    assert told.sessions[0].started_at == result["created_at"]


async def test_a_result_that_can_t_be_read_says_why(client: Client, anonymous: Client, services: Services) -> None:
    key = SecretStr(await new_key(services))
    (run_id,) = await run_launched(client, 1)
    result_id = (await show(client, run_id))["result_id"]
    for result, with_key, said in (
        (result_id, key, f"run {run_id} has not ended"),
        (999_999, key, "no such result"),
        (result_id, SecretStr("wrong"), "refuses the key"),
        (result_id, SecretStr("wrong\nkey"), "can't be sent"),
    ):
        with pytest.raises(UsageError, match=said) as refused:
            await read_result(anonymous, BASE_URL, with_key, result)
        assert with_key.get_secret_value() not in str(refused.value)
