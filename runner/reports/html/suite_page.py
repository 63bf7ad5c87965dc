"""What is on the page of a suite, and of a result of the record: a pure function of its runs."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from runner.comparison.intervals import median, median_interval, wilson
from runner.reports.evidence import verdict_word
from runner.reports.html.run_page import Link, Surroundings
from runner.reports.html.shown import percent, seconds, sentence, words
from runner.reports.html.suite_runs import Change, RunFacts, ScenarioRuns
from runner.text import count

MAX_DOTS = 300
"""So many latencies of a scenario are drawn, evenly taken from all."""

MAX_RUNS = 1_000
"""So many runs of a scenario have a cell."""

_HEIGHTS = (6, 11, 8, 13, 10, 7)
_NAME = 120


@dataclass(frozen=True)
class Cell:
    """A run in the matrix."""

    kind: str
    label: str
    href: str | None


@dataclass(frozen=True)
class Group:
    """Runs that did not pass for one reason."""

    kind: str
    scenario: str
    reason: str
    of: str
    links: list[Link]


@dataclass(frozen=True)
class Strip:
    """How latencies are spread, in percent of the axis."""

    dots: list[tuple[float, int, bool]]
    middle: float
    low: float | None
    high: float | None
    limit: float | None
    text: str
    told: str


@dataclass(frozen=True)
class MatrixRow:
    """A scenario in the matrix."""

    anchor: str
    name: str
    href: str | None
    classes: str
    cells: list[Cell]
    passed: str
    rate: tuple[float, float, float] | None
    all_passed: bool
    strip: Strip | None
    note: str
    change: Change | None


@dataclass(frozen=True)
class SuitePage:
    """What is on the page of a suite."""

    name: str
    icon: str
    title: str
    sub: str
    groups: list[Group]
    gates: list[tuple[str, str]]
    changes: list[Change]
    changes_note: str
    rows: list[MatrixRow]
    axis: list[tuple[float, str]]
    most_runs: int
    filters: list[tuple[str, str, int]]
    warnings: list[str]
    around: Surroundings
    version: str
    foot: str


@dataclass(frozen=True)
class About:
    """What a suite's page says of the suite as a whole.

    Attributes:
        success: Whether it passed; null where that can't be said.
        gates: Whether each gate was met: ``pass``, ``fail`` or ``unsure``, and a sentence.
        changes: What the comparison with the baseline says, worst first.
        changes_note: What it was compared with.
    """

    name: str
    success: bool | None
    started: str = ""
    stopped: str | None = None
    warnings: Sequence[str] = ()
    gates: Sequence[tuple[str, str]] = ()
    changes: Sequence[Change] = ()
    changes_note: str = ""
    around: Surroundings = field(default_factory=Surroundings)
    version: str = ""


def suite_page(about: About, scenarios: Iterable[ScenarioRuns]) -> SuitePage:
    """Return what is on the page of a suite or a result."""
    ordered = sorted(scenarios, key=_badness)
    whole_ms, axis = _axis(ordered)
    rows = [_row(index, scenario, whole_ms) for index, scenario in enumerate(ordered, start=1)]
    total: Counter[bool | None] = Counter()
    open_runs = 0
    for scenario in ordered:
        total.update(run.success for run in scenario.runs if not run.state)
        open_runs += sum(bool(run.state) for run in scenario.runs)
    filters = [
        ("all", "All", len(rows)),
        ("failed", "Failed", sum("failed" in row.classes.split() for row in rows)),
        ("unsure", "Inconclusive", sum("unsure" in row.classes.split() for row in rows)),
    ]
    if about.changes:
        filters.append(("changed", "Changed", sum("changed" in row.classes.split() for row in rows)))
    runs = sum(total.values()) + open_runs
    return SuitePage(
        name=words(about.name, _NAME),
        icon={True: "pass", False: "fail", None: "unsure"}[about.success],
        title=_title(about, ordered, total, runs),
        sub=_sub(about, total, open_runs, sum(bool(s.skipped) for s in ordered)),
        groups=[group for scenario in ordered for group in _groups(scenario)],
        gates=list(about.gates),
        changes=list(about.changes),
        changes_note=about.changes_note,
        rows=rows,
        axis=axis,
        most_runs=max((len(s.runs) for s in ordered), default=0),
        filters=filters,
        warnings=[words(warning, 500) for warning in [*about.around.missing, *about.warnings]],
        around=about.around,
        version=about.version,
        foot=f"{count(runs, 'run')}, started {about.started} UTC" if about.started else count(runs, "run"),
    )


def _badness(scenario: ScenarioRuns) -> tuple[int, float, str]:
    """Return what scenarios are ordered by: the worst first."""
    done = [run for run in scenario.runs if not run.state]
    failed = sum(run.success is False for run in done)
    unsure = sum(run.success is None for run in done)
    if failed:
        return 0, -failed / len(done), scenario.name
    if unsure:
        return 1, -unsure / len(done), scenario.name
    return (4 if scenario.skipped else 2 if len(done) < len(scenario.runs) else 3), 0.0, scenario.name


def _title(about: About, scenarios: Sequence[ScenarioRuns], total: Counter[bool | None], runs: int) -> str:
    if about.stopped is not None:
        return f"Stopped before its end: {sum(total.values())} of {count(runs, 'run')} made."
    if about.success:
        if total[True] == runs:
            return f"Passed: {'the' if runs == 1 else 'all'} {count(runs, 'run')}."
        why = "every gate is met" if about.gates else "nothing got worse since the baseline"
        return f"Passed: {total[True]} of {count(runs, 'run')} passed, and {why}."
    verdict = verdict_word(about.success).capitalize()
    if total[about.success]:
        where = sum(any(run.success is about.success and not run.state for run in s.runs) for s in scenarios)
        many = f"{total[about.success]} of {count(runs, 'run')}, in {where} of {count(len(scenarios), 'scenario')}"
        return f"{verdict}: {many}."
    if sum(total.values()) < runs:
        return f"{verdict}: not every run was made."
    if about.success is None:
        return f"{verdict}: too few runs to say."
    missed = any(kind == "fail" for kind, _ in about.gates)
    return f"{verdict}: {'a gate was missed' if missed else 'it got worse since the baseline'}."


def _sub(about: About, total: Counter[bool | None], open_runs: int, skipped: int) -> str:
    parts = [f"{total[True]} passed"]
    parts += [f"{total[False]} failed"] if total[False] else []
    parts += [f"{total[None]} inconclusive"] if total[None] else []
    parts += [f"{open_runs} not made"] if open_runs else []
    parts += [f"{count(skipped, 'scenario')} skipped"] if skipped else []
    told = [sentence(f"Stopped: {words(about.stopped, 200)}")] if about.stopped else []
    told.append(sentence(", ".join(parts)))
    if about.changes:
        counts = Counter(change.kind for change in about.changes)
        kinds = (("worse", "worse"), ("better", "better"), ("unsure", "too few runs to say"), ("same", "unchanged"))
        since = ", ".join(f"{counts[kind]} {word}" for kind, word in kinds if counts[kind])
        told.append(f"Since the baseline: {since}.")
    return " ".join(told)


def _groups(scenario: ScenarioRuns) -> list[Group]:
    grouped: dict[tuple[bool | None, str], list[RunFacts]] = {}
    for run in scenario.runs:
        if not run.state and not run.success:
            grouped.setdefault((run.success, run.group), []).append(run)
    made = sum(not run.state for run in scenario.runs)
    ordered = sorted(grouped.items(), key=lambda item: (item[0][0] is None, -len(item[1])))
    return [
        Group(
            "fail" if success is False else "unsure",
            words(scenario.name, _NAME),
            sentence(words(_plain(runs[0].reason), 300)),
            f"{len(runs)} of {count(made, 'run')}:",
            [Link(f"run {run.number}", run.href) for run in runs[:50]],
        )
        for (success, _), runs in ordered
    ]


def _plain(reason: str) -> str:
    """Return a headline as a sentence begins; a name of code stays as it is."""
    return re.sub(r"^[a-z]+(?= )", lambda found: found[0].capitalize(), reason)


def _row(index: int, scenario: ScenarioRuns, whole_ms: float) -> MatrixRow:
    done = [run for run in scenario.runs if not run.state]
    passed = sum(run.success is True for run in done)
    decided = sum(run.success is not None for run in done)
    cells = [_cell(run) for run in scenario.runs[:MAX_RUNS]]
    bad = next((run for run in done if run.success is False), None) or next(iter(done), None)
    kinds = {cell.kind for cell in cells}
    classes = [name for name, kind in (("failed", "fail"), ("unsure", "unsure")) if kind in kinds]
    if scenario.change is not None and scenario.change.kind in ("worse", "better"):
        classes.append("changed")
    low, high = wilson(passed, decided)
    return MatrixRow(
        anchor=f"scenario-{index}",
        name=words(scenario.name, _NAME),
        href=None if bad is None else bad.href,
        classes=" ".join(classes),
        cells=cells,
        passed=f"{passed} of {decided}" if decided else "–",
        rate=(percent(passed, decided), percent(low, 1), percent(high, 1)) if decided else None,
        all_passed=passed == decided,
        strip=_strip(scenario, whole_ms),
        note=words(f"Skipped: {scenario.skipped}", 300) if scenario.skipped else "",
        change=scenario.change,
    )


def _cell(run: RunFacts) -> Cell:
    if run.state:
        return Cell("none", f"run {run.number}: {run.state}", None)
    kind = {True: "ok", False: "fail", None: "unsure"}[run.success]
    why = f": {words(_plain(run.reason), 160)}" if run.reason else ""
    return Cell(kind, f"run {run.number}: {verdict_word(run.success)}{why}", run.href)


def _axis(scenarios: Sequence[ScenarioRuns]) -> tuple[float, list[tuple[float, str]]]:
    """Return how long the axis of all latencies is, in milliseconds, and its ticks."""
    ends = [ms for s in scenarios for run in s.runs for ms in run.latencies_ms]
    ends += [s.limit_ms for s in scenarios if s.limit_ms is not None]
    longest_s = max(ends, default=0.0) / 1000
    step_s = next((step for step in (0.25, 0.5, 1, 2, 5, 10, 30, 60) if longest_s / step <= 4), 300)
    steps = max(int(-(-longest_s // step_s)), 1)
    return steps * step_s * 1000, [(percent(n, steps), f"{n * step_s:g} s") for n in range(steps + 1)]


def _strip(scenario: ScenarioRuns, whole_ms: float) -> Strip | None:
    times = sorted(ms for run in scenario.runs for ms in run.latencies_ms)
    if not times:
        return None
    limit = scenario.limit_ms
    drawn = times if len(times) <= MAX_DOTS else [times[i * len(times) // MAX_DOTS] for i in range(MAX_DOTS)]
    middle_ms, sure = median(times), median_interval(times)
    between = "" if sure is None else f", 95 % interval {sure[0] / 1000:.2f} to {sure[1] / 1000:.2f}"
    return Strip(
        dots=[
            (percent(ms, whole_ms), _HEIGHTS[i % len(_HEIGHTS)], limit is not None and ms > limit)
            for i, ms in enumerate(drawn)
        ],
        middle=percent(middle_ms, whole_ms),
        low=None if sure is None else percent(sure[0], whole_ms),
        high=None if sure is None else percent(sure[1], whole_ms),
        limit=None if limit is None else percent(limit, whole_ms),
        text=seconds(middle_ms),
        told=f"{count(len(times), 'answer')}, median {seconds(middle_ms)}{between}",
    )
