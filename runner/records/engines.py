"""The connections to the record's database, how they are made on SQLite and PostgreSQL, and what an address is."""

import json
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from pydantic_core import PydanticSerializationError, from_json, to_json
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from bots.masking import masked
from runner.errors import UsageError
from runner.files import private_folder

WAIT_LIMIT_S = 10.0
"""How long one waits in line for a connection."""

READERS = 8
"""How many transactions that only read are open at once."""
WRITERS = 10
"""How many others, on PostgreSQL."""
THREADS = 6
"""How many transactions are done by threads at once, and how many looks besides."""
BROWSERS = 2
"""How many threads read much at once. More would not be faster: they take turns at Python's lock with the loop."""

BLOCKED_LIMIT_S = 5
"""How long a thread's transaction waits for what another one holds, on PostgreSQL. Then it is tried again, and others
can use the thread meanwhile."""

_LOCK_TIMEOUT_S = 30.0
_CONNECT_TIMEOUT_S = 10

_SQLITE = ("sqlite", "sqlite+aiosqlite")
_POSTGRES = ("postgresql", "postgres", "postgresql+psycopg")

_E = TypeVar("_E", Engine, AsyncEngine)


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
_SQLITE_ARGUMENTS = {"timeout": _LOCK_TIMEOUT_S, "isolation_level": None}
POSTGRES_ARGUMENTS: dict[str, Any] = {
    # A host that vanishes without a word is given up, and not waited for as long as TCP would.
    "connect_timeout": _CONNECT_TIMEOUT_S,
    "tcp_user_timeout": _CONNECT_TIMEOUT_S * 1_000,
    "keepalives_idle": _CONNECT_TIMEOUT_S,
    "keepalives_interval": _CONNECT_TIMEOUT_S // 2,
    "keepalives_count": 2,
}


class Engines:
    """The engines of one database, each made when it is used first.

    Those for threads have as many connections as there are threads: whoever calls sees to it that there are no more.
    """

    def __init__(self, url: URL):
        self._url = url
        self.is_sqlite = url.drivername == "sqlite"
        self._made: dict[str, Engine | AsyncEngine] = {}
        self._making = threading.Lock()

    @property
    def session(self) -> AsyncEngine:
        """Where transactions that may write begin. On SQLite it has one connection: they take turns."""
        # On PostgreSQL those who read and those who may write use the same ones.
        return self._kept("session", AsyncEngine, WRITERS, pool_pre_ping=True, max_overflow=READERS)

    @property
    def reading(self) -> AsyncEngine:
        """Where transactions begin that can't write."""
        if self.is_sqlite:
            return self._kept("reading", AsyncEngine, READERS)
        return self.session.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    # In threads a connection is not tried before it is used. If the server was away one transaction fails, with which
    # all other connections of its kind are given up: this is tried again by whoever wants it.

    @property
    def run(self) -> Engine:
        """Where threads begin transactions that may write."""
        return self._kept("run", Engine, THREADS, setting=f"lock_timeout={BLOCKED_LIMIT_S * 1_000}")

    @property
    def look(self) -> Engine:
        """Where threads look at what there is."""
        return self._kept("look", Engine, THREADS, setting=_READ_ONLY, isolation_level="AUTOCOMMIT")

    @property
    def browse(self) -> Engine:
        """Where threads read much."""
        # What somebody wants to see is not tried again.
        return self._kept(
            "browse", Engine, BROWSERS, setting=_READ_ONLY, isolation_level="REPEATABLE READ", pool_pre_ping=True
        )

    async def close(self) -> None:
        """Close every connection."""
        with self._making:
            made, self._made = self._made, {}
        with anyio.CancelScope(shield=True):
            for engine in made.values():
                if isinstance(engine, AsyncEngine):
                    await engine.dispose()
                else:
                    await anyio.to_thread.run_sync(engine.dispose)

    def _kept(self, name: str, kind: type[_E], connections: int, *, setting: str = "", **more: Any) -> _E:
        with self._making:
            found = self._made.get(name)
            if not isinstance(found, kind):
                make = self._sqlite if self.is_sqlite else self._postgres
                found = self._made[name] = make(name, kind, connections, setting, more)
            return found

    def _sqlite(self, name: str, kind: type[_E], connections: int, *_: Any) -> _E:
        is_writer = name in ("session", "run")
        options = {"pool_size": 1 if is_writer else connections, "max_overflow": 0, **_OPTIONS}
        options["connect_args"] = _SQLITE_ARGUMENTS
        # Every commit reaches the disk: a report that was accepted is never lost.
        pragmas = ["synchronous = FULL", *([] if is_writer else ["query_only = ON"])]
        if issubclass(kind, AsyncEngine):
            made: Any = create_async_engine(self._url.set(drivername="sqlite+aiosqlite"), **options)
            prepare_sqlite(made.sync_engine, *pragmas, is_writer=is_writer)
        else:
            made = create_engine(self._url, **options)
            prepare_sqlite(made, *pragmas, is_writer=is_writer)
        return made

    def _postgres(self, name: str, kind: type[_E], connections: int, setting: str, more: dict[str, Any]) -> _E:
        arguments = dict(POSTGRES_ARGUMENTS)
        if setting:
            arguments["options"] = f"{self._url.query.get('options', '')} -c {setting}".strip()
        options = {"pool_size": connections, "max_overflow": 0, "connect_args": arguments, **_OPTIONS, **more}
        # The connection that was used last first: it and its process in the server have everything at hand.
        options["pool_use_lifo"] = True
        made: Any = create_async_engine if issubclass(kind, AsyncEngine) else create_engine
        return made(self._url.set(drivername="postgresql+psycopg"), **options)


