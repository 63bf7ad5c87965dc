"""The command that runs a suite."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from runner.cli.options import PATH, TOKEN_VARIABLE, Concurrency, common_options, read_token
from runner.cli.running import run_command
from runner.cli.settings import load_logging_settings

if TYPE_CHECKING:
    from runner.calls.suite_file import SuiteResult
    from runner.scenarios.suites import Suite
    from runner.settings import Settings


@click.command("run")
@click.argument("suite_file", metavar="SUITE.yaml", type=PATH)
@click.option("--repeat", type=click.IntRange(1, 1_000), help="Runs of every scenario, whatever the file says.")
@click.option(
    "--concurrency",
    type=Concurrency(),
    metavar="N|auto",
    help="Runs at a time, whatever the file says; auto: as many as this machine has headroom for.",
)
@click.option(
    "--retry-inconclusive",
    type=click.IntRange(0, 5),
    help="How often a run is made again that our own side or the network spoilt, whatever the file says.",
)
@click.option("--junit", type=PATH, metavar="FILE", help="Write JUnit XML, after every run.")
@click.option(
    "--html", type=PATH, metavar="FILE", help="The suite's report (default: report.html in the suite's folder)."
)
@click.option("--json", "as_json", is_flag=True, help="Print suite.json alone on standard output.")
@click.option("--out", type=PATH, help="Folder for the suite (default: runs/suite-<id>).")
@click.option(
    "--token",
    help="Token for the agent's side; - reads it from standard input. Prefer the environment variable that the "
    f"file names, or {TOKEN_VARIABLE}.",
)
@click.option("--allow-unjudged", is_flag=True, help="Pass runs whose only problem is inconclusive checks.")
@common_options
def run_suite(
    suite_file: Path,
    repeat: int | None,
    concurrency: "int | Literal['auto'] | None",
    retry_inconclusive: int | None,
    junit: Path | None,
    html: Path | None,
    as_json: bool,
    out: Path | None,
    token: str | None,
    allow_unjudged: bool,
    config: Path | None,
    verbose: int,
) -> None:
    """Run every scenario of a suite, with a fresh session for each run.

    Exit codes: 0 every run passed, 1 the agent failed in one, 2 anything else.
    """

    async def run() -> int:
        settings = load_logging_settings(config, verbose)
        from runner.scenarios.suites import load_suite

        suite = load_suite(
            suite_file,
            settings,
            token=None if token is None else read_token(token),
            repeat=repeat,
            concurrency=concurrency,
            retry_inconclusive=retry_inconclusive,
        )
        if suite.token is None:
            suite = replace(suite, token=read_token(None))
        from runner.calls.request import new_run_id

        folder = out or settings.runs_dir / f"suite-{new_run_id()}"
        return await _run_suite(
            suite, settings, folder=folder, junit=junit, html=html, as_json=as_json, allow_unjudged=allow_unjudged
        )

    run_command(run, verbose=verbose)


async def _run_suite(
    suite: "Suite",
    settings: "Settings",
    *,
    folder: Path,
    junit: Path | None,
    html: Path | None,
    as_json: bool,
    allow_unjudged: bool,
) -> int:
    """Run a suite, showing it, and return its exit code."""
    from runner.calls.suite import SuiteRunner
    from runner.calls.suite_file import FILE_NAME
    from runner.cli.interruption import ending_in_good_order
    from runner.cli.reporting import report_suite
    from runner.reports.console import make_console
    from runner.reports.junit import write_junit
    from runner.reports.suite import SuiteReport, print_suite

    def keep(result: "SuiteResult") -> None:
        if junit is not None:
            write_junit(junit, result, folder)

    console = make_console(stderr=as_json)
    runner = SuiteRunner(suite, settings, folder, allow_unjudged=allow_unjudged, keep=keep)
    with SuiteReport(console, suite, most_at_once=runner.most_at_once) as report:
        runner.watcher = report
        with ending_in_good_order(runner):
            result = await runner.make()
    print_suite(console, result, str(folder))
    if as_json:
        click.echo((folder / FILE_NAME).read_text(encoding="utf-8"), nl=False)
    report_suite(console, folder, html)
    return result.exit_code
