"""The command that makes the database's tables."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.options import record_options
from runner.cli.record import run_on_database
from runner.cli.settings import server_settings

if TYPE_CHECKING:
    from runner.records.database import Database
    from runner.records.key_check import Lost


@click.command()
@click.option(
    "--new-secret-key",
    is_flag=True,
    help="Only if the secret key is lost; no rotation, and it can't be undone. Takes the key in server.secret_key, "
    "or in DATA_DIR/secret.key (made if there is none), and erases what it does not open: agents' credentials, "
    "addresses and secrets of webhooks, rooms of schedules. Waiting runs with a token fail. Stop the server and back "
    "up first.",
)
@record_options
def migrate(new_secret_key: bool, data_dir: Path | None, database_url: str | None, config: Path | None) -> None:
    """Create the tables of the server's database, or update them.

    There is no way back to an older version: back up first. `serve` does the same when it starts.
    """

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
            lost = await take_secret_key(database, vault)
            click.echo(f"{vault.source} is its secret key; {_in_words(lost)}")
        return 0

    run_on_database(work, data_dir, database_url, config)


def _in_words(lost: "Lost") -> str:
    counts = {
        "agents whose credentials were erased": lost.agents,
        "projects and agents whose webhooks were erased": lost.webhooks,
        "schedules whose rooms were erased": lost.schedules,
        "waiting runs that will fail": lost.runs,
    }
    said = [f"{what}: {count}" for what, count in counts.items() if count]
    return "; ".join(said) or "it opens all there is"
