"""The command that writes a project's first files."""

from pathlib import Path

import click

from runner.cli.running import fail


@click.command()
@click.argument("folder", default=".", type=click.Path(path_type=Path, file_okay=False))
def init(folder: Path) -> None:
    """Write a scenario, a suite and a CI job into the project in FOLDER (default: the current folder).

    tests/voice/hello.yaml, tests/voice/suite.yaml, and .github/workflows/voice.yml or .gitlab/voice.yml, fitted to
    the bot that is found there. Nothing of the project is run, and no file that exists is changed.

    In the CI job fill in where the runner is installed from. It calls your bot on every push, GitHub's every night
    too, which can cost money.
    """
    from runner.files import write_atomically
    from runner.scenarios.first_files import GITLAB, SUITE, first_files, look_at

    if not folder.is_dir():
        fail(f"{folder}: no such folder; make it first, or give the folder of your bot")
    found = look_at(folder)
    if found.bot is None:
        click.echo("no bot found (a file with `async def bot(…)`, as Pipecat's runner starts it)")
    else:
        click.echo(f"found the bot {found.bot}{'' if found.greets else ', which lets the caller speak first'}")
    written = False
    for path, text in first_files(found).items():
        file = folder / path
        if file.exists():
            click.echo(f"kept    {path} (it exists)")
            continue
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, text)
        except OSError as error:
            fail(f"{file}: can't be written ({error.strerror})")
        click.echo(f"wrote   {path}")
        written = True
        if path == GITLAB:
            click.echo(f"        add to .gitlab-ci.yml: include: {path}")
    if not written:
        click.echo("nothing to do: every file exists")
    where = "" if folder == Path() else f"cd {folder} && "
    click.echo(f"\nnext:   {where}scenario-runner run {SUITE}")
