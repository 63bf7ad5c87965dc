"""The command that checks scenario files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.options import PATH
from runner.cli.running import with_settings
from runner.errors import USAGE_EXIT_CODE, UsageError

if TYPE_CHECKING:
    from runner.settings import Settings

_MOST_SHOWN = 100
"""So many mistakes of a file are told."""


@click.command()
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE…")
@with_settings
async def check(settings: "Settings", files: Sequence[Path]) -> int:
    """Check scenario files, and print what each scenario would do.

    Takes scenario files, not suites. example:NAME is an example that comes with the runner. Calls nobody.

    Exit code 0 if every scenario can be played in a room, by voice, 2 if not.
    """
    from runner.reports.scenarios import describe_scenario
    from runner.scenarios.composing import FileError
    from runner.scenarios.evals import load_file
    from runner.scenarios.examples import PREFIX, split_spec

    fine = True
    for file in files:
        try:
            example = str(file).startswith(PREFIX)
            scenarios = load_file(split_spec(str(file))[0] if example else file, settings)
        except UsageError as error:
            mistakes = error.by_line() if isinstance(error, FileError) else [str(error)]
            for mistake in mistakes[:_MOST_SHOWN]:
                click.echo(f"error: {mistake}", err=True)
            if len(mistakes) > _MOST_SHOWN:
                click.echo(f"error: {file}: and {len(mistakes) - _MOST_SHOWN} more", err=True)
            fine = False
            continue
        for scenario in scenarios:
            fine = fine and scenario.refusal is None
            for line in describe_scenario(scenario, has_judge=settings.judge.configured):
                click.echo(line)
    return 0 if fine else USAGE_EXIT_CODE
