"""The queue as the rest of the project knows it: it brings a run to the worker that the record gave it to.

Which worker that is, and when, the record decides (:mod:`runner.records.assignments`). What the queue is trusted with
is that a run that was handed over in a transaction reaches its worker if, and only if, that transaction commits.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol

from sqlalchemy import Connection

from runner.records.assignments import Assignment

RunHandler = Callable[[int, int], Awaitable[None]]
"""Sees a run through, from claiming it to reporting its outcome. Called with the run's id and the attempt."""


class Queue(Protocol):
    """The queue, as the record sees it."""

    def hand_over(self, connection: Connection, assignments: Sequence[Assignment]) -> None:
        """Hand runs to their workers within the transaction of a connection. Blocks."""
        ...

    async def retire(self, executor: str) -> None:
        """Forget a worker that is gone, and what was handed to it."""
        ...

    async def prune(self, *, older_than: datetime) -> int:
        """Remove what is remembered of runs that were handed over and ended before a time; return of how many."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...


class WorkerQueue(Protocol):
    """The queue, as a worker sees it."""

    executor: str
    """The id of this worker's process: no other has it, nor had it before."""

    async def start(self, handler: RunHandler) -> None:
        """Take what is handed to this worker, on this event loop.

        Raises:
            QueueError: The queue can't be used.
        """
        ...

    async def stop(self, *, timeout_s: float) -> None:
        """Take no more, and let what is under way finish for so long; then it is cancelled."""
        ...

    def hurry(self) -> None:
        """Cancel at once what :meth:`stop` waits for."""
        ...
