"""The command that makes the database's tables."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.options import record_options
from runner.cli.record import run_on_database
from runner.cli.settings import server_settings

if TYPE_CHECKING:
    from runner.records.database import Database


@click.command()
@click.option(
    "--new-secret-key",
    is_flag=True,
    help="Encrypt with another key from now on: erase the agents' credentials that it does not open.",
)
@record_options
def migrate(new_secret_key: bool, data_dir: Path | None, database_url: str | None, config: Path | None) -> None:
    """Create the tables of the server's database, or update them."""

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

    run_on_database(work, data_dir, database_url, config)
