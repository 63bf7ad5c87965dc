"""Whoever signs in to the page with a key has a session until they sign out."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table of sessions."""
    op.create_table(
        "page_sessions",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("key_id", _ID, sa.ForeignKey("api_keys.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sqlite_autoincrement=True,
    )
