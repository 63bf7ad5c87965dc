"""Whether a worker could take runs: found out before it loads what calls need."""

import tempfile
from pathlib import Path

import anyio.to_thread
import sqlalchemy as sa
from loguru import logger
from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError

from runner.dispatch.engines import lease_engine
from runner.dispatch.errors import QueueError
from runner.errors import UsageError
from runner.records.data_dir import private_folder
from runner.records.database import Database, driver_says
from runner.records.keys import find_key
from runner.records.tables import WorkerRow
from runner.worker.errors import RecordError
from runner.worker.record_client import REFUSED, RecordClient


async def check(database_url: str, record: RecordClient, key: SecretStr) -> None:
    """See that the queue's database is there, and that the record takes the key. It need not answer yet.

    Raises:
        UsageError: The database is not there or has no tables or is another record's, the record refuses the key, or
            there is no record.
        QueueError: The database can't be reached.
    """
    await anyio.to_thread.run_sync(check_database, database_url)
    try:
        await record.knock()
    except RecordError as error:
        if error.status in REFUSED:
            raise UsageError(
                f"the record refuses the worker's key (HTTP {error.status}); "
                "`scenario-runner keys create --kind worker` makes one"
            ) from None
        if not error.transient:
            # Every run that it were given would be lost on it.
            raise UsageError(f"{error}; is it the record's address?") from None
        logger.warning("{}; runs wait for that", error)
    else:
        await check_same(database_url, key)


async def check_same(database_url: str, key: SecretStr) -> None:
    """See that a database is that of a record that has just taken a key: otherwise it was made there.

    Raises:
        UsageError: It is not.
        QueueError: It can't be reached.
    """
    database = Database(database_url)
    try:
        async with database.reading() as session:
            is_known = await find_key(session, key.get_secret_value().strip()) is not None
    except SQLAlchemyError as error:
        raise QueueError(f"{database.name}: can't be read ({driver_says(database.url, error)})") from None
    finally:
        await database.close()
    if not is_known:
        raise UsageError(
            f"{database.name}: is not the database of the record at the record's address, which knows this worker's "
            "key; --database-url and --record-url must be of the same record"
        )


def check_outbox(folder: Path) -> None:
    """See that outcomes can be kept in a folder. Blocks.

    Raises:
        UsageError: It can't be made or written.
    """
    private_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{folder}: can't be written ({error.strerror})") from None


def check_database(url: str) -> None:
    """See that the queue's database is there. Blocks for seconds at most.

    Raises:
        UsageError: It is not, or has no tables.
        QueueError: It can't be reached.
    """
    database = Database(url)
    parsed = sa.make_url(database.url)
    hint = "run `scenario-runner migrate`, or start the API first"
    if parsed.drivername == "sqlite" and not Path(parsed.database or "").is_file():
        raise UsageError(f"{database.name}: is not there; {hint}")
    engine = lease_engine(database.url)
    try:
        with engine.connect() as connection:
            has_tables = sa.inspect(connection).has_table(WorkerRow.__tablename__)
    except SQLAlchemyError as error:
        raise QueueError(f"{database.name}: can't be opened ({driver_says(database.url, error)})") from None
    finally:
        engine.dispose()
    if not has_tables:
        raise UsageError(f"{database.name}: has no tables, or those of another version; {hint}")
