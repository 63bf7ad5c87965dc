"""The commands that look after the record. Importing this imports no database: a command loads what it needs."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runner.commands import PATH, needing_server_extra, run_command, server_settings
from runner.errors import UsageError
from runner.text import one_line

if TYPE_CHECKING:
    from runner.records.database import Database

_Command = Callable[..., Any]
_Work = Callable[["Database"], Awaitable[int]]


def record_options(command: _Command) -> _Command:
    """Give a command the options that say where the record is."""
    for option in (
        click.option(
            "--config",
            type=PATH,
            help="Settings file (default: config/runner.toml, if it is there).",
        ),
        click.option(
            "--database-url",
            metavar="URL",
            help="sqlite:///path or postgresql://user@host/name. With a password, prefer the environment "
            "variable SCENARIO_RUNNER_SERVER__DATABASE_URL.",
        ),
        click.option("--data-dir", type=PATH, help="Where the record is kept (default: data)."),
    ):
        command = option(command)
    return command


@click.command()
@record_options
def migrate(data_dir: Path | None, database_url: str | None, config: Path | None) -> None:
    """Make the record's tables, or bring them up to date."""

    async def work(database: "Database") -> int:
        from runner.dispatch.dbos_queue import migrate_queue
        from runner.records.seed import seed

        await database.migrate()
        await migrate_queue(database.url)
        async with database.session() as session:
            await seed(session)
        click.echo(f"{database.name} is up to date")
        return 0

    _run(work, data_dir, database_url, config)


@click.group()
def keys() -> None:
    """Make, list and revoke the keys of the API."""


@keys.command()
@click.option("--name", default="key", show_default=True, help="What it is called in lists.")
@click.option(
    "--kind",
    type=click.Choice(["user", "worker"]),
    default="user",
    show_default=True,
    help="A user's key may do everything in its project, a worker's only report.",
)
@click.option("--project", type=click.IntRange(1), help="The project of a user's key (default: 1).")
@record_options
def create(
    name: str, kind: str, project: int | None, data_dir: Path | None, database_url: str | None, config: Path | None
) -> None:
    """Make a key and print it. It is shown this once."""

    async def work(database: "Database") -> int:
        from runner.records.keys import KeyKind, create_key

        of = KeyKind(kind)
        async with database.session() as session:
            text = await create_key(
                session, of, project_id=project or 1 if of is KeyKind.USER else project, name=name
            )
        click.echo(text)
        return 0

    run_on_record(work, data_dir, database_url, config)


@keys.command("list")
@record_options
def list_(data_dir: Path | None, database_url: str | None, config: Path | None) -> None:
    """Print every key: id, beginning, kind, project, when it was last used, name."""

    async def work(database: "Database") -> int:
        from runner.records.keys import list_keys

        async with database.reading() as session:
            for key in await list_keys(session):
                used = "never used" if key.last_used_at is None else f"used {key.last_used_at:%Y-%m-%d %H:%M}"
                state = used if key.revoked_at is None else f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
                project = "" if key.project_id is None else f"project {key.project_id}"
                click.echo(
                    f"{key.id:>4}  {key.prefix}…  {key.kind:<6}  {project:<10}  {state:<24}  {one_line(key.name)}"
                )
        return 0

    run_on_record(work, data_dir, database_url, config)


@keys.command()
@click.argument("key", metavar="ID|PREFIX")
@record_options
def revoke(key: str, data_dir: Path | None, database_url: str | None, config: Path | None) -> None:
    """Revoke a key. A busy worker notices within two seconds."""

    async def work(database: "Database") -> int:
        from runner.records.keys import PREFIX_LENGTH, revoke_key

        async with database.session() as session:
            if not await revoke_key(session, key):
                raise UsageError(f"there is no key {key[:PREFIX_LENGTH]}; `scenario-runner keys list` shows them")
        click.echo("revoked")
        return 0

    run_on_record(work, data_dir, database_url, config)


def run_on_record(
    work: Callable[["Database"], Awaitable[int]],
    data_dir: Path | None,
    database_url: str | None,
    config: Path | None,
) -> None:
    """Do something with a record that is there and up to date, and exit.

    Args:
        work: What to do; returns the exit code.
        data_dir: Where the record is, as the command was told.
        database_url: Likewise.
        config: Likewise.
    """

    async def checked(database: "Database") -> int:
        await database.check_current()
        return await work(database)

    _run(checked, data_dir, database_url, config)


def _run(work: _Work, data_dir: Path | None, database_url: str | None, config: Path | None) -> None:
    """Do something with the database and exit."""

    async def run() -> int:
        settings = server_settings(config, data_dir, database_url).server
        with needing_server_extra():
            from runner.records.database import Database
            from runner.records.database import database_url as address
        database = Database(address(settings))
        try:
            return await work(database)
        finally:
            await database.close()

    run_command(run, quotes=False)
