"""The record's database: SQLite or PostgreSQL, used the same way.

SQLite has one writer at a time. Here every transaction that may write takes its turn when it begins: first in this
process, in the order they came, then among processes. So none ever fails for having read what another one changed
since. Reading waits for nobody.

There are two ways to use it. In :meth:`Database.session` and :meth:`Database.reading` every statement goes through
the event loop. What comes many times a second is done by a thread in one go, by :meth:`Database.run` and
:meth:`Database.look`: that takes a third of the processor's time. What reads much is done by a thread too
(:meth:`Database.browse`), and keeps nobody else waiting.

Whoever finds every connection in use waits in line: those who came first go first. Where the line is too long, or the
wait, it is a :class:`DatabaseBusy`, and can be tried again.
"""

import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import psycopg
from alembic import command
from sqlalchemy import URL, Engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as TurnTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from runner.errors import UsageError
from runner.records.changes import has_changed_work, log_changes
from runner.records.engines import (
    BROWSERS,
    POSTGRES_ARGUMENTS,
    READERS,
    THREADS,
    WAIT_LIMIT_S,
    WRITERS,
    Engines,
    driver_says,
    migrating_engine,
    parse_url,
)
from runner.records.migrations import alembic_config, head, present, revisions
from runner.records.sharing import Sharing
from runner.settings import ServerSettings

FILE_NAME = "record.sqlite"
MAX_WAITING = 1_000
"""How many wait in line for a connection of one kind. Whoever comes then is refused at once."""

_BUSY_LOOP_S = 0.002
"""A turn of the event loop that takes longer has other things to do."""
_STEP_BACK_S = 0.01
"""For how long whoever lets others go first does nothing."""

_MIGRATION_LOCK = 0x73636E72
"""What processes that migrate the same PostgreSQL database hold, one after the other."""

_CHANNEL = "scenario_runner_work"
_NOTIFY = text(f"SELECT pg_notify('{_CHANNEL}', :sender)")

_T = TypeVar("_T")

_migrating = threading.Lock()
"""Alembic's context is one for the whole process."""


