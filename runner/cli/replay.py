"""The command that shows a finished call again."""

from pathlib import Path

import click

from runner.cli.options import PATH
from runner.cli.running import without_settings


@click.command()
@click.argument("run_dir", type=PATH)
@click.option(
    "--speed",
    type=click.FloatRange(0, 100),
    default=1.0,
    show_default=True,
    help="How many times as fast as the call; 0 shows all of it at once.",
)
@without_settings
async def replay(run_dir: Path, speed: float) -> int:
    """Replay a finished call: show again what the terminal showed.

    Exit codes as for the call: 0 passed, 1 the agent failed, 2 anything else.
    """
    from runner.cli.reporting import show_report
    from runner.reports.console import make_console
    from runner.reports.replay import replay as play
    from runner.reports.terminal import TerminalReport, print_summary

    _refuse_suite(run_dir)
    console = make_console()
    with TerminalReport(console, show_heard=True) as report:
        finished = await play(run_dir, report, speed=speed)
    print_summary(console, finished, str(run_dir))
    if not finished.success:
        show_report(console, run_dir)
    return finished.exit_code


def _refuse_suite(folder: Path) -> None:
    """Say of a suite's folder which of its runs can be replayed, the agent's failures first.

    Raises:
        UsageError: It is a suite's folder.
    """
    from runner.calls.run_file import FILE_NAME as RUN_FILE
    from runner.calls.suite_file import FILE_NAME, read_suite
    from runner.errors import UsageError

    if (folder / RUN_FILE).exists() or not (folder / FILE_NAME).exists():
        return
    runs = [run for run in read_suite(folder).runs if run.folder is not None]
    runs.sort(key=lambda run: {False: 0, None: 1, True: 2}[run.success])
    if not runs:
        raise UsageError(f"{folder}: holds a suite in which no call was made; there is nothing to replay")
    first = folder / (runs[0].folder or "")
    others = f", or another of its {len(runs)} runs" if len(runs) > 1 else ""
    raise UsageError(f"{folder}: holds a suite; replay one of its runs: {first}{others}")
