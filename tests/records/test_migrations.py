"""The migrations: they come to the tables of the code, on both kinds of database, whoever else does the same."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from hatchling.builders.wheel import WheelBuilder
from sqlalchemy import Connection, Select, create_engine, inspect, select, text

from runner.errors import UsageError
from runner.records.assignments import assign
from runner.records.database import Database
from runner.records.migrations import VERSION_TABLE, alembic_config, head
from runner.records.runs import release
from runner.records.tables import Base, CronJob, Latencies, Project, RunRow, WorkerRow
from runner.settings import ServerSettings
from tests.records.giving import able_worker

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]
PROJECT = Path(__file__).parents[2]
NOW = "2026-01-01 10:00:00+00"


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        yield connection
    engine.dispose()


async def migrate(url: str) -> None:
    database = Database(url)
    await database.migrate()
    assert await database.is_current()
    await database.close()


async def read(url: str, statement: Select[Any]) -> list[Any]:
    database = Database(url)
    async with database.reading() as session:
        found = [tuple(row) for row in await session.execute(statement)]
    await database.close()
    return found


async def test_they_come_to_the_tables_of_the_code_and_again_change_nothing(new_url: str) -> None:
    """Tables of others are left alone, and are no difference that the next migration would have to write."""
    with connected(new_url) as connection:
        connection.execute(text("CREATE TABLE workflow_status (id integer)"))
        connection.execute(text("CREATE TABLE alembic_version (version_num varchar(32))"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('theirs')"))
    database = Database(new_url)
    assert not await database.is_current()
    await database.close()
    await migrate(new_url)
    with connected(new_url) as connection:
        connection.execute(text(f"INSERT INTO projects (name, created_at) VALUES ('kept', '{NOW}')"))
    await migrate(new_url)
    assert await read(new_url, select(Project.name)) == [("kept",)]
    with connected(new_url) as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "theirs"
        # Raises where there is a difference to be written.
        command.check(alembic_config(connection))
        connection.execute(text("DROP TABLE workflow_status"))
        connection.execute(text("DROP TABLE alembic_version"))
        opts: dict[str, Any] = {"version_table": VERSION_TABLE, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=opts), Base.metadata) == []


BEFORE_WORKERS = (
    # (id, status, attempt, executor, ended, room)
    (1, "pending", 0, None, False, "https://acme.daily.co/Room/"),
    (2, "pending", 0, None, False, "http://localhost:7860/api/offer"),
    (3, "running", 1, "old-worker", False, "https://acme.daily.co/room"),
    (4, "evaluating", 2, "old-worker", False, None),
    (5, "completed", 2, "old-worker", True, "https://acme.daily.co/room"),
    (6, "cancelled", 0, None, True, "https://acme.daily.co/room"),
)


def put(connection: Connection, table: str, **values: Any) -> None:
    names = ", ".join(values)
    marks = ", ".join(f":{name}" for name in values)
    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), values)


def fill(url: str, version: str, *statements: str) -> None:
    """Put runs into a record as they were before there were workers elsewhere, then bring it to a later version."""
    times = {"created_at": NOW, "updated_at": NOW}
    with connected(url) as connection:
        command.upgrade(alembic_config(connection), "0001")
        put(connection, "projects", id=1, name="p", created_at=NOW)
        result = {"agent_name": "", "name": "", "status": "running", "run_type": "pipecat", "run_settings": "{}"}
        put(connection, "results", id=1, project_id=1, run_as_text=False, is_cronjob=False, **result, **times)
        run = {"result_id": 1, "project_id": 1, "scenario_name": "s", "cancel_requested": False, "error_message": ""}
        run |= dict.fromkeys(("snapshot", "session_data", "artefacts"), "{}")
        for run_id, status, attempt, executor, ended, room in BEFORE_WORKERS:
            told = {"id": run_id, "status": status, "attempt": attempt, "executor": executor, "room_url": room}
            put(connection, "runs", **run, **told, **times, ended_at=NOW if ended else None)
        command.upgrade(alembic_config(connection), version)
        for statement in statements:
            # Not by text(): a colon in JSON is no parameter.
            connection.exec_driver_sql(statement)


def change(run_ids: str, name: str, value: str) -> str:
    return f"UPDATE runs SET {name} = {value} WHERE id IN ({run_ids})"


async def test_runs_from_before_there_were_workers_go_on(new_url: str) -> None:
    fill(new_url, "0001")
    await migrate(new_url)
    database = Database(new_url)
    async with database.reading() as session:
        runs = list(await session.scalars(select(RunRow).order_by(RunRow.id)))
        assert list(await session.scalars(select(WorkerRow))) == []
    assert [(run.status, run.executor) for run in runs] == [(row[1], row[3]) for row in BEFORE_WORKERS]
    # What was kept of any attempt is where that of the first one is.
    assert {run.attempt for run in runs} == {1}
    assert {(run.priority, run.lost, run.not_before, run.said_at) for run in runs} == {(100, 0, None, None)}
    daily = ("https://acme.daily.co/room", "daily")
    nothing = (None, None)
    assert [(run.room_key, run.room_kind) for run in runs] == [daily, nothing, daily, nothing, nothing, nothing]
    # What waited is given to workers, and what was on when the old version stopped is known to be somebody's.
    async with database.session() as session:
        able = [able_worker("w", 9)]
        assert [run.id for run in await session.run_sync(assign, able, ServerSettings())] == [2]
        assert await session.run_sync(release, 3, 1, detail="worker lost", safe_to_retry=True, was_lost=True)
    async with database.session() as session:
        assert len(await session.run_sync(assign, able, ServerSettings())) == 1
    await database.close()


async def test_schedules_that_nothing_fired_are_paused(new_url: str) -> None:
    job = (
        "INSERT INTO cron_jobs (id, project_id, name, crontab_expression, timezone, scenario_ids, is_active, data, "
        f"created_at, updated_at) VALUES (1, 1, 'old', '* * * * *', 'UTC', '[1]', true, '{{}}', '{NOW}', '{NOW}')"
    )
    fill(new_url, "0007", job)
    await migrate(new_url)
    assert await read(new_url, select(CronJob.is_active, CronJob.next_due_at)) == [(False, None)]


async def test_what_passed_unjudged_has_no_verdict_any_more(new_url: str) -> None:
    prompted = change("1, 4", "snapshot", """'{"expected_outcome_prompt": "must sing"}'""")
    unprompted = change("2", "snapshot", """'{"expected_outcome_prompt": null}'""")
    verdicts = change("1, 2, 3", "success", "true"), change("4", "success", "false")
    fill(new_url, "0002", *verdicts, prompted, unprompted)
    await migrate(new_url)
    columns = select(RunRow.success, RunRow.expects, RunRow.error_message).order_by(RunRow.id)
    runs = await read(new_url, columns)
    assert [run[0] for run in runs] == [None, True, True, False, None, None]
    assert [run[1] for run in runs] == [True, False, False, True, False, False]
    assert runs[0][2] == "inconclusive: expected_outcome_prompt was not judged"


async def test_runs_that_had_expectations_are_known_to_have_had_some(new_url: str) -> None:
    outcomes = {"1": '{"expectations": [{"turn": 0}]}', "2": '{"expectations": []}', "3": "{}"}
    fill(new_url, "0003", *(change(run_id, "outcome", f"'{outcome}'") for run_id, outcome in outcomes.items()))
    await migrate(new_url)
    assert await read(new_url, select(RunRow.id).where(RunRow.expects)) == [(1,)]


async def test_answer_times_of_runs_that_ended_are_kept_apart(new_url: str) -> None:
    turns = """'{"turns": [{"response_latency_ms": 800.5}, {"response_latency_ms": null}, {}]}'"""
    fill(new_url, "0010", change("4, 5", "outcome", turns), change("6", "outcome", """'{"turns": []}'"""))
    await migrate(new_url)
    assert await read(new_url, select(Latencies.run_id, Latencies.times_ms)) == [(5, [800.5])]


async def test_ids_are_not_given_out_again_after_migrating(new_url: str) -> None:
    """SQLite builds a table anew whose columns change, and what counts up its ids must not begin again."""
    fill(new_url, "0001")
    with connected(new_url) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT setval(pg_get_serial_sequence('runs', 'id'), 6)"))
        connection.execute(text("DELETE FROM runs"))
    await migrate(new_url)
    database = Database(new_url)
    async with database.session() as session:
        session.add(run := RunRow(result_id=1, project_id=1, scenario_name="s", snapshot={}))
        await session.flush()
        assert run.id == 7
    await database.close()


async def test_a_record_of_a_newer_version_is_refused(new_url: str) -> None:
    await migrate(new_url)
    with connected(new_url) as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    database = Database(new_url)
    assert not await database.is_current()
    with pytest.raises(UsageError, match=r"was made by a newer version of this program \(its tables are at 9999\)"):
        await database.migrate()
    await database.close()
    with connected(new_url) as connection:
        assert connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}")) == "9999"


async def test_a_migration_that_fails_leaves_the_tables_as_they_were(
    new_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.create_index", fail)
        with pytest.raises(RuntimeError, match="in the middle"):
            await Database(new_url).migrate()
    with connected(new_url) as connection:
        assert inspect(connection).get_table_names() == []
    await migrate(new_url)


async def test_threads_that_migrate_at_once_all_succeed(new_url: str, tmp_path: Path) -> None:
    """Half of them the same database, half one of their own: Alembic keeps its state for the whole process."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(6)

    def start(url: str) -> None:
        barrier.wait()
        try:
            anyio.run(migrate, url)
        except BaseException as error:
            failures.append(error)

    urls = [*[new_url] * 3, *(f"sqlite:///{tmp_path}/{number}.sqlite" for number in range(3))]
    threads = [threading.Thread(target=start, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert failures == []


@pytest.mark.slow
async def test_processes_that_migrate_at_once_all_succeed(new_url: str) -> None:
    code = """
import anyio, sys, time
from runner.records.database import Database
time.sleep(max(0, float(sys.argv[2]) - time.time()))
anyio.run(Database(sys.argv[1]).migrate)
"""
    at = str(time.time() + 1.5)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(anyio.run_process, [sys.executable, "-c", code, new_url, at])
    await migrate(new_url)


def test_there_is_one_latest_version_and_a_way_to_it() -> None:
    scripts = ScriptDirectory(str(PROJECT / "runner" / "records" / "migrations"))
    assert scripts.get_heads() == [head()]
    assert [script.revision for script in scripts.walk_revisions()][-1] == "0001"


def test_they_are_found_from_anywhere(tmp_path: Path) -> None:
    code = """
import anyio
from runner.records.database import Database
anyio.run(Database("sqlite:///record.sqlite").migrate)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=60)
    with connected(f"sqlite:///{tmp_path}/record.sqlite") as connection:
        assert "runs" in inspect(connection).get_table_names()


def test_they_are_in_the_package() -> None:
    packaged = {file.distribution_path for file in WheelBuilder(str(PROJECT)).recurse_included_files()}
    folder = PROJECT / "runner" / "records" / "migrations"
    written = {
        str(path.relative_to(PROJECT)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"
    }
    assert "runner/records/migrations/script.py.mako" in written
    assert written <= packaged
