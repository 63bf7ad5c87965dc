"""Webhooks over HTTP."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from runner.api.services import Services
from runner.records.runs import end_run
from runner.records.tables import WebhookDelivery
from tests.api.conftest import Client, client_of, new_key, on_every_database, other_project
from tests.api.telling import run_launched
from tests.doubles.receiver import Receiver, answers, receiving
from tests.records.giving import WORKER, give
from tests.records.outcomes import agent_failed

pytestmark = pytest.mark.anyio

PROJECT, AGENTS, DELIVERIES = "/user/v1/projects/1/", "/test_framework/v2/aiagents/", "/user/v1/webhook-deliveries/"
TEST = f"{PROJECT}test-webhook/"
SECRET = "planted plain secret"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


async def patch(client: Client, path: str, **body: Any) -> dict[str, Any]:
    answer = await client.patch(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@on_every_database
async def test_a_project_says_where_its_webhooks_go(client: Client, receiver: Receiver) -> None:
    before = (await client.get(PROJECT)).json()
    assert (before["webhook_url"], before["webhook_secret_configured"]) == (None, False)
    assert before["notify_pre_run_webhook"] is False and before["notify_result_webhook_failed"] is True
    url = receiver.url("/hook?key=planted")
    given = {"webhook_url": url, "webhook_secret": SECRET, "notify_result_webhook_success": False}
    shown = await patch(client, PROJECT, **given)
    assert shown["webhook_url"] == receiver.url("/hook?***") and shown["webhook_secret_configured"] is True
    assert shown == (await client.get(PROJECT)).json() == {**before, **shown, "notify_result_webhook_success": False}
    assert "planted" not in str(shown)
    # What was shown may be sent back as it is.
    assert await patch(client, PROJECT, **shown) == shown
    await client.post(TEST)
    assert receiver.received[0].path == "/hook?key=planted"
    assert await patch(client, PROJECT, webhook_url=None, webhook_secret=None, name="renamed") == {
        **before,
        "name": "renamed",
        "notify_result_webhook_success": False,
    }


async def test_an_agent_may_have_its_own(client: Client, receiver: Receiver) -> None:
    body = {"name": "bot", "webhook_url": receiver.url("/own"), "webhook_secret": SECRET}
    made = await client.post(AGENTS, json=body)
    assert made.status_code == 201 and SECRET not in made.text
    agent = made.json()
    assert (agent["webhook_url"], agent["webhook_secret_configured"]) == (receiver.url("/own"), True)
    path = f"{AGENTS}{agent['id']}/"
    assert (await patch(client, path, description="x"))["webhook_secret_configured"] is True
    sent = await client.post(TEST, json={"agent": agent["id"]})
    assert (sent.status_code, sent.json()["status"]) == (200, "delivered")
    assert receiver.received[0].headers["x-cekura-secret"] == SECRET
    # Replaced without: it has none.
    replaced = (await client.put(path, json={"name": "bot"})).json()
    assert (replaced["webhook_url"], replaced["webhook_secret_configured"]) == (None, False)
    refused = await client.post(TEST, json={"agent": agent["id"]})
    assert refused.status_code == 400 and refused.json() == {"agent": [f"agent {agent['id']} has no webhook_url"]}


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"webhook_url": "https://elsewhere.example.com/"}, "webhook_url", "server.allowed_webhooks"),
        ({"webhook_url": "https://10.0.0.5/"}, "webhook_url", "server.allowed_webhooks"),
        ({"slack_webhook_url": "https://elsewhere.example.com/"}, "slack_webhook_url", "server.allowed_webhooks"),
        ({"webhook_url": "hook"}, "webhook_url", "https://"),
        ({"webhook_url": "https://hooks.slack.com/services/x"}, "webhook_url", "slack_webhook_url"),
        ({"webhook_url": "https://hooks.example.invalid/?***"}, "webhook_url", "whole address"),
        ({"webhook_secret": "long enough"}, "webhook_url", "give that too"),
        ({"webhook_secret": "short"}, "webhook_secret", "8 to 200"),
        ({"webhook_secret": "whsec_x"}, "webhook_secret", "base64"),
        ({"webhook_secret": "two\nlines of it"}, "webhook_secret", "can't be sent"),
        ({"webhook_url": 5}, "webhook_url", ""),
    ],
)
@pytest.mark.parametrize("path", [PROJECT, f"{AGENTS}1/"])
async def test_what_can_not_be_had_is_refused(
    client: Client, path: str, body: dict[str, Any], field: str, says: str
) -> None:
    answer = await client.patch(path, json=body)
    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == [field] and says in str(answer.json()[field])


async def test_toggles_are_the_projects_alone(client: Client) -> None:
    assert (await client.patch(f"{AGENTS}1/", json={"notify_pre_run_webhook": True})).status_code == 400
    wrong = await client.patch(PROJECT, json={"notify_pre_run_webhook": "yes"})
    assert wrong.status_code == 400 and list(wrong.json()) == ["notify_pre_run_webhook"]


async def test_another_project_is_not_seen(client: Client, services: Services, app: FastAPI) -> None:
    with receiving() as receiver:
        await patch(client, PROJECT, webhook_url=receiver.url())
        sent = (await client.post(TEST)).json()
        other, key = await other_project(services)
        async with client_of(app, key) as theirs:
            for method, path in [
                ("PATCH", PROJECT),
                ("POST", TEST),
                ("GET", f"{DELIVERIES}{sent['id']}/"),
                ("POST", f"{DELIVERIES}{sent['id']}/replay/"),
            ]:
                assert (await theirs.request(method, path, json={})).status_code == 404, path
            assert (await theirs.get(DELIVERIES)).json()["count"] == 0
            agent = await theirs.post(f"/user/v1/projects/{other}/test-webhook/", json={"agent": 1})
            assert agent.json() == {"agent": [f"there is no agent 1 in project {other}"]}
    assert len(receiver.received) == 1


@on_every_database
async def test_what_was_sent_is_listed_and_can_be_sent_again(client: Client, services: Services) -> None:
    await services.durable.prepare()
    with receiving(answers(500)) as receiver:
        await patch(client, PROJECT, webhook_url=receiver.url(), webhook_secret=SECRET)
        [run_id] = await run_launched(client)
        await give(services.database, run_id)
        await services.database.run(lambda s: end_run(s, run_id, 1, agent_failed(), executor=WORKER))
        failed = (await client.post(TEST)).json()
    listed = (await client.get(DELIVERIES)).json()
    assert listed["count"] == 2 and listed["results"][0] == failed
    assert failed["status"] == "failed" and failed["tries"][0]["status_code"] == 500
    completed = listed["results"][1]
    assert (completed["event"], completed["status"], completed["attempts"]) == ("result.completed", "pending", 0)
    assert (await client.get(f"{DELIVERIES}?result_id={completed['result']}")).json()["results"] == [completed]
    path = f"{DELIVERIES}{completed['id']}/"
    refused = await client.post(f"{path}replay/")
    assert refused.json() == {"status": [f"delivery {completed['id']}: is still being sent"]}
    async with services.database.session() as session:
        (await session.get_one(WebhookDelivery, completed["id"])).status = "failed"
    again = (await client.post(f"{path}replay/")).json()
    assert (again["status"], again["round"], again["message_id"]) == ("pending", 2, completed["message_id"])
    assert (await client.post(f"{DELIVERIES}{failed['id']}/replay/")).status_code == 400
    assert (await client.get(f"{DELIVERIES}99/")).status_code == 404
    assert SECRET not in (await client.get(DELIVERIES)).text


async def test_a_launch_waits_for_its_webhook(client: Client, services: Services) -> None:
    await services.durable.prepare()
    await patch(client, PROJECT, webhook_url="http://127.0.0.1:9/", notify_pre_run_webhook=True)
    await run_launched(client)
    [one] = (await client.get(DELIVERIES)).json()["results"]
    assert (one["event"], one["status"]) == ("result.pre_trigger", "pending")


async def test_a_worker_sends_nothing(worker: Client, services: Services) -> None:
    assert await new_key(services)
    for method, path in [("GET", DELIVERIES), ("POST", TEST), ("PATCH", PROJECT)]:
        assert (await worker.request(method, path, json={})).status_code == 403
