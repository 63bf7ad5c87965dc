"""Work on the database: what the commands share that look after it."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from runner.cli.extras import needing_server_extra
from runner.cli.running import run_command
from runner.cli.settings import server_settings

if TYPE_CHECKING:
    from runner.records.database import Database
    from runner.settings import Settings

_Work = Callable[["Database"], Awaitable[int]]


def run_on_record(work: _Work, data_dir: Path | None, database_url: str | None, config: Path | None) -> None:
    """Do something with a record that is there and up to date, and exit.

    Args:
        work: What to do; returns the exit code.
        data_dir: Where the record is, as the command was told.
        database_url: Likewise.
        config: Likewise.
    """

    async def checked(database: "Database") -> int:
        await database.check_current()
        return await work(database)

    run_on_database(checked, data_dir, database_url, config)


def run_on_database(work: _Work, data_dir: Path | None, database_url: str | None, config: Path | None) -> None:
    """Do something with a database in any state, and exit; arguments as for :func:`run_on_record`."""

    async def run() -> int:
        settings = server_settings(config, data_dir, database_url).server
        with needing_server_extra():
            from runner.records.database import Database
            from runner.records.database import database_url as address
        database = Database(address(settings))
        try:
            return await work(database)
        finally:
            await database.close()

    run_command(run, quotes=False)


@asynccontextmanager
async def delivering_later(database: "Database", settings: "Settings") -> AsyncGenerator[None]:
    """Let a running server deliver the webhooks that follow from what is done to a record meanwhile.

    Raises:
        UsageError: The tables that this takes can't be made.
    """
    from runner.dispatch.durable import Durable
    from runner.records.store import open_store
    from runner.records.webhooks import DELIVER_LATER

    durable = Durable(database, open_store(settings.server), settings)
    database.info[DELIVER_LATER] = durable.deliver_later
    try:
        await durable.make_tables()
        yield
    finally:
        await durable.close()
