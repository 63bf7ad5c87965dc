"""What the lists of results and of runs show. Pages are found by the id they begin at, however many come before."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Select, exists, select
from sqlalchemy.orm import Session
from starlette.responses import Response

from bots.timeline import EndedReason
from runner.evaluation.failure import Failure
from runner.records.results import Counts, count_runs
from runner.records.statuses import FINAL_RUN, OPEN_RUN, ResultStatus, RunStatus
from runner.records.tables import Agent, ResultRow, RunRow, ScenarioRow
from runner.reports.evidence import headline_of
from runner.reports.html.shown import words
from runner.web.visits import Visit

PAGE = 50
"""How many lines are on a page."""

MAX_CHOICES = 1_000
"""So many scenarios can be chosen from."""

_FINAL = [status.value for status in FINAL_RUN]
_OPEN = [status.value for status in OPEN_RUN]
_NAME, _REASON = 200, 300
_PROBLEMS = 20
_LARGEST_ID = 2**63 - 1

VERDICTS = {"": "All", "failed": "Failed", "inconclusive": "Inconclusive", "passed": "Passed", "open": "Under way"}


@dataclass(frozen=True)
class Asked:
    """What part of a list is asked for.

    Attributes:
        search: What a name holds.
        agent_id: The agent.
        verdict: One of :data:`VERDICTS`.
        before: Only what has a lower id: the next page begins there.
        after: Only what has a higher id: the page before ends there.
    """

    search: str = ""
    agent_id: int | None = None
    verdict: str = ""
    before: int | None = None
    after: int | None = None

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Asked":
        """Return what the address of a list says; what can't be read is not asked for."""
        verdict = query.get("verdict", "")
        return cls(
            search=query.get("search", "").replace("\0", "").strip()[:_NAME],
            agent_id=number_of(query.get("agent")),
            verdict=verdict if verdict in VERDICTS else "",
            before=number_of(query.get("before")),
            after=number_of(query.get("after")),
        )

    def address(self, path: str, **place: int | None) -> str:
        """Return the address of the same list, at another place."""
        said = {"search": self.search, "agent": self.agent_id, "verdict": self.verdict, **place}
        query = urlencode({name: value for name, value in said.items() if value not in ("", None)})
        return f"{path}?{query}" if query else path


@dataclass(frozen=True)
class Listing:
    """A page of a list."""

    lines: Sequence[Any]
    newer: str | None
    older: str | None


@dataclass(frozen=True)
class ResultLine:
    """A result in the list."""

    id: int
    name: str
    agent: str
    created_at: datetime
    status: ResultStatus
    is_scheduled: bool
    counts: Counts

    @property
    def kind(self) -> str:
        """Its mark: ``pass``, ``fail``, ``unsure``, or ``none`` where it is under way."""
        if self.counts.ended < self.counts.total:
            return "none"
        if self.counts.failed > self.counts.inconclusive:
            return "fail"
        return "unsure" if self.counts.inconclusive or not self.counts.total else "pass"

    @property
    def verdict(self) -> str:
        """The same in words."""
        under_way = "waiting" if self.status is ResultStatus.PENDING else "under way"
        return {"pass": "passed", "fail": "failed", "unsure": "inconclusive", "none": under_way}[self.kind]

    @property
    def shares(self) -> list[tuple[str, float, float]]:
        """The parts of a bar: kind, where it begins, how wide it is, in percent."""
        total = self.counts.total or 1
        failed = self.counts.failed - self.counts.inconclusive
        parts = (
            ("pass", self.counts.success),
            ("fail", failed),
            ("unsure", self.counts.inconclusive),
        )
        found: list[tuple[str, float, float]] = []
        at = 0
        for kind, number in parts:
            if number:
                found.append((kind, round(100 * at / total, 2), round(100 * number / total, 2)))
                at += number
        return found

    @property
    def told(self) -> str:
        """What became of its runs, in words."""
        counts = self.counts
        parts = [f"{counts.success} of {counts.total} passed"]
        failed = counts.failed - counts.inconclusive
        parts += [f"{failed} failed"] if failed else []
        parts += [f"{counts.inconclusive} inconclusive"] if counts.inconclusive else []
        left = counts.total - counts.ended
        parts += [f"{left} to go"] if left else []
        return ", ".join(parts)


