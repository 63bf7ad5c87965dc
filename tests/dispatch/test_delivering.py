"""Webhooks are delivered, also where receivers are away and processes are killed, and each as one message."""

import signal
import subprocess
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import SecretStr
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from runner.api.webhook_bodies import WebhookBodies
from runner.dispatch import durable as durable_work
from runner.dispatch.delivering import Delivering, send_test
from runner.dispatch.durable import Durable
from runner.dispatch.sending import signature
from runner.errors import UsageError
from runner.records import deliveries
from runner.records.database import Database
from runner.records.deliveries import replay
from runner.records.record import Record
from runner.records.runs import end_run
from runner.records.secrets import open_vault
from runner.records.store import open_store
from runner.records.tables import Project, RunRow, WebhookDelivery, utc_now
from runner.records.webhooks import Kind, hold_for_webhook, write_webhooks
from runner.sessions.local_agent import free_port
from runner.settings import ServerSettings, Settings
from tests.dispatch.durable_process import FAST, started
from tests.doubles.receiver import Received, answers, receiving
from tests.records.giving import WORKER
from tests.records.outcomes import agent_failed

pytestmark = pytest.mark.anyio

SHIPPED_SILENT_LIMIT_S = durable_work.SILENT_LIMIT_S
"""After how long others take over, before tests make it less."""

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Scene:
    """A record whose project has webhooks, with a run that a worker has."""

    def __init__(self, database: Database, folder: Path):
        self.database = database
        server = ServerSettings(data_dir=folder, database_url=SecretStr(database.url), allow_loopback=True)
        self.settings = Settings(server=server)
        self.vault, self.store = open_vault(server), open_store(server)
        self.record = Record(self.settings, database, self.vault, self.store)
        self.delivering = Delivering(self.record, WebhookBodies("http://runner.example.com").make)

    async def configure(self, **given: Any) -> None:
        def write(session: Session) -> None:
            write_webhooks(session.get_one(Project, 1), self.vault, given)

        await self.database.run(write)

    async def complete(self) -> None:
        await self.database.run(lambda session: end_run(session, 1, 1, agent_failed("it froze"), executor=WORKER))

    @contextmanager
    def process(self, *how: str) -> Generator["subprocess.Popen[str]"]:
        """Deliver in another process; ``as shipped`` shortens no time."""
        with started(self.settings, self.database.url, "delivers", *how) as process:
            yield process

    async def until(self, wanted: Callable[[list[WebhookDelivery]], bool], timeout_s: float = 30) -> list[Any]:
        with anyio.fail_after(timeout_s):
            while True:
                async with self.database.reading() as session:
                    rows = list(await session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id)))
                if wanted(rows):
                    return rows
                await anyio.sleep(0.05)


def all_over(rows: list[WebhookDelivery]) -> bool:
    return bool(rows) and all(row.status != "pending" for row in rows)


