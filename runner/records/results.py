"""Reading the record: results with their counts, and runs.

A result of a thousand runs is read without what is long about them: transcripts and scripts stay in the database.
"""

import hashlib
import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import ColumnElement, Select, case, delete, func, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from runner.evaluation.verdicts import Cause
from runner.records.runs import AT_ONCE
from runner.records.statuses import FINAL_RUN, RunStatus
from runner.records.tables import ResultRow, RunRow, ShareLink, utc_now

MET, UNDECIDED, MISSED = 100, 50, 0
"""Scores of an expected outcome, as Cekura has them: met, needs review, not met."""

_FINAL = [status.value for status in FINAL_RUN]


@dataclass(frozen=True)
class Counts:
    """How far the runs of a result are.

    Attributes:
        total: All of them.
        ended: Those that have ended, in whatever way.
        success: Those that passed.
        met: Those whose expected outcome was met.
        expected: Those whose expected outcome was decided on.
        inconclusive: Those that ended without a verdict, for no fault of the agent: also those cancelled.
    """

    total: int = 0
    ended: int = 0
    success: int = 0
    met: int = 0
    expected: int = 0
    inconclusive: int = 0

    @property
    def failed(self) -> int:
        """Those that ended and did not pass, the inconclusive included: with those that passed all, at the end.

        Clients take a result with none of these for one that passed.
        """
        return self.ended - self.success

    @property
    def success_rate(self) -> float:
        """Those that passed of all but the inconclusive, from 0 to 100; 0 where nothing else is left."""
        decidable = self.total - self.inconclusive
        return round(100 * self.success / decidable, 2) if decidable else 0.0


@dataclass(frozen=True)
class RunLine:
    """A run as its result tells of it."""

    id: int
    scenario_id: int | None
    scenario_name: str
    status: RunStatus
    success: bool | None
    error_message: str
    cause: str | None
    ended_reason: str | None
    call_ended_reason: str | None
    duration_s: float | None
    created_at: datetime
    started_at: datetime | None
    joined_at: datetime | None
    ended_at: datetime | None
    prompt: str | None
    personality: dict[str, Any] | None
    test_profile: dict[str, Any] | None
    agent: dict[str, Any] | None
    tags: list[str]
    detail: str | None
    turns: list[dict[str, Any]]
    expectations: list[dict[str, Any]]
    failure: dict[str, Any] | None
    judged: dict[str, Any] | None
    """What a judge said to the expected outcome (see :class:`runner.evaluation.asked.OutcomeJudgement`)."""
    not_honoured: list[str]

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.status in FINAL_RUN

    @property
    def passed(self) -> bool | None:
        """Whether it passed; None until it has ended. Undecided is not passed."""
        return self.success is True if self.ended else None

    @property
    def inconclusive(self) -> bool:
        """Whether it ended without a verdict, for no fault of the agent."""
        return self.ended and self.success is None

    @property
    def expects(self) -> bool:
        """Whether anything was expected of the agent, besides being there."""
        return bool(self.expectations or self.prompt)

    @property
    def score(self) -> int | None:
        """What became of the expected outcome; None where nothing was expected, or no call could tell."""
        return outcome_score(self.status, self.success, self.cause, expects=self.expects)

    @property
    def latencies_ms(self) -> list[float]:
        """How long the agent took to answer, for every turn that it answered."""
        return [turn["response_latency_ms"] for turn in self.turns if turn.get("response_latency_ms") is not None]


@dataclass(frozen=True)
class Distribution:
    """How measured values lie, in the unit of the values."""

    count: int
    mean: float
    percentiles: dict[int, float]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Distribution | None":
        """Return that of some values; None if there are none. Percentiles are interpolated linearly."""
        if not values:
            return None
        ordered = sorted(values)

        def at(percent: int) -> float:
            place = (len(ordered) - 1) * percent / 100
            low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
            return round(low + (high - low) * (place - math.floor(place)), 1)

        percentiles = {percent: at(percent) for percent in (25, 50, 75, 90, 95, 99)}
        return cls(len(ordered), round(sum(ordered) / len(ordered), 1), percentiles)


def outcome_score(status: RunStatus, success: bool | None, cause: str | None, *, expects: bool) -> int | None:
    """Return the score of an expected outcome; None where nothing was expected, or there was no call that could tell.

    A run passes only if all that was expected was judged and met: its verdict is the score.
    """
    if success is False and cause == Cause.AGENT.value:
        return MISSED
    if status is not RunStatus.COMPLETED or (success and not expects):
        return None
    return MET if success else UNDECIDED


def counts_of(lines: Iterable[RunLine]) -> Counts:
    """Return the counts of runs that were read."""
    lines = list(lines)
    scores = [line.score for line in lines]
    return Counts(
        total=len(lines),
        ended=sum(line.ended for line in lines),
        success=sum(line.passed is True for line in lines),
        met=scores.count(MET),
        expected=sum(score is not None for score in scores),
        inconclusive=sum(line.inconclusive for line in lines),
    )


