"""The command that makes the database's tables."""

from typing import TYPE_CHECKING

import click

from runner.cli.running import on_database

if TYPE_CHECKING:
    from runner.records.database import Database
    from runner.records.key_check import Lost
    from runner.settings import Settings


@click.command()
@click.option(
    "--new-secret-key",
    is_flag=True,
    help="Only if the secret key is lost; no rotation, and it can't be undone. Takes the key in server.secret_key, "
    "or in DATA_DIR/secret.key (made if there is none), and erases what it does not open: agents' credentials, "
    "addresses and secrets of webhooks, rooms of schedules. Waiting runs with a token fail. Stop the server and back "
    "up first.",
)
@on_database
async def migrate(database: "Database", settings: "Settings", new_secret_key: bool) -> None:
    """Create the tables of the server's database, or update them.

    There is no way back to an older version: back up first. `serve` does the same when it starts.
    """
    from runner.records.key_check import take_secret_key
    from runner.records.secrets import open_vault
    from runner.records.seed import seed

    vault = open_vault(settings.server) if new_secret_key else None
    await database.migrate()
    async with database.session() as session:
        await seed(session)
    click.echo(f"{database.name} is up to date")
    if vault is not None:
        lost = await take_secret_key(database, vault)
        click.echo(f"{vault.source} is its secret key; {_in_words(lost)}")


def _in_words(lost: "Lost") -> str:
    counts = {
        "agents whose credentials were erased": lost.agents,
        "projects and agents whose webhooks were erased": lost.webhooks,
        "schedules whose rooms were erased": lost.schedules,
        "waiting runs that will fail": lost.runs,
    }
    said = [f"{what}: {count}" for what, count in counts.items() if count]
    return "; ".join(said) or "it opens all there is"
