"""Which events are told, exactly once, and what becomes of each."""

import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import anyio
import pytest
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from runner.errors import UsageError
from runner.records import deliveries
from runner.records.database import Database
from runner.records.deliveries import (
    PRE_TRIGGER_WAITS_S,
    RETRY_WAITS_S,
    Sent,
    note_attempt,
    purge_deliveries,
    replay,
    take_up_overdue,
)
from runner.records.runs import end_run, request_cancel
from runner.records.secrets import Vault
from runner.records.statuses import FiringState
from runner.records.tables import Agent, Project, ResultRow, RunRow, WebhookDelivery, utc_now
from runner.records.webhooks import (
    DELIVER_LATER,
    TOGGLES,
    Endings,
    Kind,
    destination,
    hold_for_webhook,
    wants,
    write_webhooks,
)
from tests.records.giving import WORKER
from tests.records.outcomes import agent_failed, outcome

pytestmark = pytest.mark.anyio

URL, SECRET = "https://hooks.example.com/hook?key=planted", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SLACK = "https://hooks.slack.com/services/T0/B0/planted"
ARRIVED, REFUSED = Sent(200, "", 5.0), Sent(503, "the receiver answered 503", 5.0)
GONE = Sent(410, "the receiver answered 410", 5.0, again=False)
VAULT = Vault("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""What is not about the database is tried on one kind of it."""

ALL = Endings(total=2, passed=2, failed=0, errors=0)
FAILED = Endings(total=2, passed=1, failed=1, errors=0)
ERROR = Endings(total=2, passed=1, failed=0, errors=1)
NO_RUNS = Endings(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("endings", "off", "told"),
    [
        (ALL, "", True),
        (ALL, "success", False),
        (ALL, "failed error", True),
        (FAILED, "failed", False),
        (FAILED, "success error", True),
        (ERROR, "error", False),
        (ERROR, "success failed", True),
        (Endings(3, 1, 1, 1), "failed", True),
        (NO_RUNS, "", False),
    ],
)
def test_toggles_say_which_results_are_told(endings: Endings, off: str, told: bool) -> None:
    toggles = TOGGLES | {f"notify_result_webhook_{what}": False for what in off.split()}
    assert wants(toggles, endings) is told
    # Those of the other kind of results don't matter.
    firing = FiringState.FAILED if endings.failed else FiringState.PASSED
    assert wants(toggles, endings, firing=firing) is (endings is not NO_RUNS)


@pytest.mark.parametrize(
    ("firing", "off", "told"),
    [
        (FiringState.PASSED, "success", False),
        (FiringState.PASSED, "failed error", True),
        (FiringState.FAILED, "success error", True),
        (FiringState.FAILED, "failed", False),
        (FiringState.INCONCLUSIVE, "success failed", True),
        (FiringState.INCONCLUSIVE, "error", False),
    ],
)
def test_runs_that_passed_are_told_as_what_their_firing_is(firing: FiringState, off: str, told: bool) -> None:
    toggles = TOGGLES | {f"notify_cronjob_webhook_{what}": False for what in off.split()}
    assert wants(toggles, ALL, firing=firing) is told


class Scene:
    """A record with a project that has webhooks, and a result whose runs workers have."""

    def __init__(self, database: Database):
        self.database = database
        self.begun: list[tuple[int, int]] = []
        database.info[DELIVER_LATER] = lambda session, of, number: self.begun.append((of, number))

    async def configure(self, of: type[Project | Agent] = Project, **given: Any) -> None:
        def write(session: Session) -> None:
            write_webhooks(session.get_one(of, 1), VAULT, given)

        await self.database.run(write)

    async def deliveries(self) -> Sequence[WebhookDelivery]:
        async with self.database.reading() as session:
            return (await session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id))).all()

    async def end(self, run_id: int, report: Any = None) -> None:
        what = report or outcome()
        await self.database.run(lambda session: end_run(session, run_id, 1, what, executor=WORKER))

    async def note(self, sent: Sent, delivery_id: int = 1, round: int = 1) -> float | None:
        return await self.database.run(lambda session: note_attempt(session, delivery_id, round, "shown", sent))


@pytest.fixture
async def scene(database: Database) -> Scene:
    running: dict[str, Any] = {"status": "running", "executor": WORKER, "started_at": utc_now()}
    async with database.session() as session:
        session.add(Project(id=1, name="p"))
        await session.flush()
        session.add(Agent(id=1, project_id=1, name="a", provider={}, session={}))
        await session.flush()
        session.add(ResultRow(id=1, project_id=1, agent_id=1, run_type="pipecat", status="running"))
        await session.flush()
        for _ in range(2):
            session.add(RunRow(result_id=1, project_id=1, scenario_name="s", snapshot={"script": {}}, **running))
    return Scene(database)


async def completed(scene: Scene) -> None:
    await scene.configure(webhook_url=URL)
    await scene.end(1)
    await scene.end(2)


