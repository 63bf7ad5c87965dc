"""Schedules night after night, from the clock to what a receiver of webhooks is told."""

from typing import Any

import anyio
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from runner.api.webhook_bodies import WebhookBodies
from runner.dispatch.delivering import Delivering
from runner.records.deliveries import replay
from runner.records.runs import end_run
from runner.records.tables import CronJob, Firing, Project, WebhookDelivery
from runner.records.webhooks import write_webhooks
from tests.doubles.receiver import Receiver, receiving
from tests.records.giving import WORKER, give
from tests.records.outcomes import outcome
from tests.records.town import MINUTE, Town, on_sqlite, town

__all__ = ["town"]

pytestmark = pytest.mark.anyio

RUNS = 6
BASE_URL = "http://runner.example.com"


async def hook(town: Town, receiver: Receiver, **more: Any) -> None:
    def write(session: Session) -> None:
        write_webhooks(session.get_one(Project, 1), town.record.vault, {"webhook_url": receiver.url("/hook"), **more})

    await town.run(write)


async def deliver(town: Town) -> None:
    """Deliver what is to be delivered, as the durable work does."""

    async def at_once(name: str, attempts: int, work: Any) -> dict[str, Any]:
        return await work(None)

    pending = select(WebhookDelivery.id, WebhookDelivery.round).where(WebhookDelivery.status == "pending")
    async with town.record.database.reading() as session:
        found = (await session.execute(pending)).all()
    delivering = Delivering(town.record, WebhookBodies(BASE_URL).make)
    for delivery_id, round in found:
        await delivering.deliver(delivery_id, round, at_once, anyio.sleep)


async def night(town: Town, job: int, latency_ms: float) -> Firing:
    """Let a schedule be due, a worker make its calls and report them, and what follows be delivered."""
    database = town.record.database
    async with database.reading() as session:
        due_at = (await session.get_one(CronJob, job)).next_due_at
    assert due_at is not None
    town.now = due_at
    await town.schedules.look()
    firing = (await town.history(job))[-1]
    run_ids = await town.run_ids(firing.result_id)
    await give(database, *run_ids)
    for place, run_id in enumerate(run_ids):
        run = outcome(latencies_ms=(latency_ms + 10 * (place % 3), latency_ms + 200))
        await town.run(lambda session, run_id=run_id, run=run: end_run(session, run_id, 1, run, executor=WORKER))
    await town.schedules.look()
    await deliver(town)
    return (await town.history(job))[-1]


@on_sqlite
async def test_an_agent_that_gets_slower_is_told_of_each_night(town: Town) -> None:
    base = await night(town, await town.add("0 13 1 6 *", data={"frequency": RUNS}), 800)
    nightly = {"frequency": RUNS, "baseline": base.result_id, "notify_on": "both"}
    job = await town.add("30 2 * * *", timezone="Europe/Berlin", data=nightly)
    with receiving() as receiver:
        await hook(town, receiver)
        nights = [await night(town, job, latency_ms) for latency_ms in (800, 820, 1_300, 1_300, 1_300)]
        await town.schedules.look()
        await deliver(town)
    assert [one.trigger for one in nights] == ["clock"] * 5
    assert [one.state for one in nights] == ["passed"] * 2 + ["failed"] * 3
    changes = [one.comparison and one.comparison["change"] for one in nights]
    assert changes == ["unchanged"] * 2 + ["regressed"] * 3
    # Every run passed: only the comparison says that something is wrong.
    data = [one.body["data"] for one in receiver.of("result.completed")]
    assert [one["id"] for one in data] == [one.result_id for one in nights]
    assert {one["success_rate"] for one in data} == {100.0}
    told = [one["scenario_runner"]["firing"] for one in data]
    assert [one["change"] for one in told] == changes
    assert [one["state"] for one in told] == [one.state for one in nights]
    assert [one["baseline"] for one in told] == [[base.result_id]] * 5
    assert "suite REGRESSED" in told[2]["reason"]
    assert len({one.headers["webhook-id"] for one in receiver.received}) == len(receiver.received) == 5


@on_sqlite
async def test_a_night_that_could_not_even_start_is_told_of(town: Town) -> None:
    job = await town.add(scenario_ids=[99], data={"notify_on": "failure"})
    await town.add(scenario_ids=[99], data={"notify_on": "success"})
    with receiving() as receiver:
        await hook(town, receiver)
        await town.pass_by()
        await deliver(town)
        await town.run(lambda session: replay(session, 1))
        await deliver(town)
        await hook(town, receiver, notify_cronjob_webhook_error=False)
        await town.pass_by()
        await deliver(town)
    first, again = receiver.received
    (firing, _) = await town.history(job)
    assert (first.body["event_type"], first.headers["x-cekura-idempotency-key"]) == (
        "schedule.failed",
        f"schedule_failed:{firing.id}",
    )
    data = first.body["data"]
    assert (data["cron_job"], data["name"], data["agent"], data["error_message"]) == (
        job,
        "nightly",
        1,
        firing.reason,
    )
    assert data["error_message"].startswith("nothing was launched: scenarios[0].scenario: Invalid pk")
    assert data["scenario_runner"]["firing"]["state"] == "failed"
    assert data["scenario_runner"]["link"] == f"{BASE_URL}/schedules/v1/cron-jobs/{job}/history/"
    assert (first.headers["webhook-id"], first.body) == (again.headers["webhook-id"], again.body)


@on_sqlite
async def test_a_night_that_is_skipped_is_told_of(town: Town) -> None:
    await town.add(data={"notify_on": "both", "overlap": "skip"})
    with receiving() as receiver:
        await hook(town, receiver)
        await town.pass_by()
        await town.pass_by(MINUTE)
        await deliver(town)
    [skipped] = receiver.received
    assert skipped.body["event_type"] == "schedule.failed"
    assert skipped.body["data"]["scenario_runner"]["firing"]["state"] == "skipped"
    assert skipped.body["data"]["error_message"] == "result 1 was still on"
