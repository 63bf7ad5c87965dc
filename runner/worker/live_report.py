"""Tells the record, while a call is on, how far it has come and what happens in it; and learns whether to end it."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import anyio
from loguru import logger

from bots.timeline import (
    AgentSaid,
    AgentStartedSpeaking,
    CallEnded,
    CallerHeardAs,
    CallerPressedKeys,
    CallerStartedSpeaking,
    DataMessagePublished,
    RoomEntered,
    TimelineEvent,
)
from runner.evaluation.verdicts import ExpectationVerdict
from runner.records.statuses import FINAL_RUN, RunStatus
from runner.worker.record_client import Job, RecordClient, RecordError

POLL_INTERVAL_S = 0.5
AGAIN_INTERVAL_S = 0.5
"""How soon a move is told again that the record has not taken."""

BATCH_INTERVAL_S = 0.25
MAX_BATCH = 200
MAX_BATCH_CHARACTERS = 500_000
MAX_EVENT_CHARACTERS = 100_000
"""Larger ones are left out: the timeline that is uploaded has them."""

MAX_WAITING = 2_000
"""Facts that are kept while the record does not answer; the oldest are lost first."""


_SAID = (
    DataMessagePublished,
    CallerStartedSpeaking,
    CallerPressedKeys,
    CallerHeardAs,
    AgentStartedSpeaking,
    AgentSaid,
)
"""From the first of these facts on the agent has met this caller: nobody else meets it as if for the first time."""


class LiveReport:
    """Watches a call for the record (see :class:`runner.calls.request.CallWatcher`).

    Facts may get lost on the way. How far the call has come is told again until the record has it, or the call is
    over.

    Args:
        record: The record.
        job: The run.
        cancel: Is called once when the record wants the run to end.
    """

    def __init__(self, record: RecordClient, job: Job, cancel: Callable[[], None]):
        self._record = record
        self._job = job
        self._cancel = cancel
        self._cancelled = False
        self._facts: deque[str] = deque(maxlen=MAX_WAITING)
        self._status = RunStatus.RUNNING
        self._joined = False
        self.said = False
        """Whether anything was said or published in it."""
        self.has_begun = False
        """Whether the call has: from then on it ends in good order."""
        self._moved = anyio.Event()
        self._new_facts = anyio.Event()

    def fact(self, event: TimelineEvent) -> None:
        """See a fact: it is passed on a moment later."""
        self.has_begun = True
        before = (self._status, self._joined, self.said)
        if isinstance(event, RoomEntered):
            self._joined = True
        elif isinstance(event, CallEnded):
            self._status = RunStatus.EVALUATING
        elif isinstance(event, _SAID):
            self.said = True
        if before != (self._status, self._joined, self.said):
            self._moved.set()
        self._facts.append(event.model_dump_json())
        self._new_facts.set()

    def verdicts(self, verdicts: Sequence[ExpectationVerdict]) -> None:
        """See verdicts: they come with the outcome."""

    def audio(self, channel: int, at_ns: int, pcm: bytes) -> None:
        """Hear a side: the recording comes with the outcome."""

    async def run(self) -> None:
        """Tell and ask until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._tell_moves)
            tasks.start_soon(self._tell_facts)
            tasks.start_soon(self._ask)

    async def _tell_moves(self) -> None:
        job = self._job
        while True:
            await self._moved.wait()
            self._moved = anyio.Event()
            taken = False
            with self._on_its_own():
                self._note(
                    await self._record.progress(
                        job.run_id, job.attempt, self._status.value, joined=self._joined, said=self.said
                    )
                )
                taken = True
            if not taken:
                # The latest, then: what it has come to by now.
                self._moved.set()
                await anyio.sleep(AGAIN_INTERVAL_S)

    async def _tell_facts(self) -> None:
        while True:
            await self._new_facts.wait()
            await anyio.sleep(BATCH_INTERVAL_S)
            self._new_facts = anyio.Event()
            while batch := self._batch():
                with self._on_its_own():
                    await self._record.events(self._job.run_id, self._job.attempt, batch)

    async def _ask(self) -> None:
        while True:
            await anyio.sleep(POLL_INTERVAL_S)
            with self._on_its_own():
                state = await self._record.state(self._job.run_id, self._job.attempt)
                self._note(state is None or state.cancel_requested or state.status in FINAL_RUN)

    @contextmanager
    def _on_its_own(self) -> Generator[None]:
        """Let nothing that goes wrong touch the call."""
        try:
            yield
        except Exception as error:
            logger.opt(exception=not isinstance(error, RecordError)).debug("run {}: {}", self._job.run_id, error)

    def _batch(self) -> list[str]:
        batch: list[str] = []
        characters = 0
        while self._facts and len(batch) < MAX_BATCH:
            size = len(self._facts[0])
            if size > MAX_EVENT_CHARACTERS:
                self._facts.popleft()
                continue
            if characters + size > MAX_BATCH_CHARACTERS:
                break
            characters += size
            batch.append(self._facts.popleft())
        return batch

    def _note(self, cancel: bool) -> None:
        if cancel and not self._cancelled:
            self._cancelled = True
            self._cancel()
