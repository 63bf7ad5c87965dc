"""The command that compares two sets of runs."""

from pathlib import Path

import click

from runner.cli.options import PATH
from runner.cli.running import needing, with_settings
from runner.cli.sources import API_KEY_VARIABLE, API_URL_VARIABLE, read_source


@click.command()
@click.argument("base", metavar="BASE")
@click.argument("current", metavar="CURRENT")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON alone on standard output.")
@click.option("--html", type=PATH, metavar="FILE", help="Write a report to open in a browser.")
@with_settings
async def compare(_: object, base: str, current: str, as_json: bool, html: Path | None) -> int:
    """Tell whether an agent changed between two sets of runs.

    It also says by how much, and how sure that is. BASE and CURRENT are each a baseline file, the folder of a suite
    or of a run, or result:ID: all runs of one launch on a server (SCENARIO_RUNNER_API_URL and SCENARIO_RUNNER_API_KEY
    say which).

    Exit codes: 0 no regression, 1 regressed, 2 too few runs to say, or anything else.
    """
    with needing("compare"):
        from runner.comparison.compare import compare_sets
    from runner.reports.comparison import comparison_lines
    from runner.reports.console import make_console, print_line, shown

    comparison = compare_sets(await read_source(base), await read_source(current))
    if as_json:
        click.echo(comparison.model_dump_json(indent=2))
    else:
        console = make_console()
        for line in comparison_lines(comparison):
            print_line(console, "", shown(line))
    if html is not None:
        from runner.reports.html.write import write_comparison_report

        write_comparison_report(html, comparison, base=base, current=current)
    return comparison.exit_code


compare.epilog = (
    f"A result is read over the API: {API_URL_VARIABLE} has its address, {API_KEY_VARIABLE} a user's key."
)
