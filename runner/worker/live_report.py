"""Tells the record, while a call is on, how far it has come and what happens in it; and learns whether to end it."""

from collections import deque
from collections.abc import Callable, Sequence

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
from runner.records.statuses import RunStatus
from runner.worker.errors import RecordError
from runner.worker.progress import Progress
from runner.worker.record_client import Job, RecordClient, RunOrder, RunProgress

BATCH_INTERVAL_S = 0.25
MAX_BATCH = 200
MAX_BATCH_CHARACTERS = 500_000
MAX_EVENT_CHARACTERS = 100_000
"""Of larger ones it is only said that there was one: the timeline that is uploaded has them."""

MAX_KEPT = 2_000
"""Facts that are kept for whoever begins to watch; the oldest go first."""

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

    How far it has come is told again until the call is over. What happens in it is told while somebody watches, and
    may get lost on the way.

    Args:
        record: The record.
        job: The run.
        progress: Tells how far all runs of this process have come.
        cancel: Is called once when the record wants the run to end.
    """

    def __init__(self, record: RecordClient, job: Job, progress: Progress, cancel: Callable[[], None]):
        self._record = record
        self._job = job
        self._progress = progress
        self._cancel = cancel
        self._cancelled = False
        self._status = RunStatus.RUNNING
        self._joined = False
        self.said = False
        """Whether anything was said or published in it."""
        self.has_begun = False
        """Whether the call has: from then on it ends in good order."""
        self._facts: deque[str] = deque(maxlen=MAX_KEPT)
        self._seen = 0
        self._sent = 0
        self._is_watched = False
        self._something_to_tell = anyio.Event()

    @property
    def progress(self) -> RunProgress:
        """How far it has come."""
        job = self._job
        return RunProgress(
            run_id=job.run_id, attempt=job.attempt, status=self._status.value, joined=self._joined, said=self.said
        )

    def begin_again(self) -> None:
        """Note that the call is made again: what was said before counts all the same."""
        self.has_begun = False
        self._status = RunStatus.RUNNING

    def fact(self, event: TimelineEvent) -> None:
        """See a fact."""
        self.has_begun = True
        before = (self._status, self._joined, self.said)
        if isinstance(event, RoomEntered):
            self._joined = True
        elif isinstance(event, CallEnded):
            self._status = RunStatus.EVALUATING
        elif isinstance(event, _SAID):
            self.said = True
        if before != (self._status, self._joined, self.said):
            self._progress.moved()
        text = event.model_dump_json()
        if len(text) > MAX_EVENT_CHARACTERS:
            text = f'{{"type": "{event.type}", "at_ns": {event.at_ns}, "left_out_characters": {len(text)}}}'
        self._facts.append(text)
        self._seen += 1
        self._something_to_tell.set()

    def verdicts(self, verdicts: Sequence[ExpectationVerdict]) -> None:
        """See verdicts: they come with the outcome."""

    def audio(self, channel: int, at_ns: int, pcm: bytes) -> None:
        """Hear a side: the recording comes with the outcome."""

    def obey(self, order: RunOrder) -> None:
        """Do what the record wants."""
        if (order.cancel_requested or not order.counts) and not self._cancelled:
            self._cancelled = True
            self._cancel()
        self._is_watched = order.events_from is not None
        if order.events_from is not None:
            # What is told twice is passed over there.
            self._sent = order.events_from
            self._something_to_tell.set()

    async def run(self) -> None:
        """Tell and obey until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._progress.tell, self)
            tasks.start_soon(self._tell_facts)

    async def _tell_facts(self) -> None:
        while True:
            await self._something_to_tell.wait()
            await anyio.sleep(BATCH_INTERVAL_S)
            self._something_to_tell = anyio.Event()
            while self._is_watched and (batch := self._batch()):
                first = self._sent
                try:
                    await self._record.events(self._job.run_id, self._job.attempt, batch, first=first)
                except RecordError as error:
                    # Nothing that goes wrong here touches the call.
                    logger.debug("run {}: {}", self._job.run_id, error)
                    break
                self._sent = first + len(batch)

    def _batch(self) -> list[str]:
        """Return the next facts to tell, and let :attr:`_sent` be the place of the first."""
        gone = self._seen - len(self._facts)
        self._sent = max(self._sent, gone)
        batch: list[str] = []
        characters = 0
        for place in range(self._sent - gone, min(len(self._facts), self._sent - gone + MAX_BATCH)):
            characters += len(self._facts[place])
            if batch and characters > MAX_BATCH_CHARACTERS:
                break
            batch.append(self._facts[place])
        return batch
