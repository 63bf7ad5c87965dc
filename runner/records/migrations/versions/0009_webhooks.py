"""Webhooks: where projects and agents want them, and which were sent."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_TIME = sa.DateTime(timezone=True)
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add what projects and agents say of their webhooks, and make the table of deliveries."""
    for table in ("projects", "agents"):
        op.add_column(table, sa.Column("webhooks", _JSON, nullable=True))
        op.add_column(table, sa.Column("webhook_secrets", sa.LargeBinary(), nullable=True))
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", _ID, nullable=False, primary_key=True),
        sa.Column("project_id", _ID, sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("result_id", _ID, sa.ForeignKey("results.id", ondelete="CASCADE"), nullable=True),
        sa.Column("event", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("message_id", sa.String(length=64), nullable=False, unique=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("tries", _JSON, nullable=False),
        sa.Column("held_until", _TIME, nullable=True),
        sa.Column("due_at", _TIME, nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("next_attempt_at", _TIME, nullable=True),
        sa.Column("ended_at", _TIME, nullable=True),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_webhook_deliveries_result_id", "webhook_deliveries", ["result_id"])
    op.create_index("ix_webhook_deliveries_project", "webhook_deliveries", ["project_id", "id"])
    op.create_index("ix_webhook_deliveries_status", "webhook_deliveries", ["status", "next_attempt_at"])


def downgrade() -> None:
    """Make it as it was."""
    op.drop_table("webhook_deliveries")
    for table in ("agents", "projects"):
        op.drop_column(table, "webhook_secrets")
        op.drop_column(table, "webhooks")
