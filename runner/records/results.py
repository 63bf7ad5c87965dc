"""Reading the record: results with their counts, and runs.

A result of a thousand runs is read without what is long about them: transcripts and scripts stay in the database. It
is counted without a look at what its runs came to.
"""

import hashlib
import json
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, String, bindparam, func, insert, or_, select
from sqlalchemy import cast as cast_to
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, defer
from sqlalchemy.orm.attributes import instance_dict, manager_of_class

from runner.records.filters import chunks, members
from runner.records.statuses import FINAL_RUN
from runner.records.tables import MET, RUNS, ResultRow, RunRow, ShareLink, outcome_score, utc_now

Mark = tuple[int, datetime, int | None]
"""A run as it is at one moment: its id, when it changed last, and its scenario, which the database itself takes away
when that is deleted. Two that are equal show the same."""

_ALIKE = (RUNS.c.result_id, RUNS.c.status, RUNS.c.success, RUNS.c.cause, RUNS.c.expects)
_COUNTED = (
    select(*_ALIKE, func.count())
    .where(RUNS.c.result_id.in_(bindparam("of_results", expanding=True)))
    .group_by(*_ALIKE)
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
_SHORT = (
    select(
        RUNS.c.id,
        RUNS.c.scenario_id,
        RUNS.c.scenario_name,
        RUNS.c.status,
        RUNS.c.success,
        RUNS.c.error_message,
        RUNS.c.cause,
        RUNS.c.expects,
        RUNS.c.ended_reason,
        RUNS.c.call_ended_reason,
        RUNS.c.duration_s,
        RUNS.c.created_at,
        RUNS.c.started_at,
        RUNS.c.joined_at,
        RUNS.c.updated_at,
        members(RunRow.snapshot, ("expected_outcome_prompt", "personality", "test_profile", "agent", "tags")).label(
            "snapshot"
        ),
        members(
            RunRow.outcome, ("detail", "turns", "expectations", "failure", "expected_outcome", "not_honoured")
        ).label("outcome"),
    )
    .where(RUNS.c.id.in_(bindparam("of_runs", expanding=True)))
    .order_by(RUNS.c.id)
)
_SHORT_NAMES = [str(column.key) for column in _SHORT.selected_columns]
_LAUNCHED = (
    select(
        RunRow.id,
        RunRow.scenario_id,
        RunRow.scenario_name,
        RunRow.status,
        RunRow.snapshot["agent"].label("agent"),
        RunRow.snapshot["test_profile"].label("test_profile"),
    )
    .where(RunRow.result_id == bindparam("of_result"))
    .order_by(RunRow.id)
)


@dataclass
class Counts:
    """How far the runs of a result are."""

    total: int = 0
    ended: int = 0
    """In whatever way."""
    success: int = 0
    met: int = 0
    """Whose expected outcome was met."""
    expected: int = 0
    """Whose expected outcome was decided on."""
    inconclusive: int = 0
    """That ended without a verdict, for no fault of the agent: also those cancelled."""

    def add(self, number: int, status: str, success: bool | None, cause: str | None, *, expects: bool) -> None:
        """Count so many runs that stand alike."""
        has_ended = status in FINAL_RUN
        score = outcome_score(status, success, cause, expects=expects)
        self.total += number
        self.ended += number * has_ended
        self.success += number * (has_ended and success is True)
        self.met += number * (score == MET)
        self.expected += number * (score is not None)
        self.inconclusive += number * (has_ended and success is None)

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


def count_runs(session: Session, result_ids: Sequence[int]) -> dict[int, Counts]:
    """Return the counts of results, without reading their runs."""
    counts = {result_id: Counts() for result_id in result_ids}
    for some in chunks(result_ids):
        for result_id, status, success, cause, expects, number in session.execute(_COUNTED, {"of_results": some}):
            counts[result_id].add(number, status, success, cause, expects=expects)
    return counts


def read_state(session: Session, result_id: int) -> bytes:
    """Return what differs whenever a mark of a result's runs does: its digest. Takes a tenth of reading the marks."""
    count, marks = session.execute(_STATE, {"of_result": result_id}).one()
    return hashlib.sha256(f"{count}:{marks}".encode()).digest()


def read_marks(session: Session, result_id: int) -> list[Mark]:
    """Return the marks of a result's runs, in the order they were launched."""
    return [tuple(row) for row in session.execute(_MARKS, {"of_result": result_id})]


def short_runs(session: Session, run_ids: Sequence[int]) -> list[RunRow]:
    """Return runs, in the order they were launched; without those that are not there.

    They are of no session, and hold nothing long or secret: of ``snapshot`` and ``outcome`` what their result tells.
    """
    rows = (row for some in chunks(run_ids) for row in session.execute(_SHORT, {"of_runs": some}))
    return [_short_run(row) for row in rows]


def _short_run(values: Sequence[Any]) -> RunRow:
    """Return a run as one that was read: making one as if it were new takes twice as long."""
    run: RunRow = manager_of_class(RunRow).new_instance()
    # By place: to look each value up by its name takes longer.
    instance_dict(run).update(zip(_SHORT_NAMES, values, strict=True))
    return run


def launched_runs(session: Session, result_id: int) -> Sequence[Row[*tuple[Any, ...]]]:
    """Return the runs of a result as they were launched, in that order, each with its status by now."""
    return session.execute(_LAUNCHED, {"of_result": result_id}).all()


def played_digest(script: Any, prompt: Any) -> str:
    """Return a digest of the script and the expected outcome that a run was made with: an edited scenario has another
    one.

    It begins with ``record:``. A suite's digests are of what its files say, and are no match for these.
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


async def runs_to_repeat(session: AsyncSession, run_ids: Sequence[int]) -> list[RunRow]:
    """Return runs with all that they were launched with, and without what they came to."""
    without = [defer(column, raiseload=True) for column in (RunRow.outcome, RunRow.trace)]
    wanted = select(RunRow).options(*without).order_by(RunRow.id)
    return [run for some in chunks(run_ids) for run in await session.scalars(wanted.where(RunRow.id.in_(some)))]


def select_runs(
    project_id: int,
    *,
    result_id: int | None = None,
    agent_id: int | None = None,
    scenario_id: int | None = None,
    personality_id: int | None = None,
    ids: Sequence[int] | None = None,
    statuses: Sequence[str] | None = None,
    success: bool | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    shortest_s: float | None = None,
    longest_s: float | None = None,
    search: str | None = None,
    ended_reasons: Sequence[str] | None = None,
    ended_reason_holds: str | None = None,
) -> Select[RunRow]:
    """Return the statement that selects runs of a project, the latest first. What is None is not asked about.

    ``success`` is False for whatever ended otherwise; ``since`` and ``until`` are of when they began; ``search`` is
    in the scenario's name or the error message, or is the id; ``ended_reasons`` are in Cekura's words.
    """
    begun = func.coalesce(RunRow.started_at, RunRow.created_at)
    has_ended = RunRow.status.in_(FINAL_RUN)
    wanted: list[tuple[Any, Callable[[], ColumnElement[bool]]]] = [
        (agent_id, lambda: RunRow.agent_id == agent_id),
        (scenario_id, lambda: RunRow.scenario_id == scenario_id),
        (personality_id, lambda: RunRow.snapshot["personality"]["id"].as_integer() == personality_id),
        (ids, lambda: RunRow.id.in_(ids or ())),
        (statuses, lambda: RunRow.status.in_(statuses or ())),
        (success, lambda: has_ended & (RunRow.success.is_(True) if success else RunRow.success.is_not(True))),
        (since, lambda: begun >= since),
        (until, lambda: begun <= until),
        (shortest_s, lambda: RunRow.duration_s >= shortest_s),
        (longest_s, lambda: RunRow.duration_s <= longest_s),
        (ended_reasons, lambda: RunRow.call_ended_reason.in_(ended_reasons or ())),
        (ended_reason_holds or None, lambda: RunRow.call_ended_reason.icontains(ended_reason_holds, autoescape=True)),
    ]
    conditions = [condition() for value, condition in wanted if value is not None]
    if result_id is None:
        conditions.append(RunRow.project_id == project_id)
    else:
        # Not by the runs' own project: to see that, each of them would have to be looked at.
        of_project = (ResultRow.id == result_id) & (ResultRow.project_id == project_id)
        conditions.append(RunRow.result_id == select(ResultRow.id).where(of_project).scalar_subquery())
    if search:
        anywhere = [
            RunRow.scenario_name.icontains(search, autoescape=True),
            RunRow.error_message.icontains(search, autoescape=True),
        ]
        if search.isascii() and search.isdigit() and len(search) < 19:
            anywhere.append(RunRow.id == int(search))
        conditions.append(or_(*anywhere))
    return select(RunRow).where(*conditions).order_by(RunRow.id.desc())


async def share(session: AsyncSession, result_id: int, expires_at: datetime | None) -> str:
    """Return a token that lets whoever has it read a result. Nobody can be told it again."""
    token = secrets.token_urlsafe(32)
    link = {"result_id": result_id, "digest": _digest(token), "created_at": utc_now(), "expires_at": expires_at}
    await session.execute(insert(ShareLink).values(link))
    return token


async def shared_result(session: AsyncSession, token: str) -> tuple[int, int] | None:
    """Return project and id of the result that a token lets read; None if it is unknown or expired."""
    found = await session.execute(
        select(ResultRow.project_id, ResultRow.id)
        .join(ShareLink, ShareLink.result_id == ResultRow.id)
        .where(
            # A digest of 256 random bits: how long looking it up takes says nothing about it.
            ShareLink.digest == _digest(token),
            or_(ShareLink.expires_at.is_(None), ShareLink.expires_at > utc_now()),
        )
    )
    row = found.first()
    return None if row is None else (row[0], row[1])


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
