"""Which secret key a record is encrypted with: a known text, encrypted with it."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make room for it. It is written when a server is started: only there the key is known."""
    op.create_table(
        "key_checks",
        sa.Column("name", sa.String(20), primary_key=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
    )
