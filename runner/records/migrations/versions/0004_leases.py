"""Workers poll, and hold their runs for as long as they do."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_TIME = sa.DateTime(timezone=True)
_PARTS = {
    "ix_runs_waiting": (["priority", "id"], "ended_at IS NULL AND executor IS NULL"),
    "ix_runs_taken": (["executor"], "ended_at IS NULL AND executor IS NOT NULL"),
    "ix_runs_ended_at": (["ended_at"], "ended_at IS NOT NULL"),
}


def upgrade() -> None:
    """Make their table anew: whoever lives polls in a moment, and the others are of an earlier version."""
    op.drop_table("workers")
    op.create_table(
        "workers",
        sa.Column("executor", sa.String(200), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("rooms", _JSON, nullable=False),
        sa.Column("calls", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("why", sa.String(200), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("gone_at", _TIME),
        sa.Column("runs", _JSON, nullable=False),
        sa.Column("load", _JSON, nullable=False),
    )
    op.drop_index("ix_runs_executor", "runs")
    op.drop_index("ix_runs_ended_at", "runs")
    for name, (columns, where) in _PARTS.items():
        op.create_index(name, "runs", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
