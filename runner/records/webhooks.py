"""Where webhooks go, which events are told, and what became of each: noted in the transaction it follows from.

A project says where its webhooks go. An agent may have others in their place. The whole addresses and the secret are
encrypted; what is shown of them stands beside.
"""

import json
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, cast
from urllib.parse import urlsplit

from pydantic import SecretStr
from sqlalchemy import Select, bindparam, case, delete, func, select, update
from sqlalchemy.orm import Session

from runner.errors import UsageError
from runner.records.changes import work_changed
from runner.records.secrets import Vault
from runner.records.tables import RESULTS, RUNS, Agent, Project, ResultRow, RunRow, WebhookDelivery, utc_now
from runner.text import public_url
from runner.webhooks.sending import Sent
from runner.webhooks.slack import SLACK_HOSTS

RETRY_WAITS_S = (5, 15, 30, 60, 120, 300, 900, 1_800, 3_600, 7_200, 14_400, 28_800)
"""How long after each attempt the next one is made: 13 in all, over 16 hours."""

PRE_TRIGGER_WAITS_S = (1, 2, 4)
"""The same, while runs wait for it."""

PRE_TRIGGER_HOLD = timedelta(seconds=150)
"""How long runs wait for ``result.pre_trigger`` at most: four attempts of 30 s, and what is between them."""

OVERDUE = timedelta(hours=1)
"""What should have been sent so long ago has been left: it is taken up anew."""

MAX_TRIES_KEPT = 20
_JITTER = 0.1
_AT_ONCE = 500


class Event(StrEnum):
    """What is told."""

    PRE_TRIGGER = "result.pre_trigger"
    """A result was launched; its runs wait for the answer."""
    COMPLETED = "result.completed"
    """All runs of a result have ended."""
    TEST = "webhook.test"
    """A sample, sent by hand."""


class Kind(StrEnum):
    """Where to it is told."""

    WEBHOOK = "webhook"
    SLACK = "slack"


class DeliveryStatus(StrEnum):
    """What became of it."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


ADDRESSES = {Kind.WEBHOOK: "webhook_url", Kind.SLACK: "slack_webhook_url"}
"""What the address of each kind is called."""

SECRET = "webhook_secret"  # noqa: S105 - a name

TOGGLES = {
    "notify_pre_run_webhook": False,
    "notify_result_webhook_success": True,
    "notify_result_webhook_failed": True,
    "notify_result_webhook_error": True,
    "notify_cronjob_webhook_success": True,
    "notify_cronjob_webhook_failed": True,
    "notify_cronjob_webhook_error": True,
}
"""What of a project says which events are told, with the defaults."""

DELIVER_LATER = "deliver_later"
"""What in the ``info`` of a session sends a delivery once its transaction is committed."""

DeliverLater = Callable[[Session, int, int], None]
"""Sees to that: given the transaction, the delivery and its round."""


@dataclass(frozen=True)
class Destination:
    """Where something is sent.

    Attributes:
        url: The whole address.
        shown: What may be shown of it.
        secret: What it is signed with.
    """

    url: SecretStr
    shown: str
    secret: SecretStr | None


@dataclass(frozen=True)
class Endings:
    """How the runs of a result ended.

    Attributes:
        total: How many runs there are.
        passed: Those that passed.
        failed: Those in which the agent failed.
        errors: Those with an error message: without a call, or without a verdict.
    """

    total: int
    passed: int
    failed: int
    errors: int


def write_webhooks(row: Project | Agent, vault: Vault, given: Mapping[str, Any]) -> None:
    """Put into a row what is given of its webhooks. An address that is given as it is shown stays as it is.

    One that holds ``***`` and is not what is shown is refused: it was never a whole one.

    Args:
        row: The project or agent.
        vault: Encrypts the addresses and the secret.
        given: By their names, as the API has them; null erases.

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


def wants(toggles: Mapping[str, bool], endings: Endings, *, is_cronjob: bool, notify_on: str | None = None) -> bool:
    """Return whether the end of a result is told.

    Args:
        toggles: As :func:`toggles_of` returns them.
        endings: How its runs ended.
        is_cronjob: Whether a schedule launched it.
        notify_on: What the schedule says: ``never``, ``success``, ``failure`` or ``both``; None: nothing.
    """
    passed = endings.passed == endings.total > 0
    if notify_on not in (None, "both", "success" if passed else "failure"):
        return False
    of = "cronjob" if is_cronjob else "result"
    happened = {"success": passed, "failed": endings.failed > 0, "error": endings.errors > 0}
    return any(toggles[f"notify_{of}_webhook_{what}"] for what, is_so in happened.items() if is_so)


def result_completed(session: Session, result_id: int, *, notify_on: str | None = None) -> None:
    """Let it be told that a result is complete, where somebody wants to know.

    Args:
        session: The transaction in which its last run ended.
        result_id: The result.
        notify_on: What the schedule that launched it says, if one did.
    """
    row = session.execute(_OF_RESULT, {"of_result": result_id}).one()
    kinds = [kind for kind in Kind if _configured(row, kind)]
    if not kinds:
        return
    endings = Endings(*session.execute(_ENDINGS, {"of_result": result_id}).one())
    if not wants(toggles_of(row.project), endings, is_cronjob=row.is_cronjob, notify_on=notify_on):
        return
    for kind in kinds:
        _add(session, row, Event.COMPLETED, kind)


