"""The database: transactions, taking turns, and what is shown of it."""

import math
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from loguru import logger
from pydantic import SecretStr
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from runner.errors import UsageError
from runner.records import database as databases
from runner.records import engines
from runner.records.changes import Change, note
from runner.records.database import Database, DatabaseBusy, database_url
from runner.records.tables import Project, ResultRow, RunRow
from runner.settings import ServerSettings
from tests.postgres import PostgresServer
from tests.records.away import Away, away
from tests.records.rows import add, count

__all__ = ["away"]

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]
PASSWORD = "s3cr3t-p4ss"


async def test_a_session_commits_at_its_end(database: Database) -> None:
    async with database.session() as session:
        project = Project(name="one")
        session.add(project)
    assert project.id == 1, "what was loaded stays readable after the commit"
    assert await count(database) == 1


async def test_an_exception_rolls_back(database: Database) -> None:
    with pytest.raises(RuntimeError, match="no"):
        async with database.session() as session:
            session.add(Project(name="one"))
            await session.flush()
            raise RuntimeError("no")
    assert await count(database) == 0


async def test_a_cancelled_task_rolls_back_and_leaves_its_connection(database: Database) -> None:
    for _ in range(25):
        with anyio.move_on_after(0.005):
            async with database.session() as session:
                session.add(Project(name="one"))
                await session.flush()
                await anyio.sleep_forever()
    with anyio.fail_after(10):
        async with database.session() as session:
            session.add(Project(name="two"))
        assert await count(database) == 1


async def test_a_reading_session_sees_one_moment(database: Database) -> None:
    async with database.reading() as session:
        before = await session.scalar(select(func.count()).select_from(Project))
        async with database.session() as other:
            other.add(Project(name="one"))
        assert await session.scalar(select(func.count()).select_from(Project)) == before == 0


async def test_what_refers_to_nothing_is_refused(database: Database) -> None:
    with pytest.raises(IntegrityError):
        async with database.session() as session:
            session.add(RunRow(result_id=7, project_id=7, scenario_name="x", snapshot={}))


async def test_writers_take_turns_in_one_process(database: Database) -> None:
    """Each reads and writes what it read: nothing is lost where a transaction locks what it begins with."""
    async with database.session() as session:
        session.add(Project(id=1, name="0"))

    async def add_one() -> None:
        async with database.session() as session:
            project = await session.get_one(Project, 1, with_for_update=True)
            await anyio.sleep(0.001)
            project.name = str(int(project.name) + 1)

    async with anyio.create_task_group() as tasks:
        for _ in range(40):
            tasks.start_soon(add_one)
    async with database.reading() as session:
        assert (await session.get_one(Project, 1)).name == "40"


WRITER = """
import anyio, sys
from runner.records.database import Database
from runner.records.tables import Project

async def write(database):
    for _ in range(30):
        async with database.session() as session:
            project = await session.get_one(Project, 1, with_for_update=True)
            await anyio.sleep(0.001)
            project.name = str(int(project.name) + 1)

async def main():
    database = Database(sys.argv[1])
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(write, database)
    await database.close()

anyio.run(main)
"""


@pytest.mark.slow
async def test_writers_take_turns_among_processes(database: Database) -> None:
    async with database.session() as session:
        session.add(Project(id=1, name="0"))
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(anyio.run_process, [sys.executable, "-c", WRITER, database.url])
    async with database.reading() as session:
        assert (await session.get_one(Project, 1)).name == "120"


async def test_ids_are_never_given_out_again(database: Database) -> None:
    ids = []
    for _ in range(3):
        async with database.session() as session:
            project = Project(name="one")
            session.add(project)
            await session.flush()
            ids.append(project.id)
            await session.delete(project)
    async with database.session() as session:
        session.add(last := Project(name="last"))
    assert sorted({*ids, last.id}) == [*ids, last.id]


async def test_the_settings_name_the_database(tmp_path: Path) -> None:
    named = SecretStr("postgresql://u@h/n")
    assert database_url(ServerSettings(database_url=named)) == "postgresql://u@h/n"
    folder = tmp_path / "a folder? with %20 #1"
    database = Database(database_url(ServerSettings(data_dir=folder)))
    await database.migrate()
    await database.close()
    assert (folder / "record.sqlite").is_file()


