"""What several tasks have to send at the same moment, in one request: calls often begin and end in numbers."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import anyio

from runner.worker.errors import RecordError

MOST = 20
"""How much goes into one request."""

APART_S = 30.0
"""How long everything is sent for itself after a request for several failed: one of them may have been the reason,
and the record may be of a version that does not know such requests."""

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


@dataclass(eq=False)
class _Batch(Generic[_Item, _Answer]):
    items: list[_Item] = field(default_factory=list[_Item])
    answers: Sequence[_Answer] | None = None
    error: RecordError | None = None
    done: anyio.Event = field(default_factory=anyio.Event)


class Together(Generic[_Item, _Answer]):
    """Sends what comes within a moment together, and gives everybody the answer to what is theirs.

    Args:
        one: Sends one.
        several: Sends several, and returns an answer for each.
        gathering_s: How long the first waits for others.
    """

    def __init__(
        self,
        one: Callable[[_Item], Awaitable[_Answer]],
        several: Callable[[Sequence[_Item]], Awaitable[Sequence[_Answer]]],
        *,
        gathering_s: float,
    ):
        self._one = one
        self._several = several
        self._gathering_s = gathering_s
        self._gathering: _Batch[_Item, _Answer] | None = None
        self._apart_until_s = 0.0

    async def send(self, item: _Item) -> _Answer:
        """Send something, and return the answer to it.

        Raises:
            RecordError: There is none.
        """
        if time.monotonic() < self._apart_until_s:
            return await self._one(item)
        batch = self._gathering
        if batch is not None and len(batch.items) < MOST:
            place = len(batch.items)
            batch.items.append(item)
            await batch.done.wait()
        else:
            place, self._gathering = 0, (batch := _Batch[_Item, _Answer]([item]))
            await self._send(batch)
        if batch.answers is None:
            raise batch.error or RecordError("may not have been sent: whoever sends it was stopped", transient=True)
        return batch.answers[place]

    async def _send(self, batch: _Batch[_Item, _Answer]) -> None:
        """Send a batch, once it is gathered.

        Raises:
            Exception: What sending one of them raised, besides what is told of the batch.
        """
        try:
            try:
                await anyio.sleep(self._gathering_s)
            finally:
                if self._gathering is batch:
                    self._gathering = None
            if len(batch.items) == 1:
                batch.answers = [await self._one(batch.items[0])]
            else:
                batch.answers = await self._several(batch.items)
        except Exception as error:
            if len(batch.items) == 1:
                raise
            # It says nothing of any of them: they are sent again, each for itself.
            self._apart_until_s = time.monotonic() + APART_S
            status = error.status if isinstance(error, RecordError) else None
            batch.error = RecordError(f"sent with others: {error}", transient=True, status=status)
            batch.error.__cause__ = error
        finally:
            batch.done.set()
