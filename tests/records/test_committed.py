"""Who hears of what is committed, in this process and in others."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from runner.records.changes import work_changed
from runner.records.database import Database
from runner.records.tables import Project
from tests.postgres import PostgresServer
from tests.records.rows import add, count

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


def change(session: Session) -> None:
    add("one")(session)
    work_changed(session)


async def change_in_task(database: Database) -> None:
    async with database.session() as session:
        work_changed(session.sync_session)


async def test_what_changes_work_is_heard_of_once_it_is_committed(database: Database) -> None:
    heard: list[int] = []

    def fail(session: Session) -> None:
        change(session)
        assert not heard
        raise RuntimeError("no")

    database.work_changed = lambda: heard.append(1)
    with pytest.raises(RuntimeError, match="no"):
        await database.run(fail)
    with pytest.raises(RuntimeError, match="no"):
        async with database.session() as session:
            work_changed(session.sync_session)
            raise RuntimeError("no")
    await database.run(add("two"))
    async with database.session() as session:
        session.add(Project(name="three"))
    assert heard == []
    await database.run(change)
    assert heard == [1]
    await change_in_task(database)
    assert heard == [1, 1]
    # Whoever hears of it finds it.
    assert await count(database) == 3


async def test_who_asks_for_it_goes_and_others_hear_what_was_committed(database: Database) -> None:
    heard: list[int] = []
    database.work_changed = lambda: heard.append(1)
    begun, enough = threading.Event(), threading.Event()

    def slowly(session: Session) -> None:
        change(session)
        begun.set()
        enough.wait(10)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(database.run, slowly)
        await anyio.to_thread.run_sync(begun.wait)
        tasks.cancel_scope.cancel()
        enough.set()
    assert heard == [1] and await count(database) == 1


@pytest.fixture
async def served(postgres_server: PostgresServer, postgres_template: str) -> AsyncIterator[str]:
    """The address of a database on PostgreSQL."""
    name = postgres_server.create(postgres_template)
    yield postgres_server.url(name)
    postgres_server.drop(name)


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[tuple[Database, list[int]]]:
    """Another process's database, and what it hears."""
    heard: list[int] = []
    other = Database(url)
    other.work_changed = lambda: heard.append(1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other.listen)
        # From then on it misses nothing: what was before it looks for itself.
        await heard_of(heard, 1)
        yield other, heard
        tasks.cancel_scope.cancel()
    await other.close()


async def heard_of(heard: list[int], at_least: int) -> None:
    with anyio.fail_after(10):
        while len(heard) < at_least:
            await anyio.sleep(0.005)


async def test_other_processes_hear_of_it_at_once_on_postgresql(served: str) -> None:
    database = Database(served)
    async with listening(served) as (_, heard), listening(served) as (_, heard_too):
        await database.run(add("of no work"))
        for number, do in enumerate((database.run(change), change_in_task(database)), 2):
            await do
            for ears in (heard, heard_too):
                await heard_of(ears, number)
                assert len(ears) == number
    await database.close()


async def test_whoever_listens_to_a_server_that_goes_away_is_told(served: str) -> None:
    database = Database(served)
    ears = anyio.Event()
    database.work_changed = ears.set
    broke: list[str] = []

    async def listen() -> None:
        try:
            await database.listen()
        except Exception as error:
            broke.append(type(error).__name__)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await ears.wait()
            async with database.session() as session:
                await session.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE query LIKE 'LISTEN %' AND datname = current_database()"
                    )
                )
    assert len(broke) == 1
    await database.close()


async def test_on_sqlite_nobody_is_told_and_listening_costs_nothing(tmp_path: Path) -> None:
    heard: list[int] = []
    database = Database(f"sqlite:///{tmp_path}/none.sqlite")
    database.work_changed = lambda: heard.append(1)
    with anyio.move_on_after(0.05) as scope:
        await database.listen()
    assert scope.cancelled_caught and not heard
