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

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Hashable
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import psycopg
from alembic import command
from pydantic_core import PydanticSerializationError, from_json, to_json
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as TurnTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from bots.masking import masked
from runner.errors import UsageError
from runner.records.changes import has_changed_work, log_changes
from runner.records.data_dir import private_folder
from runner.records.migrations import alembic_config, head, present, revisions
from runner.records.sharing import Sharing
from runner.settings import ServerSettings

FILE_NAME = "record.sqlite"
READING = "reading"
"""Is true in the ``info`` of a session that can't write."""

MAX_WAITING = 1_000
"""How many wait in line for a connection of one kind. Whoever comes then is refused at once."""

WAIT_LIMIT_S = 10.0
"""How long one waits there."""

_LOCK_TIMEOUT_S = 30.0
_CONNECT_TIMEOUT_S = 10
_READERS = 8
"""How many transactions that only read are open at once."""
_POSTGRES_WRITERS = 10
"""How many others, on PostgreSQL."""
_THREADS = 6
"""How many transactions are done by threads at once, and how many looks besides."""
_BROWSERS = 2
"""How many threads read much at once. More would not be faster: they take turns at Python's lock with the loop."""

_BUSY_LOOP_S = 0.002
"""A turn of the event loop that takes longer has other things to do."""
_STEP_BACK_S = 0.01
"""For how long whoever lets others go first does nothing."""

BLOCKED_LIMIT_S = 5
"""How long a thread's transaction waits for what another one holds, on PostgreSQL. Then it is tried again, and others
can use the thread meanwhile."""

_MIGRATION_LOCK = 0x73636E72
"""What processes that migrate the same PostgreSQL database hold, one after the other."""

_SQLITE = ("sqlite", "sqlite+aiosqlite")
_POSTGRES = ("postgresql", "postgres", "postgresql+psycopg")


def _read_json(text: str | bytes) -> Any:
    """Return the value of a JSON text that was stored, twice as fast as Python itself."""
    try:
        return from_json(text)
    except ValueError:
        # Python alone writes halves of characters, and reads them.
        return json.loads(text)


def _write_json(value: Any) -> str:
    """Return a value as JSON text, five times as fast as Python itself."""
    try:
        return to_json(value, inf_nan_mode="constants").decode()
    except PydanticSerializationError:
        return json.dumps(value)


