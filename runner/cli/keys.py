"""The commands that make, list and revoke keys."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.options import record_options
from runner.cli.record import run_on_record
from runner.errors import UsageError
from runner.text import one_line

if TYPE_CHECKING:
    from runner.records.database import Database


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
    help="A user's key may do everything in its project; a worker's may take and report runs, and nothing else.",
)
@click.option(
    "--project", type=click.IntRange(1), help="The project of a user's key (default: 1, which every server has)."
)
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
    """Revoke a key, for good.

    PREFIX is its beginning, as `keys list` shows it. A worker with a revoked key takes no more runs, and hangs up its
    calls when its lease is over (the setting server.lease_s, 20 s).
    """

    async def work(database: "Database") -> int:
        from runner.records.keys import PREFIX_LENGTH, revoke_key

        async with database.session() as session:
            if not await revoke_key(session, key):
                raise UsageError(f"there is no key {key[:PREFIX_LENGTH]}; `scenario-runner keys list` shows them")
        click.echo("revoked")
        return 0

    run_on_record(work, data_dir, database_url, config)
