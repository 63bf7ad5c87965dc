"""The database of a cluster: a file, or a PostgreSQL of its own; and an account of all that ever became of runs."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.postgres import PostgresServer, postgres_binaries

SQLITE = "sqlite"
POSTGRESQL = "postgresql"

# Whatever changes in a run that anybody can see, and all that comes after its end.
_CHANGED = """OLD.status {differs} NEW.status OR OLD.executor {differs} NEW.executor OR OLD.attempt <> NEW.attempt
OR OLD.success {differs} NEW.success OR OLD.ended_at {differs} NEW.ended_at"""
_COLUMNS = "run_id, status, success, attempt, executor"
_VALUES = "NEW.id, NEW.status, NEW.success, NEW.attempt, NEW.executor"
_AUDIT = {
    SQLITE: (
        f"CREATE TABLE audit (id INTEGER PRIMARY KEY, {_COLUMNS})",
        f"CREATE TRIGGER audit AFTER UPDATE ON runs WHEN {_CHANGED.format(differs='IS NOT')} "
        f"BEGIN INSERT INTO audit ({_COLUMNS}) VALUES ({_VALUES}); END",
    ),
    POSTGRESQL: (
        "CREATE TABLE audit (id bigserial PRIMARY KEY, run_id bigint, status text, success boolean, attempt integer, "
        "executor text)",
        "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"INSERT INTO audit ({_COLUMNS}) VALUES ({_VALUES}); RETURN NULL; END $$",
        "CREATE TRIGGER audit AFTER UPDATE ON runs FOR EACH ROW "
        f"WHEN ({_CHANGED.format(differs='IS DISTINCT FROM')}) EXECUTE FUNCTION audit()",
    ),
}


@dataclass(frozen=True)
class Change:
    run_id: int
    status: str
    success: bool | None
    attempt: int
    executor: str | None


class Store:
    def __init__(self, url: str, server: PostgresServer | None = None):
        self.url = url
        self.server = server
        driver = "postgresql+psycopg" if server is not None else SQLITE
        timeout = {} if server is not None else {"timeout": 30}
        self._engine = sa.create_engine(
            sa.make_url(url).set(drivername=driver), poolclass=sa.NullPool, connect_args=timeout
        )

    @property
    def kind(self) -> str:
        return SQLITE if self.server is None else POSTGRESQL

    def rows(self, statement: str, **values: Any) -> list[Any]:
        with self._engine.begin() as connection:
            return list(connection.execute(sa.text(statement), values))

    def restart(self, away_s: float = 0.0) -> None:
        """Let the server crash, and start it again. A file can't crash; nothing is done."""
        if self.server is not None:
            self.server.crash()
            time.sleep(away_s)
            self.server.start()

    def audit(self) -> None:
        """Begin to keep account of what becomes of runs."""
        with self._engine.begin() as connection:
            for statement in _AUDIT[self.kind]:
                connection.exec_driver_sql(statement)

    def changes(self) -> dict[int, list[Change]]:
        """Return what became of each run, in order."""
        changes: dict[int, list[Change]] = {}
        for row in self.rows(f"SELECT {_COLUMNS} FROM audit ORDER BY id"):
            success = None if row.success is None else bool(row.success)
            change = Change(row.run_id, row.status, success, row.attempt, row.executor)
            changes.setdefault(row.run_id, []).append(change)
        return changes

    def size_bytes(self) -> int:
        if self.server is not None:
            return self.rows("SELECT pg_database_size(current_database())")[0][0]
        path = Path(self.url.removeprefix("sqlite:///"))
        return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))

    def taken(self) -> dict[int, str]:
        """Return the runs that workers have, and which worker that is."""
        rows = self.rows(
            "SELECT id, executor FROM runs WHERE executor IS NOT NULL "
            "AND status NOT IN ('completed', 'failed', 'cancelled')"
        )
        return {row.id: row.executor for row in rows}

    def state(self, executor: str) -> str:
        """Return what a worker says that it is ready for, or what was found of it."""
        rows = self.rows("SELECT state FROM workers WHERE executor = :executor", executor=executor)
        return rows[0].state if rows else ""


@contextmanager
def new_store(kind: str, folder: Path) -> Generator[Store]:
    """Yield a database that holds nothing yet: in a folder, or on a server that ends with the context."""
    if kind == SQLITE:
        yield Store(f"sqlite:///{folder}/record.sqlite")
        return
    binaries = postgres_binaries()
    assert binaries is not None, "there is no PostgreSQL; run: sudo apt-get install postgresql"
    server = PostgresServer(binaries, survives_crashes=True)
    try:
        yield Store(server.url(server.create()), server)
    finally:
        server.stop()


def pid_of(executor: str) -> int:
    return int(executor.rsplit("-", 2)[1])
