"""A suite on the terminal: what runs, what is done, how long it will take, and what it came to."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from runner.calls.suite_file import SkippedScenario, SuiteResult, SuiteRun, by_scenario
from runner.reports.console import shown
from runner.scenarios.suites import PlannedRun, Suite
from runner.text import one_line

_VERDICTS = {True: "[green]passed[/]", False: "[red]failed[/]", None: "[yellow]no verdict[/]"}
_WIDTH = len("no verdict")
MAX_LIVE_NAMES = 6
MAX_LINE = 10_000


class SuiteReport:
    """Shows a suite as it goes on: a line for each run that ends, and on a terminal what is under way.

    Args:
        console: Where to show it.
        suite: The suite.
        clock: Monotonic time, in seconds.
    """

    def __init__(self, console: Console, suite: Suite, *, clock: Callable[[], float] = time.monotonic):
        self._console = console
        self._suite = suite
        self._clock = clock
        self._began_s: dict[int, float] = {}
        self._took_s: list[float] = []
        self._counts: dict[bool | None, int] = {True: 0, False: 0, None: 0}
        self._titles: dict[int, str] = {}
        self._live = Live(
            get_renderable=self.status, console=console, refresh_per_second=4, transient=True, auto_refresh=True
        )

    def __enter__(self) -> Self:
        """Begin to show what is under way, at the bottom of the terminal."""
        self._console.print(
            f"[bold]{shown(self._suite.name)}[/]: {_count(len(self._suite.runs), 'run')}, "
            f"{self._suite.concurrency} at a time",
            highlight=False,
        )
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop showing it."""
        if self._live.is_started:
            self._live.stop()

    def begun(self, run: PlannedRun) -> None:
        """Show that a run is under way."""
        self._began_s[run.index] = self._clock()
        self._titles[run.index] = run.title

    def ended(self, run: PlannedRun, result: SuiteRun | None) -> None:
        """Show what became of a run."""
        began_s = self._began_s.pop(run.index)
        self._titles.pop(run.index)
        if result is None:
            return
        self._took_s.append(self._clock() - began_s)
        self._counts[result.success] += 1
        done = f"{len(self._took_s)}/{len(self._suite.runs)}"
        verdict = _VERDICTS[result.success] + " " * (_WIDTH - len(Text.from_markup(_VERDICTS[result.success])))
        reason = "" if result.success else f"  {shown(_reason(result))}"
        self._console.print(
            f"{done:>9}  {verdict}  {shown(run.title)}  [dim]{result.duration_s:.1f} s[/]{reason}",
            highlight=False,
            soft_wrap=True,
        )

    def status(self) -> Text:
        """Return the line that says what is under way."""
        total, done = len(self._suite.runs), len(self._took_s)
        names = list(self._titles.values())
        now = one_line(", ".join(names[:MAX_LIVE_NAMES])) + ("…" if len(names) > MAX_LIVE_NAMES else "")
        counts = f"{self._counts[True]} passed, {self._counts[False]} failed, {self._counts[None]} undecided"
        left_s = self.time_left_s()
        left = "" if left_s is None else f", {_duration(left_s)} left"
        return Text(f"  {done}/{total} done: {counts}{left}\n  now: {now or '-'}", style="bold")

    def time_left_s(self) -> float | None:
        """Return how long the rest will take by what the finished runs took; None before the first is finished."""
        if not self._took_s:
            return None
        mean_s = sum(self._took_s) / len(self._took_s)
        now_s = self._clock()
        under_way_s = sum(max(mean_s - (now_s - began_s), 0.0) for began_s in self._began_s.values())
        waiting = len(self._suite.runs) - len(self._took_s) - len(self._began_s)
        return (waiting * mean_s + under_way_s) / min(self._suite.concurrency, len(self._suite.runs))


def print_suite(console: Console, result: SuiteResult, folder: str) -> None:
    """Print what a suite came to: a line for each scenario, with the first thing that went wrong.

    Args:
        console: Where to print it.
        result: The suite's result.
        folder: Where its runs are.
    """
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("scenario", overflow="fold")
    for column in ("passed", "failed", "undecided"):
        table.add_column(column, justify="right")
    table.add_column("first reason", overflow="fold")
    for runs in by_scenario(result):
        if isinstance(first := runs[0], SkippedScenario):
            table.add_row(shown(first.scenario), *["[dim]0[/]"] * 3, shown(f"skipped: {first.reason}"))
            continue
        done = [run for run in runs if isinstance(run, SuiteRun)]
        # The agent's failures first: they are what the suite is for.
        bad = [run for run in done if run.success is False] or [run for run in done if run.success is None]
        counts = [sum(run.success is verdict for run in done) for verdict in (True, False, None)]
        styles = ("green", "red", "yellow")
        cells = [
            f"[{style}]{count}[/]" if count else "[dim]0[/]" for count, style in zip(counts, styles, strict=True)
        ]
        left = len(runs) - len(done)
        reason = _reason(bad[0]) if bad else (f"{_count(left, 'run')} not made" if left else "")
        table.add_row(shown(runs[0].scenario), *cells, shown(reason))
    totals = result.totals
    parts = [f"{totals.passed} of {_count(totals.runs, 'run')} passed"]
    parts += [f"{totals.failed} failed"] if totals.failed else []
    parts += [f"{totals.undecided} undecided"] if totals.undecided else []
    parts += [f"{totals.open} not made"] if totals.open else []
    parts += [f"{_count(totals.skipped, 'scenario')} skipped"] if totals.skipped else []
    verdict = {0: "[bold green]passed[/]", 1: "[bold red]failed[/]"}.get(
        result.exit_code, "[bold yellow]no verdict[/]"
    )
    console.print()
    if console.is_terminal:
        console.print(table)
    else:
        # Nobody reads it at this width, if at all: a line for each scenario, whole, can be searched.
        console.print(_Unfolded(table), soft_wrap=True)
    console.print()
    stopped = f" ({shown(result.stopped)})" if result.stopped else ""
    console.print(f"{verdict}: {', '.join(parts)}{stopped}", highlight=False)
    console.print(f"  {shown(folder)}", highlight=False, soft_wrap=True)


class _Unfolded:
    """A table as wide as what it holds."""

    def __init__(self, table: Table):
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = self._table.__rich_measure__(console, options.update_width(MAX_LINE)).maximum
        yield from console.render(self._table, options.update_width(width))


def _reason(run: SuiteRun) -> str:
    cause = f" ({run.cause.value})" if run.cause is not None and run.success is None else ""
    return f"{run.ended_reason.value}{cause}" + (f": {run.detail}" if run.detail else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _duration(duration_s: float) -> str:
    minutes, seconds = divmod(round(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
