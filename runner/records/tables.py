"""The tables of the record.

Times are UTC. JSON columns hold what the API takes and gives as it is; what is searched or sorted by has a column of
its own. Nothing secret stands here in clear: keys as digests, tokens and credentials encrypted.
"""

from datetime import datetime
from typing import Any, cast

from sqlalchemy import BigInteger, ForeignKey, Index, String, Table, Text, UniqueConstraint, false, text
from sqlalchemy.orm import Mapped, mapped_column

from runner.evaluation.verdicts import Cause
from runner.records.columns import NEVER_AGAIN, Base, Changed, Id, JsonValue, Made, utc_now
from runner.records.statuses import FINAL_RUN, RunStatus


class Project(Made):
    """What keys are scoped to: nothing is seen from another project."""

    __tablename__ = "projects"

    name: Mapped[str] = mapped_column(String(200))
    webhooks: Mapped[dict[str, Any] | None]
    """What is shown of where its webhooks go, and what is told (see :mod:`runner.records.webhooks`)."""
    webhook_secrets: Mapped[bytes | None]
    """The whole addresses and the secret, encrypted."""


class ApiKey(Made):
    """A key. Only its digest is kept; ``prefix`` is its beginning, to tell keys apart in a list.

    ``kind`` is ``user`` (everything in its project) or ``worker`` (reports, and nothing else; no project).
    """

    __tablename__ = "api_keys"

    kind: Mapped[str] = mapped_column(String(20))
    project_id: Mapped[int | None] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    prefix: Mapped[str] = mapped_column(String(20))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class Agent(Changed):
    """An agent under test.

    ``provider`` is what the API shows of it; ``credentials`` the encrypted JSON of what it never shows. ``session``
    is ours: how a session is started (``start_url``, ``transport``, ``data``), where rooms are not given.
    """

    __tablename__ = "agents"

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text, default="")
    language: Mapped[str] = mapped_column(String(20), default="en")
    inbound: Mapped[bool] = mapped_column(default=True)
    phone_number: Mapped[str | None] = mapped_column(String(40))
    provider: Mapped[dict[str, Any]] = mapped_column(default=dict)
    credentials: Mapped[bytes | None]
    session: Mapped[dict[str, Any]] = mapped_column(default=dict)
    webhooks: Mapped[dict[str, Any] | None]
    """What is shown of where its webhooks go, in place of those of its project."""
    webhook_secrets: Mapped[bytes | None]


class Personality(Changed):
    """A caller's voice and manners. Built-in ones belong to no project and can't be changed."""

    __tablename__ = "personalities"

    project_id: Mapped[int | None] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    language: Mapped[str] = mapped_column(String(20), default="en")
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)


class TestProfile(Changed):
    """Values for a scenario's placeholders, and for the agent's session."""

    __tablename__ = "test_profiles"
    __test__ = False

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    agent_id: Mapped[int | None] = mapped_column(ForeignKey("agents.id", ondelete="SET NULL"))
    name: Mapped[str] = mapped_column(String(200))
    information: Mapped[dict[str, Any]] = mapped_column(default=dict)


class ScenarioRow(Changed):
    """A scenario as the API holds it. ``data`` has every writable field that has no column of its own.

    ``pipecat_eval`` is ours: the text of a Pipecat Evals scenario file that holds one scenario.
    """

    __tablename__ = "scenarios"

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    agent_id: Mapped[int | None] = mapped_column(ForeignKey("agents.id", ondelete="SET NULL"), index=True)
    personality_id: Mapped[int | None] = mapped_column(ForeignKey("personalities.id", ondelete="SET NULL"))
    test_profile_id: Mapped[int | None] = mapped_column(ForeignKey("test_profiles.id", ondelete="SET NULL"))
    name: Mapped[str] = mapped_column(String(80))
    scenario_type: Mapped[str] = mapped_column(String(40))
    tags: Mapped[list[str]] = mapped_column(JsonValue, default=list)
    folder_path: Mapped[str | None] = mapped_column(String(400))
    pipecat_eval: Mapped[str | None] = mapped_column(Text)
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)