_OPTIONS: dict[str, Any] = {
    "pool_timeout": WAIT_LIMIT_S,
    "hide_parameters": True,
    "json_deserializer": _read_json,
    "json_serializer": _write_json,
}
_SQLITE_OPTIONS: dict[str, Any] = {
    **_OPTIONS,
    "connect_args": {"timeout": _LOCK_TIMEOUT_S, "isolation_level": None},
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
    **_OPTIONS,
    "connect_args": _POSTGRES_ARGUMENTS,
    "pool_pre_ping": True,
    # The connection that was used last first: it and its process in the server have everything at hand.
    "pool_use_lifo": True,
}
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
    """Lets so many at once have a connection, in the order in which they come.

    Args:
        places: How many.
    """

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

        Args:
            refuses: Whether the line can be too long, and the wait.

        Raises:
            DatabaseBusy: It was.
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
        self._url = _parse(url)
        self._is_sqlite = self._url.drivername == "sqlite"
        self._file = anyio.Path(self._url.database or "")
        self._engine: AsyncEngine | None = None
        self._reading_engine: AsyncEngine | None = None
        self._sender = secrets.token_hex(8)
        self.info: dict[str, Any] = {}
        """What every transaction that may write has in its ``info``."""
        self._threads = _Threads(self._url, self._sender, self.info)
        # On SQLite whoever may write takes turns; each process sees to its own.
        self._writing = _Line(1 if self._is_sqlite else _POSTGRES_WRITERS)
        self._running = self._writing if self._is_sqlite else _Line(_THREADS)
        self._reading = _Line(_READERS)
        # Of its own: whoever looks does not wait for transactions that wait for each other.
        self._looking = _Line(_THREADS)
        self._browsing = _Line(_BROWSERS)
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
                self._sqlite_engine(reading=True, pool_size=_READERS, max_overflow=0)
                if self._is_sqlite
                else self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            )
        return self._reading_engine

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AsyncSession]:
        """Open a transaction. It is committed at the end, and rolled back when an exception passes through.

        What it changes of runs is logged once it is committed. Not within another one of the same task: on SQLite
        that is an error.

        Raises:
            DatabaseBusy: Too many others wait for one.
        """
        async with self._writing.place():
            session = async_sessionmaker(self.engine, expire_on_commit=False, info=self.info)()
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

        Raises:
            DatabaseBusy: Too many others wait for a thread, or a turn.
        """
        async with self._running.place():
            value, has_changed = await self._threads.run(work)
        if has_changed:
            self.work_changed()
        return value

    async def look(self, work: Callable[[Session], _T], *, shared: Hashable = None) -> _T:
        """Let a thread look at what there is. Each statement may read as of a moment of its own.

        Args:
            work: What to look at.
            shared: Whoever looks at the same time with an equal one gets the same; None to look alone.

        Raises:
            DatabaseBusy: Too many others wait for a thread.
        """

        async def look() -> _T:
            async with self._looking.place():
                return await self._threads.look(work)

        return await look() if shared is None else await self._sharing.read(shared, look)

    async def browse(self, work: Callable[[Session], _T], *, refuses: bool = True) -> _T:
        """Let a thread read much, in a transaction that can't write: everything as of one moment.

        Args:
            work: What to read, and to make of it. Once begun, it is let finish.
            refuses: Whether to be refused when too many others wait: not in the middle of an answer.

        Raises:
            DatabaseBusy: They did.
        """
        async with self._browsing.place(refuses=refuses):
            return await self._threads.browse(work)

    async def let_readers_go_first(self, until_s: float) -> None:
        """Wait while others read much, or the event loop has other things to do.

        Called again and again by what takes long: Python does one thing at a time, and gives whoever asks for much an
        equal share of it.

        Args:
            until_s: Until when at most, on ``time.monotonic()``'s clock.
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
        return await psycopg.AsyncConnection.connect(conninfo, autocommit=True, **_POSTGRES_ARGUMENTS)

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
        if self._is_sqlite and not await self._file.is_file():
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
        engines = [self._reading_engine, self._engine] if self._is_sqlite else [self._engine]
        self._reading_engine = self._engine = None
        with anyio.CancelScope(shield=True):
            for engine in engines:
                if engine is not None:
                    await engine.dispose()
            await self._threads.close()

    def _sqlite_engine(self, *, reading: bool = False, **pool: int) -> AsyncEngine:
        engine = create_async_engine(self._url.set(drivername="sqlite+aiosqlite"), **_SQLITE_OPTIONS, **pool)
        _prepare_sqlite(engine.sync_engine, reading=reading)
        return engine

    def _postgres(self) -> AsyncEngine:
        return create_async_engine(
            self._url.set(drivername="postgresql+psycopg"),
            # Those who read and those who may write use the same ones.
            pool_size=_POSTGRES_WRITERS,
            max_overflow=_READERS,
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
    """Does transactions in threads, looks in others, and reads much in others again.

    Whoever calls sees to it that there are no more at once than there are connections.

    Args:
        url: The address.
        sender: Says to other processes whose transactions these are.
        info: What those that may write have in their ``info``.
    """

    def __init__(self, url: URL, sender: str, info: dict[str, Any]):
        self._url = url
        self._info = info
        self._sender = sender
        self._is_sqlite = url.drivername == "sqlite"
        # Room for all of them: none waits for another one here.
        self._limiter = anyio.CapacityLimiter(2 * _THREADS + _BROWSERS)
        self._making = threading.Lock()
        self._made: _Engines | None = None

    async def run(self, work: Callable[[Session], _T]) -> tuple[_T, bool]:
        """Let a thread do work in a transaction, and commit it; return also whether workers have to hear of it."""

        def transact() -> tuple[_T, bool]:
            with Session(self._engines().writer, expire_on_commit=False, info=self._info) as session:
                value = work(session)
                has_changed = has_changed_work(session.info)
                if has_changed and not self._is_sqlite:
                    session.execute(_NOTIFY, {"sender": self._sender})
                session.commit()
                log_changes(session.info)
                return value, has_changed

        return await anyio.to_thread.run_sync(transact, limiter=self._limiter)

    async def look(self, work: Callable[[Session], _T]) -> _T:
        """Let a thread do work that can't write."""
        return await self._read(lambda engines: engines.looker, work)

    async def browse(self, work: Callable[[Session], _T]) -> _T:
        """Let a thread do work that can't write, and sees one moment."""
        return await self._read(lambda engines: engines.browser, work)

    async def _read(self, chosen: Callable[["_Engines"], Engine], work: Callable[[Session], _T]) -> _T:
        def read() -> _T:
            with Session(chosen(self._engines()), expire_on_commit=False, info={READING: True}) as session:
                return work(session)

        return await anyio.to_thread.run_sync(read, limiter=self._limiter)

    async def close(self) -> None:
        """Close every connection."""
        with self._making:
            made, self._made = self._made, None
        if made is not None:
            for engine in (made.writer, made.looker, made.browser):
                await anyio.to_thread.run_sync(engine.dispose)

    def _engines(self) -> "_Engines":
        with self._making:
            if self._made is None:
                self._made = self._sqlite() if self._is_sqlite else self._postgres()
            return self._made

    def _sqlite(self) -> "_Engines":
        def engine(connections: int, *, reading: bool) -> Engine:
            made = create_engine(self._url, pool_size=connections, max_overflow=0, **_SQLITE_OPTIONS)
            _prepare_sqlite(made, reading=reading)
            return made

        return _Engines(
            writer=engine(1, reading=False),
            looker=engine(_THREADS, reading=True),
            browser=engine(_BROWSERS, reading=True),
        )

    def _postgres(self) -> "_Engines":
        # A connection is not tried before it is used. If the server was away one transaction fails, with which all
        # other connections of its kind are given up: this is tried again by whoever wants it.
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

        reading = "default_transaction_read_only=on"
        return _Engines(
            writer=engine(f"lock_timeout={BLOCKED_LIMIT_S * 1_000}"),
            looker=engine(reading, isolation_level="AUTOCOMMIT"),
            # What somebody wants to see is not tried again.
            browser=engine(reading, isolation_level="REPEATABLE READ", pool_size=_BROWSERS, pool_pre_ping=True),
        )


@dataclass(frozen=True)
class _Engines:
    """Where threads begin transactions that may write, looks, and what reads much."""

    writer: Engine
    looker: Engine
    browser: Engine


def driver_says(url: str, error: Exception) -> str:
    """Return what the database's driver says of an error, in one line, without the password of its address."""
    said = str(error.orig) if isinstance(error, DBAPIError) else f"{type(error).__name__}: {error}"
    password = make_url(url).password
    return masked(" ".join(said.split()), [None if password is None else str(password)])


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
