"""The commands that make, list and revoke keys."""

from typing import TYPE_CHECKING

import click

from runner.cli.running import on_record
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
@on_record
async def create(database: "Database", _: object, name: str, kind: str, project: int | None) -> None:
    """Make a key and print it. It is shown this once."""
    from runner.records.keys import KeyKind, create_key

    of = KeyKind(kind)
    async with database.session() as session:
        text = await create_key(session, of, project_id=project or 1 if of is KeyKind.USER else project, name=name)
    click.echo(text)


@keys.command("list")
@on_record
async def list_(database: "Database", _: object) -> None:
    """Print every key: id, beginning, kind, project, when it was last used, name."""
    from runner.records.keys import list_keys

    async with database.reading() as session:
        for key in await list_keys(session):
            used = "never used" if key.last_used_at is None else f"used {key.last_used_at:%Y-%m-%d %H:%M}"
            state = used if key.revoked_at is None else f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
            project = "" if key.project_id is None else f"project {key.project_id}"
            click.echo(f"{key.id:>4}  {key.prefix}…  {key.kind:<6}  {project:<10}  {state:<24}  {one_line(key.name)}")


@keys.command()
@click.argument("key", metavar="ID|PREFIX")
@on_record
async def revoke(database: "Database", _: object, key: str) -> None:
    """Revoke a key, for good.

    PREFIX is its beginning, as `keys list` shows it. A worker with a revoked key takes no more runs, and hangs up its
    calls when its lease is over (the setting server.lease_s, 20 s).
    """
    from runner.records.keys import PREFIX_LENGTH, revoke_key

    async with database.session() as session:
        if not await revoke_key(session, key):
            raise UsageError(f"there is no key {key[:PREFIX_LENGTH]}; `scenario-runner keys list` shows them")
    click.echo("revoked")
