"""Reading the record: results with their counts, and runs.

A result of a thousand runs is read without what is long about them: transcripts and scripts stay in the database. It
is counted without a look at what its runs came to.
"""

import hashlib
import json
import math
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, cast

from sqlalchemy import ColumnElement, Select, String, bindparam, delete, func, insert, or_, select
from sqlalchemy import cast as cast_to
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from runner.evaluation.verdicts import Cause
from runner.records.runs import AT_ONCE
from runner.records.statuses import FINAL_RUN, RunStatus
from runner.records.tables import RUNS, ResultRow, RunRow, ShareLink, utc_now

MET, UNDECIDED, MISSED = 100, 50, 0
"""Scores of an expected outcome, as Cekura has them: met, needs review, not met."""

_FINAL = [status.value for status in FINAL_RUN]

_COUNTED = (
    select(RUNS.c.result_id, RUNS.c.status, RUNS.c.success, RUNS.c.cause, RUNS.c.expects, func.count())
    .where(RUNS.c.result_id.in_(bindparam("of_results", expanding=True)))
    .group_by(RUNS.c.result_id, RUNS.c.status, RUNS.c.success, RUNS.c.cause, RUNS.c.expects)
)
_MARKS = (
    select(RUNS.c.id, RUNS.c.updated_at, RUNS.c.scenario_id)
    .where(RUNS.c.result_id == bindparam("of_result"))
    .order_by(RUNS.c.id)
)
_EACH = _MARKS.subquery()
_STATE = select(
    func.count(),
    func.aggregate_strings(
        cast_to(_EACH.c.id, String)
        + " "
        + cast_to(_EACH.c.updated_at, String)
        + " "
        + cast_to(func.coalesce(_EACH.c.scenario_id, 0), String),
        ",",
    ),
)


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

    def __add__(self, other: "Counts") -> "Counts":
        """Return the counts of both together."""
        return Counts(
            self.total + other.total,
            self.ended + other.ended,
            self.success + other.success,
            self.met + other.met,
            self.expected + other.expected,
            self.inconclusive + other.inconclusive,
        )

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
    updated_at: datetime
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
    def mark(self) -> "RunMark":
        """What changes whenever anything here does."""
        return RunMark(self.id, self.updated_at, self.scenario_id)

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


class LaunchedRun(NamedTuple):
    """A run as it was launched, and its status by now."""

    id: int
    scenario_id: int | None
    scenario_name: str
    status: str
    agent: dict[str, Any] | None
    test_profile: dict[str, Any] | None


class RunMark(NamedTuple):
    """A run as it is at one moment: two that are equal show the same.

    Attributes:
        id: The run.
        updated_at: When it changed last.
        scenario_id: Its scenario: the database itself takes that away, when the scenario is deleted.
    """

    id: int
    updated_at: datetime
    scenario_id: int | None


@dataclass(frozen=True, slots=True)
class Contribution:
    """What a run adds to the figures of its result.

    Attributes:
        id: The run.
        scenario_id: Its scenario.
        scenario_name: The scenario's name.
        ended: Whether it has ended.
        passed: Whether it passed; None until it has ended.
        inconclusive: Whether it ended without a verdict.
        agents_fault: Whether the agent failed in it.
        joined: Whether its caller was in the room with the agent.
        score: What became of the expected outcome.
        duration_s: How long it lasted.
        tags: Its scenario's.
        latencies_ms: How long the agent took to answer, for every turn that it answered.
        reason: Why it did not pass; empty where it did, or has not ended.
    """

    id: int
    scenario_id: int | None
    scenario_name: str
    ended: bool
    passed: bool | None
    inconclusive: bool
    agents_fault: bool
    joined: bool
    score: int | None
    duration_s: float | None
    tags: tuple[str, ...]
    latencies_ms: tuple[float, ...]
    reason: str

    @classmethod
    def of(cls, line: RunLine) -> "Contribution":
        """Return that of a run that was read."""
        failed = line.ended and not line.passed
        return cls(
            id=line.id,
            scenario_id=line.scenario_id,
            scenario_name=line.scenario_name,
            ended=line.ended,
            passed=line.passed,
            inconclusive=line.inconclusive,
            agents_fault=line.ended and line.success is False and line.cause == Cause.AGENT.value,
            joined=line.joined_at is not None,
            score=line.score,
            duration_s=line.duration_s,
            tags=tuple(line.tags),
            latencies_ms=tuple(line.latencies_ms),
            reason=(line.detail or line.error_message or "no reason is known") if failed else "",
        )


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


