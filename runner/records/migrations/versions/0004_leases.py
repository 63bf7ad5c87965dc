"""Workers poll, and hold their runs for as long as they do."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

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
        *_who_it_is(),
        sa.Column("why", sa.String(length=200), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
        *_how_it_is(),
    )
    op.drop_index("ix_runs_executor", "runs")
    op.drop_index("ix_runs_ended_at", "runs")
    for name, (columns, where) in _PARTS.items():
        op.create_index(name, "runs", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade() -> None:
    """Make it as it was."""
    for name in _PARTS:
        op.drop_index(name, "runs")
    op.create_index("ix_runs_ended_at", "runs", ["ended_at"])
    op.create_index("ix_runs_executor", "runs", ["executor"])
    op.drop_table("workers")
    op.create_table(
        "workers",
        *_who_it_is(),
        sa.Column("protocol", sa.Integer(), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.Column("beat_at", _TIME, nullable=False),
        *_how_it_is(),
    )


def _who_it_is() -> list[sa.Column[object]]:
    return [
        sa.Column("executor", sa.String(length=200), nullable=False, primary_key=True),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("version", sa.String(length=40), nullable=False),
        sa.Column("rooms", _JSON, nullable=False),
        sa.Column("calls", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
    ]


def _how_it_is() -> list[sa.Column[object]]:
    return [
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("gone_at", _TIME, nullable=True),
        sa.Column("runs", _JSON, nullable=False),
        sa.Column("load", _JSON, nullable=False),
    ]
