"""The commands that show schedules and run one now."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner, Result
from sqlalchemy.orm import Session

from runner.cli import main
from runner.records.database import Database
from runner.records.secrets import open_vault
from runner.records.seed import seed
from runner.records.tables import Agent, CronJob, Firing, Project
from runner.records.webhooks import write_webhooks
from runner.settings import ServerSettings
from tests.records.test_webhooks_command import on_record, workflows

DUE = datetime(2027, 3, 28, 1, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def folder(bare_folder: Path) -> Path:
    return bare_folder


@pytest.fixture
def url(sqlite_template: Path, folder: Path) -> str:
    """The address of a record with two schedules; the first has fired, twice."""
    path = folder / "record.sqlite"
    path.write_bytes(sqlite_template.read_bytes())
    anyio.run(fill, f"sqlite:///{path}")
    return f"sqlite:///{path}"


async def fill(url: str) -> None:
    database = Database(url)
    async with database.session() as session:
        await seed(session)
        agent = await session.get_one(Agent, 1)
        agent.session = {"start_url": "http://localhost:7860/start", "transport": "webrtc"}
        fields = {"project_id": 1, "agent_id": 1, "crontab_expression": "30 2 * * *", "timezone": "Europe/Berlin"}
        nightly = CronJob(id=1, name="nightly\n", scenario_ids=[1], next_due_at=DUE.replace(day=29), **fields)
        session.add_all([nightly, CronJob(id=2, name="paused", scenario_ids=[99], is_active=False, **fields)])
        await session.flush()
        session.add(Firing(job_id=1, trigger="clock", due_at=DUE.replace(day=27), state="passed", reason="all"))
        session.add(Firing(job_id=1, trigger="catch_up", due_at=DUE, state="failed", reason="1 of 2", missed=3))
    await database.close()


def invoke(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["schedules", *arguments, "--database-url", url])


def test_schedules_are_listed_in_the_times_of_their_zones(url: str) -> None:
    listed = invoke(url, "list")
    assert listed.exit_code == 0, listed.output
    first, second = (re.split("  +", line.strip()) for line in listed.stdout.splitlines())
    assert first == [*("1", "due 2027-03-29 03:00", "failed 2027-03-28 03:00", "30 2 * * * Europe/Berlin", "nightly")]
    assert second == ["2", "paused", "never fired", "30 2 * * * Europe/Berlin", "paused"]
    shown = json.loads(invoke(url, "list", "--json").stdout)
    assert (shown[0]["next_due_at"], shown[0]["last_firing"]["missed"]) == ("2027-03-29T01:00:00Z", 3)


def test_listing_is_what_the_command_does_by_itself(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENARIO_RUNNER_SERVER__DATABASE_URL", url)
    alone = CliRunner().invoke(main, ["schedules"])
    assert (alone.exit_code, alone.stdout) == (0, invoke(url, "list").stdout)


def test_history_begins_with_the_latest(url: str) -> None:
    lines = invoke(url, "history", "1").stdout.splitlines()
    assert [re.split("  +", line) for line in lines] == [
        ["2027-03-28 03:00", "catch_up", "failed", "1 of 2"],
        ["2027-03-27 02:00", "clock", "passed", "all"],
    ]
    (latest,) = json.loads(invoke(url, "history", "1", "--limit", "1", "--json").stdout)
    assert (latest["trigger"], latest["due_at"]) == ("catch_up", "2027-03-28T01:00:00Z")


def test_a_schedule_is_run_now(url: str) -> None:
    assert invoke(url, "run-now", "1").stdout == "1\n"
    (latest, *_) = json.loads(invoke(url, "history", "1", "--json").stdout)
    manual = [one for one in json.loads(invoke(url, "history", "1", "--json").stdout) if one["trigger"] == "manual"]
    assert [(one["state"], one["result"]) for one in manual] == [("running", 1)] and latest


def test_what_is_run_now_is_told_by_a_running_server(url: str) -> None:
    """Its runs wait for the answer; nobody but a server asks for it."""

    def configure(session: Session) -> None:
        hook = {"webhook_url": "http://127.0.0.1:9/", "notify_pre_run_webhook": True}
        write_webhooks(session.get_one(Project, 1), open_vault(ServerSettings(database_url=None)), hook)

    on_record(url, configure)
    assert invoke(url, "run-now", "1").exit_code == 0
    assert workflows(url) == [("deliver-1-1", "ENQUEUED")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("history", "9"), "there is no schedule 9"),
        (("run-now", "9"), "there is no schedule 9"),
        (("run-now", "2"), "schedule 2 can't be launched: scenarios[0].scenario: Invalid pk"),
    ],
)
def test_what_can_not_be_is_one_line(url: str, arguments: tuple[str, ...], said: str) -> None:
    refused = invoke(url, *arguments)
    assert (refused.exit_code, refused.stdout) == (2, "")
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: ") and said in line
