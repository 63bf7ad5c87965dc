"""The queue as the rest of the project knows it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

RunHandler = Callable[[int], Awaitable[None]]
"""Sees a run through, from claiming it to reporting its outcome. Called with the run's id, by a worker."""


@dataclass(frozen=True)
class QueuedRun:
    """A run to be made.

    Attributes:
        run_id: The run's id.
        room: What it needs for itself: no two runs with the same one are on at a time. None where it shares nothing.
        priority: Lower goes first, from 1.
        delay_s: It is not taken before so many seconds have passed.
    """

    run_id: int
    room: str | None = None
    priority: int = 100
    delay_s: float = 0.0


class Queue(Protocol):
    """Hands runs to workers, each to one of them."""

    async def enqueue(self, connection: AsyncConnection, runs: Sequence[QueuedRun]) -> None:
        """Queue runs within the transaction of a connection: they are queued if, and only if, it commits."""
        ...

    async def forget(self, run_ids: Sequence[int]) -> None:
        """Take runs off the queue that no worker has taken yet; those that one has are left to it."""
        ...

    async def start_worker(self, handler: RunHandler, *, concurrency: int) -> None:
        """Begin to take runs in this process, so many at a time.

        Args:
            handler: Sees a run through.
            concurrency: How many at a time.
        """
        ...

    async def stop_worker(self, *, timeout_s: float) -> None:
        """Take no more runs, and let those under way finish for so long; then they are cancelled."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...
