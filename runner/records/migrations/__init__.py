"""How the record's tables came to be what they are: one file in ``versions`` for each change of them.

``python -m runner.records.migrations 'what changes'`` writes the next one.
"""

from functools import cache
from pathlib import Path

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

VERSION_TABLE = "record_version"
"""Holds the version of the tables. Not Alembic's own name: others may keep their tables in the same database."""

_FOLDER = Path(__file__).parent


def alembic_config(connection: Connection) -> Config:
    """Return Alembic's configuration, for work on a connection that is in a transaction."""
    config = Config(attributes={"connection": connection})
    # Alembic reads a % in it as the beginning of a variable.
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return config


@cache
def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(_FOLDER))


@cache
def head() -> str:
    """Return the latest version."""
    return str(_scripts().get_current_head())


@cache
def revisions() -> frozenset[str]:
    """Return every version there is."""
    return frozenset(script.revision for script in _scripts().walk_revisions())


def present(connection: Connection) -> frozenset[str]:
    """Return the version that a database has: none where it is empty."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return frozenset(context.get_current_heads())