@pytest.fixture
async def scene(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in FAST.items():
        monkeypatch.setattr(durable_work, name, value)
    monkeypatch.setattr(deliveries, "RETRY_WAITS_S", (0.2,) * 60)
    monkeypatch.setattr(deliveries, "PRE_TRIGGER_WAITS_S", (0.1, 0.1, 0.1))
    run: dict[str, Any] = {
        "status": "running",
        "executor": WORKER,
        "started_at": utc_now(),
        "snapshot": {"script": {}},
    }
    async with database.session() as session:
        session.add(RunRow(result_id=1, project_id=1, scenario_name="hello", **run))
    return Scene(database, tmp_path / "data")


@pytest.fixture
async def durable(scene: Scene) -> Any:
    """The scene's durable work, which is done in this process."""
    durable = Durable(scene.database, scene.store, scene.settings, scene.delivering)
    await durable.prepare()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(durable.run)
        yield durable
        tasks.cancel_scope.cancel()
    await durable.close()


async def at_once(name: str, attempts: int, work: Any) -> dict[str, Any]:
    """Do a step that is not written down."""
    return await work(None)


def check(received: Received) -> None:
    """See that a message is signed for the time at which it was sent."""
    message_id, sent_at_s = received.headers["webhook-id"], int(received.headers["webhook-timestamp"])
    assert received.headers["webhook-signature"] == signature(SECRET, message_id, sent_at_s, received.content)


async def test_everything_about_a_result_is_delivered(scene: Scene, durable: Durable) -> None:
    """One start of the durable work for all of it: that is what takes time here."""
    with receiving(answers(503, 500, 200)) as receiver, receiving() as slack:
        await scene.configure(
            webhook_url=receiver.url(),
            webhook_secret=SECRET,
            slack_webhook_url=slack.url("/services/x"),
            notify_pre_run_webhook=True,
        )
        # Runs wait for the answer to what comes before them.
        until = await scene.database.run(lambda session: hold_for_webhook(session, 1, None))
        async with scene.database.session() as session:
            await session.execute(update(RunRow).values(not_before=until))
        await scene.until(all_over)
        async with scene.database.reading() as session:
            assert (await session.get_one(RunRow, 1)).not_before <= utc_now()
        assert [one.body["event_type"] for one in receiver.received] == ["result.pre_trigger"] * 3
        assert receiver.received[0].body["data"]["runs"]["1"]["scenario"] == {"id": None, "name": "hello"}
        assert receiver.received[0].headers["x-cekura-idempotency-key"] == "result_pre_trigger:1"

        await scene.complete()
        rows = await scene.until(lambda rows: len(rows) == 3 and all_over(rows))
        assert [(row.event, row.kind, row.status, row.attempts) for row in rows] == [
            ("result.pre_trigger", "webhook", "delivered", 3),
            ("result.completed", "webhook", "delivered", 1),
            ("result.completed", "slack", "delivered", 1),
        ]
        [completed] = receiver.of("result.completed")
        data = completed.body["data"]
        assert (data["id"], data["status"], data["success_rate"], data["is_cronjob"]) == (1, "completed", 0.0, False)
        run = data["runs"]["1"]
        assert (run["scenario"]["name"], run["success"]) == ("hello", False)
        assert run["scenario_runner"]["detail"] == "it froze" and run["transcript_object"][0]["content"] == "Hello"
        for one in receiver.received:
            check(one)
        # However often it is sent, it is the same message.
        assert len({one.headers["webhook-id"] for one in receiver.of("result.pre_trigger")}) == 1
        [told] = slack.received
        assert "1 failed" in told.body["text"] and "it froze" in told.body["blocks"][2]["text"]["text"]
        assert "webhook-signature" not in told.headers

        await scene.database.run(lambda session: replay(session, rows[1].id))
        await scene.until(all_over)
        first, again = receiver.of("result.completed")
        assert (first.headers["webhook-id"], first.body) == (again.headers["webhook-id"], again.body)

        # Nobody wants it any more.
        await scene.configure(webhook_url=None, webhook_secret=None)
        await scene.database.run(lambda session: replay(session, rows[1].id))
        [_, left, _] = await scene.until(all_over)
        assert left.status == "failed" and "neither the agent nor the project" in left.error
        assert len(receiver.of("result.completed")) == 2


async def test_a_receiver_that_is_away_gets_it_once_it_is_back(scene: Scene, durable: Durable) -> None:
    port = free_port()
    await scene.configure(webhook_url=f"http://127.0.0.1:{port}/hook", webhook_secret=SECRET)
    await scene.complete()
    await scene.until(lambda rows: bool(rows) and rows[0].attempts >= 2)
    with receiving(port=port) as receiver:
        [row] = await scene.until(all_over)
        assert row.status == "delivered" and len(receiver.received) == 1
        assert "can't be reached" in row.tries[0]["error"]


@pytest.mark.slow
async def test_it_arrives_once_where_a_process_is_killed_meanwhile(scene: Scene) -> None:
    port = free_port()
    await scene.configure(webhook_url=f"http://127.0.0.1:{port}/hook", webhook_secret=SECRET)
    idle = Durable(scene.database, scene.store, scene.settings, scene.delivering)
    await idle.prepare()
    with scene.process() as first:
        await scene.complete()
        await scene.until(lambda rows: rows[0].attempts >= 1)
        with scene.process():
            # While it waits before it tries again.
            first.send_signal(signal.SIGKILL)
            with receiving(port=port) as receiver:
                await scene.until(all_over, timeout_s=60)
                await anyio.sleep(3)
                assert len(receiver.received) == 1
                check(receiver.received[0])
    await idle.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_minute_without_receiver_and_a_kill_lose_nothing(scene: Scene) -> None:
    """In real time, with the waits that are shipped: about two minutes."""
    port, down_s = free_port(), 60.0
    await scene.configure(webhook_url=f"http://127.0.0.1:{port}/hook", webhook_secret=SECRET)
    idle = Durable(scene.database, scene.store, scene.settings, scene.delivering)
    await idle.prepare()
    with ExitStack() as processes:
        first = processes.enter_context(scene.process("as", "shipped"))
        await scene.complete()
        await scene.until(lambda rows: rows[0].attempts >= 1)
        down_from_s = anyio.current_time()
        await anyio.sleep_until(down_from_s + down_s / 2)
        first.send_signal(signal.SIGKILL)
        processes.enter_context(scene.process("as", "shipped"))
        await anyio.sleep_until(down_from_s + down_s)
        with receiving(port=port) as receiver:
            [row] = await scene.until(all_over, timeout_s=300)
            # For as long as whoever takes over would need to send it again.
            await anyio.sleep(2 * SHIPPED_SILENT_LIMIT_S)
    await idle.close()
    assert (row.status, row.round) == ("delivered", 1)
    assert [one.headers["webhook-id"] for one in receiver.received] == [row.message_id]
    check(receiver.received[0])
    assert row.attempts >= 3 and all(one["error"] for one in row.tries[:-1])


@pytest.mark.slow
async def test_what_was_acknowledged_is_not_sent_by_who_takes_over(scene: Scene) -> None:
    idle = Durable(scene.database, scene.store, scene.settings, scene.delivering)
    await idle.prepare()
    with receiving() as receiver, receiving(answers(None)) as hanging:
        await scene.configure(webhook_url=receiver.url(), slack_webhook_url=hanging.url())
        with scene.process() as first:
            await scene.complete()
            await scene.until(lambda rows: any(row.status == "delivered" for row in rows))
            with anyio.fail_after(10):
                while not hanging.received:
                    await anyio.sleep(0.05)
            with scene.process():
                hanging.answer = answers(200)
                first.send_signal(signal.SIGKILL)
                await scene.until(all_over, timeout_s=60)
        # The one that hung came twice, as the same message.
        assert len(receiver.received) == 1 and len({one.headers["webhook-id"] for one in hanging.received}) == 1
    await idle.close()


async def test_a_sample_is_sent_at_once_and_noted(scene: Scene) -> None:
    with receiving(answers(204, 401)) as receiver:
        await scene.configure(webhook_url=receiver.url(), webhook_secret="a plain secret")
        for status, error in (("delivered", ""), ("failed", "the receiver answered 401")):
            row = await send_test(scene.record, scene.delivering.sender, 1, None, Kind.WEBHOOK)
            assert (row.status, row.error, row.event, row.attempts) == (status, error, "webhook.test", 1)
    assert [one.body["event_type"] for one in receiver.received] == ["webhook.test"] * 2
    assert receiver.received[0].headers["x-cekura-secret"] == "a plain secret"
    with pytest.raises(UsageError, match="slack_webhook_url"):
        await send_test(scene.record, scene.delivering.sender, 1, None, Kind.SLACK)


async def test_what_comes_too_late_for_its_runs_is_not_sent(scene: Scene) -> None:
    with receiving() as receiver:
        await scene.configure(webhook_url=receiver.url(), notify_pre_run_webhook=True)
        await scene.database.run(lambda session: hold_for_webhook(session, 1, None))
        async with scene.database.session() as session:
            await session.execute(update(WebhookDelivery).values(held_until=utc_now()))

        await scene.delivering.deliver(1, 1, at_once, anyio.sleep)
        [row] = await scene.until(all_over)
        assert not receiver.received and "went on without it" in row.error


async def test_a_body_that_can_not_be_made_is_our_own_error(scene: Scene) -> None:
    def fail(*_: Any) -> dict[str, Any]:
        raise KeyError("x")

    with receiving() as receiver:
        await scene.configure(webhook_url=receiver.url())
        await scene.complete()
        await Delivering(scene.record, fail).deliver(1, 1, at_once, anyio.sleep)
    [row] = await scene.until(all_over)
    assert not receiver.received and (row.status, row.error) == ("failed", "our own error: KeyError")
