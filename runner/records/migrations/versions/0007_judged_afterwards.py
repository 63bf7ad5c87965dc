"""What was asked of a run is judged once its worker has reported it, by processes that give signs of life."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Tell runs that were reported from those that workers have, and make the table of processes."""
    op.add_column("runs", sa.Column("reported", sa.String(64)))
    op.create_table(
        "api_processes",
        sa.Column("executor", sa.String(200), primary_key=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
    )
