"""A worker's link to the record: it polls, and holds the worker's runs for as long as it is answered.

One poll waits for something to do; news of runs are told at once by another one, which does not wait. A lease counts
from when the last poll was sent that was answered: so it ends here before it ends for the record. Then all is given
up, and nothing is told any more: whoever the worker becomes has a link of its own.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
from loguru import logger

from runner.protocol.messages import Answer, Poll, WorkerState
from runner.worker.record_client import FIRST_WAIT_S, GivenUp, RecordClient, RecordError, retried_until_true

GATHERING_S = 0.03
"""How long news wait for others."""

PAUSE_S = 0.05
"""How long to wait after an answer until it is asked again: whatever is wrong with a record, nobody asks all the
time."""


class Link:
    """Polls, from :meth:`run` on.

    Args:
        said: Returns what the worker has to say: a poll but for its number.
        take_in: Takes in an answer; the same runs may come again.
        lose: Gives everything up, for a reason: it may be somebody else's.
        changed: Is called when :attr:`is_answered` has changed.
        clock: Returns the time in seconds. It goes on while the process is frozen.
    """

    def __init__(
        self,
        record: RecordClient,
        lease_s: float,
        said: Callable[[], Poll],
        take_in: Callable[[Answer], None],
        lose: Callable[[str], None],
        *,
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._record = record
        self._lease_s = lease_s
        self._said = said
        self._take_in = take_in
        self._lose = lose
        self._changed = changed
        self._clock = clock
        self._number = 0
        self._answered_s = clock()
        """When the last poll was sent that was answered."""
        self._news = anyio.Event()
        self._scope = anyio.CancelScope()
        self._problem: str | None = None

    @property
    def is_answered(self) -> bool:
        """Whether the record answered when it was asked last."""
        return self._problem is None

    def news(self) -> None:
        self._news.set()

    async def run(self) -> None:
        """Poll until cancelled, or until all is given up."""
        with self._scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._tell_news)
                tasks.start_soon(self._watch_lease)
                await self._ask()

    async def say_stopped(self) -> None:
        """Say that the worker has ended in good order: what it still has goes to others. Ends :meth:`run`.

        Raises:
            GivenUp: The record has given this worker up.
            RecordError: The record did not take it.
        """
        # It is the last word: after a later one it would not count.
        self._scope.cancel()
        await self._record.poll(self._poll(state=WorkerState.STOPPED), lease_s=self._lease_s)

    async def _ask(self) -> None:
        """Poll for something to do."""
        while True:
            # The first one makes the worker known, and shows that it is answered.
            await retried_until_true(partial(self._once, waits=False))
            is_answered = True
            while is_answered:
                await anyio.sleep(PAUSE_S)
                is_answered = await self._once(waits=True)
            await anyio.sleep(FIRST_WAIT_S)

    async def _tell_news(self) -> None:
        """Tell what has changed."""

        async def tell() -> bool:
            await anyio.sleep(GATHERING_S)
            self._news = anyio.Event()
            return await self._once(waits=False)

        while True:
            await self._news.wait()
            await retried_until_true(tell)

    async def _once(self, *, waits: bool) -> bool:
        """Poll once; return whether that was answered."""
        if self._has_lost():
            return False
        poll = self._poll(waits=waits)
        sent_s = self._clock()
        try:
            answer = await self._record.poll(poll, lease_s=self._lease_s)
        except GivenUp as error:
            self._give_up(str(error))
            return False
        except RecordError as error:
            self._note(str(error))
            return False
        self._answered_s = max(self._answered_s, sent_s)
        self._lease_s = answer.lease_s
        if self._left_s() <= 0:
            # It comes too late: what it says may be true no more.
            self._has_lost()
            return False
        self._note(None)
        self._take_in(answer)
        return True

    def _note(self, problem: str | None) -> None:
        if problem == self._problem:
            return
        was_answered = self.is_answered
        self._problem = problem
        name = self._said().worker.name
        if problem is not None:
            logger.bind(worker=name).warning("worker {}: {}", name, problem)
        elif not was_answered:
            logger.bind(worker=name).info("worker {}: the server answers again", name)
        if was_answered != self.is_answered:
            self._changed()

    def _poll(self, **now: Any) -> Poll:
        self._number += 1
        return self._said().model_copy(update={"number": self._number, **now})

    async def _watch_lease(self) -> None:
        """Give everything up once a lease has passed without an answer."""
        while not self._has_lost():
            left_s = self._left_s()
            # With nothing to lose it goes on: what it is given comes with another lease.
            await anyio.sleep(left_s if left_s > 0 else self._lease_s / 8)

    def _left_s(self) -> float:
        return self._answered_s + self._lease_s - self._clock()

    def _has_lost(self) -> bool:
        """Return whether its runs are lost, the lease being over, and give them up if so."""
        if self._left_s() > 0 or not self._said().runs:
            return False
        silent_s = self._clock() - self._answered_s
        self._give_up(f"the server did not answer the worker for {silent_s:.0f} s")
        return True

    def _give_up(self, reason: str) -> None:
        self._lose(reason)
        self._scope.cancel()
