"""The record's database: SQLite or PostgreSQL, used the same way.

SQLite has one writer at a time. Here every transaction that may write takes its turn when it begins: first in this
process, in the order they came, then among processes. So none ever fails for having read what another one changed
since. Reading waits for nobody.

There are two ways to use it. In :meth:`Database.session` and :meth:`Database.reading` every statement goes through
the event loop. What comes many times a second is done by a thread in one go, by :meth:`Database.run` and
:meth:`Database.look`: that takes a third of the processor's time.
"""

import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from alembic import command
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as TurnTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from runner.errors import UsageError
from runner.records.changes import log_changes
from runner.records.data_dir import private_folder
from runner.records.migrations import alembic_config, head, present, revisions
from runner.settings import ServerSettings

FILE_NAME = "record.sqlite"
READING = "reading"
"""Is true in the ``info`` of a session that can't write."""

_LOCK_TIMEOUT_S = 30.0
_CONNECT_TIMEOUT_S = 10
_POSTGRES_CONNECTIONS = 10
_THREADS = 6
"""How many transactions are done by threads at once, and how many looks besides."""

_BLOCKED_LIMIT_S = 5
"""How long a thread's transaction waits for what another one holds, on PostgreSQL. Then it is tried again, and others
can use the thread meanwhile."""

_MIGRATION_LOCK = 0x73636E72
"""What processes that migrate the same PostgreSQL database hold, one after the other."""

_SQLITE = ("sqlite", "sqlite+aiosqlite")
_POSTGRES = ("postgresql", "postgres", "postgresql+psycopg")
_SQLITE_OPTIONS: dict[str, Any] = {
    "connect_args": {"timeout": _LOCK_TIMEOUT_S, "isolation_level": None},
    "pool_timeout": _LOCK_TIMEOUT_S,
    "hide_parameters": True,
}
_POSTGRES_ARGUMENTS: dict[str, Any] = {
    # A host that vanishes without a word is given up, and not waited for as long as TCP would.
    "connect_timeout": _CONNECT_TIMEOUT_S,
    "tcp_user_timeout": _CONNECT_TIMEOUT_S * 1_000,
    "keepalives_idle": _CONNECT_TIMEOUT_S,
    "keepalives_interval": _CONNECT_TIMEOUT_S // 2,
    "keepalives_count": 2,
}
_POSTGRES_OPTIONS: dict[str, Any] = {
    "connect_args": _POSTGRES_ARGUMENTS,
    "pool_pre_ping": True,
    # The connection that was used last first: it and its process in the server have everything at hand.
    "pool_use_lifo": True,
    "hide_parameters": True,
}
_T = TypeVar("_T")

_migrating = threading.Lock()
"""Alembic's context is one for the whole process."""


