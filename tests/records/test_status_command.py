"""The command that shows how things stand, on both kinds of database."""

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from click.testing import CliRunner, Result

from runner.cli import main
from runner.records.database import Database
from runner.records.tables import Project, ResultRow, RunRow, utc_now
from tests.records.giving import worker

PASSWORD = "s3cr3t-p4ss"


@pytest.fixture(autouse=True)
def folder(bare_folder: Path) -> Path:
    return bare_folder


@pytest.fixture
def url(database_url: str) -> str:
    """The address of a record with a project."""
    fill(database_url, [Project(id=1, name="p")])
    return database_url


def fill(url: str, rows: Sequence[Any]) -> None:
    """Add rows, each after the one before it."""

    async def add() -> None:
        database = Database(url)
        async with database.session() as session:
            for row in rows:
                session.add(row)
                await session.flush()
        await database.close()

    anyio.run(add)


def run(**more: Any) -> RunRow:
    return RunRow(**{"result_id": 1, "project_id": 1, "scenario_name": "s", "snapshot": {}, **more})


def status(url: str, *options: str) -> Result:
    return CliRunner().invoke(main, ["status", "--database-url", url, *options])


def result() -> ResultRow:
    return ResultRow(id=1, project_id=1, run_type="pipecat", run_settings={})


def test_a_record_in_which_nothing_happens(url: str) -> None:
    shown = status(url)
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout.splitlines() == [
        "waiting  none",
        "live     0 handed over, 0 running, 0 evaluating",
        "workers  none",
    ]


def test_queue_and_workers_are_shown_with_ages_and_without_dates(url: str) -> None:
    now = utc_now()
    fill(
        url,
        [
            result(),
            run(created_at=now - timedelta(minutes=3)),
            run(not_before=now + timedelta(hours=1)),
            run(executor="host-1", status="running", started_at=now),
            worker(
                "host-1",
                version="0.3.0",
                started_at=now - timedelta(hours=5),
                runs={"live": [3], "kept": [[9, 1, True]]},
                load={"loop_lag_ms": 12.4, "underruns": 2},
            ),
            worker("another\x1b[31m-1", state="lost", gone_at=now, started_at=now - timedelta(hours=1)),
            worker("third-1", state="paused", why="its disk\nis full"),
        ],
    )
    shown = status(url)
    assert shown.exit_code == 0, shown.output
    waiting, live, count, other, mine, third = shown.stdout.splitlines()
    assert waiting == "waiting  1, the oldest for 3 min; 1 delayed"
    assert live == "live     0 handed over, 1 running, 0 evaluating"
    assert count == "workers  2"
    assert mine.split("  ")[1] == "host" and "taking" in mine
    for part in ("1/4 calls", "lag 12 ms", "2 underruns", "1 reports waiting", "up 5 h", "0.3.0"):
        assert part in mine, mine
    assert re.search(r"seen \d+ s ago", mine)
    assert "lost" in other and "was up" in other and "\x1b" not in other
    assert "paused" in third and third.endswith("its disk is full")


def test_what_is_stuck_has_its_own_lines_and_exit_code(url: str) -> None:
    fill(url, [result(), run(), run(), run(executor="who-1")])
    for options in ([], ["--json"]):
        shown = status(url, *options)
        assert shown.exit_code == 2
        assert shown.stderr.splitlines() == [
            "stuck: 1 run (3): worker who-1 is unknown",
            "stuck: 2 runs (1, 2): there is no worker that takes runs",
        ]
    fill(url, [run() for _ in range(30)])
    assert "stuck: 32 runs (1, 2, 4, " in status(url).stderr
    assert ", …): there is" in status(url).stderr


def test_as_json_it_is_json_alone(url: str) -> None:
    fill(url, [result(), run(), worker("host-1", runs={"live": [7], "kept": []})])
    shown = status(url, "--json")
    assert shown.exit_code == 0, shown.output
    told = json.loads(shown.stdout)
    assert (told["queue"]["waiting"], told["queue"]["delayed"], told["stuck"]) == (1, 0, [])
    (host,) = told["workers"]
    assert (host["name"], host["state"], host["live"], host["limit"]) == ("host", "taking", [7], 4)
    assert host["seen_s"] < 60


@pytest.fixture
def writer(url: str) -> Iterator[Any]:
    """Somebody in the middle of writing."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM runs")
            yield connection
    else:
        with closing(psycopg.connect(url)) as connection:
            connection.execute("LOCK TABLE runs IN ROW EXCLUSIVE MODE")
            connection.execute("DELETE FROM runs")
            yield connection


def test_it_waits_for_nobody_who_writes(url: str, request: pytest.FixtureRequest) -> None:
    fill(url, [result(), run(), worker("host-1")])
    request.getfixturevalue("writer")
    assert "waiting  1" in status(url).stdout


def test_a_record_that_is_not_there_is_one_line(folder: Path) -> None:
    away = ["--database-url", f"postgresql://u:{PASSWORD}@127.0.0.1:1/n"]
    for options, said in (([], "run `scenario-runner migrate` first"), (away, "refused")):
        shown = CliRunner().invoke(main, ["status", *options])
        assert shown.exit_code == 2 and shown.stdout == ""
        (line,) = shown.stderr.splitlines()
        assert line.startswith("error: ") and said in line and PASSWORD not in line
    assert not list(folder.glob("data*"))


def test_asking_for_help_loads_no_database() -> None:
    code = """
import sys
from runner.cli import main
main(["status", "--help"], standalone_mode=False)
heavy = {"sqlalchemy", "alembic", "dbos", "pipecat", "httpx"}
print(*sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert shown.stderr.strip() == ""
    assert "Exit codes" in shown.stdout
