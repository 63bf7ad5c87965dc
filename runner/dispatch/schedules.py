"""Fires schedules when they are due, in every process of the API: whichever comes first.

What must happen once happens in one transaction (see :mod:`runner.records.firings`), so there is nothing to take over
from a process that is killed: the next one to look finds it as it was.
"""

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from functools import partial

import anyio
from sqlalchemy.orm import Session

from runner.dispatch.trying import Trying
from runner.records import firings
from runner.records.conclusions import conclude
from runner.records.leases import clock
from runner.records.record import Record

LOOK_INTERVAL_S = 1.0
"""How often to look for what is due."""


class Schedules:
    """Fires schedules, and concludes what they made, from :meth:`run` on; by the record's clock."""

    def __init__(self, record: Record, now: Callable[[Session], datetime] = clock):
        self._record = record
        self._now = now

    async def run(self) -> None:
        """Look after schedules until cancelled. What goes wrong is logged, and tried again."""
        async with anyio.create_task_group() as tasks:
            # Side by side: a comparison takes its time, and what is due does not wait for it.
            tasks.start_soon(_again_and_again, "no schedule fires", self.fire_due)
            tasks.start_soon(_again_and_again, "no schedule is concluded", self.conclude_ended)

    async def look(self) -> None:
        """Do all that there is to do now. What goes wrong first is raised."""
        await self.fire_due()
        await self.conclude_ended()

    async def fire_due(self) -> None:
        """Fire what is due, and what waits for its turn. What goes wrong first is raised once the rest is done."""
        record = self._record

        def read(session: Session) -> tuple[datetime, Sequence[int], Sequence[int]]:
            now = self._now(session)
            return now, firings.due(session, now), firings.queued(session)

        now, due, queued = await record.database.look(read)
        await _do_all(
            [
                *(partial(firings.fire_queued, record, firing_id) for firing_id in queued),
                # Each process in an order of its own: so they seldom do the same at the same moment, and in vain.
                *(partial(firings.fire, record, job_id, now) for job_id in random.sample(due, len(due))),
            ]
        )

    async def conclude_ended(self) -> None:
        """Write down what firings came to whose results have ended. What goes wrong is raised likewise."""
        ended = await self._record.database.look(firings.ended)
        await _do_all(partial(conclude, self._record, firing_id) for firing_id in ended)


async def _again_and_again(complaint: str, work: Callable[[], Awaitable[None]]) -> None:
    trying = Trying(complaint)
    while True:
        await trying.succeeds(work)
        await anyio.sleep(LOOK_INTERVAL_S)


async def _do_all(to_do: Iterable[Callable[[], Awaitable[None]]]) -> None:
    failures: list[Exception] = []
    for do in to_do:
        try:
            await do()
        except Exception as error:
            failures.append(error)
    if failures:
        raise failures[0]
