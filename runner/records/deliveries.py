"""What becomes of webhooks: each attempt to deliver one, sending it again, and forgetting it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Select, delete, select, update
from sqlalchemy.orm import Session

from runner.errors import UsageError
from runner.records.changes import work_changed
from runner.records.tables import ResultRow, RunRow, WebhookDelivery, utc_now
from runner.records.webhooks import DeliveryStatus, Event, Kind, begin

RETRY_WAITS_S = (5, 15, 30, 60, 120, 300, 900, 1_800, 3_600, 7_200, 14_400, 28_800)
"""How long after each attempt the next one is made: 13 in all, over 16 hours."""

PRE_TRIGGER_WAITS_S = (1, 2, 4)
"""The same, while runs wait for it."""

OVERDUE = timedelta(hours=1)
"""What should have been sent so long ago has been left: it is taken up anew."""

REPLAYED = (Event.COMPLETED, Event.SCHEDULE_FAILED)
"""What can be sent again by hand. Nobody waits any more for what comes before a launch."""

MAX_TRIES_KEPT = 20
_JITTER = 0.1
_AT_ONCE = 500


@dataclass(frozen=True)
class Sent:
    """What came of sending a message once: the HTTP status, if one was answered; and why it did not arrive, if so."""

    status_code: int | None
    error: str
    duration_ms: float
    again: bool = True
    """Whether it is worth trying again."""

    @property
    def arrived(self) -> bool:
        return not self.error


def due(session: Session, delivery_id: int, round: int) -> WebhookDelivery | None:
    """Return a delivery that is still to be made in a round."""
    row = session.get(WebhookDelivery, delivery_id)
    return row if row is not None and row.status == DeliveryStatus.PENDING and row.round == round else None


def note_attempt(session: Session, delivery_id: int, round: int, url: str, sent: Sent) -> float | None:
    """Note what came of an attempt to deliver something; once it is over, let runs go on that waited for it.

    Return in how many seconds it is to be tried again; None if it is not. ``url`` is what may be shown of where it
    was sent.
    """
    row = session.get(WebhookDelivery, delivery_id, with_for_update=True)
    if row is None or row.round != round or row.status != DeliveryStatus.PENDING:
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
    if row.event == Event.PRE_TRIGGER and row.result_id is not None:
        _let_go(session, row, row.result_id, now)
    return None


def add_test(session: Session, project_id: int, kind: Kind, url: str, message_id: str, sent: Sent) -> WebhookDelivery:
    """Note that a sample was sent."""
    row = WebhookDelivery(
        project_id=project_id,
        event=Event.TEST,
        kind=kind,
        message_id=message_id,
        url=url,
    )
    session.add(row)
    session.flush()
    note_attempt(session, row.id, 1, url, Sent(sent.status_code, sent.error, sent.duration_ms, again=False))
    return row


def replay(session: Session, delivery_id: int, project_id: int | None = None) -> WebhookDelivery:
    """Let a delivery be sent again: to where such webhooks go by now, and with the same ``webhook-id``.

    Raises:
        UsageError: It is not there, or not of the project, is still being sent, or can't be sent again.
    """
    row = session.get(WebhookDelivery, delivery_id, with_for_update=True)
    if row is None or project_id not in (None, row.project_id):
        raise UsageError(f"there is no delivery {delivery_id}")
    if row.event not in REPLAYED:
        raise UsageError(f"delivery {delivery_id}: only {' and '.join(REPLAYED)} can be sent again, not {row.event}")
    if row.status == DeliveryStatus.PENDING:
        raise UsageError(f"delivery {delivery_id}: is still being sent")
    row.status, row.attempts = DeliveryStatus.PENDING, 0
    row.ended_at = None
    begin(session, row)
    return row


def take_up_overdue(session: Session) -> int:
    """Let deliveries be sent that should have been long ago: whoever began them left them. Return how many."""
    overdue = select(WebhookDelivery).where(
        WebhookDelivery.status == DeliveryStatus.PENDING,
        WebhookDelivery.next_attempt_at < utc_now() - OVERDUE,
    )
    rows = session.scalars(overdue.order_by(WebhookDelivery.id).limit(_AT_ONCE).with_for_update()).all()
    for row in rows:
        begin(session, row)
    return len(rows)


def purge_deliveries(session: Session, *, older_than: datetime) -> int:
    """Delete what is known of deliveries that ended before a time; return how many, up to some hundred at once."""
    old = (
        select(WebhookDelivery.id)
        .where(WebhookDelivery.status != DeliveryStatus.PENDING, WebhookDelivery.ended_at < older_than)
        .order_by(WebhookDelivery.id)
        .limit(_AT_ONCE)
    )
    ids = session.scalars(old).all()
    session.execute(delete(WebhookDelivery).where(WebhookDelivery.id.in_(ids)))
    return len(ids)


def deliveries(project_id: int | None = None, result_id: int | None = None) -> Select[WebhookDelivery]:
    """Return what selects deliveries, the newest first: of one project or result, or of all."""
    statement = select(WebhookDelivery).order_by(WebhookDelivery.id.desc())
    if project_id is not None:
        statement = statement.where(WebhookDelivery.project_id == project_id)
    return statement if result_id is None else statement.where(WebhookDelivery.result_id == result_id)


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
