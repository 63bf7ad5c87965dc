"""Writes the next migration: what the code's tables have and the latest version has not. To be read, and mended."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from alembic import command
from sqlalchemy import URL, create_engine

from runner.records.database import Database
from runner.records.migrations import alembic_config, revisions


def main(message: str) -> None:
    """Write it.

    Args:
        message: What changes, in a few words.
    """
    with TemporaryDirectory() as folder:
        url = URL.create("sqlite", database=str(Path(folder) / "record.sqlite"))
        anyio.run(Database(url.render_as_string()).migrate)
        engine = create_engine(url)
        with engine.begin() as connection:
            number = f"{len(revisions()) + 1:04}"
            command.revision(alembic_config(connection), message, autogenerate=True, rev_id=number)
        engine.dispose()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m runner.records.migrations 'what changes'")
    main(sys.argv[1])