async def test_a_complete_result_is_told_once_by_each_way(scene: Scene) -> None:
    await scene.configure(webhook_url=URL, webhook_secret=SECRET, slack_webhook_url=SLACK)
    await scene.end(1)
    assert await scene.deliveries() == []
    await scene.end(2, agent_failed())
    found = await scene.deliveries()
    assert [(one.event, one.kind, one.status) for one in found] == [
        ("result.completed", "webhook", "pending"),
        ("result.completed", "slack", "pending"),
    ]
    assert scene.begun == [(1, 1), (2, 1)]
    assert len({one.message_id for one in found}) == 2
    # The report comes again, and somebody cancels what has ended.
    await scene.end(2, agent_failed())
    await scene.database.run(lambda session: request_cancel(session, [1, 2]))
    assert len(await scene.deliveries()) == 2


@pytest.mark.both_databases
async def test_the_last_runs_may_end_at_the_same_moment(scene: Scene) -> None:
    await scene.configure(webhook_url=URL)
    both = threading.Barrier(2, timeout=10)

    def end(session: Session, run_id: int) -> None:
        # SQLite lets one in at a time.
        if session.get_bind().dialect.name == "postgresql":
            both.wait()
        end_run(session, run_id, 1, outcome(), executor=WORKER)

    async with anyio.create_task_group() as tasks:
        for run_id in (1, 2):
            tasks.start_soon(scene.database.run, lambda session, run_id=run_id: end(session, run_id))
    assert len(await scene.deliveries()) == 1


@on_sqlite
async def test_a_cancelled_result_is_told(scene: Scene) -> None:
    await scene.configure(webhook_url=URL)
    async with scene.database.session() as session:
        await session.execute(update(RunRow).values(status="pending", executor=None))
    await scene.database.run(lambda session: request_cancel(session, [1, 2]))
    assert len(await scene.deliveries()) == 1


@on_sqlite
async def test_without_an_address_nothing_is_told(scene: Scene) -> None:
    await scene.end(1)
    await scene.end(2)
    assert await scene.deliveries() == [] and scene.begun == []


async def test_a_transaction_that_fails_tells_nothing(scene: Scene) -> None:
    await scene.configure(webhook_url=URL)
    await scene.end(1)

    def fail(session: Session) -> None:
        end_run(session, 2, 1, outcome(), executor=WORKER)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await scene.database.run(fail)
    assert await scene.deliveries() == []


@on_sqlite
async def test_an_agents_own_address_stands_in_place_of_its_projects(scene: Scene) -> None:
    await scene.configure(webhook_url=URL, webhook_secret=SECRET, slack_webhook_url=SLACK)
    await scene.configure(Agent, webhook_url="https://other.example.com/")

    def where(session: Session) -> list[Any]:
        return [destination(session, VAULT, WebhookDelivery(result_id=1, kind=kind.value)) for kind in Kind]

    webhook, slack = await scene.database.look(where)
    # The project's secret signs nothing that goes elsewhere.
    assert (webhook.url.get_secret_value(), webhook.secret) == ("https://other.example.com/", None)
    assert slack.url.get_secret_value() == SLACK
    await scene.configure(Agent, webhook_url=None)
    webhook, _ = await scene.database.look(where)
    assert (webhook.url.get_secret_value(), webhook.secret.get_secret_value()) == (URL, SECRET)


async def test_what_is_secret_stands_nowhere_in_clear(scene: Scene) -> None:
    await scene.configure(webhook_url=URL, webhook_secret=SECRET, slack_webhook_url=SLACK)
    await scene.end(1)
    await scene.end(2)
    async with scene.database.reading() as session:
        stored = [
            str(row)
            for table in ("projects", "webhook_deliveries")
            for row in (await session.execute(text(f"SELECT * FROM {table}"))).all()
        ]
    assert "hooks.example.com/hook?***" in str(stored) and "https://hooks.slack.com/***" in str(stored)
    assert "planted" not in str(stored) and SECRET not in str(stored)


@on_sqlite
async def test_an_address_is_kept_when_it_is_given_as_it_is_shown(scene: Scene) -> None:
    await scene.configure(webhook_url=URL, slack_webhook_url=SLACK)
    await scene.configure(
        webhook_url="https://hooks.example.com/hook?***", slack_webhook_url="https://hooks.slack.com/***"
    )
    told = WebhookDelivery(result_id=1, kind="webhook")
    found = await scene.database.look(lambda session: destination(session, VAULT, told))
    assert found is not None and found.url.get_secret_value() == URL
    with pytest.raises(UsageError, match="whole address"):
        await scene.configure(webhook_url="https://elsewhere.example.com/?***")


@on_sqlite
async def test_a_secret_needs_something_to_sign(scene: Scene) -> None:
    with pytest.raises(UsageError, match="webhook_url"):
        await scene.configure(webhook_secret=SECRET)


