"""Fires schedules when they are due, in every process of the API: whichever comes first.

What must happen once happens in one transaction (see :mod:`runner.records.firings`), so there is nothing to take over
from a process that is killed: the next one to look finds it as it was. It is looked at every second, by the record's
clock.
"""

import random
from collections.abc import Callable
from datetime import datetime
from functools import partial

import anyio
from loguru import logger
from sqlalchemy.orm import Session

from runner.records.conclusions import conclude
from runner.records.firings import Work, fire, fire_queued, work
from runner.records.leases import clock
from runner.records.record import Record

LOOK_INTERVAL_S = 1.0
"""How often to look for what is due."""


class Schedules:
    """Fires schedules, from :meth:`run` on.

    Args:
        record: The record.
        now: Returns the time; by default by the record's clock.
    """

    def __init__(self, record: Record, now: Callable[[Session], datetime] = clock):
        self._record = record
        self._now = now
        self._is_failing = False

    async def run(self) -> None:
        """Look after schedules until cancelled. What goes wrong is logged, and tried again."""
        while True:
            try:
                await self.look()
                self._is_failing = False
            except Exception as error:
                # Once: while the database is away this comes every time.
                said = logger.opt(exception=not self._is_failing)
                said.log("DEBUG" if self._is_failing else "WARNING", "no schedule fires: {}", type(error).__name__)
                self._is_failing = True
            await anyio.sleep(LOOK_INTERVAL_S)

    async def look(self) -> None:
        """Do what there is to do now.

        Raises:
            Exception: What went wrong first. The rest is done all the same.
        """
        record = self._record
        now, found = await record.database.look(self._work)
        to_do = [
            *(partial(fire_queued, record, firing_id) for firing_id in found.queued),
            # Each process in an order of its own: so they seldom do the same at the same moment, and in vain.
            *(partial(fire, record, job_id, now) for job_id in random.sample(found.due, len(found.due))),
            # Last: a comparison takes its time, and what is due does not wait for it.
            *(partial(conclude, record, firing_id) for firing_id in found.ended),
        ]
        failures: list[Exception] = []
        for do in to_do:
            try:
                await do()
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _work(self, session: Session) -> tuple[datetime, Work]:
        now = self._now(session)
        return now, work(session, now)
