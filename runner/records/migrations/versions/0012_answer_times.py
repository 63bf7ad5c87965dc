"""What trends are made of, beside what is long about runs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"

_AT_ONCE = 500
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)
_RUNS = sa.table("runs", sa.column("id", _ID), sa.column("ended_at", _TIME), sa.column("outcome", _JSON))


def upgrade() -> None:
    """Make the table of answer times, fill it from what runs came to, and the index that runs are found by."""
    table = op.create_table(
        "answer_times",
        sa.Column("run_id", _ID, sa.ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("times_ms", _JSON, nullable=False),
    )
    op.create_index(
        "ix_runs_trends",
        "runs",
        ["project_id", "ended_at", "success", "result_id"],
        sqlite_where=sa.text("ended_at IS NOT NULL"),
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )
    ended = sa.select(_RUNS.c.id, _RUNS.c.outcome["turns"]).where(_RUNS.c.ended_at.is_not(None)).order_by(_RUNS.c.id)
    last = 0
    while rows := op.get_bind().execute(ended.where(_RUNS.c.id > last).limit(_AT_ONCE)).all():
        last = rows[-1][0]
        answered = [{"run_id": run_id, "times_ms": times} for run_id, turns in rows if (times := _times_ms(turns))]
        if answered:
            op.bulk_insert(table, answered)


def _times_ms(turns: list[dict[str, float | None]] | None) -> list[float]:
    times = (turn.get("response_latency_ms") for turn in turns or ())
    return [ms for ms in times if ms is not None]
