"""The commands that show which webhooks were sent, and send them again."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.options import record_options
from runner.cli.record import delivering_later, run_on_record
from runner.cli.settings import server_settings
from runner.errors import USAGE_EXIT_CODE
from runner.text import one_line

if TYPE_CHECKING:
    from runner.records.database import Database
    from runner.records.tables import WebhookDelivery


@click.group()
def webhooks() -> None:
    """Show which webhooks were sent, send them again, send a sample."""


@webhooks.command("list")
@click.option("--project", type=click.IntRange(1), help="Only those of this project.")
@click.option("--result", "result_id", type=click.IntRange(1), help="Only those of this result.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many, at most.")
@record_options
def list_(
    project: int | None,
    result_id: int | None,
    limit: int,
    data_dir: Path | None,
    database_url: str | None,
    config: Path | None,
) -> None:
    """Print the webhooks that were sent, newest first: id, time, status, attempts, event, where to, last error."""

    async def work(database: "Database") -> int:
        from runner.records.deliveries import deliveries

        async with database.reading() as session:
            for row in await session.scalars(deliveries(project, result_id).limit(limit)):
                click.echo(_line(row))
        return 0

    run_on_record(work, data_dir, database_url, config)


@webhooks.command("replay")
@click.argument("delivery", metavar="ID", type=click.IntRange(1))
@record_options
def replay(delivery: int, data_dir: Path | None, database_url: str | None, config: Path | None) -> None:
    """Let a webhook be sent again, with the same webhook-id. A running server sends it.

    ID is the number that `webhooks list` shows first.
    """

    async def work(database: "Database") -> int:
        from runner.records import deliveries

        async with delivering_later(database, server_settings(config, data_dir, database_url)):
            await database.run(lambda session: deliveries.replay(session, delivery))
        click.echo(f"webhook {delivery} is sent again once a server runs")
        return 0

    run_on_record(work, data_dir, database_url, config)


@webhooks.command("test")
@click.option("--project", type=click.IntRange(1), default=1, show_default=True, help="Whose address.")
@click.option("--agent", type=click.IntRange(1), help="Send it to this agent's own address.")
@click.option("--slack", is_flag=True, help="Send it to the slack_webhook_url.")
@record_options
def test(
    project: int,
    agent: int | None,
    slack: bool,
    data_dir: Path | None,
    database_url: str | None,
    config: Path | None,
) -> None:
    """Send a sample from here, once, and print how it went. A receiver on this machine is allowed.

    Exit codes: 0 the receiver has it, 2 it does not.
    """

    async def work(database: "Database") -> int:
        from runner.dispatch.delivering import send_test
        from runner.dispatch.sending import Sender
        from runner.records.record import Record
        from runner.records.secrets import open_vault
        from runner.records.store import open_store
        from runner.records.webhooks import DeliveryStatus, Kind

        settings = server_settings(config, data_dir, database_url)
        record = Record(settings, database, open_vault(settings.server), open_store(settings.server))
        sender = Sender(record.settings.server.model_copy(update={"allow_loopback": True}))
        row = await send_test(record, sender, project, agent, Kind.SLACK if slack else Kind.WEBHOOK)
        click.echo(_line(row))
        return 0 if row.status == DeliveryStatus.DELIVERED.value else USAGE_EXIT_CODE

    run_on_record(work, data_dir, database_url, config)


def _line(row: "WebhookDelivery") -> str:
    of = "" if row.result_id is None else f"  result {row.result_id}"
    of += "" if row.firing_id is None else f"  firing {row.firing_id}"
    attempts = "1 attempt" if row.attempts == 1 else f"{row.attempts} attempts"
    error = f"  {one_line(row.error)}" if row.error else ""
    return (
        f"{row.id:>4}  {row.created_at:%Y-%m-%d %H:%M}  {row.status:<9}  {attempts:<11}  {row.event}{of}  "
        f"{one_line(row.url)}{error}"
    )
