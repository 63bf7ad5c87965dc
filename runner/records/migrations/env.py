"""What Alembic runs for every command."""

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import JSON

from runner.records.columns import UtcDateTime
from runner.records.migrations import VERSION_TABLE
from runner.records.tables import Base


def _is_ours(name: str | None, kind: str, _: Any) -> bool:
    """Pass over tables of others: the queue keeps its own in the same database."""
    return kind != "table" or name in Base.metadata.tables


def _written(kind: str, item: Any, written: AutogenContext) -> str | Literal[False]:
    """Write a column's type so that it means the same when the code has changed."""
    if kind != "type":
        return False
    if isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if isinstance(item, JSON):
        written.imports.add("from sqlalchemy.dialects import postgresql")
        return 'sa.JSON().with_variant(postgresql.JSONB(), "postgresql")'
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    include_name=_is_ours,
    render_item=_written,
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
