"""Webhooks: samples, what was sent, and sending it again."""

from typing import Any

from runner.api.auth import AppServices, ProjectId
from runner.api.errors import BadRequest, NotFound, refusals
from runner.api.paging import Page, PageAsked
from runner.api.routing import CompatRouter
from runner.api.schemas import webhooks as schemas
from runner.api.schemas.common import PathId, QueryId
from runner.api.services import Services
from runner.dispatch.delivering import send_test
from runner.errors import UsageError
from runner.hosts import HostRefused
from runner.records import deliveries
from runner.records import webhooks as records
from runner.records.record import Record
from runner.records.tables import Agent, Project, WebhookDelivery

router = CompatRouter("/user/v1", tags=["webhooks"])


@router.post("/projects/{id}/test-webhook/", responses=refusals(404))
async def test_webhook(
    services: AppServices, project: ProjectId, id: PathId, body: schemas.TestBody | None = None
) -> schemas.Delivery:
    """Send a sample, once and now, and say how it went: signed as any other."""
    if id != project:
        raise NotFound
    asked = body or schemas.TestBody()
    try:
        return schemas.delivery(
            await send_test(services, services.delivering.sender, project, asked.agent, asked.kind)
        )
    except UsageError as error:
        raise BadRequest(
            {"agent" if asked.agent is not None else records.ADDRESSES[asked.kind]: [str(error)]}
        ) from None


@router.get("/webhook-deliveries/", responses=refusals(404))
async def list_deliveries(
    services: AppServices, project: ProjectId, paging: PageAsked, result_id: QueryId = None
) -> Page[schemas.Delivery]:
    """List the webhooks that were sent, or are: the newest first. They are forgotten after `webhook_log_days`."""
    async with services.database.reading() as session:
        rows, count = await paging.rows(session, deliveries.deliveries(project, result_id))
    return paging.page_of([schemas.delivery(row) for row in rows], count)


@router.get("/webhook-deliveries/{id}/", responses=refusals(404))
async def get_delivery(services: AppServices, project: ProjectId, id: PathId) -> schemas.Delivery:
    """Show a webhook that was sent, or is."""
    async with services.database.reading() as session:
        row = await session.get(WebhookDelivery, id)
    if row is None or row.project_id != project:
        raise NotFound
    return schemas.delivery(row)


@router.post("/webhook-deliveries/{id}/replay/", responses=refusals(404))
async def replay_delivery(services: AppServices, project: ProjectId, id: PathId) -> schemas.Delivery:
    """Send a webhook again: to where it would go now, with the same `webhook-id`."""
    await get_delivery(services, project, id)
    try:
        row = await services.database.run(lambda session: deliveries.replay(session, id, project))
    except UsageError as error:
        raise BadRequest({"status": [str(error)]}) from None
    return schemas.delivery(row)


def fill_webhooks(row: Agent | Project, given: dict[str, Any], record: Record) -> None:
    """Put what is given of webhooks into a row; refuse what can't be."""
    try:
        records.write_webhooks(row, record.vault, given)
    except UsageError as error:
        raise BadRequest({"webhook_url": [str(error)]}) from None


async def check_addresses(services: Services, body: schemas.WebhookFields) -> None:
    """Refuse addresses of webhooks that nothing may be sent to."""
    errors: dict[str, list[str]] = {}
    for name in records.ADDRESSES.values():
        url: str | None = getattr(body, name)
        # What was shown is sent back as it is, and stays.
        if url is None or url.endswith("***"):
            continue
        try:
            await services.delivering.sender.check(url)
        except (UsageError, HostRefused) as error:
            errors[name] = [str(error)]
    if body.webhook_url is not None and records.is_slack(body.webhook_url):
        errors["webhook_url"] = [
            "This is an incoming webhook of Slack, which takes no other messages; give it as slack_webhook_url."
        ]
    if errors:
        raise BadRequest(errors)
