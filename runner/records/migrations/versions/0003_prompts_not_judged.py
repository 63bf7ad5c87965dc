"""Runs that passed although what was expected of them was not judged: they are inconclusive."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_RUNS = sa.table(
    "runs",
    sa.column("success", sa.Boolean()),
    sa.column("status", sa.String()),
    sa.column("error_message", sa.Text()),
    sa.column("snapshot", _JSON),
)


def upgrade() -> None:
    """Take the verdict from them. A version that judges prompts has written no run yet."""
    prompt = _RUNS.c.snapshot["expected_outcome_prompt"].as_string()
    op.execute(
        _RUNS.update()
        .where(_RUNS.c.success.is_(True), sa.func.coalesce(prompt, "") != "")
        .values(success=None, error_message="inconclusive: expected_outcome_prompt was not judged")
    )