def counts_of(lines: Iterable[RunLine | Contribution]) -> Counts:
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


def count_runs(session: Session, result_ids: Sequence[int]) -> dict[int, Counts]:
    """Return the counts of results, without reading their runs."""
    counts = {result_id: Counts() for result_id in result_ids}
    for begin in range(0, len(result_ids), AT_ONCE):
        rows = session.execute(_COUNTED, {"of_results": result_ids[begin : begin + AT_ONCE]})
        for result_id, text, success, cause, expects, number in rows:
            counts[result_id] += _counts_of_alike(RunStatus(text), success, cause, number, expects=expects)
    return counts


def read_state(session: Session, result_id: int) -> bytes:
    """Return what differs whenever a mark of a result's runs does: its digest. Takes a tenth of reading the marks."""
    count, marks = session.execute(_STATE, {"of_result": result_id}).one()
    return hashlib.sha256(f"{count}:{marks}".encode()).digest()


def read_marks(session: Session, result_id: int) -> list[RunMark]:
    """Return the marks of a result's runs, in the order they were launched."""
    return [RunMark(*row) for row in session.execute(_MARKS, {"of_result": result_id})]


def lines_of(session: Session, run_ids: Sequence[int]) -> list[RunLine]:
    """Return runs, in the order they were launched; without those that are not there."""
    lines: list[RunLine] = []
    for begin in range(0, len(run_ids), AT_ONCE):
        rows = session.execute(_LINES, {"of_runs": run_ids[begin : begin + AT_ONCE]})
        lines += [_line(row) for row in rows]
    return lines


def launched_runs(session: Session, result_id: int) -> list[LaunchedRun]:
    """Return the runs of a result as they were launched, in that order."""
    return [LaunchedRun(*row) for row in session.execute(_LAUNCHED, {"of_result": result_id})]


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
        updated_at=run.updated_at,
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


def played_digest(script: Any, prompt: Any) -> str:
    """Return a digest of what a run plays, and what is expected of its end: an edited scenario has another one.

    Args:
        script: The script in the run's snapshot.
        prompt: The expected outcome there.

    Returns:
        Text that begins with ``record:``. A suite's digests are of what its files say, and are no match for these.
    """
    played = json.dumps([script, prompt], sort_keys=True, separators=(",", ":"))
    return f"record:{hashlib.sha256(played.encode()).hexdigest()[:16]}"


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
        if self.result_id is None:
            found: list[ColumnElement[bool]] = [RunRow.project_id == self.project_id]
        else:
            # Not by the runs' own project: to see that, each of them would have to be looked at.
            of_project = (ResultRow.id == self.result_id) & (ResultRow.project_id == self.project_id)
            found = [RunRow.result_id == select(ResultRow.id).where(of_project).scalar_subquery()]
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


def _counts_of_alike(
    status: RunStatus, success: bool | None, cause: str | None, number: int, *, expects: bool
) -> Counts:
    """Return the counts of so many runs that ended alike."""
    ended = status in FINAL_RUN
    score = outcome_score(status, success, cause, expects=expects)
    return Counts(
        total=number,
        ended=number if ended else 0,
        success=number if ended and success else 0,
        met=number if score == MET else 0,
        expected=number if score is not None else 0,
        inconclusive=number if ended and success is None else 0,
    )


_LINES = (
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
        RunRow.updated_at,
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
    .where(RunRow.id.in_(bindparam("of_runs", expanding=True)))
    .order_by(RunRow.id)
)


_COLUMNS = [str(column.key) for column in _LINES.selected_columns]
_LISTS = ("tags", "turns", "expectations", "not_honoured")


def _line(row: Sequence[Any]) -> RunLine:
    # By place: to look each up by its name takes twice as long.
    fields: dict[str, Any] = dict(zip(_COLUMNS, row, strict=True))
    fields["status"] = RunStatus(fields["status"])
    for name in _LISTS:
        fields[name] = fields[name] or []
    return RunLine(**fields)


_LAUNCHED = (
    select(
        RunRow.id,
        RunRow.scenario_id,
        RunRow.scenario_name,
        RunRow.status,
        RunRow.snapshot["agent"],
        RunRow.snapshot["test_profile"],
    )
    .where(RunRow.result_id == bindparam("of_result"))
    .order_by(RunRow.id)
)
