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
@click.option(
    "--new-secret-key",
    is_flag=True,
    help="Encrypt with another key from now on: erase the agents' credentials that it does not open.",
)
@record_options
def migrate(new_secret_key: bool, data_dir: Path | None, database_url: str | None, config: Path | None) -> None:
    """Make the record's tables, or bring them up to date."""

    async def work(database: "Database") -> int:
        from runner.records.key_check import take_secret_key
        from runner.records.secrets import open_vault
        from runner.records.seed import seed

        vault = open_vault(server_settings(config, data_dir, database_url).server) if new_secret_key else None
        await database.migrate()
        async with database.session() as session:
            await seed(session)
        click.echo(f"{database.name} is up to date")
        if vault is not None:
            erased = await take_secret_key(database, vault)
            click.echo(f"{vault.source} is its secret key; agents whose credentials were erased: {erased}")
        return 0

    _run(work, data_dir, database_url, config)


@click.group()
def projects() -> None:
    """Make and list projects. Keys are of one each, and see nothing of the others."""


@projects.command("create")
@click.argument("name")
@record_options
def create_project(name: str, data_dir: Path | None, database_url: str | None, config: Path | None) -> None:
    """Make a project called NAME, and print its id: `keys create --project ID` lets somebody in."""

    async def work(database: "Database") -> int:
        from runner.records.projects import create_project as create

        async with database.session() as session:
            project = await create(session, name)
        click.echo(project.id)
        return 0

    run_on_record(work, data_dir, database_url, config)


@projects.command("list")
@record_options
def list_projects(data_dir: Path | None, database_url: str | None, config: Path | None) -> None:
    """Print every project: id, when it was made, name."""

    async def work(database: "Database") -> int:
        from runner.records.projects import list_projects as list_all

        async with database.reading() as session:
            for project in await list_all(session):
                click.echo(f"{project.id:>4}  {project.created_at:%Y-%m-%d %H:%M}  {one_line(project.name)}")
        return 0

    run_on_record(work, data_dir, database_url, config)


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
