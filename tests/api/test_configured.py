"""Schedules from a file: applied when a server starts, and refused with file and line."""

from pathlib import Path

import anyio
import pytest
from sqlalchemy import select, update

from runner.api.configured import apply_schedules, read_schedules
from runner.api.services import Services
from runner.errors import UsageError
from runner.records.schedules import open_rooms
from runner.records.tables import Agent, CronJob
from tests.api.conftest import on_every_database

pytestmark = pytest.mark.anyio

PROJECT = Path(__file__).parents[2]
NIGHTLY = '  - name: nightly\n    crontab_expression: "30 2 * * *"\n    timezone: Europe/Berlin\n    scenarios: [1]\n'
ROOM = (
    '  - name: in a room\n    crontab_expression: "0 6 * * mon"\n    rooms:\n      - scenario: 1\n'
    "        pipecat_room_url: http://localhost:7860/api/offer\n        pipecat_token: env:STAGING_TOKEN\n"
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "schedules.yaml"


@pytest.fixture(autouse=True)
async def startable(services: Services) -> None:
    async with services.database.session() as session:
        start = {"start_url": "http://localhost:7860/start", "transport": "webrtc"}
        await session.execute(update(Agent).values(session=start))


async def apply(services: Services, file: Path, *written: str) -> dict[str, CronJob]:
    """Apply a file, and return all schedules by their names."""
    await anyio.Path(file).write_text("schedules:\n" + "".join(written) if written else "schedules: []\n")
    await apply_schedules(services, read_schedules(file))
    async with services.database.reading() as session:
        return {row.name: row for row in await session.scalars(select(CronJob))}


@on_every_database
async def test_what_the_file_says_is_made_changed_and_paused(
    services: Services, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGING_TOKEN", "pl4nted-t0ken")
    async with services.database.session() as session:
        session.add(
            CronJob(project_id=1, agent_id=1, name="by hand", crontab_expression="0 1 * * *", scenario_ids=[1])
        )
    jobs = await apply(services, file, NIGHTLY, ROOM)
    nightly = jobs["nightly"]
    assert (nightly.agent_id, nightly.configured_as, nightly.data["created_via"]) == (1, "nightly", "config")
    assert nightly.next_due_at is not None
    (room,) = open_rooms(services.vault, jobs["in a room"].rooms)
    assert room.token is not None and room.token.get_secret_value() == "pl4nted-t0ken"

    again = (await apply(services, file, NIGHTLY, ROOM))["nightly"]
    assert (again.id, again.next_due_at, again.updated_at) == (nightly.id, nightly.next_due_at, nightly.updated_at)

    changed = await apply(services, file, NIGHTLY.replace("30 2", "45 3"))
    assert (changed["nightly"].id, changed["nightly"].crontab_expression) == (nightly.id, "45 3 * * *")
    assert changed["nightly"].next_due_at != nightly.next_due_at
    gone = changed["in a room"]
    assert (gone.is_active, gone.next_due_at, gone.data["is_gone_from_file"]) == (False, None, True)

    back = await apply(services, file, NIGHTLY, ROOM)
    assert (back["in a room"].id, back["in a room"].is_active) == (gone.id, True)
    assert "is_gone_from_file" not in back["in a room"].data

    nothing = await apply(services, file)
    assert [name for name, job in nothing.items() if job.is_active] == ["by hand"]


async def test_what_was_due_while_the_server_was_down_stays_due(services: Services, file: Path) -> None:
    nightly = (await apply(services, file, NIGHTLY))["nightly"]
    async with services.database.session() as session:
        before = nightly.next_due_at and nightly.next_due_at.replace(year=2020)
        await session.execute(update(CronJob).values(next_due_at=before))
    assert (await apply(services, file, NIGHTLY))["nightly"].next_due_at == before


WRONG = [
    (NIGHTLY + NIGHTLY, 6, "another schedule is called 'nightly'"),
    (NIGHTLY.replace("30 2", "61 2"), 3, "crontab_expression: Not a crontab expression"),
    (NIGHTLY.replace("Europe/Berlin", "Berlin"), 4, "timezone: Not a time zone"),
    (NIGHTLY.replace("[1]", "[99]"), 5, "scenarios: Invalid pk"),
    (NIGHTLY.replace("[1]", "1"), 5, "scenarios:"),
    (NIGHTLY + "    notify_on: failure\n", 6, "notify_on:"),
    (NIGHTLY + "    baseline: 99\n", 6, "baseline: Invalid pk"),
    (NIGHTLY + "    overlap: kill\n", 6, "overlap:"),
    (NIGHTLY + "    project: 9\n", 6, "project: There is no project 9"),
    (NIGHTLY + "    agent: 9\n", 6, "agent: Invalid pk"),
    (NIGHTLY + "    frequncy: 2\n", 6, "did you mean 'frequency'?"),
    (NIGHTLY.replace("    scenarios: [1]\n", ""), 2, "scenarios: Give scenarios"),
    (NIGHTLY.replace('    crontab_expression: "30 2 * * *"\n', ""), 2, "crontab_expression: This field is required"),
    (NIGHTLY.replace("  - name: nightly\n", "  - agent: 1\n"), 2, "needs 'name'"),
    (ROOM.replace("env:STAGING_TOKEN", "pl4nted-t0ken"), 7, "token must be env:NAME"),
    (ROOM, 7, "token: the environment variable STAGING_TOKEN is not set"),
    (ROOM.replace("        pipecat_token: env:STAGING_TOKEN\n", "").replace("localhost", "evil.example"), 5, "rooms"),
]


async def test_what_is_wrong_is_named_with_its_line(services: Services, file: Path) -> None:
    for written, line, said in WRONG:
        with pytest.raises(UsageError) as caught:
            await apply(services, file, written)
        message = str(caught.value)
        assert message.startswith(f"{file}:{line}: ") and said in message, (written, message)
        assert "pl4nted" not in message and "\n" not in message
    async with services.database.reading() as session:
        assert (await session.scalars(select(CronJob))).all() == []


async def test_an_agent_that_can_not_be_started_is_named(services: Services, file: Path) -> None:
    async with services.database.session() as session:
        await session.execute(update(Agent).values(session={}))
    with pytest.raises(UsageError, match="has no way to start a session"):
        await apply(services, file, NIGHTLY)


def test_the_file_that_comes_along_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGING_TOKEN", "t")
    assert [one.name for one in read_schedules(PROJECT / "config/schedules.yaml")] == ["nightly", "staging room"]