MET, UNDECIDED, MISSED = 100, 50, 0
"""Scores of an expected outcome, as Cekura has them: met, needs review, not met."""


def outcome_score(status: str, success: bool | None, cause: str | None, *, expects: bool) -> int | None:
    """Return the score of an expected outcome; None where nothing was expected, or there was no call that could tell.

    A run passes only if all that was expected was judged and met: its verdict is the score.
    """
    if success is False and cause == Cause.AGENT:
        return MISSED
    if status != RunStatus.COMPLETED or (success and not expects):
        return None
    return MET if success else UNDECIDED


class ResultRow(Changed):
    """The batch of runs that one launch created.

    ``launch_digest`` is of the launch's body and key: the same launch again within a short window is the same result.
    """

    __tablename__ = "results"
    __table_args__ = (
        UniqueConstraint("project_id", "idempotency_key", name="uq_results_idempotency"),
        Index("ix_results_digest", "project_id", "launch_digest", "created_at"),
        NEVER_AGAIN,
    )

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    agent_id: Mapped[int | None] = mapped_column(ForeignKey("agents.id", ondelete="SET NULL"), index=True)
    agent_name: Mapped[str] = mapped_column(String(200), default="")
    name: Mapped[str] = mapped_column(String(200), default="")
    status: Mapped[str] = mapped_column(String(20), default="pending", index=True)
    run_type: Mapped[str] = mapped_column(String(40))
    run_settings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    run_as_text: Mapped[bool] = mapped_column(default=False)
    is_cronjob: Mapped[bool] = mapped_column(default=False)
    concurrency_limit: Mapped[int | None]
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    launch_digest: Mapped[str | None] = mapped_column(String(64))


