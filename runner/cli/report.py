"""The command that makes the report of finished calls."""

from pathlib import Path

import click

from runner.cli.options import PATH
from runner.cli.running import without_settings


@click.command()
@click.argument("folder", metavar="RUN_OR_SUITE_DIR", type=PATH)
@click.option("--html", type=PATH, metavar="FILE", help="The file (default: report.html in the folder).")
@without_settings
async def report(folder: Path, html: Path | None) -> None:
    """Make the HTML report of a finished call or suite again.

    It is made from the stored facts. The file opens in a browser without a server and without a network. A suite's
    leads to the reports of its runs, which are made as well.
    """
    from runner.calls.evaluate import is_suite
    from runner.cli.reporting import report_run, report_suite
    from runner.reports.console import make_console

    make = report_suite if is_suite(folder) else report_run
    make(make_console(), folder, html)