async def test_the_folder_and_the_file_are_for_this_user_alone(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        database = Database(f"sqlite:///{tmp_path}/new/record.sqlite")
        await database.migrate()
        async with database.session() as session:
            session.add(Project(name="one"))
            await session.flush()
            for path in (tmp_path / "new").iterdir():
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        await database.close()
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql//u:{PASSWORD}@h/n",
        f"postgresql://u:{PASSWORD}@h:port/n",
        f"mysql://u:{PASSWORD}@h/n",
        f"sqlite://u:{PASSWORD}@h/n",
        f"sqlite:///x?key={PASSWORD}",
        f"sqlite:///file:x?mode=memory&key={PASSWORD}",
        "sqlite://",
        "sqlite:///:memory:",
        "",
    ],
)
async def test_what_is_no_address_of_a_database_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="database URL") as refusal:
        Database(url)
    assert PASSWORD not in str(refusal.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
async def test_postgresql_is_written_in_several_ways(scheme: str) -> None:
    assert Database(f"{scheme}://u@h/n").url == "postgresql://u@h/n"


async def test_a_password_is_never_shown() -> None:
    url = f"postgresql://u:{PASSWORD}@127.0.0.1:1/n?connect_timeout=2"
    database = Database(url)
    assert database.url == url
    logged: list[str] = []
    sink = logger.add(logged.append, level="TRACE")
    try:
        with pytest.raises(UsageError, match="can't be opened") as refusal:
            await database.migrate()
        assert not await database.is_current()
    finally:
        logger.remove(sink)
    await database.close()
    shown = [repr(database), str(database), database.name, str(refusal.value), repr(refusal.value), *logged]
    assert refusal.value.__cause__ is None
    assert "u:***@127.0.0.1" in database.name
    assert not [line for line in shown if PASSWORD in line]


async def test_errors_do_not_quote_what_was_written(database: Database) -> None:
    with pytest.raises(DBAPIError) as failure:
        async with database.session() as session:
            await session.execute(text("UPDATE nowhere SET it = :secret"), {"secret": PASSWORD})
    assert PASSWORD not in str(failure.value)


async def test_a_file_that_is_no_database_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "record.sqlite").write_text("this is no database, and long enough to be looked at" * 50)
    database = Database(f"sqlite:///{tmp_path}/record.sqlite")
    with pytest.raises(UsageError, match="not a database"):
        await database.migrate()
    assert not await database.is_current()
    await database.close()


async def test_a_folder_that_can_not_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="can't be made"):
        await Database(f"sqlite:///{tmp_path}/file/record.sqlite").migrate()


