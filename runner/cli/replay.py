"""The command that shows a finished call again."""

from pathlib import Path

import click

from runner.cli.options import PATH
from runner.cli.running import run_command
from runner.cli.settings import log_to_stderr


@click.command()
@click.argument("run_dir", type=PATH)
@click.option("--speed", type=click.FloatRange(0, 100), default=1.0, show_default=True, help="0 shows all at once.")
def replay(run_dir: Path, speed: float) -> None:
    """Replay a finished call."""

    async def run() -> int:
        log_to_stderr("WARNING")
        from runner.reports.console import make_console
        from runner.reports.replay import replay as play
        from runner.reports.terminal import TerminalReport, print_summary

        console = make_console()
        with TerminalReport(console, show_heard=True) as report:
            finished = await play(run_dir, report, speed=speed)
        print_summary(console, finished, str(run_dir))
        return finished.exit_code

    run_command(run)
