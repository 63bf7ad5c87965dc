"""Reports to open in a browser: what `call`, `demo`, `run`, `evaluate` and `report` share."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import RunnerError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from runner.calls.suite_file import SuiteResult
    from runner.reports.html.write import RunFiles

MAX_SHOWN = 10
"""Of so many runs that did not pass the report's path is printed; the suite's report leads to all."""


def check_html(html: Path | None) -> None:
    """Make sure, before anybody is called, that a report can be written where it is wanted.

    Raises:
        UsageError: It can't.
    """
    if html is None:
        return
    try:
        html.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--html: {html.parent}: the folder can't be made ({error.strerror})") from error
    if html.is_dir() or not os.access(html.parent, os.W_OK):
        raise UsageError(f"--html: {html}: can't be written")


def report_run(console: "Console", folder: Path, html: Path | None = None) -> None:
    """Make the report of a run and print where it is, and where the failing moment can be heard.

    Raises:
        RunnerError: A file can't be written.
    """
    from runner.reports.html.write import write_run_report

    with console.status("making the report"):
        made = write_run_report(folder, html)
    _print_files(console, made)


def show_report(console: "Console", folder: Path) -> None:
    """Print where the report of a run is, and where its failing moment can be heard; make what is missing."""
    from runner.reports.console import shown
    from runner.reports.html.write import FILE_NAME, SNIPPET_NAME, RunFiles

    report, snippet = folder / FILE_NAME, folder / SNIPPET_NAME
    if report.is_file():
        _print_files(console, RunFiles(report, snippet=snippet if snippet.is_file() else None))
        return
    try:
        report_run(console, folder)
    except RunnerError as error:
        # The folder may be one that can only be read: the call can be shown all the same.
        console.print(f"  no report: {shown(str(error))}", highlight=False, soft_wrap=True)


def report_suite(console: "Console", folder: Path, html: Path | None = None) -> None:
    """Make the reports of a suite and of its runs, and print where they are: of what did not pass, and of the suite.

    Raises:
        RunnerError: A file can't be written.
    """
    from runner.calls.suite_file import read_suite
    from runner.reports.html.write import write_suite_report
    from runner.reports.progress import TimeLeft

    with console.status("making the reports") as status:
        left = TimeLeft()

        def done(number: int, of: int) -> None:
            left.done(number / of)
            status.update(f"making the reports: {number} of {of}{left.words()}")

        path, runs = write_suite_report(folder, html, done=done)
    for title, name in _not_passed(read_suite(folder)):
        if name in runs:
            _print_path(console, title, runs[name].report)
            if (snippet := runs[name].snippet) is not None:
                _print_path(console, "  failing moment", snippet)
    _print_path(console, "report", path)


def _not_passed(result: "SuiteResult") -> list[tuple[str, str]]:
    """Return title and folder of the runs that did not pass, the agent's failures first."""
    bad = [run for run in result.runs if run.folder is not None and not run.success]
    ordered = sorted(bad, key=lambda run: run.success is None)
    return [(run.title, run.folder or "") for run in ordered[:MAX_SHOWN]]


def _print_files(console: "Console", files: "RunFiles") -> None:
    _print_path(console, "report", files.report)
    if files.snippet is not None:
        _print_path(console, "failing moment", files.snippet)


def _print_path(console: "Console", label: str, path: Path) -> None:
    from runner.reports.console import shown

    console.print(f"  {shown(label)}: {shown(str(path))}", highlight=False, soft_wrap=True)
