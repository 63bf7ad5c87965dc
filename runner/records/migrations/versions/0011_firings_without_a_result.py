"""Webhooks tell of firings of schedules that launched nothing, and have no result."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the firing that a delivery tells of."""
    op.add_column("webhook_deliveries", sa.Column("firing_id", _ID))
