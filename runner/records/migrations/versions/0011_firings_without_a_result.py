"""Webhooks tell of firings of schedules that launched nothing, and have no result."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the firing that a delivery tells of."""
    op.add_column("webhook_deliveries", sa.Column("firing_id", _ID, nullable=True))


def downgrade() -> None:
    """Make it as it was: what tells of no result is nothing that was known then."""
    op.execute("DELETE FROM webhook_deliveries WHERE firing_id IS NOT NULL")
    op.drop_column("webhook_deliveries", "firing_id")
