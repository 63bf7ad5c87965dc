"""The command that runs a suite."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from runner.cli.options import PATH, TOKEN_VARIABLE, Concurrency, read_token
from runner.cli.running import with_settings
from runner.cli.sources import API_KEY_VARIABLE, API_URL_VARIABLE
from runner.errors import UsageError

if TYPE_CHECKING:
    from runner.calls.suite_file import SuiteResult
    from runner.cli.weighing import Weighing
    from runner.scenarios.suites import Suite
    from runner.settings import Settings


@click.command("run")
@click.argument("suite_file", metavar="SUITE.yaml", type=PATH)
@click.option(
    "--repeat",
    type=click.IntRange(1, 1_000),
    help="Runs of every scenario (default: the file's, else 1); overrides an entry's own too.",
)
@click.option(
    "--concurrency",
    type=Concurrency(),
    metavar="N|auto",
    help="Runs at a time (default: the file's, else 1). auto: as many as this machine can carry.",
)
@click.option(
    "--retry-inconclusive",
    type=click.IntRange(0, 5),
    help="Retries of a run that the runner or the network spoilt (default: the file's, else 1).",
)
@click.option(
    "-k", "expression", metavar="EXPR", help="Run the scenarios that match: words of names or tags, and/or/not."
)
@click.option("--last-failed", is_flag=True, help="Run what did not pass the last time; exit code 0 if all did.")
@click.option("--fail-fast", is_flag=True, help="Start no more runs once the agent failed in one.")
@click.option(
    "--baseline",
    metavar="SOURCE",
    help="Compare with a baseline file, a suite's folder, or result:ID: all runs of one launch on a server "
    f"({API_URL_VARIABLE} and {API_KEY_VARIABLE} say which).",
)
@click.option(
    "--save-baseline",
    type=PATH,
    metavar="FILE",
    help="Add the runs to a baseline file as one session; it keeps the newest 20. Runs that failed are saved too, "
    "unless the suite regressed.",
)
@click.option(
    "--against",
    metavar="SUITE|URL",
    help="Compare with another agent, run in turns with as many calls: another suite file, or the address of its "
    "Pipecat runner.",
)
@click.option("--junit", type=PATH, metavar="FILE", help="Write JUnit XML, after every run.")
@click.option(
    "--markdown", type=PATH, metavar="FILE", help="Write a summary for a pull request or $GITHUB_STEP_SUMMARY."
)
@click.option(
    "--html", type=PATH, metavar="FILE", help="The suite's report (default: report.html in the suite's folder)."
)
@click.option("--json", "as_json", is_flag=True, help="Print suite.json alone on standard output.")
@click.option(
    "--out", type=PATH, help="Folder for the suite, one that holds no suite yet (default: runs/suite-<id>)."
)
@click.option(
    "--token",
    help="Token for the agent's side; - reads it from standard input. Prefer the environment variable that the "
    f"file names, or {TOKEN_VARIABLE}.",
)
@click.option("--allow-unjudged", is_flag=True, help="Pass runs whose only problem is inconclusive checks.")
@with_settings
async def run_suite(
    settings: "Settings",
    suite_file: Path,
    expression: str | None,
    last_failed: bool,
    baseline: str | None,
    save_baseline: Path | None,
    against: str | None,
    out: Path | None,
    token: str | None,
    repeat: int | None,
    concurrency: "int | Literal['auto'] | None",
    retry_inconclusive: int | None,
    **shown: Any,
) -> int:
    """Run every scenario of a suite, or of a manifest of Pipecat Evals.

    Each run has a session of its own, except in a Daily room that is named by `url`, and in `rooms`.

    Exit codes: 0 every run passed, 1 the agent failed in one, 2 anything else. With --baseline, --against or the gate
    pass_rate, single failed runs no longer decide: 0 no regression and no gate missed, 1 regressed or missed, 2 too
    few runs to say. The gate p95_latency_ms alone adds to the runs' own verdicts.
    """
    from runner.calls.request import new_run_id
    from runner.cli.weighing import Weighing, load_against
    from runner.scenarios.manifest import load_suite_or_manifest
    from runner.scenarios.selection import select_scenarios

    _check_saves_whole_suite(save_baseline, expression, last_failed)
    suite = load_suite_or_manifest(
        suite_file,
        settings,
        token=None if token is None else read_token(token),
        repeat=repeat,
        concurrency=concurrency,
        retry_inconclusive=retry_inconclusive,
    )
    if suite.token is None:
        suite = replace(suite, token=read_token(None))
    if last_failed and against is not None:
        raise UsageError("--last-failed and --against: a suite that is run in turns with another is run as a whole")
    runs_dir = suite.runs_dir or settings.runs_dir
    chosen = _chosen(suite, expression, runs_dir if last_failed else None, out)
    if isinstance(chosen, str):
        click.echo(chosen, err=shown["as_json"])
        return 0
    other = None
    if against is not None:
        other = load_against(against, chosen, settings, repeat, retry_inconclusive)
        other = other if expression is None else select_scenarios(other, expression)
    weighing = await Weighing.read(chosen, baseline, save_baseline, other)
    return await _run_suite(chosen, settings, weighing, out or runs_dir / f"suite-{new_run_id()}", **shown)


def _check_saves_whole_suite(save_baseline: Path | None, expression: str | None, last_failed: bool) -> None:
    """Refuse to save a part of a suite as one of a baseline's sessions.

    Raises:
        UsageError: A part was asked for.
    """
    part = "-k" if expression is not None else "--last-failed" if last_failed else None
    if save_baseline is not None and part is not None:
        raise UsageError(f"--save-baseline and {part}: a baseline is of a whole suite; leave one of them out")


def _chosen(suite: "Suite", expression: str | None, last_run_in: Path | None, out: Path | None) -> "Suite | str":
    """Return a suite with the runs that were asked for, or why there are none.

    With ``last_run_in`` these are what did not pass the last time, there or beside ``out``.
    """
    from runner.calls.last_failed import NothingFailed, select_last_failed
    from runner.scenarios.selection import select_scenarios

    if last_run_in is not None:
        beside = [] if out is None else [out.absolute().parent]
        try:
            suite = select_last_failed(suite, [last_run_in, *beside])
        except NothingFailed as nothing:
            return str(nothing)
    return suite if expression is None else select_scenarios(suite, expression)


async def _run_suite(
    suite: "Suite",
    settings: "Settings",
    weighing: "Weighing",
    folder: Path,
    *,
    junit: Path | None,
    markdown: Path | None,
    html: Path | None,
    as_json: bool,
    allow_unjudged: bool,
    fail_fast: bool,
) -> int:
    """Run a suite, showing it, and return its exit code."""
    import anyio.to_thread

    from runner.calls.suite import SuiteRunner
    from runner.calls.suite_file import FILE_NAME
    from runner.cli.interruption import ending_in_good_order
    from runner.cli.reporting import check_html, report_suite
    from runner.reports.console import make_console
    from runner.reports.junit import write_junit
    from runner.reports.markdown import write_markdown
    from runner.reports.suite import SuiteReport, print_suite

    # Of two suites in turns each has a folder of its own.
    own_folder = folder if weighing.against is None else folder / "current"

    def keep(result: "SuiteResult") -> None:
        if junit is not None:
            write_junit(junit, result, own_folder)
        if markdown is not None:
            write_markdown(markdown, result, own_folder)

    check_html(html)
    console = make_console(stderr=as_json)
    runner = SuiteRunner(suite, settings, own_folder, allow_unjudged=allow_unjudged, fail_fast=fail_fast, keep=keep)
    if weighing.against is not None:
        from runner.cli.interleaving import run_interleaved

        result, base = await run_interleaved(console, runner, weighing.against, folder / "base")
    else:
        base = None
        with SuiteReport(console, suite, most_at_once=runner.most_at_once) as report:
            runner.watcher = report
            with ending_in_good_order(runner):
                result = await runner.make()
    result = await anyio.to_thread.run_sync(weighing.weigh, own_folder, result, base, keep)
    print_suite(console, result, str(folder))
    if (said := await anyio.to_thread.run_sync(weighing.save_baseline, own_folder, result)) is not None:
        click.echo(f"  {said}", err=as_json)
    if as_json:
        click.echo((own_folder / FILE_NAME).read_text(encoding="utf-8"), nl=False)
    report_suite(console, own_folder, html)
    if weighing.against is not None:
        report_suite(console, folder / "base")
    return result.exit_code
