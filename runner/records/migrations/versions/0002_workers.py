"""Workers, and what of a run says when and to which of them it goes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("executor", sa.String(200), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("protocol", sa.Integer(), nullable=False),
        sa.Column("rooms", _JSON, nullable=False),
        sa.Column("calls", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.Column("beat_at", _TIME, nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("gone_at", _TIME),
        sa.Column("runs", _JSON, nullable=False),
        sa.Column("load", _JSON, nullable=False),
    )
    with op.batch_alter_table("runs") as runs:
        runs.add_column(sa.Column("priority", sa.Integer(), server_default="100", nullable=False))
        runs.add_column(sa.Column("not_before", _TIME))
        runs.add_column(sa.Column("room_key", sa.Text()))
        runs.add_column(sa.Column("room_kind", sa.String(20)))
        runs.add_column(sa.Column("lost", sa.Integer(), server_default="0", nullable=False))
        runs.add_column(sa.Column("said_at", _TIME))
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
