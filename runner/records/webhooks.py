"""Where webhooks go, which events are told, and what became of each: noted in the transaction it follows from.

A project says where its webhooks go. An agent may have others in their place. The whole addresses and the secret are
encrypted; what is shown of them stands beside.
"""

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, cast
from urllib.parse import urlsplit

from pydantic import SecretStr
from sqlalchemy import bindparam, case, func, select
from sqlalchemy.orm import Session

from runner.errors import UsageError
from runner.records.fields import TOGGLES
from runner.records.secrets import Vault
from runner.records.statuses import FiringState
from runner.records.tables import CRON_JOBS, FIRINGS, RESULTS, RUNS, Agent, Project, WebhookDelivery, utc_now
from runner.text import public_url

SLACK_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")

PRE_TRIGGER_HOLD = timedelta(seconds=150)
"""How long runs wait for ``result.pre_trigger`` at most: four attempts of 30 s, and what is between them."""


class Event(StrEnum):
    """What a webhook reports."""

    PRE_TRIGGER = "result.pre_trigger"
    """A result was launched; its runs wait for the answer."""
    COMPLETED = "result.completed"
    """All runs of a result have ended."""
    SCHEDULE_FAILED = "schedule.failed"
    """A schedule was due and launched nothing, so that there is no result to tell of."""
    TEST = "webhook.test"
    """A sample, sent by hand."""


class Kind(StrEnum):
    """What receives it: a server that reads webhooks, or a Slack channel."""

    WEBHOOK = "webhook"
    SLACK = "slack"


class DeliveryStatus(StrEnum):
    """How far a delivery is, and how it ended."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


ADDRESSES = {Kind.WEBHOOK: "webhook_url", Kind.SLACK: "slack_webhook_url"}
"""What the address of each kind is called."""

SECRET = "webhook_secret"  # noqa: S105 - a name

DELIVER_LATER = "deliver_later"
"""What in the ``info`` of a session sends a delivery once its transaction is committed."""

DeliverLater = Callable[[Session, int, int], None]
"""Sees to that: given the transaction, the delivery and its round."""


@dataclass(frozen=True)
class Destination:
    """Where something is sent: the whole address, what may be shown of it, and what it is signed with."""

    url: SecretStr
    shown: str
    secret: SecretStr | None


@dataclass(frozen=True)
class Endings:
    """How many runs of a result there are, passed, failed by the agent, and have an error: no call, or no verdict."""

    total: int
    passed: int
    failed: int
    errors: int


def write_webhooks(row: Project | Agent, vault: Vault, given: Mapping[str, Any]) -> None:
    """Put into a row what is given of its webhooks, by name; null erases.

    An address given as it is shown stays as it is.

    One that holds ``***`` and is not what is shown is refused: it was never a whole one.

    Raises:
        UsageError: There is a secret, and no address whose messages it would sign; or an address is not whole.
    """
    shown: dict[str, Any] = dict(row.webhooks or {})
    kept = _opened(row.webhook_secrets, vault)
    for kind, name in ADDRESSES.items():
        if name not in given or (given[name] is not None and given[name] == shown.get(name)):
            continue
        if str(given[name]).endswith("***"):
            raise UsageError(f"{name}: is not the whole address; give that, or what is shown now")
        kept[name] = given[name]
        shown[name] = None if given[name] is None else shown_address(given[name], kind)
    if SECRET in given:
        kept[SECRET] = given[SECRET]
    shown[SECRET] = kept.get(SECRET) is not None
    if shown[SECRET] and shown.get(ADDRESSES[Kind.WEBHOOK]) is None:
        raise UsageError("a webhook_secret signs what is sent to a webhook_url; give that too")
    shown |= {name: given[name] for name in TOGGLES if name in given}
    kept = {name: value for name, value in kept.items() if value is not None}
    row.webhooks = shown
    row.webhook_secrets = vault.seal(json.dumps(kept)) if kept else None


def erase_webhooks(row: Project | Agent) -> None:
    """Forget where the webhooks of a row go, and their secret. Which events are told stays."""
    row.webhooks = {name: told for name, told in (row.webhooks or {}).items() if name in TOGGLES}
    row.webhook_secrets = None


def is_slack(url: str) -> bool:
    """Return whether an address is an incoming webhook of Slack's own."""
    return (urlsplit(url).hostname or "") in SLACK_HOSTS