async def test_asking_whether_a_record_is_current_makes_none(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/record.sqlite")
    assert not await database.is_current()
    assert not [path async for path in anyio.Path(tmp_path).iterdir()]


async def test_a_record_that_can_not_be_used_says_why_and_what_to_do(
    database: Database, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    await database.check_current()
    versions = "UPDATE record_version SET version_num = :version"
    for version, said in (("0001", "is of an older version; run"), ("9999", "made by a newer version")):
        async with database.session() as session:
            await session.execute(text(versions), {"version": version})
        with pytest.raises(UsageError, match=said):
            await database.check_current()
    async with database.session() as session:
        await session.execute(text("DROP TABLE record_version"))
    with pytest.raises(UsageError, match="has no tables; run"):
        await database.check_current()
    (tmp_path / "text").write_text("no database " * 1_000)
    for url, said in (
        (f"sqlite:///{tmp_path}/none.sqlite", "is not there; give the server.s --data-dir, or run"),
        (f"sqlite:///{tmp_path}/text", "can't be opened .*not a database"),
        (postgres_server.url("none"), "can't be opened .*does not exist"),
        (f"postgresql://me:{PASSWORD}@127.0.0.1:1/none", "can't be opened .*refused"),
    ):
        other = Database(url)
        with pytest.raises(UsageError, match=said) as caught:
            await other.check_current()
        assert PASSWORD not in str(caught.value) and "\n" not in str(caught.value)
        await other.close()


async def test_it_can_be_used_again_after_closing(database: Database) -> None:
    assert await count(database) == 0
    await database.close()
    assert await count(database) == 0
    assert await database.is_current()


def test_a_program_that_forgets_to_close_still_ends(tmp_path: Path) -> None:
    code = """
import anyio, sys
from sqlalchemy import text
from runner.records.database import Database

async def main():
    database = Database(sys.argv[1])
    await database.migrate()
    async with database.session() as session:
        await session.execute(text("SELECT 1"))

anyio.run(main)
"""
    subprocess.run([sys.executable, "-c", code, f"sqlite:///{tmp_path}/record.sqlite"], check=True, timeout=20)


async def test_an_update_within_a_transaction_is_seen_in_it(database: Database) -> None:
    async with database.session() as session:
        session.add(Project(id=1, name="one"))
        await session.flush()
        changed = await session.execute(update(Project).where(Project.name == "one").values(name="two"))
        assert changed.rowcount == 1  # pyright: ignore[reportAttributeAccessIssue]
        assert await session.scalar(select(Project.name)) == "two"


# Transactions that threads do.


def counted(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Project)) or 0


async def test_what_a_thread_does_is_committed_unless_it_fails(database: Database) -> None:
    def fail(session: Session) -> None:
        add("two")(session)
        raise RuntimeError("no")

    await database.run(add("one"))
    with pytest.raises(RuntimeError, match="no"):
        await database.run(fail)
    assert await database.run(counted) == await database.look(counted) == await count(database) == 1


async def read(database: Database, work: Callable[[Session], Any]) -> Any:
    async with database.reading() as session:
        return await session.run_sync(work)


READ = {"reading": read, "look": Database.look, "browse": Database.browse}


@pytest.mark.parametrize("how", READ)
async def test_who_reads_can_not_write_and_waits_for_no_writer(database: Database, how: str) -> None:
    with pytest.raises(DBAPIError):
        await READ[how](database, add("one"))
    async with database.session() as session:
        session.add(Project(name="two"))
        await session.flush()
        with anyio.fail_after(10):
            assert await READ[how](database, counted) == 0
    assert await READ[how](database, counted) == 1


async def test_threads_and_tasks_take_turns_at_writing(database: Database) -> None:
    """Each reads, takes its time, and writes what it read and one more: nobody's work is lost."""
    counter = select(Project.name).where(Project.id == 1)
    more = update(Project).where(Project.id == 1)
    await database.run(add("0"))

    def in_thread(session: Session) -> None:
        name = session.scalar(counter.with_for_update())
        time.sleep(0.002)
        session.execute(more.values(name=str(int(name or 0) + 1)))

    async def in_task() -> None:
        async with database.session() as session:
            name = await session.scalar(counter.with_for_update())
            await anyio.sleep(0.002)
            await session.execute(more.values(name=str(int(name or 0) + 1)))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(database.run, in_thread)
            tasks.start_soon(in_task)
    assert await database.look(lambda session: session.scalar(counter)) == "40"


async def test_a_reader_does_not_wait_for_waiting_writers(away: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BLOCKED_LIMIT_S", 3)
    database = away.database
    await database.run(add("one"))
    refused: list[DBAPIError] = []

    async def rename() -> None:
        try:
            await database.run(lambda session: session.execute(update(Project).values(name="two")))
        except DBAPIError as error:
            refused.append(error)

    async with database.session() as session, anyio.create_task_group() as tasks:
        await session.execute(select(Project).with_for_update())
        for _ in range(6):
            tasks.start_soon(rename)
        await anyio.sleep(0.2)
        assert await database.look(counted) == 1 and not refused
    assert len(refused) == 6 and "lock timeout" in str(refused[0])
    await database.run(lambda session: session.execute(update(Project).values(name="two")))


async def test_what_a_thread_has_begun_is_let_finish(database: Database) -> None:
    begun = threading.Event()

    def slowly(session: Session) -> None:
        begun.set()
        time.sleep(0.1)
        add("one")(session)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(database.run, slowly)
        await anyio.to_thread.run_sync(begun.wait)
        tasks.cancel_scope.cancel()
    assert await count(database) == 1


async def test_whoever_waits_for_a_turn_is_not_waiting_for_ever(
    sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'record.sqlite')}")
    monkeypatch.setattr(databases, "WAIT_LIMIT_S", 0.1)
    begun, enough = threading.Event(), threading.Event()

    def hold(session: Session) -> None:
        begun.set()
        enough.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(database.run, hold)
        await anyio.to_thread.run_sync(begun.wait)
        with pytest.raises(DatabaseBusy):
            await database.run(counted)
        enough.set()
    await database.run(add("one"))
    assert await count(database) == 1
    await database.close()


async def test_changes_of_runs_are_logged_once_after_the_commit(database: Database) -> None:
    said: list[str] = []
    sink = logger.add(lambda message: said.append(str(message)), level="INFO", format="{message}")

    def change(session: Session) -> None:
        note(session, 7, 1, Change.JOINED)
        assert not said

    def fail(session: Session) -> None:
        change(session)
        raise RuntimeError

    try:
        with pytest.raises(RuntimeError):
            await database.run(fail)
        await database.run(change)
    finally:
        logger.remove(sink)
    assert len(said) == 1 and "run 7" in said[0]


async def test_after_the_server_was_away_threads_go_on(away: Away) -> None:
    def slowly(session: Session) -> None:
        counted(session)
        time.sleep(0.1)

    database = away.database
    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(database.run, slowly)
            tasks.start_soon(database.look, slowly)
    await away.cut(at_least=6)
    # One finds out; with its connection all others of its kind are given up.
    for do in (database.run, database.look):
        with pytest.raises(DBAPIError):
            await do(counted)
    for _ in range(12):
        assert await database.run(counted) == await database.look(counted) == 0


@pytest.mark.parametrize(
    "value", ["half of a character: \ud800", {"deep": [[[{"n": 1.5, "none": None}]]]}, 10**25, []]
)
async def test_json_is_read_as_it_was_written(sqlite_template: Path, tmp_path: Path, value: Any) -> None:
    database = Database(f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'record.sqlite')}")
    async with database.session() as session:
        session.add(Project(id=1, name="one"))
        await session.flush()
        session.add(ResultRow(project_id=1, run_type="pipecat", run_settings={"value": value}))
    async with database.reading() as session:
        assert await session.scalar(select(ResultRow.run_settings)) == {"value": value}
    await database.close()


