"""Workers, and what of a run says when and to which of them it goes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "workers",
        sa.Column("executor", sa.String(length=200), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("version", sa.String(length=40), nullable=False),
        sa.Column("protocol", sa.Integer(), nullable=False),
        sa.Column("rooms", _JSON, nullable=False),
        sa.Column("calls", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.Column("beat_at", _TIME, nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("gone_at", _TIME, nullable=True),
        sa.Column("runs", _JSON, nullable=False),
        sa.Column("load", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("executor"),
    )
    with op.batch_alter_table("runs") as runs:
        runs.add_column(sa.Column("priority", sa.Integer(), server_default="100", nullable=False))
        runs.add_column(sa.Column("not_before", _TIME, nullable=True))
        runs.add_column(sa.Column("room_key", sa.Text(), nullable=True))
        runs.add_column(sa.Column("room_kind", sa.String(length=20), nullable=True))
        runs.add_column(sa.Column("lost", sa.Integer(), server_default="0", nullable=False))
        runs.add_column(sa.Column("said_at", _TIME, nullable=True))
        runs.create_index("ix_runs_status_priority", ["status", "priority", "id"])
        runs.create_index("ix_runs_executor", ["executor"])
    # An attempt is counted from when a run is given to a worker, and was from when one began it. Whichever it was,
    # what is kept of it lies where that of the first does.
    op.execute("UPDATE runs SET attempt = 1 WHERE attempt <> 1")
    # What waits for a Daily room has it for itself. Rooms on custom domains can't be told from others here.
    op.execute(
        "UPDATE runs SET room_key = lower(rtrim(room_url, '/')), room_kind = 'daily' "
        "WHERE ended_at IS NULL AND room_url LIKE 'http%://%.daily.co/%'"
    )


def downgrade() -> None:
    """Take them away."""
    op.drop_index("ix_runs_executor", "runs")
    op.drop_index("ix_runs_status_priority", "runs")
    for column in ("priority", "not_before", "room_key", "room_kind", "lost", "said_at"):
        # Not by building the table anew, as Alembic does on SQLite: what counts up its ids would begin again.
        op.execute(f"ALTER TABLE runs DROP COLUMN {column}")
    op.drop_table("workers")