async def count_runs(session: AsyncSession, result_ids: Sequence[int]) -> dict[int, Counts]:
    """Return the counts of results, without reading their runs."""
    counts = {result_id: Counts() for result_id in result_ids}

    def number(condition: ColumnElement[bool]) -> ColumnElement[int]:
        return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)

    passed = (RunRow.status.in_(_FINAL)) & RunRow.success.is_(True)
    missed = RunRow.success.is_(False) & (RunRow.cause == Cause.AGENT.value)
    completed = RunRow.status == RunStatus.COMPLETED.value
    expectations = RunRow.outcome["expectations"].as_string()
    expects = (func.coalesce(_prompt(), "") != "") | (func.coalesce(expectations, "[]") != "[]")
    for begin in range(0, len(result_ids), AT_ONCE):
        rows = await session.execute(
            select(
                RunRow.result_id,
                func.count(),
                number(RunRow.status.in_(_FINAL)),
                number(passed),
                number(completed & passed & expects),
                number((completed & (expects | RunRow.success.is_not(True))) | missed),
                number(RunRow.status.in_(_FINAL) & RunRow.success.is_(None)),
            )
            .where(RunRow.result_id.in_(result_ids[begin : begin + AT_ONCE]))
            .group_by(RunRow.result_id)
        )
        counts |= {row[0]: Counts(*(int(value) for value in row[1:])) for row in rows}
    return counts


async def read_lines(session: AsyncSession, result_id: int) -> list[RunLine]:
    """Return the runs of a result, in the order they were launched."""
    rows = await session.execute(
        select(
            RunRow.id,
            RunRow.scenario_id,
            RunRow.scenario_name,
            RunRow.status,
            RunRow.success,
            RunRow.error_message,
            RunRow.cause,
            RunRow.ended_reason,
            RunRow.call_ended_reason,
            RunRow.duration_s,
            RunRow.created_at,
            RunRow.started_at,
            RunRow.joined_at,
            RunRow.ended_at,
            _prompt().label("prompt"),
            RunRow.snapshot["personality"].label("personality"),
            RunRow.snapshot["test_profile"].label("test_profile"),
            RunRow.snapshot["agent"].label("agent"),
            RunRow.snapshot["tags"].label("tags"),
            RunRow.outcome["detail"].as_string().label("detail"),
            RunRow.outcome["turns"].label("turns"),
            RunRow.outcome["expectations"].label("expectations"),
            RunRow.outcome["failure"].label("failure"),
            RunRow.outcome["expected_outcome"].label("judged"),
            RunRow.outcome["not_honoured"].label("not_honoured"),
        )
        .where(RunRow.result_id == result_id)
        .order_by(RunRow.id)
    )
    return [_line(cast(Mapping[str, Any], row)) for row in rows.mappings()]


def line_of(run: RunRow) -> RunLine:
    """Return a run that was read whole as its result tells of it."""
    outcome = run.outcome or {}
    return RunLine(
        id=run.id,
        scenario_id=run.scenario_id,
        scenario_name=run.scenario_name,
        status=RunStatus(run.status),
        success=run.success,
        error_message=run.error_message,
        cause=run.cause,
        ended_reason=run.ended_reason,
        call_ended_reason=run.call_ended_reason,
        duration_s=run.duration_s,
        created_at=run.created_at,
        started_at=run.started_at,
        joined_at=run.joined_at,
        ended_at=run.ended_at,
        prompt=run.snapshot.get("expected_outcome_prompt"),
        personality=run.snapshot.get("personality"),
        test_profile=run.snapshot.get("test_profile"),
        agent=run.snapshot.get("agent"),
        tags=run.snapshot.get("tags") or [],
        detail=outcome.get("detail"),
        turns=outcome.get("turns") or [],
        expectations=outcome.get("expectations") or [],
        failure=outcome.get("failure"),
        judged=outcome.get("expected_outcome"),
        not_honoured=outcome.get("not_honoured") or [],
    )


async def find_result(session: AsyncSession, project_id: int, result_id: int) -> ResultRow | None:
    """Return a result of a project; None if there is none."""
    return await session.scalar(
        select(ResultRow).where(ResultRow.id == result_id, ResultRow.project_id == project_id)
    )


async def run_ids_of(session: AsyncSession, result_id: int) -> list[int]:
    """Return the ids of a result's runs."""
    return list(await session.scalars(select(RunRow.id).where(RunRow.result_id == result_id).order_by(RunRow.id)))


