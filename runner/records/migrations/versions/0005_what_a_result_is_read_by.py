"""What a result is read by: whether its runs have changed, and its counts, without a look at the runs themselves."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_RUNS = sa.table(
    "runs",
    sa.column("expects", sa.Boolean()),
    sa.column("snapshot", _JSON),
    sa.column("outcome", _JSON),
)


def upgrade() -> None:
    op.add_column("runs", sa.Column("expects", sa.Boolean(), server_default=sa.false(), nullable=False))
    prompt = _RUNS.c.snapshot["expected_outcome_prompt"].as_string()
    expectations = _RUNS.c.outcome["expectations"].as_string()
    expects = (sa.func.coalesce(prompt, "") != "") | (sa.func.coalesce(expectations, "[]") != "[]")
    op.execute(_RUNS.update().where(expects).values(expects=True))
    op.drop_index("ix_runs_result_status", "runs")
    op.create_index("ix_runs_result", "runs", ["result_id", "id", "updated_at", "scenario_id"])
    op.create_index("ix_runs_result_counts", "runs", ["result_id", "status", "success", "cause", "expects"])