# More than there are connections for.


async def test_more_readers_than_connections_are_served_in_order(database: Database) -> None:
    answered: list[int] = []
    enough = anyio.Event()

    async def hold() -> None:
        async with database.reading():
            await enough.wait()

    async def read(number: int) -> None:
        async with database.reading() as session:
            answered.append(number)
            assert await session.scalar(select(func.count()).select_from(Project)) == 0

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(hold)
        await anyio.wait_all_tasks_blocked()
        for number in range(300):
            tasks.start_soon(read, number)
        await anyio.wait_all_tasks_blocked()
        assert answered == []
        enough.set()
    assert answered == list(range(300))


async def test_whoever_finds_the_line_too_long_is_refused_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "MAX_WAITING", 2)
    monkeypatch.setattr(databases, "WAIT_LIMIT_S", 1_000)
    begun, enough = threading.Semaphore(0), threading.Event()
    got: list[int] = []

    def hold(session: Session) -> None:
        begun.release()
        enough.wait()

    async def browse(*, refuses: bool) -> None:
        got.append(await database.browse(counted, refuses=refuses))

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(database.browse, hold)
            await anyio.to_thread.run_sync(begun.acquire)
        for _ in range(2):
            tasks.start_soon(partial(browse, refuses=True))
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(5), pytest.raises(DatabaseBusy):
            await database.browse(counted)
        # Who reads little does not wait for those who read much.
        with anyio.fail_after(5):
            assert await database.look(counted) == await database.run(counted) == await count(database) == 0
        # Whose answer has begun can't be refused any more.
        tasks.start_soon(partial(browse, refuses=False))
        await anyio.wait_all_tasks_blocked()
        enough.set()
    assert got == [0, 0, 0]


async def test_long_work_waits_for_readers_but_not_forever(
    database: Database,
) -> None:
    begun, enough = threading.Event(), threading.Event()

    def hold(session: Session) -> None:
        begun.set()
        enough.wait()

    async def hold_the_loop_ten_times() -> None:
        for _ in range(10):
            time.sleep(0.02)  # noqa: ASYNC251 - that is what is tried
            await anyio.lowlevel.checkpoint()
            turns.append(time.monotonic())

    with anyio.fail_after(5):
        await database.let_readers_go_first(math.inf)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(database.browse, hold)
            await anyio.to_thread.run_sync(begun.wait)
            until_s = time.monotonic() + 0.05
            await database.let_readers_go_first(until_s)
            assert time.monotonic() >= until_s
            threading.Timer(0.1, enough.set).start()
            await database.let_readers_go_first(math.inf)
            assert enough.is_set()
        turns: list[float] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold_the_loop_ten_times)
            await anyio.lowlevel.checkpoint()
            await database.let_readers_go_first(math.inf)
            assert len(turns) == 10


async def test_nobody_waits_in_line_for_longer_than_the_limit(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "WAIT_LIMIT_S", 0.05)

    async def read(enough: anyio.Event) -> None:
        async with database.reading():
            await enough.wait()

    async with anyio.create_task_group() as tasks:
        enough = anyio.Event()
        for _ in range(8):
            tasks.start_soon(read, enough)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(DatabaseBusy):
            await count(database)
        enough.set()
    assert await count(database) == 0


async def test_browsing_sees_one_moment(database: Database) -> None:
    begun, changed = threading.Event(), threading.Event()
    seen: list[int] = []

    def twice(session: Session) -> None:
        seen.append(counted(session))
        begun.set()
        changed.wait()
        seen.append(counted(session))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(database.browse, twice)
        await anyio.to_thread.run_sync(begun.wait)
        await database.run(add("one"))
        changed.set()
    assert seen == [0, 0] and await database.browse(counted) == 1


async def test_a_reader_does_not_notice_that_the_server_was_away(away: Away) -> None:
    assert await away.database.browse(counted) == 0
    await away.cut()
    assert await away.database.browse(counted) == 0