_READ_ONLY = "default_transaction_read_only=on"


def migrating_engine(url: URL) -> Engine:
    """Return the engine for migrations; a SQLite file is made if it is not there.

    Raises:
        UsageError: It can't be made.
    """
    if url.drivername != "sqlite":
        arguments = {"connect_timeout": _CONNECT_TIMEOUT_S}
        url = url.set(drivername="postgresql+psycopg")
        return create_engine(url, poolclass=NullPool, connect_args=arguments, hide_parameters=True)
    path = Path(url.database or "")
    private_folder(path.parent)
    try:
        if not path.exists():
            # Whoever has the folder: what people said in calls is for this user alone.
            path.touch(mode=0o600)
    except OSError as error:
        raise UsageError(f"{url.render_as_string()}: can't be made ({error.strerror})") from None
    engine = create_engine(url, poolclass=NullPool, connect_args=_SQLITE_ARGUMENTS, hide_parameters=True)
    _begin_with(engine, "BEGIN IMMEDIATE")
    event.listen(engine, "connect", lambda connection, _: _write_ahead(connection))  # pyright: ignore[reportUnknownLambdaType]
    return engine


def prepare_sqlite(engine: Engine, *pragmas: str, is_writer: bool) -> None:
    """Let connections see to what rows refer to, and transactions that may write take the lock when they begin."""
    _begin_with(engine, "BEGIN IMMEDIATE" if is_writer else "BEGIN")

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        cursor = connection.cursor()
        for pragma in ("foreign_keys = ON", *pragmas):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


def _begin_with(engine: Engine, statement: str) -> None:
    """Let transactions begin with a statement of ours: the driver's own begins one only at the first write."""

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.exec_driver_sql(statement)


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


def parse_url(url: str) -> URL:
    """Return the address of a database.

    Raises:
        UsageError: It is none; nothing of it is quoted, for it can hold a password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
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


def driver_says(url: str, error: Exception) -> str:
    """Return what the database's driver says of an error, in one line, without the password of its address."""
    said = str(error.orig) if isinstance(error, DBAPIError) else f"{type(error).__name__}: {error}"
    password = make_url(url).password
    return masked(" ".join(said.split()), [None if password is None else str(password)])
