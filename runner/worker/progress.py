"""How far all runs of a process have come, told to the record in one request; and what it wants done about them."""

from typing import Protocol

import anyio
from loguru import logger

from runner.worker.errors import RecordError
from runner.worker.record_client import RecordClient, RunOrder, RunProgress

INTERVAL_S = 0.7
"""How often it is told and asked while calls are on: a call that is to end hears of it within this."""

GATHERING_S = 0.05
"""How long news wait for others."""


class Told(Protocol):
    """A run that is told of (see :class:`runner.worker.live_report.LiveReport`)."""

    @property
    def progress(self) -> RunProgress:
        """How far it has come."""
        ...

    def obey(self, order: RunOrder) -> None:
        """Do what the record wants."""
        ...


class Progress:
    """Tells the record of the runs of a process, for as long as there are any.

    Args:
        record: The record.
    """

    def __init__(self, record: RecordClient):
        self._record = record
        self._told: dict[tuple[int, int], Told] = {}
        self._turn = anyio.Lock()
        self._moved = anyio.Event()

    def moved(self) -> None:
        """Let it be told at once: a run has come further."""
        self._moved.set()

    async def tell(self, run: Told) -> None:
        """Tell of a run, with all others, until cancelled. One of those who wait here does it for all."""
        key = (run.progress.run_id, run.progress.attempt)
        self._told[key] = run
        try:
            async with self._turn:
                while True:
                    with anyio.move_on_after(INTERVAL_S):
                        await self._moved.wait()
                        await anyio.sleep(GATHERING_S)
                    self._moved = anyio.Event()
                    await self._tell_all()
        finally:
            del self._told[key]

    async def _tell_all(self) -> None:
        told = dict(self._told)
        try:
            orders = await self._record.progress([run.progress for run in told.values()])
        except RecordError as error:
            # Told again in a moment: what it has come to by then.
            logger.debug("{}", error)
            return
        for order in orders:
            run = told.get((order.run_id, order.attempt))
            if run is not None:
                run.obey(order)
