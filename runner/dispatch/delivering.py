"""Delivers webhooks: in steps, so that whichever process is killed meanwhile, another one goes on.

What became of each attempt is noted in the record. A message that its receiver has acknowledged is not sent again.
"""

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
from loguru import logger
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from runner.dispatch.judging import Step, Try
from runner.dispatch.sending import Sender, headers
from runner.errors import UsageError
from runner.records.deliveries import Sent, add_test, due, note_attempt
from runner.records.record import Record
from runner.records.tables import Agent, Project, WebhookDelivery, utc_now
from runner.records.webhooks import ADDRESSES, Destination, Event, Kind, destination, destination_of, new_message_id

TIMEOUT_S = 15.0
PRE_TRIGGER_TIMEOUT_S = 30.0
"""How long a receiver may take to answer."""

AT_ONCE = 16
"""How many messages are sent at once in a process."""

OWN_ERROR_WAIT_S = 30.0
MAX_STEPS = 50
"""How often a delivery is gone about, where our own errors keep it from being noted."""

NOWHERE = "neither the agent nor the project names an address for this any more"
TOO_LATE = "it could not be sent while the runs waited; they went on without it"

MakeBody = Callable[[Session, WebhookDelivery], dict[str, Any]]
"""Returns what is told."""


@dataclass(frozen=True)
class _Message:
    to: Destination
    message_id: str
    idempotency_key: str
    body: bytes
    timeout_s: float

    async def send(self, sender: Sender) -> Sent:
        secret = None if self.to.secret is None else self.to.secret.get_secret_value()
        before = headers(secret, self.message_id, int(time.time()), self.body, self.idempotency_key)
        return await sender.send(self.to.url.get_secret_value(), before, self.body, timeout_s=self.timeout_s)


class Delivering:
    """Delivers what is told of results and schedules."""

    def __init__(self, record: Record, make_body: MakeBody, sender: Sender | None = None):
        self._database = record.database
        self._vault = record.vault
        self._make_body = make_body
        self.sender = sender or Sender(record.settings.server)
        self._at_once = anyio.CapacityLimiter(AT_ONCE)

    async def deliver(
        self, delivery_id: int, round: int, step: Step, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        """Deliver something in a round of it: again, after a while, as long as it does not arrive and is worth it.

        ``sleep`` waits for so many seconds: not again, if whoever began it is killed.
        """

        async def attempt(this: Try) -> dict[str, Any]:
            async with self._at_once:
                return {"wait_s": await self._attempt(delivery_id, round)}

        for _ in range(MAX_STEPS):
            wait_s: float | None = (await step("send", 1, attempt))["wait_s"]
            if wait_s is None:
                return
            await sleep(wait_s)
        logger.error("webhook {}: given up, what came of it could not be noted", delivery_id)

    async def _attempt(self, delivery_id: int, round: int) -> float | None:
        """Send something once, if it is still to be sent; return in how many seconds to try again, if at all."""
        try:
            read = partial(self._read, delivery_id=delivery_id, round=round)
            found = await self._database.browse(read, refuses=False)
            if found is None:
                return None
            message, shown = found
            if isinstance(message, str):
                sent = Sent(None, message, 0.0, again=False)
            else:
                sent = await message.send(self.sender)
            wait_s: float | None = None
            # Also when this process is to stop: what has arrived would be sent again.
            with anyio.CancelScope(shield=True):
                wait_s = await self._database.run(
                    lambda session: note_attempt(session, delivery_id, round, shown, sent)
                )
        except Exception as error:
            logger.opt(exception=True).warning("webhook {}: our own error ({})", delivery_id, type(error).__name__)
            return OWN_ERROR_WAIT_S
        said = logger.bind(delivery_id=delivery_id)
        if sent.arrived:
            said.info("webhook {}: delivered to {}", delivery_id, shown)
        else:
            what = "given up" if wait_s is None else f"tried again in {wait_s:.0f} s"
            said.warning("webhook {}: not delivered to {}: {}; {}", delivery_id, shown, sent.error, what)
        return wait_s

    def _read(self, session: Session, *, delivery_id: int, round: int) -> tuple[_Message | str, str] | None:
        """Return what is to be sent, or why it can't be; and what may be shown of where to."""
        row = due(session, delivery_id, round)
        if row is None or (row.result_id is None and row.firing_id is None):
            return None
        timeout_s = TIMEOUT_S
        if row.held_until is not None:
            left_s = (row.held_until - utc_now()).total_seconds()
            if left_s <= 0:
                return TOO_LATE, row.url
            timeout_s = min(PRE_TRIGGER_TIMEOUT_S, left_s)
        try:
            to = destination(session, self._vault, row)
        except UsageError as error:
            return str(error), row.url
        if to is None:
            return NOWHERE, row.url
        try:
            body = json.dumps(self._make_body(session, row), ensure_ascii=False).encode()
        except DBAPIError:
            raise
        except Exception as error:
            # The next time it would be the same.
            logger.opt(exception=True).error("webhook {}: its body can't be made", delivery_id)
            return f"our own error: {type(error).__name__}", to.shown
        key = f"{row.event.replace('.', '_')}:{row.result_id or row.firing_id}"
        return _Message(to, row.message_id, key, body, timeout_s), to.shown


async def send_test(
    record: Record, sender: Sender, project_id: int, agent_id: int | None, kind: Kind
) -> WebhookDelivery:
    """Send a sample, once and now, and return how it went. With an agent, to that one's own address.

    Raises:
        UsageError: The project or agent has no such address, or is not there.
    """

    def find(session: Session) -> Destination | None:
        row = session.get(Project, project_id) if agent_id is None else session.get(Agent, agent_id)
        if row is None and agent_id is None:
            raise UsageError(f"there is no project {project_id}")
        if row is None or (isinstance(row, Agent) and row.project_id != project_id):
            raise UsageError(f"there is no agent {agent_id} in project {project_id}")
        return destination_of(row, record.vault, kind)

    to = await record.database.look(find)
    if to is None:
        whose = f"project {project_id}" if agent_id is None else f"agent {agent_id}"
        raise UsageError(f"{whose} has no {ADDRESSES[kind]}")
    message = _Message(to, new_message_id(), f"webhook_test:{project_id}", _sample(kind), TIMEOUT_S)
    sent = await message.send(sender)
    return await record.database.run(
        lambda session: add_test(session, project_id, kind, to.shown, message.message_id, sent)
    )


def _sample(kind: Kind) -> bytes:
    text = "This is a test of the webhook."
    body = {"text": text} if kind is Kind.SLACK else {"event_type": Event.TEST.value, "data": {"message": text}}
    return json.dumps(body).encode()
