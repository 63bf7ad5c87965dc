"""What was asked of a run is judged once its worker has reported it, by processes that give signs of life."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Tell runs that were reported from those that workers have, and make the table of processes."""
    op.add_column("runs", sa.Column("reported", sa.String(length=64), nullable=True))
    op.create_table(
        "api_processes",
        sa.Column("executor", sa.String(length=200), nullable=False, primary_key=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    """Make it as it was."""
    op.drop_table("api_processes")
    op.drop_column("runs", "reported")