def shown_address(url: str, kind: Kind) -> str:
    """Return what may be shown of an address: of an incoming webhook of Slack the path is the secret."""
    shown = public_url(url)
    if kind is Kind.SLACK:
        parts = urlsplit(shown)
        return f"{parts.scheme}://{parts.netloc}/***"
    return f"{shown}?***" if urlsplit(url).query else shown


def toggles_of(webhooks: Mapping[str, Any] | None) -> dict[str, bool]:
    """Return which events a project wants to be told."""
    return {name: (webhooks or {}).get(name, default) for name, default in TOGGLES.items()}


def wants(toggles: Mapping[str, bool], endings: Endings, *, firing: FiringState | None = None) -> bool:
    """Return whether the end of a result is told.

    ``firing`` is what the firing came to of the schedule that launched it, None if none did: also runs that all
    passed can be worse than a baseline, or can't be compared with it.
    """
    happened = {
        "success": endings.passed == endings.total > 0 and firing in (None, FiringState.PASSED),
        "failed": endings.failed > 0 or firing is FiringState.FAILED,
        "error": endings.errors > 0 or firing is FiringState.INCONCLUSIVE,
    }
    of = "result" if firing is None else "cronjob"
    return any(toggles[f"notify_{of}_webhook_{what}"] for what, is_so in happened.items() if is_so)


def result_completed(session: Session, result_id: int, *, firing: FiringState | None = None) -> None:
    """Let it be told, in the transaction in which it ended, that a result is complete, where somebody wants to know.

    Of a schedule's result that is later than when its last run ends: once it is known what the firing came to.
    """
    row = session.execute(_OF_RESULT, {"of_result": result_id}).one()
    if row.is_cronjob and firing is None:
        return
    kinds = [kind for kind in Kind if _configured(row, kind)]
    if not kinds:
        return
    endings = Endings(*session.execute(_ENDINGS, {"of_result": result_id}).one())
    if not wants(toggles_of(row.project), endings, firing=firing):
        return
    for kind in kinds:
        _add(session, row, Event.COMPLETED, kind, result_id=row.id)


def schedule_failed(session: Session, firing_id: int) -> None:
    """Let it be told that a schedule was due and launched nothing, where somebody wants to know."""
    row = session.execute(_OF_FIRING, {"of_firing": firing_id}).one()
    if not toggles_of(row.project)["notify_cronjob_webhook_error"]:
        return
    for kind in Kind:
        if _configured(row, kind):
            _add(session, row, Event.SCHEDULE_FAILED, kind, firing_id=row.id)


def tells_anybody(session: Session, project_id: int, agent_id: int | None) -> bool:
    """Return whether there is anywhere to tell what becomes of an agent's results."""
    rows = [session.get(Project, project_id), None if agent_id is None else session.get(Agent, agent_id)]
    return any((row.webhooks or {}).get(name) for row in rows if row is not None for name in ADDRESSES.values())


def hold_for_webhook(session: Session, result_id: int, due_at: datetime | None) -> datetime | None:
    """Let a launch be told before its runs begin, where the project wants that.

    Return when the runs are to begin at the latest, ``due_at`` or later: before, once the receiver has answered.
    """
    row = session.execute(_OF_RESULT, {"of_result": result_id}).one()
    if not toggles_of(row.project)["notify_pre_run_webhook"] or not _configured(row, Kind.WEBHOOK):
        return due_at
    until = utc_now() + PRE_TRIGGER_HOLD
    _add(session, row, Event.PRE_TRIGGER, Kind.WEBHOOK, result_id=row.id, held_until=until, due_at=due_at)
    return until if due_at is None else max(until, due_at)