def database_url(settings: ServerSettings) -> str:
    """Return the address of the record's database: the one that is set, or else a file in the data folder."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    path = settings.data_dir.expanduser().absolute() / FILE_NAME
    return URL.create("sqlite", database=str(path)).render_as_string()


class Database:
    """The record's database. Belongs to one event loop.

    Args:
        url: ``sqlite:///path`` or ``postgresql://user:password@host/name``. Nothing is opened yet.

    Raises:
        UsageError: The address is no such address.
    """

    def __init__(self, url: str):
        self._url = _parse(url)
        self._is_sqlite = self._url.drivername == "sqlite"
        self._file = anyio.Path(self._url.database or "")
        self._engine: AsyncEngine | None = None
        self._reading_engine: AsyncEngine | None = None
        self._threads = _Threads(self._url)
        self._turn = anyio.Lock()

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

    @property
    def engine(self) -> AsyncEngine:
        """Where transactions that may write begin. On SQLite it has one connection: they take turns."""
        if self._engine is None:
            self._engine = self._sqlite_engine(pool_size=1, max_overflow=0) if self._is_sqlite else self._postgres()
        return self._engine

    @property
    def _reader(self) -> AsyncEngine:
        if self._reading_engine is None:
            self._reading_engine = (
                self._sqlite_engine(reading=True)
                if self._is_sqlite
                else self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            )
        return self._reading_engine

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AsyncSession]:
        """Open a transaction. It is committed at the end, and rolled back when an exception passes through.

        What it changes of runs is logged once it is committed. Not within another one of the same task: on SQLite
        that is an error.
        """
        async with self._turn_at_writing():
            session = async_sessionmaker(self.engine, expire_on_commit=False)()
            try:
                yield session
                # A commit that is cancelled half way may have taken place or not; it is let finish.
                with anyio.CancelScope(shield=True):
                    await session.commit()
                log_changes(session.info)
            finally:
                with anyio.CancelScope(shield=True):
                    await session.close()

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[AsyncSession]:
        """Open a transaction that can't write: everything in it is read as of one moment, and waits for no writer."""
        session = async_sessionmaker(self._reader, expire_on_commit=False, info={READING: True})()
        try:
            yield session
        finally:
            with anyio.CancelScope(shield=True):
                await session.close()

    async def run(self, work: Callable[[Session], _T]) -> _T:
        """Let a thread do a transaction. Otherwise as :meth:`session`: it is committed if ``work`` returns.

        Args:
            work: What to do in it. Once begun, it is let finish.
        """
        async with self._turn_at_writing():
            return await self._threads.run(work)

    async def look(self, work: Callable[[Session], _T]) -> _T:
        """Let a thread look at what there is. Each statement may read as of a moment of its own."""
        return await self._threads.look(work)

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
        if self._is_sqlite and not await self._file.is_file():
            raise UsageError(f"{self.name}: is not there; {hint}")
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
        engines = [self._reading_engine, self._engine] if self._is_sqlite else [self._engine]
        self._reading_engine = self._engine = None
        with anyio.CancelScope(shield=True):
            for engine in engines:
                if engine is not None:
                    await engine.dispose()
            await self._threads.close()

    @asynccontextmanager
    async def _turn_at_writing(self) -> AsyncGenerator[None]:
        """Wait for this task's turn, where there is one writer at a time.

        Raises:
            TurnTimeoutError: It did not come.
        """
        if not self._is_sqlite:
            yield
            return
        with anyio.move_on_after(_LOCK_TIMEOUT_S) as waiting:
            await self._turn.acquire()
        if waiting.cancelled_caught:
            raise TurnTimeoutError(f"no turn at writing within {_LOCK_TIMEOUT_S:.0f} s")
        try:
            yield
        finally:
            self._turn.release()

    def _sqlite_engine(self, *, reading: bool = False, **pool: int) -> AsyncEngine:
        engine = create_async_engine(self._url.set(drivername="sqlite+aiosqlite"), **_SQLITE_OPTIONS, **pool)
        _prepare_sqlite(engine.sync_engine, reading=reading)
        return engine

    def _postgres(self) -> AsyncEngine:
        return create_async_engine(
            self._url.set(drivername="postgresql+psycopg"),
            pool_size=_POSTGRES_CONNECTIONS,
            max_overflow=_POSTGRES_CONNECTIONS,
            **_POSTGRES_OPTIONS,
        )

    def _migrate(self) -> None:
        with _migrating, self._migration() as connection:
            if newer := present(connection) - revisions():
                raise UsageError(self._is_newer(newer))
            command.upgrade(alembic_config(connection), "head")
            if self._is_sqlite and (row := connection.exec_driver_sql("PRAGMA foreign_key_check").first()):
                raise RuntimeError(f"the migration leaves rows of {row[0]} that refer to nothing")

    def _is_newer(self, versions: frozenset[str]) -> str:
        return (
            f"{self.name}: was made by a newer version of this program (its tables are at "
            f"{', '.join(sorted(versions))}); use that version, or another database"
        )

    @contextmanager
    def _migration(self) -> Generator[Connection]:
        """Open a transaction that no other process migrates in at the same time.

        Raises:
            UsageError: The database can't be opened.
        """
        engine = self._sqlite_for_migration() if self._is_sqlite else self._postgres_for_migration()
        try:
            try:
                connection = engine.connect()
                connection.begin()
                if not self._is_sqlite:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
                present(connection)
            except DBAPIError as error:
                raise UsageError(f"{self.name}: can't be opened ({driver_says(self.url, error)})") from None
            with connection:
                yield connection
                connection.commit()
        finally:
            engine.dispose()

    def _sqlite_for_migration(self) -> Engine:
        path = Path(self._file)
        private_folder(path.parent)
        try:
            if not path.exists():
                # Whoever has the folder: what people said in calls is for this user alone.
                path.touch(mode=0o600)
        except OSError as error:
            raise UsageError(f"{self.name}: can't be made ({error.strerror})") from None
        engine = create_engine(
            self._url,
            poolclass=NullPool,
            connect_args={"timeout": _LOCK_TIMEOUT_S, "isolation_level": None},
            hide_parameters=True,
        )
        begin_with(engine, "BEGIN IMMEDIATE")
        event.listen(engine, "connect", lambda connection, _: _write_ahead(connection))  # pyright: ignore[reportUnknownLambdaType]
        return engine

    def _postgres_for_migration(self) -> Engine:
        return create_engine(
            self._url.set(drivername="postgresql+psycopg"),
            poolclass=NullPool,
            connect_args={"connect_timeout": _CONNECT_TIMEOUT_S},
            hide_parameters=True,
        )


