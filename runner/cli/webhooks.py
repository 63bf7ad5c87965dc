"""The commands that show which webhooks were sent, and send them again."""

from typing import TYPE_CHECKING

import click

from runner.cli.running import delivering_later, on_record
from runner.errors import USAGE_EXIT_CODE
from runner.text import one_line

if TYPE_CHECKING:
    from runner.records.database import Database
    from runner.records.tables import WebhookDelivery
    from runner.settings import Settings


@click.group()
def webhooks() -> None:
    """Show which webhooks were sent, send them again, send a sample."""


@webhooks.command("list")
@click.option("--project", type=click.IntRange(1), help="Only those of this project.")
@click.option("--result", "result_id", type=click.IntRange(1), help="Only those of this result.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many, at most.")
@on_record
async def list_(database: "Database", _: object, project: int | None, result_id: int | None, limit: int) -> None:
    """Print the webhooks that were sent, newest first: id, time, status, attempts, event, where to, last error."""
    from runner.records.deliveries import deliveries

    async with database.reading() as session:
        for row in await session.scalars(deliveries(project, result_id).limit(limit)):
            click.echo(_line(row))


@webhooks.command("replay")
@click.argument("delivery", metavar="ID", type=click.IntRange(1))
@on_record
async def replay(database: "Database", settings: "Settings", delivery: int) -> None:
    """Let a webhook be sent again, with the same webhook-id. A running server sends it.

    ID is the number that `webhooks list` shows first.
    """
    from runner.records import deliveries

    async with delivering_later(database, settings):
        await database.run(lambda session: deliveries.replay(session, delivery))
    click.echo(f"webhook {delivery} is sent again once a server runs")


@webhooks.command("test")
@click.option("--project", type=click.IntRange(1), default=1, show_default=True, help="Whose address.")
@click.option("--agent", type=click.IntRange(1), help="Send it to this agent's own address.")
@click.option("--slack", is_flag=True, help="Send it to the slack_webhook_url.")
@on_record
async def test(database: "Database", settings: "Settings", project: int, agent: int | None, slack: bool) -> int:
    """Send a sample from here, once, and print how it went. A receiver on this machine is allowed.

    Exit codes: 0 the receiver has it, 2 it does not.
    """
    from runner.dispatch.delivering import send_test
    from runner.dispatch.sending import Sender
    from runner.records.record import Record
    from runner.records.secrets import open_vault
    from runner.records.store import open_store
    from runner.records.webhooks import DeliveryStatus, Kind

    record = Record(settings, database, open_vault(settings.server), open_store(settings.server))
    sender = Sender(record.settings.server.model_copy(update={"allow_loopback": True}))
    row = await send_test(record, sender, project, agent, Kind.SLACK if slack else Kind.WEBHOOK)
    click.echo(_line(row))
    return 0 if row.status == DeliveryStatus.DELIVERED.value else USAGE_EXIT_CODE


def _line(row: "WebhookDelivery") -> str:
    of = "" if row.result_id is None else f"  result {row.result_id}"
    of += "" if row.firing_id is None else f"  firing {row.firing_id}"
    attempts = "1 attempt" if row.attempts == 1 else f"{row.attempts} attempts"
    error = f"  {one_line(row.error)}" if row.error else ""
    return (
        f"{row.id:>4}  {row.created_at:%Y-%m-%d %H:%M}  {row.status:<9}  {attempts:<11}  {row.event}{of}  "
        f"{one_line(row.url)}{error}"
    )
