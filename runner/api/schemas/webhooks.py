"""Webhooks: where they go, which events are told, and what became of each."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, SecretStr, StringConstraints

from runner.api.schemas.common import ResponseBody, Timestamp, of_row
from runner.dispatch.sending import MAX_URL_CHARACTERS, signing_key
from runner.records.tables import Agent, Project, WebhookDelivery
from runner.records.webhooks import DeliveryStatus, Kind
from runner.records.written import Id, WrittenBody, sendable

Address = Annotated[str, StringConstraints(min_length=1, max_length=MAX_URL_CHARACTERS, strip_whitespace=True)]


def _signs(secret: SecretStr) -> SecretStr:
    signing_key(sendable(secret).get_secret_value())
    return secret


class WebhookFields(WrittenBody):
    """Where webhooks go.

    Attributes:
        webhook_url: Where to, https; its host must be among ``server.allowed_webhooks``. Null: nowhere.
        webhook_secret: What they are signed with: ``whsec_`` and 24 to 64 bytes in base64, which only signs; or any
            text of 8 to 200 characters, which goes along in ``X-CEKURA-SECRET`` as well. Never given back.
        slack_webhook_url: Ours: an incoming webhook of Slack, or of what takes the same, that is told of results.
    """

    webhook_url: Address | None = None
    webhook_secret: Annotated[SecretStr, AfterValidator(_signs)] | None = None
    slack_webhook_url: Address | None = None

    def webhooks(self, *, whole: bool) -> dict[str, Any]:
        """Return what is given of webhooks, by its names; with ``whole`` the addresses also where they are not."""
        names = {"webhook_url", "slack_webhook_url"} if whole else set[str]()
        if whole and self.webhook_url is None:
            # Nothing is left that it would sign.
            names.add("webhook_secret")
        names |= self.model_fields_set & {*WebhookFields.model_fields}
        given = {name: getattr(self, name) for name in names}
        secret = given.get("webhook_secret")
        return given if secret is None else {**given, "webhook_secret": secret.get_secret_value()}


class WebhookConfiguration(ResponseBody):
    """Where webhooks go, without what is secret about it."""

    webhook_url: str | None
    webhook_secret_configured: bool
    slack_webhook_url: str | None


class TestBody(WrittenBody):
    """What sample is to be sent.

    Attributes:
        agent: The agent to whose own address it goes; null: to the project's.
        kind: ``webhook`` or ``slack``.
    """

    __test__ = False

    agent: Id | None = None
    kind: Annotated[Kind, Field(strict=False)] = Kind.WEBHOOK


class Try(ResponseBody):
    """An attempt to deliver a webhook."""

    at: Timestamp
    status_code: int | None
    error: str
    duration_ms: float


class Delivery(ResponseBody):
    """A webhook that is sent, or was.

    Attributes:
        result: The result it tells of; null where there is none.
        firing: The firing of a schedule that it tells of, where that launched nothing; else null.
        message_id: The ``webhook-id``.
        url: Where it was sent last, without what is secret.
        round: One more for each replay.
        attempts: How often it was sent in this round.
        status_code: What was answered last; null where nothing was.
        error: Why it did not arrive the last time; empty where it did.
        tries: The last attempts.
        next_attempt_at: When it is sent again.
    """

    id: int
    result: int | None
    firing: int | None
    event: str
    kind: Kind
    message_id: str
    url: str
    status: DeliveryStatus
    round: int
    attempts: int
    status_code: int | None
    error: str
    tries: list[Try]
    created_at: Timestamp
    next_attempt_at: Timestamp | None
    ended_at: Timestamp | None


def configuration_of(row: Project | Agent) -> dict[str, Any]:
    """Return the fields of :class:`WebhookConfiguration` of a project or an agent."""
    shown = row.webhooks or {}
    return {
        "webhook_url": shown.get("webhook_url"),
        "webhook_secret_configured": bool(shown.get("webhook_secret")),
        "slack_webhook_url": shown.get("slack_webhook_url"),
    }


def delivery(row: WebhookDelivery) -> Delivery:
    """Return a delivery as it is shown."""
    names = ("id", "event", "message_id", "url", "round", "attempts", "status_code", "error")
    return Delivery(
        **of_row(row, *names, "created_at", "next_attempt_at", "ended_at"),
        result=row.result_id,
        firing=row.firing_id,
        kind=Kind(row.kind),
        status=DeliveryStatus(row.status),
        tries=[Try.model_validate(one) for one in row.tries],
    )