class _Threads:
    """Does transactions in threads, and looks in others: as many at once as there are connections.

    Args:
        url: The address.
    """

    def __init__(self, url: URL):
        self._url = url
        self._is_sqlite = url.drivername == "sqlite"
        self._running = anyio.CapacityLimiter(_THREADS)
        # Of its own: whoever looks does not wait for transactions that wait for each other.
        self._looking = anyio.CapacityLimiter(_THREADS)
        self._making = threading.Lock()
        self._writer: Engine | None = None
        self._reader: Engine | None = None

    async def run(self, work: Callable[[Session], _T]) -> _T:
        """Let a thread do work in a transaction, and commit it."""

        def transact() -> _T:
            with Session(self._engines()[0], expire_on_commit=False) as session:
                value = work(session)
                session.commit()
                log_changes(session.info)
                return value

        return await anyio.to_thread.run_sync(transact, limiter=self._running)

    async def look(self, work: Callable[[Session], _T]) -> _T:
        """Let a thread do work that can't write."""

        def look() -> _T:
            with Session(self._engines()[1], expire_on_commit=False, info={READING: True}) as session:
                return work(session)

        return await anyio.to_thread.run_sync(look, limiter=self._looking)

    async def close(self) -> None:
        """Close every connection."""
        with self._making:
            engines = (self._writer, self._reader)
            self._writer = self._reader = None
        for engine in engines:
            if engine is not None:
                await anyio.to_thread.run_sync(engine.dispose)

    def _engines(self) -> tuple[Engine, Engine]:
        """Return where transactions that may write begin, and others."""
        with self._making:
            if self._writer is None or self._reader is None:
                self._writer, self._reader = self._sqlite() if self._is_sqlite else self._postgres()
            return self._writer, self._reader

    def _sqlite(self) -> tuple[Engine, Engine]:
        writer = create_engine(self._url, pool_size=1, max_overflow=0, **_SQLITE_OPTIONS)
        reader = create_engine(self._url, pool_size=_THREADS, max_overflow=0, **_SQLITE_OPTIONS)
        _prepare_sqlite(writer, reading=False)
        _prepare_sqlite(reader, reading=True)
        return writer, reader

    def _postgres(self) -> tuple[Engine, Engine]:
        # A connection is not tried before it is used. If the server was away one transaction fails, with which all
        # other connections of its kind are given up: everything that threads do is tried again by whoever wants it.
        def engine(setting: str, **more: Any) -> Engine:
            options = " ".join(filter(None, (str(self._url.query.get("options", "")), f"-c {setting}")))
            return create_engine(
                self._url.set(drivername="postgresql+psycopg"),
                **{
                    **_POSTGRES_OPTIONS,
                    "pool_pre_ping": False,
                    "pool_size": _THREADS,
                    "max_overflow": 0,
                    "connect_args": {**_POSTGRES_ARGUMENTS, "options": options},
                    **more,
                },
            )

        writer = engine(f"lock_timeout={_BLOCKED_LIMIT_S * 1_000}")
        reader = engine("default_transaction_read_only=on", isolation_level="AUTOCOMMIT")
        return writer, reader


def driver_says(url: str, error: Exception) -> str:
    """Return what the database's driver says of an error, in one line, without the password of its address."""
    said = str(error.orig) if isinstance(error, DBAPIError) else f"{type(error).__name__}: {error}"
    password = make_url(url).password
    said = " ".join(said.split())
    return said.replace(str(password), "***") if password else said


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # What it says can quote the password.
        raise UsageError("database URL: is no URL; use sqlite:///path or postgresql://user@host/name") from None
    if parsed.drivername in _POSTGRES:
        return parsed.set(drivername="postgresql")
    if parsed.drivername not in _SQLITE:
        raise UsageError(
            f"database URL: {parsed.drivername!r} is not supported; use sqlite:///path or postgresql://user@host/name"
        )
    path = parsed.database
    if not path or path == ":memory:" or path.startswith("file:") or parsed.host or parsed.query:
        raise UsageError("database URL: SQLite needs the path of a file alone, as in sqlite:///data/record.sqlite")
    return parsed.set(drivername="sqlite", database=str(Path(path).expanduser().absolute()))


def begin_with(engine: Engine, statement: str) -> None:
    """Let transactions begin with a statement of ours: the driver's own begins one only at the first write."""

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.exec_driver_sql(statement)


def _prepare_sqlite(engine: Engine, *, reading: bool) -> None:
    begin_with(engine, "BEGIN" if reading else "BEGIN IMMEDIATE")
    # Every commit reaches the disk: a report that was accepted is never lost.
    pragmas = ["foreign_keys = ON", "synchronous = FULL", *(["query_only = ON"] if reading else [])]

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Turn on SQLite's write-ahead log, which stays on: with it readers and a writer don't wait for each other.

    Raises:
        UsageError: The file system has no shared memory, which the log needs.
    """
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            # While another process turns it on SQLite waits for nothing.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    if mode != "wal":
        raise UsageError("the record's folder is on a file system that SQLite can't share there; use a local disk")
