"""Schedules fire: when each is due next, and what each of its firings came to."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table of firings, and pause the schedules that were kept as active: nothing has ever fired them."""
    op.add_column("cron_jobs", sa.Column("next_due_at", _TIME))
    op.add_column("cron_jobs", sa.Column("rooms", sa.LargeBinary()))
    op.add_column("cron_jobs", sa.Column("configured_as", sa.String(200)))
    op.create_index("ix_cron_jobs_next_due_at", "cron_jobs", ["next_due_at"])
    op.create_index("uq_cron_jobs_configured", "cron_jobs", ["project_id", "configured_as"], unique=True)
    op.execute("UPDATE cron_jobs SET is_active = false")
    op.create_table(
        "firings",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("job_id", _ID, sa.ForeignKey("cron_jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("trigger", sa.String(20), nullable=False),
        sa.Column("due_at", _TIME, nullable=False),
        sa.Column("missed", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("result_id", _ID, sa.ForeignKey("results.id", ondelete="SET NULL"), index=True),
        sa.Column("comparison", _JSON),
        sa.Column("fired_at", _TIME),
        sa.Column("ended_at", _TIME),
        sa.UniqueConstraint("job_id", "due_at", name="uq_firings_due"),
        sqlite_autoincrement=True,
    )
    open_ones = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_firings_open", "firings", ["job_id", "id"], sqlite_where=open_ones, postgresql_where=open_ones
    )