def database_url(settings: ServerSettings) -> str:
    """Return the address of the record's database: the one that is set, or else a file in the data folder."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    path = settings.data_dir.expanduser().absolute() / FILE_NAME
    return URL.create("sqlite", database=str(path)).render_as_string()


class DatabaseBusy(TurnTimeoutError):
    """Too many wait for the database, or this one has waited too long. Nothing was done: it can be tried again."""


class _Line:
    """Lets so many at once have a connection, in the order in which they come."""

    def __init__(self, places: int):
        self._number = places
        self._places = anyio.Semaphore(places)

    @property
    def is_idle(self) -> bool:
        """Whether nobody has a place."""
        return self._places.value == self._number

    @asynccontextmanager
    async def place(self, *, refuses: bool = True) -> AsyncGenerator[None]:
        """Wait for a place, and have it for as long as the context is open.

        Raises:
            DatabaseBusy: The line was too long, or the wait; not where ``refuses`` is false.
        """
        if refuses and not self._places.value and self._places.statistics().tasks_waiting >= MAX_WAITING:
            raise DatabaseBusy(f"{MAX_WAITING} wait for the database already")
        with anyio.move_on_after(WAIT_LIMIT_S if refuses else None) as waiting:
            await self._places.acquire()
        if waiting.cancelled_caught:
            raise DatabaseBusy(f"the database had no time within {WAIT_LIMIT_S:g} s")
        try:
            yield
        finally:
            self._places.release()


class Database:
    """The record's database. Belongs to one event loop.

    Args:
        url: ``sqlite:///path`` or ``postgresql://user:password@host/name``. Nothing is opened yet.

    Raises:
        UsageError: The address is no such address.
    """

    def __init__(self, url: str):
        self._url = parse_url(url)
        self._engines = Engines(self._url)
        self._is_sqlite = self._engines.is_sqlite
        self._sender = secrets.token_hex(8)
        """Says to other processes whose transactions these are."""
        self.info: dict[str, Any] = {}
        """What every transaction that may write has in its ``info``."""
        # On SQLite whoever may write takes turns; each process sees to its own.
        self._writing = _Line(1 if self._is_sqlite else WRITERS)
        self._running = self._writing if self._is_sqlite else _Line(THREADS)
        self._reading = _Line(READERS)
        # Of its own: whoever looks does not wait for transactions that wait for each other.
        self._looking = _Line(THREADS)
        self._browsing = _Line(BROWSERS)
        # Room for all threads: none waits for another one here.
        self._limiter = anyio.CapacityLimiter(2 * THREADS + BROWSERS)
        self._sharing = Sharing()
        self.work_changed: Callable[[], None] = lambda: None
        """Is called once a transaction is committed that may let a run go to a worker, or changes what one is to do:
        here, or in another process that uses this database (see :meth:`listen`)."""

    def __repr__(self) -> str:
        """Return it without the password."""
        return f"Database({self.name!r})"

    @property
    def url(self) -> str:
        """The address with its password: for connecting, and for nothing that is shown."""
        return self._url.render_as_string(hide_password=False)

    @property
    def name(self) -> str:
        """The address without its password."""
        return self._url.render_as_string(hide_password=True)

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AsyncSession]:
        """Open a transaction. It is committed at the end, and rolled back when an exception passes through.

        What it changes of runs is logged once it is committed. Not within another one of the same task: on SQLite
        that is an error.

        Raises:
            DatabaseBusy: Too many others wait for one.
        """
        async with self._writing.place():
            session = async_sessionmaker(self._engines.session, expire_on_commit=False, info=self.info)()
            has_changed = False
            try:
                yield session
                # A commit that is cancelled half way may have taken place or not; it is let finish.
                with anyio.CancelScope(shield=True):
                    has_changed = has_changed_work(session.info)
                    if has_changed and not self._is_sqlite:
                        await session.execute(_NOTIFY, {"sender": self._sender})
                    await session.commit()
                log_changes(session.info)
                if has_changed:
                    self.work_changed()
            finally:
                with anyio.CancelScope(shield=True):
                    await session.close()

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[AsyncSession]:
        """Open a transaction that can't write: everything in it is read as of one moment, and waits for no writer.

        Raises:
            DatabaseBusy: Too many others wait for one.
        """
        async with self._reading.place():
            session = async_sessionmaker(self._engines.reading, expire_on_commit=False)()
            try:
                yield session
            finally:
                with anyio.CancelScope(shield=True):
                    await session.close()

    async def run(self, work: Callable[[Session], _T]) -> _T:
        """Let a thread do a transaction: it is committed if ``work`` returns. Once begun, it is let finish.

        Raises:
            DatabaseBusy: Too many others wait for a thread, or a turn.
        """

        def transact() -> tuple[_T, bool]:
            with Session(self._engines.run, expire_on_commit=False, info=self.info) as session:
                value = work(session)
                has_changed = has_changed_work(session.info)
                if has_changed and not self._is_sqlite:
                    session.execute(_NOTIFY, {"sender": self._sender})
                session.commit()
                log_changes(session.info)
                return value, has_changed

        async with self._running.place():
            value, has_changed = await anyio.to_thread.run_sync(transact, limiter=self._limiter)
        if has_changed:
            self.work_changed()
        return value

    async def look(self, work: Callable[[Session], _T], *, shared: Hashable = None) -> _T:
        """Let a thread look at what there is. Each statement may read as of a moment of its own.

        Whoever looks at the same time with an equal ``shared`` gets the same; None to look alone.

        Raises:
            DatabaseBusy: Too many others wait for a thread.
        """

        async def look() -> _T:
            async with self._looking.place():
                return await self._read("look", work)

        return await look() if shared is None else await self._sharing.read(shared, look)

    async def browse(self, work: Callable[[Session], _T], *, refuses: bool = True) -> _T:
        """Let a thread read much, in a transaction that can't write: everything as of one moment.

        Once begun, it is let finish.

        In the middle of an answer it must not be refused (``refuses``) when too many others wait.

        Raises:
            DatabaseBusy: They did.
        """
        async with self._browsing.place(refuses=refuses):
            return await self._read("browse", work)

    async def _read(self, how: Literal["look", "browse"], work: Callable[[Session], _T]) -> _T:
        def read() -> _T:
            engine: Engine = getattr(self._engines, how)
            with Session(engine, expire_on_commit=False) as session:
                return work(session)

        return await anyio.to_thread.run_sync(read, limiter=self._limiter)

    async def let_readers_go_first(self, until_s: float) -> None:
        """Wait while others read much, or the event loop has other things to do, until a time of ``time.monotonic()``
        at most.

        Called again and again by what takes long: Python does one thing at a time, and gives whoever asks for much an
        equal share of it.
        """
        while True:
            began_s = time.monotonic()
            await anyio.lowlevel.checkpoint()
            now_s = time.monotonic()
            others_wait = not self._browsing.is_idle or now_s - began_s > _BUSY_LOOP_S
            if not others_wait or now_s >= until_s:
                return
            await anyio.sleep(_STEP_BACK_S)

    @property
    def may_be_shared(self) -> bool:
        """Whether several processes can use it."""
        return not self._is_sqlite

    async def connection(self) -> psycopg.AsyncConnection:
        """Return a connection of its own to PostgreSQL, for messages between processes: it commits each at once."""
        conninfo = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        return await psycopg.AsyncConnection.connect(conninfo, autocommit=True, **POSTGRES_ARGUMENTS)

    async def listen(self) -> None:
        """Call :attr:`work_changed` for what other processes commit, until cancelled.

        On SQLite nobody tells: who waits for it looks now and then.

        Raises:
            Exception: The server went away. What was told meanwhile is missed.
        """
        if self._is_sqlite:
            await anyio.sleep_forever()
        async with await self.connection() as listening:
            await listening.execute(f"LISTEN {_CHANNEL}")
            self.work_changed()
            async for notice in listening.notifies():
                # What this process commits it knows already.
                if notice.payload != self._sender:
                    self.work_changed()

    async def migrate(self) -> None:
        """Bring the tables up to date, whichever version they have. Safe while other processes do the same.

        Raises:
            UsageError: The database can't be opened, or was made by a newer version of this program.
        """
        await anyio.to_thread.run_sync(self._migrate)

    async def is_current(self) -> bool:
        """Return whether the tables are those of this version. False too where the database can't be reached."""
        try:
            await self.check_current()
        except UsageError:
            return False
        return True

    async def check_current(self) -> None:
        """See that the tables are those of this version.

        Raises:
            UsageError: They are not, or the database can't be reached; says what to do.
        """
        hint = "run `scenario-runner migrate` first"
        if self._is_sqlite and not await anyio.Path(self._url.database or "").is_file():
            raise UsageError(f"{self.name}: is not there; give the server's --data-dir, or {hint}")
        try:
            async with self.reading() as session:
                found = await session.run_sync(lambda session: present(session.connection()))
        except (SQLAlchemyError, OSError) as error:
            raise UsageError(f"{self.name}: can't be opened ({driver_says(self.url, error)})") from None
        if newer := found - revisions():
            raise UsageError(self._is_newer(newer))
        if head() not in found:
            raise UsageError(f"{self.name}: {'is of an older version' if found else 'has no tables'}; {hint}")

    async def close(self) -> None:
        """Close every connection."""
        await self._engines.close()

    def _migrate(self) -> None:
        engine = migrating_engine(self._url)
        is_open = False
        try:
            with _migrating, engine.connect() as connection, connection.begin():
                if not self._is_sqlite:
                    # Of several processes one migrates after the other.
                    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
                if newer := present(connection) - revisions():
                    raise UsageError(self._is_newer(newer))
                is_open = True
                command.upgrade(alembic_config(connection), "head")
                if self._is_sqlite and (row := connection.exec_driver_sql("PRAGMA foreign_key_check").first()):
                    raise RuntimeError(f"the migration leaves rows of {row[0]} that refer to nothing")
        except DBAPIError as error:
            if is_open:
                raise
            raise UsageError(f"{self.name}: can't be opened ({driver_says(self.url, error)})") from None
        finally:
            engine.dispose()

    def _is_newer(self, versions: frozenset[str]) -> str:
        return (
            f"{self.name}: was made by a newer version of this program (its tables are at "
            f"{', '.join(sorted(versions))}); use that version, or another database"
        )
