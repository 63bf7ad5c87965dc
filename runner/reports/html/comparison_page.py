"""What is on the page of a comparison: what got worse, slower or better, each with its interval."""

from collections import Counter
from dataclasses import dataclass

from runner.comparison.changes import Change as Verdict
from runner.comparison.changes import Comparison, ScenarioChange
from runner.reports.html.changes import (
    change_word,
    compared_with,
    latency_text,
    listed_changes,
    rate_text,
    scenario_changes,
)
from runner.reports.html.run_page import Link, Surroundings
from runner.reports.html.shown import percent, sentence, words
from runner.reports.html.suite_runs import Change
from runner.text import count

_TITLES = {
    Verdict.REGRESSED: "Regressed",
    Verdict.IMPROVED: "Improved",
    Verdict.UNCHANGED: "No difference to be seen",
    Verdict.FLAKY: "No difference to be seen; some scenarios are flaky",
    Verdict.TOO_FEW: "Too few runs to say",
}
_ICONS = {Verdict.REGRESSED: "fail", Verdict.TOO_FEW: "unsure"}


@dataclass(frozen=True)
class Interval:
    """A difference with its interval, in percent of an axis whose middle is none.

    Attributes:
        kind: ``worse`` where it is a regression, ``better`` where it is an improvement.
    """

    low: float
    value: float
    high: float
    kind: str
    text: str


@dataclass(frozen=True)
class ComparedRow:
    """A scenario of both sides."""

    name: str
    change: Change
    word: str
    base: str
    current: str
    rate: Interval | None
    latency: Interval | None


@dataclass(frozen=True)
class ComparisonPage:
    """What is on the page of a comparison."""

    name: str
    icon: str
    title: str
    sub: str
    changes: list[Change]
    rows: list[ComparedRow]
    rate_axis: str
    latency_axis: str
    warnings: list[str]
    around: Surroundings
    version: str


def comparison_page(comparison: Comparison, base: str, current: str, *, version: str = "") -> ComparisonPage:
    """Return what is on the page of a comparison."""
    changes, listed = scenario_changes(comparison), listed_changes(comparison)
    most_ms = max(
        (abs(end) for s in comparison.scenarios if s.latency for end in (s.latency.low_ms, s.latency.high_ms) if end),
        default=0.0,
    )
    order = {change.name: index for index, change in enumerate(listed)}
    rows = [_row(scenario, changes[scenario.scenario], most_ms) for scenario in comparison.scenarios]
    counts = Counter(row.word for row in rows)
    told = ", ".join(f"{number} {word}" for word, number in counts.most_common())
    sides = (("base", comparison.only_in_base), ("current side", comparison.only_in_current))
    only = [f"only on the {side}, not compared: {', '.join(names)}" for side, names in sides if names]
    why = f" {sentence(comparison.why_too_few)}" if comparison.why_too_few else ""
    return ComparisonPage(
        name=f"{words(current, 80)} against {words(base, 80)}",
        icon=_ICONS.get(comparison.change, "pass"),
        title=_title(comparison, rows),
        sub=f"{sentence(told)} {_whole(comparison)}{why}".strip(),
        changes=listed,
        rows=sorted(rows, key=lambda row: (order.get(row.name, len(order)), row.name)),
        rate_axis="100 points",
        latency_axis=f"{most_ms / 1000:.2f} s",
        warnings=[words(warning, 500) for warning in [*comparison.warnings, *only]],
        around=Surroundings(crumbs=(Link(f"{current} against {base}"),)),
        version=version,
    )


def _title(comparison: Comparison, rows: list[ComparedRow]) -> str:
    title, compared = _TITLES[comparison.change], count(len(rows), "scenario")
    kind = {Verdict.REGRESSED: "worse", Verdict.IMPROVED: "better"}.get(comparison.change)
    if kind is None:
        return f"{title}: {compared} compared."
    changed = sum(row.change.kind == kind for row in rows)
    return f"{title}: {changed} of {compared}." if changed else f"{title}: all {compared} together, none alone."


def _whole(comparison: Comparison) -> str:
    parts = [f"In all, {rate_text(comparison.pass_rate)}"]
    if comparison.latency is not None and (text := latency_text(comparison.latency)):
        parts.append(text)
    return sentence(f"{'; '.join(parts)}; base: {compared_with(comparison)}")


def _row(scenario: ScenarioChange, change: Change, most_ms: float) -> ComparedRow:
    rate, latency = scenario.pass_rate, scenario.latency
    by_latency = None
    if latency is not None:
        ends = (latency.low_ms, latency.difference_ms, latency.high_ms)
        # Slower is worse, so it lies on the side where fewer passes lie: on the left.
        by_latency = _interval(ends, most_ms, latency_text(latency), significant=latency.significant, sign=-1)
    ends = (rate.low_points, rate.difference_points, rate.high_points)
    return ComparedRow(
        name=change.name,
        change=change,
        word=change_word(scenario),
        base=_side(rate.base_passed, rate.base_runs, scenario.base_inconclusive),
        current=_side(rate.current_passed, rate.current_runs, scenario.current_inconclusive),
        rate=_interval(ends, 100.0, rate_text(rate), significant=rate.significant, sign=1),
        latency=by_latency,
    )


def _side(passed: int, runs: int, inconclusive: int) -> str:
    return f"{passed} of {runs}" + (f", {inconclusive} inconclusive" if inconclusive else "")


def _interval(
    ends: tuple[float | None, float | None, float | None], most: float, text: str, *, significant: bool, sign: int
) -> Interval | None:
    low, value, high = ends
    if low is None or value is None or high is None or most <= 0:
        return None
    places = sorted(percent(sign * end + most, 2 * most) for end in (low, high))
    kind = "" if not significant else ("better" if sign * value > 0 else "worse")
    return Interval(places[0], percent(sign * value + most, 2 * most), places[1], kind, text)