@on_sqlite
async def test_a_delivery_is_tried_longer_and_longer_and_given_up(scene: Scene) -> None:
    await completed(scene)
    waits_s: list[float] = []
    while (wait_s := await scene.note(REFUSED)) is not None:
        waits_s.append(wait_s)
    for wait_s, planned_s in zip(waits_s, RETRY_WAITS_S, strict=True):
        assert 0.9 * planned_s <= wait_s <= 1.1 * planned_s
    [row] = await scene.deliveries()
    assert (row.status, row.attempts, row.status_code) == ("failed", len(RETRY_WAITS_S) + 1, 503)
    assert row.error == "the receiver answered 503" and row.next_attempt_at is None
    assert [one["status_code"] for one in row.tries] == [503] * row.attempts


@on_sqlite
async def test_what_is_not_worth_trying_again_fails_at_once(scene: Scene) -> None:
    await completed(scene)
    assert await scene.note(GONE) is None
    assert (await scene.deliveries())[0].status == "failed"


@on_sqlite
async def test_a_delivery_that_arrived_is_over(scene: Scene) -> None:
    await completed(scene)
    assert await scene.note(REFUSED) is not None
    assert await scene.note(ARRIVED) is None
    # Somebody else who was at it comes late.
    assert await scene.note(REFUSED) is None
    [row] = await scene.deliveries()
    assert (row.status, row.attempts, row.error) == ("delivered", 2, "")


async def test_a_replay_is_another_round_of_the_same_message(scene: Scene) -> None:
    await completed(scene)
    with pytest.raises(UsageError, match="still being sent"):
        await scene.database.run(lambda session: replay(session, 1))
    await scene.note(ARRIVED)
    before = (await scene.deliveries())[0].message_id
    await scene.database.run(lambda session: replay(session, 1))
    [row] = await scene.deliveries()
    assert (row.status, row.round, row.attempts, row.message_id) == ("pending", 2, 0, before)
    assert scene.begun == [(1, 1), (1, 2)]
    # What was under way of the first round counts no more.
    assert await scene.note(REFUSED, round=1) is None
    for delivery_id, project_id in ((99, 1), (1, 2)):
        with pytest.raises(UsageError, match="there is no delivery"):
            await scene.database.run(lambda session, of=delivery_id, in_=project_id: replay(session, of, in_))


async def held(scene: Scene, due_at: datetime | None = None) -> Any:
    """Launch a result whose runs wait; return when they begin at the latest."""
    await scene.configure(webhook_url=URL, notify_pre_run_webhook=True)
    until = await scene.database.run(lambda session: hold_for_webhook(session, 1, due_at))
    async with scene.database.session() as session:
        await session.execute(update(RunRow).values(status="pending", executor=None, not_before=until))
    return until


async def not_before(scene: Scene) -> list[Any]:
    async with scene.database.reading() as session:
        return list(await session.scalars(select(RunRow.not_before)))


@pytest.mark.parametrize("sent", [ARRIVED, GONE], ids=["answered", "refused"])
async def test_runs_wait_until_the_receiver_has_answered(scene: Scene, sent: Sent) -> None:
    until = await held(scene)
    assert until > utc_now() + timedelta(seconds=100)
    heard: list[int] = []
    scene.database.work_changed = lambda: heard.append(1)
    assert await scene.note(sent) is None
    assert all(at <= utc_now() for at in await not_before(scene)) and heard


@on_sqlite
async def test_runs_wait_for_few_attempts_alone(scene: Scene) -> None:
    await held(scene)
    waits_s = [await scene.note(REFUSED) for _ in range(len(PRE_TRIGGER_WAITS_S) + 1)]
    assert waits_s[-1] is None and None not in waits_s[:-1] and sum(filter(None, waits_s)) < 10
    assert all(at <= utc_now() for at in await not_before(scene))
    assert (await scene.deliveries())[0].status == "failed"


@on_sqlite
async def test_a_launch_with_a_delay_keeps_it(scene: Scene) -> None:
    due_at = utc_now() + timedelta(hours=1)
    assert await held(scene, due_at) == due_at
    await scene.note(ARRIVED)
    assert await not_before(scene) == [due_at, due_at]


@on_sqlite
async def test_without_the_toggle_no_run_waits(scene: Scene) -> None:
    await scene.configure(webhook_url=URL)
    assert await scene.database.run(lambda session: hold_for_webhook(session, 1, None)) is None
    assert await scene.deliveries() == []


async def test_what_was_left_is_taken_up_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    await completed(scene)
    assert await scene.database.run(take_up_overdue) == 0
    monkeypatch.setattr(deliveries, "OVERDUE", timedelta())
    assert await scene.database.run(take_up_overdue) == 1
    assert scene.begun == [(1, 1), (1, 2)]


async def test_what_is_old_is_forgotten_once_it_is_over(scene: Scene) -> None:
    await completed(scene)
    now = utc_now() + timedelta(minutes=1)
    assert await scene.database.run(lambda session: purge_deliveries(session, older_than=now)) == 0
    await scene.note(ARRIVED)
    old = utc_now() - timedelta(minutes=1)
    assert await scene.database.run(lambda session: purge_deliveries(session, older_than=old)) == 0
    assert await scene.database.run(lambda session: purge_deliveries(session, older_than=now)) == 1
    assert await scene.deliveries() == []
