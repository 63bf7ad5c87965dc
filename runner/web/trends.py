"""Trends: how often an agent passed, and how soon it answered, day by day."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import Response

from runner.comparison.intervals import wilson
from runner.records.results import Distribution
from runner.records.tables import Latencies, ResultRow, RunRow, utc_now
from runner.reports.html.shown import words
from runner.web.visits import Visit

PERIODS = (14, 30, 90)
"""Days that can be looked back on."""

MAX_RUNS = 20_000
"""So many runs are read, the latest first."""


@dataclass
class Day:
    """What became of an agent's runs on a day.

    Attributes:
        passed: How many passed.
        decided: How many have a verdict.
        inconclusive: How many have none.
        latencies_ms: How long the agent took to answer, of every turn that it answered.
    """

    passed: int = 0
    decided: int = 0
    inconclusive: int = 0
    latencies_ms: list[float] = field(default_factory=list[float])


@dataclass(frozen=True)
class Point:
    """A day on a chart, in percent of its width and height; y counts from the top.

    Attributes:
        low: Where its interval begins.
        high: Where it ends.
        told: The value in words.
    """

    x: float
    y: float
    low: float | None
    high: float | None
    told: str


@dataclass(frozen=True)
class Trend:
    """An agent over time.

    Attributes:
        rates: Its pass rate, by day.
        latencies: The 95th percentile of its latencies, by day.
        top_s: How high the chart of latencies is.
        days: What the charts show, as a table.
    """

    name: str
    rates: list[Point]
    latencies: list[Point]
    top_s: float
    days: list[tuple[str, str, str, str]]


async def show_trends(visit: Visit) -> Response:
    """Show how each agent of the project did, day by day."""
    asked = visit.request.query_params.get("days", "")
    period = next((days for days in PERIODS if str(days) == asked), PERIODS[1])
    now = utc_now()
    first = (now - timedelta(days=period - 1)).date()
    by_agent, was_cut = await visit.services.database.browse(lambda session: read_days(session, visit.project, first))
    trends = [trend(name, days, first, period) for name, days in sorted(by_agent.items())]
    ticks = [(round(100 * (n + 0.5) / period, 2), f"{day.day} {day:%b}") for n, day in _ticks(first, period)]
    return visit.show("trends.html", trends=trends, period=period, periods=PERIODS, ticks=ticks, was_cut=was_cut)


def read_days(session: Session, project: int, first: date) -> tuple[dict[str, dict[date, Day]], bool]:
    """Return what became of runs by agent and day (UTC), and whether there were more than are read."""
    since = datetime.combine(first, datetime.min.time(), utc_now().tzinfo)
    rows = session.execute(
        select(RunRow.ended_at, RunRow.success, Latencies.times_ms, ResultRow.agent_name)
        .join(ResultRow, ResultRow.id == RunRow.result_id)
        .outerjoin(Latencies, Latencies.run_id == RunRow.id)
        .where(RunRow.project_id == project, RunRow.ended_at >= since)
        .order_by(RunRow.ended_at.desc())
        .limit(MAX_RUNS + 1)
    ).all()
    found: defaultdict[str, defaultdict[date, Day]] = defaultdict(lambda: defaultdict(Day))
    names = {name: words(name or "no agent", 200) for name in {row[3] for row in rows}}
    for ended_at, success, times_ms, agent in rows[:MAX_RUNS]:
        if ended_at is None:
            continue
        day = found[names[agent]][ended_at.date()]
        if success is None:
            day.inconclusive += 1
            continue
        day.decided += 1
        day.passed += success
        day.latencies_ms += times_ms or ()
    return {name: dict(days) for name, days in found.items()}, len(rows) > MAX_RUNS


def trend(name: str, days: dict[date, Day], first: date, period: int) -> Trend:
    """Return an agent's charts."""
    p95s = {
        day: found.percentiles[95] / 1000
        for day in days
        if (found := Distribution.of(days[day].latencies_ms)) is not None
    }
    top_s = next((top for top in (0.5, 1, 2, 3, 5, 10, 20, 60) if max(p95s.values(), default=0.0) <= top), 300.0)
    rates: list[Point] = []
    latencies: list[Point] = []
    table: list[tuple[str, str, str, str]] = []
    for day, runs in sorted(days.items()):
        x = round(100 * ((day - first).days + 0.5) / period, 2)
        name_of_day = f"{day.day} {day:%b}"
        rate, p95 = "–", "–"
        if runs.decided:
            low, high = wilson(runs.passed, runs.decided)
            rate = f"{runs.passed} of {runs.decided}"
            y = _down(runs.passed / runs.decided)
            rates.append(Point(x, y, _down(low), _down(high), f"{name_of_day}: passed {rate}"))
        if day in p95s:
            p95 = f"{p95s[day]:.2f} s"
            latencies.append(Point(x, _down(p95s[day] / top_s), None, None, f"{name_of_day}: {p95}"))
        table.append((name_of_day, rate, p95, str(runs.inconclusive) if runs.inconclusive else "–"))
    return Trend(name, rates, latencies, top_s, table)


def _down(share: float) -> float:
    return round(100 - 100 * min(max(share, 0.0), 1.0), 2)


def _ticks(first: date, period: int) -> Sequence[tuple[int, date]]:
    step = max(period // 5, 1)
    return [(n, first + timedelta(days=n)) for n in range(0, period, step)]
