"""A suite on the terminal: what runs, what is done, how long it will take, and what it came to."""

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from runner.calls.run_file import EarlierAttempt
from runner.calls.suite_file import OpenRun, SkippedScenario, SuiteResult, SuiteRun, by_scenario
from runner.reports.comparison import weighed_lines
from runner.reports.console import print_line, shown
from runner.reports.evidence import attempt_line, failure_lines, headline_of, process_end, verdict_word
from runner.reports.progress import duration
from runner.scenarios.suites import PlannedRun, Suite
from runner.text import count, one_line

_STYLES = {True: "green", False: "red", None: "yellow"}
_WIDTH = len("inconclusive")
MAX_LIVE_NAMES = 6
MAX_LINE = 10_000
MAX_REASONS = 20
"""Of so many scenarios it is told what went wrong."""


class SuiteReport:
    """Shows a suite as it goes on: a line for each run that ends, and on a terminal what is under way."""

    def __init__(
        self,
        console: Console,
        suite: Suite,
        *,
        most_at_once: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._console = console
        self._suite = suite
        self._most_at_once = most_at_once
        self._clock = clock
        self._began_s: dict[int, float] = {}
        self._took_s: list[float] = []
        self._counts: dict[bool | None, int] = {True: 0, False: 0, None: 0}
        self._titles: dict[int, str] = {}
        self._allowed = suite.concurrency
        self._live = Live(
            get_renderable=self.status, console=console, refresh_per_second=4, transient=True, auto_refresh=True
        )

    def __enter__(self) -> Self:
        """Begin to show what is under way, at the bottom of the terminal."""
        at_a_time = f"{self._suite.concurrency} at a time"
        if self._suite.concurrency is None:
            at_a_time = f"as many at a time as this machine has headroom for, up to {self._most_at_once}"
        runs = count(len(self._suite.runs), "run")
        print_line(self._console, "", f"[bold]{shown(self._suite.name)}[/]: {runs}, {at_a_time}")
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

    def call_over(self, run: PlannedRun) -> None:
        """Show that its call is over, and that what was said in it is being recognised."""
        self._titles[run.index] = f"{run.title} (call over, recognising)"

    def ended(self, run: PlannedRun, result: SuiteRun | None) -> None:
        """Show what became of a run."""
        began_s = self._began_s.pop(run.index)
        self._titles.pop(run.index)
        if result is None:
            return
        self._took_s.append(self._clock() - began_s)
        self._counts[result.success] += 1
        done = f"{len(self._took_s)}/{len(self._suite.runs)}"
        reason = "" if result.success else f"  {shown(_reason(result))}"
        self._show(done, verdict_word(result.success), _STYLES[result.success], run, result.duration_s, reason)

    def repeats(self, run: PlannedRun, attempt: EarlierAttempt) -> None:
        """Show that a run is made again."""
        self._began_s.pop(run.index)
        self._titles.pop(run.index)
        reason = f"  {shown(attempt_line(attempt, attempt.folder))}"
        self._show("again", verdict_word(attempt.success), _STYLES[attempt.success], run, attempt.duration_s, reason)

    def limited(self, allowed: int, warning: str | None) -> None:
        """Show what there is to say of how many runs are made at once from now on."""
        self._allowed = allowed
        if warning is not None:
            print_line(self._console, "  [yellow]![/] ", f"[yellow]{shown(warning)}[/]")

    def _show(self, done: str, verdict: str, style: str, run: PlannedRun, took_s: float, reason: str) -> None:
        label = f"{done:>9}  [{style}]{verdict:<{_WIDTH}}[/]  "
        print_line(self._console, label, f"{shown(run.title)}  [dim]{took_s:.1f} s[/]{reason}")

    def status(self) -> Text:
        """Return the line that says what is under way."""
        total, done = len(self._suite.runs), len(self._took_s)
        names = list(self._titles.values())
        now = one_line(", ".join(names[:MAX_LIVE_NAMES])) + ("…" if len(names) > MAX_LIVE_NAMES else "")
        counts = f"{self._counts[True]} passed, {self._counts[False]} failed, {self._counts[None]} inconclusive"
        left_s = self.time_left_s()
        left = "" if left_s is None else f", {duration(left_s)} left"
        return Text(f"  {done}/{total} done: {counts}{left}\n  now: {now or '-'}", style="bold")

    def time_left_s(self) -> float | None:
        """Return how long the rest will take by what the finished runs took; None before the first is finished."""
        if not self._took_s:
            return None
        mean_s = sum(self._took_s) / len(self._took_s)
        now_s = self._clock()
        under_way_s = sum(max(mean_s - (now_s - began_s), 0.0) for began_s in self._began_s.values())
        waiting = len(self._suite.runs) - len(self._took_s) - len(self._began_s)
        return (waiting * mean_s + under_way_s) / min(self._allowed or 1, len(self._suite.runs))


def print_suite(console: Console, result: SuiteResult, folder: str) -> None:
    """Print what a suite came to: a line for each scenario, with the first thing that went wrong."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("scenario", overflow="fold")
    for column in ("passed", "failed", "inconclusive"):
        table.add_column(column, justify="right")
    # On a terminal the reasons follow the table, because its columns are too narrow for them.
    in_table = not console.is_terminal
    if in_table:
        table.add_column("first reason", overflow="fold")
    reasons: list[tuple[str, str, SuiteRun | None]] = []
    for runs in by_scenario(result):
        name, counts, reason, bad = _summed_up(runs)
        styles = ("green", "red", "yellow")
        cells = [
            f"[{style}]{count}[/]" if count else "[dim]0[/]" for count, style in zip(counts, styles, strict=True)
        ]
        table.add_row(shown(name), *cells, *([shown(reason)] if in_table else []))
        if reason:
            reasons.append((name, reason, bad))
    totals = result.totals
    parts = [f"{totals.passed} of {count(totals.runs, 'run')} passed"]
    parts += [f"{totals.failed} failed"] if totals.failed else []
    parts += [f"{totals.inconclusive} inconclusive"] if totals.inconclusive else []
    parts += [f"{totals.open} not made"] if totals.open else []
    parts += [f"{count(totals.skipped, 'scenario')} skipped"] if totals.skipped else []
    verdict = {0: "[bold green]passed[/]", 1: "[bold red]failed[/]"}.get(
        result.exit_code, "[bold yellow]inconclusive[/]"
    )
    console.print()
    if console.is_terminal:
        console.print(table)
    else:
        # Nobody reads it at this width, if at all: a line for each scenario, whole, can be searched.
        console.print(_Unfolded(table), soft_wrap=True)
    console.print()
    _print_reasons(console, reasons, folder, in_table=in_table)
    for warning in result.warnings:
        print_line(console, "[yellow]![/] ", f"[yellow]{shown(warning)}[/]")
    stopped = f" ({shown(result.stopped)})" if result.stopped else ""
    print_line(console, f"{verdict}: ", f"{', '.join(parts)}{stopped}")
    if totals.inconclusive and totals.success_rate is not None:
        decided = totals.passed + totals.failed
        print_line(console, "  ", f"success rate {totals.success_rate:g} %: of the {decided} with a verdict")
    for line in weighed_lines(result):
        print_line(console, "  ", shown(line))
    console.print(f"  {shown(folder)}", highlight=False, soft_wrap=True)


def _summed_up(
    runs: Sequence[SuiteRun | OpenRun | SkippedScenario],
) -> tuple[str, Sequence[int], str, SuiteRun | None]:
    """Return a scenario's name, how its runs ended, why the first of them did not pass, and that run."""
    if isinstance(first := runs[0], SkippedScenario):
        return first.scenario, (0, 0, 0), f"skipped: {first.reason}", None
    done = [run for run in runs if isinstance(run, SuiteRun)]
    # The agent's failures first: they are what the suite is for.
    bad = [run for run in done if run.success is False] or [run for run in done if run.success is None]
    counts = [sum(run.success is verdict for run in done) for verdict in (True, False, None)]
    if bad:
        return first.scenario, counts, _reason(bad[0]), bad[0]
    left = len(runs) - len(done)
    return first.scenario, counts, f"{count(left, 'run')} not made" if left else "", None


def _print_reasons(
    console: Console, reasons: Sequence[tuple[str, str, SuiteRun | None]], folder: str, *, in_table: bool
) -> None:
    """Print what went wrong in each scenario: what was expected and heard, and what shows more of it.

    Args:
        reasons: Name of the scenario, the reason, and the run it is of.
        in_table: Whether the table shows the reasons already.
    """
    told = [one for one in reasons if not in_table or (one[2] is not None and (one[2].folder or one[2].failure))]
    for name, reason, run in told[:MAX_REASONS]:
        style = _STYLES[None if run is None else run.success]
        print_line(console, f"[{style}]{'✗' if run is not None and run.success is False else '?'}[/] ", shown(name))
        if not in_table:
            print_line(console, "    ", shown(reason))
        for line in () if run is None or run.failure is None else failure_lines(run.failure):
            print_line(console, "    ", f"[dim]{shown(line)}[/]")
        if run is not None and run.agent_log is not None:
            printed = f"what the agent printed: {Path(folder) / run.agent_log}"
            console.print(f"    {shown(printed)}", highlight=False, soft_wrap=True)
        if run is not None and run.folder is not None:
            command = f"scenario-runner replay {shlex.quote(str(Path(folder) / run.folder))}"
            console.print(f"    {shown(command)}", highlight=False, soft_wrap=True)
    if len(told) > MAX_REASONS:
        print_line(console, "", f"and {count(len(told) - MAX_REASONS, 'scenario')} more")
    if told:
        console.print()


class _Unfolded:
    """A table as wide as what it holds."""

    def __init__(self, table: Table):
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = self._table.__rich_measure__(console, options.update_width(MAX_LINE)).maximum
        yield from console.render(self._table, options.update_width(width))


def _reason(run: SuiteRun) -> str:
    cause = f" ({run.cause.value})" if run.cause is not None and run.success is None else ""
    if run.failure is not None:
        headline = headline_of(run.failure, run.detail, run.ended_reason)
        return f"{run.failure.kind.words}{cause}: {headline}"
    ended = f"; the agent's process {process_end(run.agent_exit_code)}" if run.agent_exit_code is not None else ""
    return f"{run.ended_reason.value}{cause}" + (f": {run.detail}" if run.detail else "") + ended