@dataclass(frozen=True)
class RunLine:
    """A run in the list."""

    id: int
    result_id: int
    scenario: str
    agent: str
    kind: str
    verdict: str
    reason: str
    created_at: datetime
    duration_s: float | None


async def show(visit: Visit, template: str, listed: Callable[[Session, int, Asked], Listing]) -> Response:
    """Show the part of a list that is asked for."""
    asked = Asked.of(visit.request.query_params)
    project = visit.project
    listing, found = await visit.services.database.browse(
        lambda session: (listed(session, project, asked), agents(session, project))
    )
    return visit.show(template, listing=listing, asked=asked, agents=found, verdicts=VERDICTS)


def results(session: Session, project: int, asked: Asked) -> Listing:
    """Return a page of the results of a project, the latest first."""
    statement = select(ResultRow).where(ResultRow.project_id == project)
    if asked.search:
        statement = statement.where(ResultRow.name.icontains(asked.search, autoescape=True))
    if asked.agent_id is not None:
        statement = statement.where(ResultRow.agent_id == asked.agent_id)
    if asked.verdict:
        statement = statement.where(_results_that(asked.verdict))
    rows, newer, older = _page(session, statement, ResultRow, asked)
    counts = count_runs(session, [row.id for row in rows])
    lines = [
        ResultLine(
            row.id,
            words(row.name or f"Result {row.id}", _NAME),
            words(row.agent_name, _NAME),
            row.created_at,
            ResultStatus(row.status),
            row.is_cronjob,
            counts[row.id],
        )
        for row in rows
    ]
    return _listing("/", lines, asked, newer=newer, older=older)


def runs(session: Session, project: int, asked: Asked) -> Listing:
    """Return a page of the runs of a project, the latest first."""
    statement = select(RunRow.id).where(RunRow.project_id == project)
    if asked.search:
        statement = statement.where(RunRow.scenario_name.icontains(asked.search, autoescape=True))
    if asked.agent_id is not None:
        statement = statement.where(RunRow.agent_id == asked.agent_id)
    if asked.verdict:
        statement = statement.where(_runs_that(asked.verdict))
    ids, newer, older = _page(session, statement, RunRow, asked)
    found = session.execute(
        select(
            RunRow.id,
            RunRow.result_id,
            RunRow.scenario_name,
            RunRow.status,
            RunRow.success,
            RunRow.error_message,
            RunRow.ended_reason,
            RunRow.created_at,
            RunRow.duration_s,
            RunRow.outcome["detail"].as_string().label("detail"),
            RunRow.outcome["failure"].label("failure"),
            ResultRow.agent_name,
        )
        .join(ResultRow, ResultRow.id == RunRow.result_id)
        .where(RunRow.id.in_(ids))
        .order_by(RunRow.id.desc())
    )
    lines: list[RunLine] = []
    for row in found:
        kind, verdict = verdict_of(RunStatus(row.status), row.success)
        reason = "" if kind in ("pass", "none") else why(row.failure, row.detail, row.error_message, row.ended_reason)
        lines.append(
            RunLine(
                row.id,
                row.result_id,
                words(row.scenario_name, _NAME),
                words(row.agent_name, _NAME),
                kind,
                verdict,
                reason,
                row.created_at,
                row.duration_s,
            )
        )
    return _listing("/runs", lines, asked, newer=newer, older=older)


def agents(session: Session, project: int) -> list[tuple[int, str]]:
    """Return id and name of a project's agents, by name."""
    rows = session.execute(select(Agent.id, Agent.name).where(Agent.project_id == project).order_by(Agent.name))
    return [(agent_id, words(name, _NAME)) for agent_id, name in rows]


def scenarios(session: Session, project: int, also: Sequence[int] = ()) -> list[tuple[int, str, int | None, str]]:
    """Return id, name, agent and tags of a project's scenarios, by name: of very many the first, and some others.

    Args:
        also: Those that are among them in any case.
    """
    columns = (ScenarioRow.id, ScenarioRow.name, ScenarioRow.agent_id, ScenarioRow.tags)
    ours = select(*columns).where(ScenarioRow.project_id == project).order_by(ScenarioRow.name, ScenarioRow.id)
    rows = list(session.execute(ours.limit(MAX_CHOICES)))
    left = set(also) - {row.id for row in rows}
    if left:
        rows += session.execute(ours.where(ScenarioRow.id.in_(left)))
    return [(row.id, words(row.name, _NAME), row.agent_id, words(", ".join(row.tags), _NAME)) for row in rows]


