"""The tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_TIME = sa.DateTime(timezone=True)


def _make(name: str, *columns: sa.schema.SchemaItem) -> None:
    made = sa.Column("id", _ID, primary_key=True), sa.Column("created_at", _TIME, nullable=False)
    op.create_table(name, *made, *columns, sqlite_autoincrement=True)


def upgrade() -> None:
    _make(
        "projects",
        sa.Column("name", sa.String(200), nullable=False),
    )
    _make(
        "agents",
        sa.Column("project_id", _ID, sa.ForeignKey("projects.id"), nullable=False, index=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("language", sa.String(20), nullable=False),
        sa.Column("inbound", sa.Boolean(), nullable=False),
        sa.Column("phone_number", sa.String(40)),
        sa.Column("provider", _JSON, nullable=False),
        sa.Column("credentials", sa.LargeBinary()),
        sa.Column("session", _JSON, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
    )
    _make(
        "api_keys",
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("project_id", _ID, sa.ForeignKey("projects.id")),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("prefix", sa.String(20), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("revoked_at", _TIME),
        sa.Column("last_used_at", _TIME),
    )
    _make(
        "personalities",
        sa.Column("project_id", _ID, sa.ForeignKey("projects.id"), index=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("language", sa.String(20), nullable=False),
        sa.Column("data", _JSON, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
    )
    _make(
        "cron_jobs",
        sa.Column("project_id", _ID, sa.ForeignKey("projects.id"), nullable=False, index=True),
        sa.Column("agent_id", _ID, sa.ForeignKey("agents.id", ondelete="CASCADE"), index=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("crontab_expression", sa.String(100), nullable=False),
        sa.Column("timezone", sa.String(60), nullable=False),
        sa.Column("scenario_ids", _JSON, nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("data", _JSON, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
    )
    _make(
        "results",
        sa.Column("project_id", _ID, sa.ForeignKey("projects.id"), nullable=False, index=True),
        sa.Column("agent_id", _ID, sa.ForeignKey("agents.id", ondelete="SET NULL"), index=True),
        sa.Column("agent_name", sa.String(200), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("status", sa.String(20), nullable=False, index=True),
        sa.Column("run_type", sa.String(40), nullable=False),
        sa.Column("run_settings", _JSON, nullable=False),
        sa.Column("run_as_text", sa.Boolean(), nullable=False),
        sa.Column("is_cronjob", sa.Boolean(), nullable=False),
        sa.Column("concurrency_limit", sa.Integer()),
        sa.Column("idempotency_key", sa.String(200)),
        sa.Column("launch_digest", sa.String(64)),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.UniqueConstraint("project_id", "idempotency_key", name="uq_results_idempotency"),
    )
    op.create_index("ix_results_digest", "results", ["project_id", "launch_digest", "created_at"])
    _make(
        "test_profiles",
        sa.Column("project_id", _ID, sa.ForeignKey("projects.id"), nullable=False, index=True),
        sa.Column("agent_id", _ID, sa.ForeignKey("agents.id", ondelete="SET NULL")),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("information", _JSON, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
    )
    _make(
        "scenarios",
        sa.Column("project_id", _ID, sa.ForeignKey("projects.id"), nullable=False, index=True),
        sa.Column("agent_id", _ID, sa.ForeignKey("agents.id", ondelete="SET NULL"), index=True),
        sa.Column("personality_id", _ID, sa.ForeignKey("personalities.id", ondelete="SET NULL")),
        sa.Column("test_profile_id", _ID, sa.ForeignKey("test_profiles.id", ondelete="SET NULL")),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("scenario_type", sa.String(40), nullable=False),
        sa.Column("tags", _JSON, nullable=False),
        sa.Column("folder_path", sa.String(400)),
        sa.Column("pipecat_eval", sa.Text()),
        sa.Column("data", _JSON, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
    )
    _make(
        "share_links",
        sa.Column("result_id", _ID, sa.ForeignKey("results.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("expires_at", _TIME),
    )
    _make(
        "runs",
        sa.Column("result_id", _ID, sa.ForeignKey("results.id", ondelete="CASCADE"), nullable=False),
        sa.Column("project_id", _ID, sa.ForeignKey("projects.id"), nullable=False, index=True),
        sa.Column("agent_id", _ID, sa.ForeignKey("agents.id", ondelete="SET NULL")),
        sa.Column("scenario_id", _ID, sa.ForeignKey("scenarios.id", ondelete="SET NULL"), index=True),
        sa.Column("scenario_name", sa.String(80), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("success", sa.Boolean()),
        sa.Column("snapshot", _JSON, nullable=False),
        sa.Column("room_url", sa.Text()),
        sa.Column("room_token", sa.LargeBinary()),
        sa.Column("data_message", _JSON),
        sa.Column("session_data", _JSON, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("executor", sa.String(200)),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("error_message", sa.Text(), nullable=False),
        sa.Column("cause", sa.String(20)),
        sa.Column("ended_reason", sa.String(40)),
        sa.Column("call_ended_reason", sa.String(80)),
        sa.Column("duration_s", sa.Float()),
        sa.Column("outcome", _JSON),
        sa.Column("artefacts", _JSON, nullable=False),
        sa.Column("trace", _JSON),
        sa.Column("started_at", _TIME),
        sa.Column("joined_at", _TIME),
        sa.Column("ended_at", _TIME, index=True),
        sa.Column("updated_at", _TIME, nullable=False),
    )
    op.create_index("ix_runs_result_status", "runs", ["result_id", "status"])