def hold_for_webhook(session: Session, result_id: int, due_at: datetime | None) -> datetime | None:
    """Let a launch be told before its runs begin, where the project wants that.

    Args:
        session: The transaction that launches.
        result_id: The result.
        due_at: When its runs are to begin; None at once.

    Returns:
        When the runs are to begin at the latest: before, once the receiver has answered.
    """
    row = session.execute(_OF_RESULT, {"of_result": result_id}).one()
    if not toggles_of(row.project)["notify_pre_run_webhook"] or not _configured(row, Kind.WEBHOOK):
        return due_at
    until = utc_now() + PRE_TRIGGER_HOLD
    _add(session, row, Event.PRE_TRIGGER, Kind.WEBHOOK, held_until=until, due_at=due_at)
    return until if due_at is None else max(until, due_at)


def due(session: Session, delivery_id: int, round: int) -> WebhookDelivery | None:
    """Return a delivery that is still to be made in a round."""
    row = session.get(WebhookDelivery, delivery_id)
    return row if row is not None and row.status == DeliveryStatus.PENDING.value and row.round == round else None


def destination(session: Session, vault: Vault, result_id: int, kind: Kind) -> Destination | None:
    """Return where what is told of a result goes by now; None if nowhere.

    Raises:
        UsageError: The record's key is not the one that the addresses were encrypted with.
    """
    row = session.execute(_OF_RESULT, {"of_result": result_id}).first()
    if row is None:
        return None
    for shown, sealed in ((row.agent, row.agent_secrets), (row.project, row.project_secrets)):
        if found := _destination(shown, sealed, vault, kind):
            return found
    return None


def destination_of(row: Project | Agent, vault: Vault, kind: Kind) -> Destination | None:
    """Return where a project, or an agent of its own, has something sent; None if nowhere."""
    return _destination(row.webhooks, row.webhook_secrets, vault, kind)


def note_attempt(session: Session, delivery_id: int, round: int, url: str, sent: Sent) -> float | None:
    """Note what came of an attempt to deliver something; once it is over, let runs go on that waited for it.

    Args:
        session: A transaction.
        delivery_id: The delivery.
        round: The round that the attempt was of.
        url: What may be shown of where it was sent.
        sent: What came of it.

    Returns:
        In how many seconds it is to be tried again; None if it is not.
    """
    row = session.get(WebhookDelivery, delivery_id, with_for_update=True)
    if row is None or row.round != round or row.status != DeliveryStatus.PENDING.value:
        return None
    now = utc_now()
    row.attempts += 1
    row.url, row.status_code, row.error = url, sent.status_code, sent.error
    tried = {
        "at": now.isoformat(),
        "status_code": sent.status_code,
        "error": sent.error,
        "duration_ms": sent.duration_ms,
    }
    row.tries = [*row.tries, tried][-MAX_TRIES_KEPT:]
    wait_s = None if sent.arrived or not sent.again else _wait_s(row, now)
    if wait_s is not None:
        row.next_attempt_at = now + timedelta(seconds=wait_s)
        return wait_s
    row.status = (DeliveryStatus.DELIVERED if sent.arrived else DeliveryStatus.FAILED).value
    row.next_attempt_at, row.ended_at = None, now
    if row.event == Event.PRE_TRIGGER.value and row.result_id is not None:
        _let_go(session, row, row.result_id, now)
    return None


def add_test(session: Session, project_id: int, kind: Kind, url: str, message_id: str, sent: Sent) -> WebhookDelivery:
    """Note that a sample was sent."""
    row = WebhookDelivery(
        project_id=project_id,
        event=Event.TEST.value,
        kind=kind.value,
        message_id=message_id,
        url=url,
        status=DeliveryStatus.PENDING.value,
        round=1,
        attempts=0,
        error="",
        tries=[],
    )
    session.add(row)
    session.flush()
    note_attempt(session, row.id, 1, url, Sent(sent.status_code, sent.error, sent.duration_ms, again=False))
    return row


def new_message_id() -> str:
    """Return a ``webhook-id``."""
    return f"msg_{uuid.uuid4().hex}"


def replay(session: Session, delivery_id: int, project_id: int | None = None) -> WebhookDelivery:
    """Let a delivery be sent again: to where its result's webhooks go by now, and with the same ``webhook-id``.

    Args:
        session: A transaction.
        delivery_id: The delivery.
        project_id: The project it has to be of; None for any.

    Raises:
        UsageError: It is not there, is still being sent, or can't be sent again.
    """
    row = session.get(WebhookDelivery, delivery_id, with_for_update=True)
    if row is None or project_id not in (None, row.project_id):
        raise UsageError(f"there is no delivery {delivery_id}")
    if row.event != Event.COMPLETED.value:
        raise UsageError(f"delivery {delivery_id}: only {Event.COMPLETED.value} can be sent again, not {row.event}")
    if row.status == DeliveryStatus.PENDING.value:
        raise UsageError(f"delivery {delivery_id}: is still being sent")
    row.status, row.attempts = DeliveryStatus.PENDING.value, 0
    row.ended_at = None
    _begin(session, row)
    return row


