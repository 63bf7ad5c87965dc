"""The commands about webhooks, on both kinds of database."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from click.testing import CliRunner, Result
from sqlalchemy.orm import Session

from runner.cli import main
from runner.records.database import Database
from runner.records.deliveries import Sent, note_attempt
from runner.records.runs import end_run
from runner.records.secrets import open_vault
from runner.records.tables import Project, ResultRow, RunRow, utc_now
from runner.records.webhooks import write_webhooks
from runner.settings import ServerSettings
from tests.doubles.receiver import answers, receiving
from tests.records.giving import WORKER
from tests.records.outcomes import outcome

SECRET = "planted plain secret"


@pytest.fixture(autouse=True)
def folder(bare_folder: Path) -> Path:
    return bare_folder


def webhooks(url: str, *words: str) -> Result:
    return CliRunner().invoke(main, ["webhooks", *words, "--database-url", url])


def on_record(url: str, work: Callable[[Session], Any]) -> None:
    async def do() -> None:
        database = Database(url)
        await database.run(work)
        await database.close()

    anyio.run(do)


def complete(url: str, to: str) -> None:
    """Let a project's only result be complete, and fail to deliver that."""
    vault = open_vault(ServerSettings(database_url=None))

    def work(session: Session) -> None:
        session.add(project := Project(id=1, name="p"))
        session.flush()
        write_webhooks(project, vault, {"webhook_url": to, "webhook_secret": SECRET})
        session.add(ResultRow(id=1, project_id=1, run_type="pipecat", status="running"))
        session.flush()
        run: dict[str, Any] = {"status": "running", "executor": WORKER, "started_at": utc_now(), "snapshot": {}}
        session.add(RunRow(result_id=1, project_id=1, scenario_name="s", **run))
        session.flush()
        end_run(session, 1, 1, outcome(), executor=WORKER)
        note_attempt(session, 1, 1, to, Sent(410, "the receiver answered 410", 1.0, again=False))

    on_record(url, work)


def workflows(url: str) -> list[Any]:
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            return connection.execute("SELECT workflow_uuid, status FROM workflow_status").fetchall()
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT workflow_uuid, status FROM dbos.workflow_status").fetchall()


def test_what_was_sent_is_shown_and_sent_again(database_url: str) -> None:
    complete(database_url, "https://hooks.example.com/hook?key=planted")
    listed = webhooks(database_url, "list", "--result", "1")
    assert listed.exit_code == 0, listed.output
    assert "failed" in listed.output and "result.completed  result 1" in listed.output
    assert listed.output.rstrip().endswith("the receiver answered 410")
    assert webhooks(database_url, "list", "--project", "2").output == ""
    again = webhooks(database_url, "replay", "1")
    assert (again.exit_code, again.output) == (0, "webhook 1 is sent again once a server runs\n")
    assert workflows(database_url) == [("deliver-1-2", "ENQUEUED")]
    for number, why in (("1", "is still being sent"), ("7", "there is no delivery 7")):
        refused = webhooks(database_url, "replay", number)
        assert refused.exit_code == 2 and why in refused.output


def test_a_sample_says_how_it_went(database_url: str) -> None:
    with receiving(answers(200, 500)) as receiver:
        complete(database_url, receiver.url("/hook?key=planted"))
        sent = webhooks(database_url, "test")
        assert sent.exit_code == 0 and "delivered" in sent.output, sent.output
        failed = webhooks(database_url, "test")
        assert failed.exit_code == 2 and "the receiver answered 500" in failed.output
        none = webhooks(database_url, "test", "--slack")
        assert none.exit_code == 2 and "project 1 has no slack_webhook_url" in none.output
    assert len(receiver.received) == 2
    assert not any(secret in one.output for one in (sent, failed, none) for secret in ("planted", SECRET))