@dataclass(frozen=True)
class RunFilter:
    """Which runs are wanted. What is None is not asked about.

    Attributes:
        project_id: The project.
        result_id: Of one result.
        agent_id: Of one agent.
        scenario_id: Of one scenario.
        personality_id: Called by one personality.
        ids: These.
        statuses: In one of these states.
        success: Passed, or ended otherwise.
        since: Not begun before.
        until: Not begun after.
        shortest_s: Lasted so long.
        longest_s: Lasted no longer.
        search: In the scenario's name or the error message, or the id.
        ended_reasons: One of these, in Cekura's words.
        ended_reason_holds: Part of it, whatever the case.
    """

    project_id: int
    result_id: int | None = None
    agent_id: int | None = None
    scenario_id: int | None = None
    personality_id: int | None = None
    ids: Sequence[int] | None = None
    statuses: Sequence[str] | None = None
    success: bool | None = None
    since: datetime | None = None
    until: datetime | None = None
    shortest_s: float | None = None
    longest_s: float | None = None
    search: str | None = None
    ended_reasons: Sequence[str] | None = None
    ended_reason_holds: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return them as conditions on :class:`RunRow`."""
        begun = func.coalesce(RunRow.started_at, RunRow.created_at)
        passed = RunRow.status.in_(_FINAL) & RunRow.success.is_(True)
        found: list[ColumnElement[bool]] = [RunRow.project_id == self.project_id]
        if self.result_id is not None:
            found.append(RunRow.result_id == self.result_id)
        if self.agent_id is not None:
            found.append(RunRow.agent_id == self.agent_id)
        if self.scenario_id is not None:
            found.append(RunRow.scenario_id == self.scenario_id)
        if self.personality_id is not None:
            found.append(RunRow.snapshot["personality"]["id"].as_integer() == self.personality_id)
        if self.ids is not None:
            found.append(RunRow.id.in_(self.ids))
        if self.statuses is not None:
            found.append(RunRow.status.in_(self.statuses))
        if self.success is not None:
            found.append(passed if self.success else RunRow.status.in_(_FINAL) & RunRow.success.is_not(True))
        if self.since is not None:
            found.append(begun >= self.since)
        if self.until is not None:
            found.append(begun <= self.until)
        if self.shortest_s is not None:
            found.append(RunRow.duration_s >= self.shortest_s)
        if self.longest_s is not None:
            found.append(RunRow.duration_s <= self.longest_s)
        if self.search:
            anywhere = [
                RunRow.scenario_name.icontains(self.search, autoescape=True),
                RunRow.error_message.icontains(self.search, autoescape=True),
            ]
            if self.search.isascii() and self.search.isdigit() and len(self.search) < 19:
                anywhere.append(RunRow.id == int(self.search))
            found.append(or_(*anywhere))
        if self.ended_reasons is not None:
            found.append(RunRow.call_ended_reason.in_(self.ended_reasons))
        if self.ended_reason_holds:
            found.append(RunRow.call_ended_reason.icontains(self.ended_reason_holds, autoescape=True))
        return found

    def select(self) -> Select[RunRow]:
        """Return the runs as a statement, the latest first."""
        return select(RunRow).where(*self.conditions()).order_by(RunRow.id.desc())


async def delete_runs(session: AsyncSession, run_ids: Sequence[int]) -> None:
    """Delete runs. Their artefacts are another matter: they go afterwards."""
    await session.execute(delete(RunRow).where(RunRow.id.in_(run_ids)).execution_options(synchronize_session=False))


async def share(session: AsyncSession, result_id: int, expires_at: datetime | None) -> str:
    """Return a token that lets whoever has it read a result. Nobody can be told it again."""
    token = secrets.token_urlsafe(32)
    await session.execute(
        insert(ShareLink).values(
            result_id=result_id, digest=_digest(token), created_at=utc_now(), expires_at=expires_at
        )
    )
    return token


async def shared_result(session: AsyncSession, token: str) -> tuple[int, int] | None:
    """Return project and id of the result that a token lets read; None if it is unknown or expired."""
    found = (
        await session.execute(
            select(ResultRow.project_id, ResultRow.id)
            .join(ShareLink, ShareLink.result_id == ResultRow.id)
            .where(
                # A digest of 256 random bits: how long looking it up takes says nothing about it.
                ShareLink.digest == _digest(token),
                or_(ShareLink.expires_at.is_(None), ShareLink.expires_at > utc_now()),
            )
        )
    ).first()
    return None if found is None else (found[0], found[1])


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def _prompt() -> ColumnElement[str]:
    return cast(ColumnElement[str], RunRow.snapshot["expected_outcome_prompt"].as_string())


def _line(row: Mapping[str, Any]) -> RunLine:
    fields: dict[str, Any] = dict(row)
    fields["status"] = RunStatus(fields["status"])
    for name in ("tags", "turns", "expectations", "not_honoured"):
        fields[name] = fields[name] or []
    return RunLine(**fields)