def take_up_overdue(session: Session) -> int:
    """Let deliveries be sent that should have been long ago: whoever began them left them. Return how many."""
    overdue = select(WebhookDelivery).where(
        WebhookDelivery.status == DeliveryStatus.PENDING.value,
        WebhookDelivery.next_attempt_at < utc_now() - OVERDUE,
    )
    rows = session.scalars(overdue.order_by(WebhookDelivery.id).limit(_AT_ONCE).with_for_update()).all()
    for row in rows:
        _begin(session, row)
    return len(rows)


def purge_deliveries(session: Session, *, older_than: datetime) -> int:
    """Delete what is known of deliveries that ended before a time; return how many, up to some hundred at once."""
    old = (
        select(WebhookDelivery.id)
        .where(WebhookDelivery.status != DeliveryStatus.PENDING.value, WebhookDelivery.ended_at < older_than)
        .order_by(WebhookDelivery.id)
        .limit(_AT_ONCE)
    )
    ids = session.scalars(old).all()
    session.execute(delete(WebhookDelivery).where(WebhookDelivery.id.in_(ids)))
    return len(ids)


def deliveries(project_id: int | None = None, result_id: int | None = None) -> Select[WebhookDelivery]:
    """Return what selects deliveries, the newest first.

    Args:
        project_id: Of one project; None of all.
        result_id: Of one result; None of all.
    """
    statement = select(WebhookDelivery).order_by(WebhookDelivery.id.desc())
    if project_id is not None:
        statement = statement.where(WebhookDelivery.project_id == project_id)
    return statement if result_id is None else statement.where(WebhookDelivery.result_id == result_id)


def _configured(row: Any, kind: Kind) -> str | None:
    name = ADDRESSES[kind]
    return (row.agent or {}).get(name) or (row.project or {}).get(name)


def _add(session: Session, of: Any, event: Event, kind: Kind, **more: Any) -> None:
    row = WebhookDelivery(
        project_id=of.project_id,
        result_id=of.id,
        event=event.value,
        kind=kind.value,
        message_id=new_message_id(),
        url=_configured(of, kind) or "",
        status=DeliveryStatus.PENDING.value,
        round=0,
        attempts=0,
        error="",
        tries=[],
        **more,
    )
    session.add(row)
    _begin(session, row)


def _begin(session: Session, row: WebhookDelivery) -> None:
    """Let a delivery be sent in another round."""
    row.round += 1
    row.next_attempt_at = utc_now()
    session.flush()
    later = cast(DeliverLater | None, session.info.get(DELIVER_LATER))
    if later is not None:
        later(session, row.id, row.round)


def _wait_s(row: WebhookDelivery, now: datetime) -> float | None:
    waits_s: Sequence[int] = RETRY_WAITS_S if row.held_until is None else PRE_TRIGGER_WAITS_S
    if row.attempts > len(waits_s):
        return None
    # Not all at once, when a receiver is back that many wait for.
    wait_s = waits_s[row.attempts - 1] * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret
    if row.held_until is not None and now + timedelta(seconds=wait_s) >= row.held_until:
        return None
    return wait_s


def _let_go(session: Session, row: WebhookDelivery, result_id: int, now: datetime) -> None:
    """Let runs begin that waited for a delivery. Their result is locked first, as whoever locks both does."""
    session.execute(select(ResultRow.id).where(ResultRow.id == result_id).with_for_update()).all()
    held = RunRow.result_id == result_id, RunRow.not_before >= row.held_until, RunRow.ended_at.is_(None)
    due_at = now if row.due_at is None else max(now, row.due_at)
    session.execute(
        update(RunRow)
        .where(*held)
        .values(not_before=due_at, updated_at=RunRow.updated_at)
        .execution_options(synchronize_session=False)
    )
    work_changed(session)


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


_OF_RESULT = (
    select(
        RESULTS.c.id,
        RESULTS.c.project_id,
        RESULTS.c.is_cronjob,
        Agent.webhooks.label("agent"),
        Agent.webhook_secrets.label("agent_secrets"),
        Project.webhooks.label("project"),
        Project.webhook_secrets.label("project_secrets"),
    )
    .join(Project, Project.id == RESULTS.c.project_id)
    .outerjoin(Agent, Agent.id == RESULTS.c.agent_id)
    .where(RESULTS.c.id == bindparam("of_result"))
)
_ENDINGS = select(
    func.count(),
    func.count(case((RUNS.c.success.is_(True), 1))),
    func.count(case((RUNS.c.success.is_(False), 1))),
    func.count(case((RUNS.c.error_message != "", 1))),
).where(RUNS.c.result_id == bindparam("of_result"))
