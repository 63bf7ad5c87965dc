"""Schedules fire: when each is due next, and what each of its firings came to."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table of firings, and pause the schedules that were kept as active: nothing has ever fired them."""
    op.add_column("cron_jobs", sa.Column("next_due_at", _TIME, nullable=True))
    op.add_column("cron_jobs", sa.Column("rooms", sa.LargeBinary(), nullable=True))
    op.add_column("cron_jobs", sa.Column("configured_as", sa.String(length=200), nullable=True))
    op.create_index("ix_cron_jobs_next_due_at", "cron_jobs", ["next_due_at"])
    op.create_index("uq_cron_jobs_configured", "cron_jobs", ["project_id", "configured_as"], unique=True)
    op.execute("UPDATE cron_jobs SET is_active = false")
    op.create_table(
        "firings",
        sa.Column("id", _ID, nullable=False),
        sa.Column("job_id", _ID, nullable=False),
        sa.Column("trigger", sa.String(length=20), nullable=False),
        sa.Column("due_at", _TIME, nullable=False),
        sa.Column("missed", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("result_id", _ID, nullable=True),
        sa.Column("comparison", _JSON, nullable=True),
        sa.Column("fired_at", _TIME, nullable=True),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["cron_jobs.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["result_id"], ["results.id"], ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("job_id", "due_at", name="uq_firings_due"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_firings_result_id", "firings", ["result_id"])
    open_ones = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_firings_open", "firings", ["job_id", "id"], sqlite_where=open_ones, postgresql_where=open_ones
    )


def downgrade() -> None:
    """Make it as it was."""
    op.drop_table("firings")
    op.drop_index("uq_cron_jobs_configured", "cron_jobs")
    op.drop_index("ix_cron_jobs_next_due_at", "cron_jobs")
    for column in ("next_due_at", "rooms", "configured_as"):
        op.drop_column("cron_jobs", column)