def verdict_of(status: RunStatus, success: bool | None) -> tuple[str, str]:
    """Return the mark of a run, and what it came to in a word."""
    if status not in FINAL_RUN:
        return "none", "waiting" if status is RunStatus.PENDING else "under way"
    if status is RunStatus.CANCELLED:
        return "unsure", "cancelled"
    return {True: ("pass", "passed"), False: ("fail", "failed"), None: ("unsure", "inconclusive")}[success]


def why(failure: Mapping[str, Any] | None, detail: str | None, error: str, ended_reason: str | None) -> str:
    """Return why a run did not pass, in one sentence."""
    try:
        read = None if failure is None else Failure.model_validate(failure)
        headline = headline_of(read, detail or error, EndedReason(ended_reason or ""))
    except (ValidationError, ValueError):
        headline = detail or error or ended_reason or "no reason is known"
    return words(headline.removeprefix("inconclusive: "), _REASON)


def tags_of(text: str, before: Sequence[str] = ()) -> list[str]:
    """Return the tags in a form's text. A text that was not changed keeps those before: they may hold commas."""
    return list(before) if text == ", ".join(before) else [tag for part in text.split(",") if (tag := part.strip())]


def number_of(text: str | None) -> int | None:
    """Return the id that a text is; None where it is none."""
    is_number = text is not None and text.isascii() and text.isdigit() and len(text) < 20
    return min(int(text), _LARGEST_ID) if text is not None and is_number else None


def _page(
    session: Session, statement: Select[Any], table: type[ResultRow] | type[RunRow], asked: Asked
) -> tuple[Sequence[Any], bool, bool]:
    """Return the rows of a page, and whether there are newer and older ones."""
    if asked.after is not None:
        found = statement.where(table.id > asked.after).order_by(table.id).limit(PAGE + 1)
        rows = session.scalars(found).all()
        return rows[:PAGE][::-1], len(rows) > PAGE, True
    if asked.before is not None:
        statement = statement.where(table.id < asked.before)
    rows = session.scalars(statement.order_by(table.id.desc()).limit(PAGE + 1)).all()
    return rows[:PAGE], asked.before is not None, len(rows) > PAGE


def _listing(path: str, lines: Sequence[Any], asked: Asked, *, newer: bool, older: bool) -> Listing:
    return Listing(
        lines,
        asked.address(path, after=lines[0].id) if newer and lines else None,
        asked.address(path, before=lines[-1].id) if older and lines else None,
    )


def _results_that(verdict: str) -> ColumnElement[bool]:
    """Return the condition that a result is one: failed with a failed run, passed with runs that all passed."""
    of_result = RunRow.result_id == ResultRow.id
    is_open = exists().where(of_result, RunRow.status.in_(_OPEN))
    failed = exists().where(of_result, _runs_that("failed"))
    unsure = exists().where(of_result, _runs_that("inconclusive")) | ~exists().where(of_result)
    return {
        "open": is_open,
        "failed": ~is_open & failed,
        "inconclusive": ~is_open & ~failed & unsure,
        "passed": ~is_open & ~failed & ~unsure,
    }[verdict]


def _runs_that(verdict: str) -> ColumnElement[bool]:
    ended = RunRow.status.in_(_FINAL)
    return {
        "open": RunRow.status.in_(_OPEN),
        "failed": ended & RunRow.success.is_(False),
        "inconclusive": ended & RunRow.success.is_(None),
        "passed": ended & RunRow.success.is_(True),
    }[verdict]


def problems_of(errors: object, where: str = "") -> list[str]:
    """Return what is wrong with something that was sent, one sentence for each message, with the field's name."""
    if isinstance(errors, Mapping):
        found = (problems_of(inner, str(name)) for name, inner in errors.items())
        return [problem for problems in found for problem in problems][:_PROBLEMS]
    if isinstance(errors, list | tuple):
        found = (problems_of(inner, where) for inner in errors)
        return [problem for problems in found for problem in problems][:_PROBLEMS]
    quiet = where in ("", "detail", "non_field_errors")
    return [words(str(errors) if quiet else f"{where.replace('_', ' ')}: {errors}", 500)]