def _part_of(name: str, *columns: str, where: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


class RunRow(Changed):
    """A call with its verdict.

    ``snapshot`` is the scenario as it was at launch: ``{name, scenario_type, script, notes, expected_outcome_prompt,
    asked, personality, test_profile, tags}`` with ``script`` a dump of :class:`bots.caller.script.Script` and
    ``asked`` one of :class:`runner.evaluation.asked.Asked`. ``outcome`` is
    the worker's ``run.json``, without the script. ``data_message`` is ``{"value": …}`` where one is to be published,
    as it is shown; the whole one is among the run's secrets, where that is something else. ``artefacts`` maps names
    (``recording.wav``, ``timeline.jsonl``, ``run.json``) to the sizes, in bytes, of what the store holds of attempt
    ``attempt`` (see :func:`runner.records.store.artefact_key`), or to null while one is still to come, and
    ``<attempt>/<name>`` likewise of an attempt that does not count.

    A run without ``executor`` waits; with one it is that worker's, in attempt ``attempt``, until it is reported or
    released.
    """

    __tablename__ = "runs"
    __table_args__ = (
        # All that tells whether a run of a result has changed, and all that its counts are made of: both are read
        # without a look at the runs, of which each is long.
        Index("ix_runs_result", "result_id", "id", "updated_at", "scenario_id"),
        Index("ix_runs_result_counts", "result_id", "status", "success", "cause", "expects"),
        Index("ix_runs_status_priority", "status", "priority", "id"),
        # What waits, what workers have, and what has ended: each is found past the others, however many those are.
        _part_of("ix_runs_waiting", "priority", "id", where="ended_at IS NULL AND executor IS NULL"),
        _part_of("ix_runs_taken", "executor", where="ended_at IS NULL AND executor IS NOT NULL"),
        _part_of("ix_runs_ended_at", "ended_at", where="ended_at IS NOT NULL"),
        # All that trends ask of a run, besides its latencies.
        _part_of("ix_runs_trends", "project_id", "ended_at", "success", "result_id", where="ended_at IS NOT NULL"),
        NEVER_AGAIN,
    )

    result_id: Mapped[int] = mapped_column(ForeignKey("results.id", ondelete="CASCADE"))
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    agent_id: Mapped[int | None] = mapped_column(ForeignKey("agents.id", ondelete="SET NULL"))
    scenario_id: Mapped[int | None] = mapped_column(ForeignKey("scenarios.id", ondelete="SET NULL"), index=True)
    scenario_name: Mapped[str] = mapped_column(String(80))
    status: Mapped[str] = mapped_column(String(20), default="pending")
    success: Mapped[bool | None]
    snapshot: Mapped[dict[str, Any]]
    room_url: Mapped[str | None] = mapped_column(Text)
    room_token: Mapped[bytes | None]
    """The run's secrets (see :class:`runner.records.jobs.RoomSecrets`), encrypted; erased when the run ends."""
    data_message: Mapped[dict[str, Any] | None]
    session_data: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Goes into the body of a session that is started for the run."""
    priority: Mapped[int] = mapped_column(default=100, server_default="100")
    """Lower goes first, from 1."""
    not_before: Mapped[datetime | None]
    """No worker gets it before."""
    room_key: Mapped[str | None] = mapped_column(Text)
    """What the run needs for itself: no two with the same one are on at a time. None where it shares nothing."""
    room_kind: Mapped[str | None] = mapped_column(String(20))
    """What kind of room a worker must be able to enter for it; None where any worker can."""
    attempt: Mapped[int] = mapped_column(default=1)
    """Which attempt at it this is, from 1. A report counts only for this one, and only while a worker has it."""
    lost: Mapped[int] = mapped_column(default=0, server_default="0")
    """How often a worker was lost that had begun it."""
    executor: Mapped[str | None] = mapped_column(String(200))
    """The worker that has it, or had it when it ended."""
    reported: Mapped[str | None] = mapped_column(String(64))
    """The digest of what its worker reported in the end. From then on no worker has it. As long as it waits to be
    judged it is open, and ``outcome`` is what it comes to if nobody judges it."""
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    error_message: Mapped[str] = mapped_column(Text, default="")
    cause: Mapped[str | None] = mapped_column(String(20))
    ended_reason: Mapped[str | None] = mapped_column(String(40))
    call_ended_reason: Mapped[str | None] = mapped_column(String(80))
    duration_s: Mapped[float | None]
    outcome: Mapped[dict[str, Any] | None]
    expects: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether anything was expected of the agent besides being there. Of a script it is known when it was played."""
    artefacts: Mapped[dict[str, int | None]] = mapped_column(JsonValue, default=dict)
    trace: Mapped[dict[str, Any] | None]
    """What a tracer inside the agent sent of this run."""
    started_at: Mapped[datetime | None]
    joined_at: Mapped[datetime | None]
    said_at: Mapped[datetime | None]
    """When something was said or published in it, as far as it was told."""
    ended_at: Mapped[datetime | None]

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.status in FINAL_RUN

    @property
    def passed(self) -> bool | None:
        """Whether it passed; None until it has ended. Undecided is not passed."""
        return self.success is True if self.has_ended else None

    @property
    def is_inconclusive(self) -> bool:
        """Whether it ended without a verdict, for no fault of the agent."""
        return self.has_ended and self.success is None

    @property
    def score(self) -> int | None:
        """What became of the expected outcome; None where nothing was expected, or no call could tell."""
        return outcome_score(self.status, self.success, self.cause, expects=self.expects)

    @property
    def came_to(self) -> dict[str, Any]:
        """What its worker reported; empty where that is nothing."""
        return self.outcome or {}

    @property
    def detail(self) -> str | None:
        """What happened, in one line."""
        return self.came_to.get("detail") or self.error_message or None

    @property
    def latencies_ms(self) -> list[float]:
        """How long the agent took to answer, for every turn that it answered."""
        times = (turn.get("response_latency_ms") for turn in self.came_to.get("turns") or ())
        return [ms for ms in times if ms is not None]

    @property
    def kept(self) -> dict[str, int]:
        """What the store holds of its last attempt, with the sizes in bytes."""
        return {name: size for name, size in self.artefacts.items() if "/" not in name and size is not None}


class Latencies(Base):
    """How long the agent took to answer in a run that has ended, for every turn that it answered.

    ``outcome`` says so too. Trends read it of thousands of runs, and each outcome is long.
    """

    __tablename__ = "answer_times"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    times_ms: Mapped[list[float]] = mapped_column(JsonValue)


class WorkerRow(Base):
    """A worker's process, for as long as it lives and a while longer.

    ``number`` counts its polls, and ``seen_at`` is when the last one came, by the record's clock. ``runs`` is
    ``{"live": [run, …], "kept": [[run, attempt, may_end], …]}`` (see :class:`runner.protocol.messages.Poll`), and
    ``load`` what it says of itself (see :class:`runner.protocol.messages.Load`).
    """

    __tablename__ = "workers"

    executor: Mapped[str] = mapped_column(String(200), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    """Its machine and place there: stays the same when its process is started anew."""
    version: Mapped[str] = mapped_column(String(40))
    rooms: Mapped[list[str]] = mapped_column(JsonValue)
    """The kinds of rooms it can enter."""
    calls: Mapped[int]
    """How many calls it makes at once."""
    state: Mapped[str] = mapped_column(String(20))
    why: Mapped[str] = mapped_column(String(200), default="")
    """Why it takes no runs for now."""
    number: Mapped[int] = mapped_column(BigInteger)
    seen_at: Mapped[datetime]
    started_at: Mapped[datetime]
    gone_at: Mapped[datetime | None]
    runs: Mapped[dict[str, list[Any]]] = mapped_column(JsonValue)
    load: Mapped[dict[str, Any]]


class KeyCheck(Base):
    """A known text, encrypted with the secret key that everything else here is encrypted with."""

    __tablename__ = "key_checks"

    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    sealed: Mapped[bytes]


class ApiProcess(Base):
    """A process of the API that does durable work (see :mod:`runner.dispatch.durable`), for as long as it lives.

    ``seen_at`` is when it gave its last sign of life, by the record's clock.
    """

    __tablename__ = "api_processes"

    executor: Mapped[str] = mapped_column(String(200), primary_key=True)
    seen_at: Mapped[datetime]


class ShareLink(Made):
    """Lets whoever has its token read one result. Only the token's digest is kept."""

    __tablename__ = "share_links"

    result_id: Mapped[int] = mapped_column(ForeignKey("results.id", ondelete="CASCADE"), index=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    expires_at: Mapped[datetime | None]


class PageSession(Made):
    """Whoever signed in to the page with a key. Only the digest of the session's token is kept."""

    __tablename__ = "page_sessions"

    key_id: Mapped[int] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"), index=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    expires_at: Mapped[datetime]


class CronJob(Changed):
    """A schedule, as the API holds it. ``data`` has the fields without a column of their own."""

    __tablename__ = "cron_jobs"
    __table_args__ = (
        Index("uq_cron_jobs_configured", "project_id", "configured_as", unique=True),
        NEVER_AGAIN,
    )

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    agent_id: Mapped[int | None] = mapped_column(ForeignKey("agents.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    crontab_expression: Mapped[str] = mapped_column(String(100))
    timezone: Mapped[str] = mapped_column(String(60), default="UTC")
    scenario_ids: Mapped[list[int]] = mapped_column(JsonValue, default=list)
    is_active: Mapped[bool] = mapped_column(default=True)
    next_due_at: Mapped[datetime | None] = mapped_column(index=True)
    """When it fires next; None while it is paused."""
    rooms: Mapped[bytes | None]
    """The rooms it is played in, with their tokens, encrypted (see :class:`runner.records.schedules.FixedRoom`); None
    where a session is started for each run."""
    configured_as: Mapped[str | None] = mapped_column(String(200))
    """Its name in the file of schedules; None for those that were made over the API."""
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Firing(Base):
    """One time at which a schedule was due, or was run by hand, and what that came to.

    ``trigger`` and ``state`` are of :class:`runner.records.firings.Trigger` and
    :class:`runner.records.statuses.FiringState`. It is written in the transaction that launches its result: for each
    time at which a schedule is due there is one.
    """

    __tablename__ = "firings"
    __table_args__ = (
        UniqueConstraint("job_id", "due_at", name="uq_firings_due"),
        _part_of("ix_firings_open", "job_id", "id", where="ended_at IS NULL"),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("cron_jobs.id", ondelete="CASCADE"))
    trigger: Mapped[str] = mapped_column(String(20))
    due_at: Mapped[datetime]
    missed: Mapped[int] = mapped_column(default=0)
    """How many firings before it were missed, which it makes up for."""
    state: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str] = mapped_column(Text, default="")
    """Why it is in this state, in words."""
    result_id: Mapped[int | None] = mapped_column(ForeignKey("results.id", ondelete="SET NULL"), index=True)
    comparison: Mapped[dict[str, Any] | None]
    """How its result compares with the schedule's baseline."""
    fired_at: Mapped[datetime | None]
    """When its result was launched; None as long as there is none."""
    ended_at: Mapped[datetime | None]


class WebhookDelivery(Made):
    """A webhook that is sent, or was.

    ``tries`` has an object for each of the last attempts: ``{at, status_code, error, duration_ms}``.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_project", "project_id", "id"),
        Index("ix_webhook_deliveries_status", "status", "next_attempt_at"),
        NEVER_AGAIN,
    )

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    result_id: Mapped[int | None] = mapped_column(ForeignKey("results.id", ondelete="CASCADE"), index=True)
    firing_id: Mapped[int | None] = mapped_column(Id)
    """The firing it tells of, where that has no result. It may be forgotten before what was sent of it is."""
    event: Mapped[str] = mapped_column(String(40))
    kind: Mapped[str] = mapped_column(String(20))
    """``webhook`` or ``slack``."""
    message_id: Mapped[str] = mapped_column(String(64), unique=True)
    """Stays the same however often it is sent: receivers know it again by this."""
    url: Mapped[str] = mapped_column(Text)
    """Where it was sent last, without what is secret."""
    status: Mapped[str] = mapped_column(String(20), default="pending")
    """``pending``, ``delivered`` or ``failed``."""
    round: Mapped[int] = mapped_column(default=1)
    """How often it was begun to be sent: one more for each replay."""
    attempts: Mapped[int] = mapped_column(default=0)
    """How often it was sent in this round."""
    status_code: Mapped[int | None]
    error: Mapped[str] = mapped_column(Text, default="")
    tries: Mapped[list[dict[str, Any]]] = mapped_column(JsonValue, default=list)
    held_until: Mapped[datetime | None]
    """Until when the runs of its result wait for it, at most."""
    due_at: Mapped[datetime | None]
    """When those runs would have begun without it."""
    next_attempt_at: Mapped[datetime | None] = mapped_column(default=utc_now)
    ended_at: Mapped[datetime | None]


AGENTS = cast(Table, Agent.__table__)
RESULTS = cast(Table, ResultRow.__table__)
RUNS = cast(Table, RunRow.__table__)
LATENCIES = cast(Table, Latencies.__table__)
WORKERS = cast(Table, WorkerRow.__table__)
API_PROCESSES = cast(Table, ApiProcess.__table__)
CRON_JOBS = cast(Table, CronJob.__table__)
FIRINGS = cast(Table, Firing.__table__)
"""The tables themselves: for statements that are made many times a second, and built once."""
