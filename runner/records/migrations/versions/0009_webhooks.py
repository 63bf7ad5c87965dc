"""Webhooks: where projects and agents want them, and which were sent."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_TIME = sa.DateTime(timezone=True)
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add what projects and agents say of their webhooks, and make the table of deliveries."""
    for table in ("projects", "agents"):
        op.add_column(table, sa.Column("webhooks", _JSON))
        op.add_column(table, sa.Column("webhook_secrets", sa.LargeBinary()))
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("project_id", _ID, sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("result_id", _ID, sa.ForeignKey("results.id", ondelete="CASCADE"), index=True),
        sa.Column("event", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("message_id", sa.String(64), nullable=False, unique=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("status_code", sa.Integer()),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("tries", _JSON, nullable=False),
        sa.Column("held_until", _TIME),
        sa.Column("due_at", _TIME),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("next_attempt_at", _TIME),
        sa.Column("ended_at", _TIME),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_webhook_deliveries_project", "webhook_deliveries", ["project_id", "id"])
    op.create_index("ix_webhook_deliveries_status", "webhook_deliveries", ["status", "next_attempt_at"])