def destination(session: Session, vault: Vault, delivery: WebhookDelivery) -> Destination | None:
    """Return where what is told of a result, or of a firing without one, goes by now; None if nowhere.

    Raises:
        UsageError: The record's key is not the one that the addresses were encrypted with.
    """
    if delivery.firing_id is not None:
        row = session.execute(_OF_FIRING, {"of_firing": delivery.firing_id}).first()
    else:
        row = session.execute(_OF_RESULT, {"of_result": delivery.result_id}).first()
    if row is None:
        return None
    for shown, sealed in ((row.agent, row.agent_secrets), (row.project, row.project_secrets)):
        if found := _destination(shown, sealed, vault, Kind(delivery.kind)):
            return found
    return None


def destination_of(row: Project | Agent, vault: Vault, kind: Kind) -> Destination | None:
    """Return where a project, or an agent of its own, has something sent; None if nowhere."""
    return _destination(row.webhooks, row.webhook_secrets, vault, kind)


def new_message_id() -> str:
    """Return a ``webhook-id``."""
    return f"msg_{uuid.uuid4().hex}"


def begin(session: Session, row: WebhookDelivery) -> None:
    """Let a delivery be sent in another round."""
    row.round += 1
    row.next_attempt_at = utc_now()
    session.flush()
    later = cast(DeliverLater | None, session.info.get(DELIVER_LATER))
    if later is not None:
        later(session, row.id, row.round)


def _configured(row: Any, kind: Kind) -> str | None:
    name = ADDRESSES[kind]
    return (row.agent or {}).get(name) or (row.project or {}).get(name)


def _add(session: Session, of: Any, event: Event, kind: Kind, **more: Any) -> None:
    row = WebhookDelivery(
        project_id=of.project_id,
        event=event,
        kind=kind,
        message_id=new_message_id(),
        url=_configured(of, kind) or "",
        round=0,
        **more,
    )
    session.add(row)
    begin(session, row)


def _destination(
    shown: Mapping[str, Any] | None, sealed: bytes | None, vault: Vault, kind: Kind
) -> Destination | None:
    name = ADDRESSES[kind]
    at = (shown or {}).get(name)
    if at is None:
        return None
    kept = _opened(sealed, vault)
    secret = kept.get(SECRET) if kind is Kind.WEBHOOK else None
    return Destination(SecretStr(kept[name]), at, None if secret is None else SecretStr(secret))


def _opened(sealed: bytes | None, vault: Vault) -> dict[str, Any]:
    return {} if sealed is None else json.loads(vault.open(sealed))


_WEBHOOKS = (
    Agent.webhooks.label("agent"),
    Agent.webhook_secrets.label("agent_secrets"),
    Project.webhooks.label("project"),
    Project.webhook_secrets.label("project_secrets"),
)
_OF_RESULT = (
    select(RESULTS.c.id, RESULTS.c.project_id, RESULTS.c.is_cronjob, *_WEBHOOKS)
    .join(Project, Project.id == RESULTS.c.project_id)
    .outerjoin(Agent, Agent.id == RESULTS.c.agent_id)
    .where(RESULTS.c.id == bindparam("of_result"))
)
_OF_FIRING = (
    select(FIRINGS.c.id, CRON_JOBS.c.project_id, *_WEBHOOKS)
    .join(CRON_JOBS, CRON_JOBS.c.id == FIRINGS.c.job_id)
    .join(Project, Project.id == CRON_JOBS.c.project_id)
    .outerjoin(Agent, Agent.id == CRON_JOBS.c.agent_id)
    .where(FIRINGS.c.id == bindparam("of_firing"))
)
_ENDINGS = select(
    func.count(),
    func.count(case((RUNS.c.success.is_(True), 1))),
    func.count(case((RUNS.c.success.is_(False), 1))),
    func.count(case((RUNS.c.error_message != "", 1))),
).where(RUNS.c.result_id == bindparam("of_result"))
