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
from runner.protocol.messages import Job, Order, RunNow
from runner.worker.live_sound import LiveSound
from runner.worker.record_client import RecordClient, RecordError

BATCH_INTERVAL_S = 0.25
SOUND_INTERVAL_S = 0.25
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

    How far it has come is told with the worker's polls: ``moved`` is called. What happens in it is told while
    somebody watches, its sound while somebody listens; both may get lost on the way. ``cancel`` is called once, if it
    is to end.
    """

    def __init__(self, record: RecordClient, job: Job, moved: Callable[[], None], cancel: Callable[[], None]):
        self._record = record
        self.job = job
        self._moved = moved
        self._cancel = cancel
        self._is_ending = False
        self._is_evaluating = False
        self._joined = False
        self.said = False
        """Whether anything was said or published in it."""
        self.has_begun = False
        """Whether the call has: from then on it ends in good order."""
        self._facts: deque[str] = deque(maxlen=MAX_KEPT)
        self._call = 1
        self._seen = 0
        self._sent = 0
        self._is_watched = False
        self._from_beginning = False
        """Whether, since the last request began, another call did, or somebody came who lacks what that one sent."""
        self._something_to_tell = anyio.Event()
        self._sound: LiveSound | None = None
        """What whoever listens has not got yet; None while nobody does."""
        self._listened_to = anyio.Event()

    @property
    def now(self) -> RunNow:
        """How far it has come."""
        return RunNow(
            run_id=self.job.run_id,
            attempt=self.job.attempt,
            is_evaluating=self._is_evaluating,
            joined=self._joined,
            said=self.said,
            is_watched=self._is_watched,
            is_listened_to=self._sound is not None,
            is_ending=self._is_ending,
        )

    def begin_again(self) -> None:
        """Note that the call is made again: what was said before counts all the same."""
        self.has_begun = False
        self._is_evaluating = False
        # Its facts are counted from its own beginning, as those that are uploaded.
        self._call += 1
        self._facts.clear()
        self._seen = self._sent = 0
        self._from_beginning = True
        if self._sound is not None:
            # On the new call's clock.
            self._sound = LiveSound()

    def fact(self, event: TimelineEvent) -> None:
        """See a fact."""
        self.has_begun = True
        before = self.now
        if isinstance(event, RoomEntered):
            self._joined = True
        elif isinstance(event, CallEnded):
            self._is_evaluating = True
        elif isinstance(event, _SAID):
            self.said = True
        if before != self.now:
            self._moved()
        text = event.model_dump_json()
        if len(text) > MAX_EVENT_CHARACTERS:
            text = f'{{"type": "{event.type}", "at_ns": {event.at_ns}, "left_out_characters": {len(text)}}}'
        self._facts.append(text)
        self._seen += 1
        self._something_to_tell.set()

    def verdicts(self, verdicts: Sequence[ExpectationVerdict]) -> None:
        """See verdicts: they come with the outcome."""

    def audio(self, channel: int, at_ns: int, pcm: bytes) -> None:
        """Hear a side: whoever listens is to hear it too."""
        if self._sound is not None:
            self._sound.put(channel, at_ns, pcm)

    def obey(self, order: Order) -> None:
        """Do what the record wants."""
        if (order.is_cancelled or not order.counts) and not self._is_ending:
            self._is_ending = True
            self._cancel()
        was_watched, self._is_watched = self._is_watched, order.counts and order.is_watched
        if self._is_watched and not was_watched:
            # From the beginning: what is there already is passed over.
            self._sent = 0
            self._from_beginning = True
            self._something_to_tell.set()
        if not (order.counts and order.is_listened_to):
            self._sound = None
        elif self._sound is None:
            self._sound = LiveSound()
            self._listened_to.set()

    async def run(self) -> None:
        """Until cancelled, tell what happens while somebody watches, and pass on its sound while somebody listens."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._pass_on_sound)
            await self._tell_facts()

    async def _pass_on_sound(self) -> None:
        while True:
            await self._listened_to.wait()
            self._listened_to = anyio.Event()
            while self._sound is not None:
                await anyio.sleep(SOUND_INTERVAL_S)
                if not (pcm := self._new_sound()):
                    continue
                try:
                    await self._record.sound(self.job.run_id, self.job.attempt, pcm)
                except RecordError as error:
                    # Not sent again: who listens wants to hear what is on now.
                    logger.debug("run {}: {}", self.job.run_id, error)

    def _new_sound(self) -> bytes:
        return b"" if self._sound is None else self._sound.take()

    async def _tell_facts(self) -> None:
        while True:
            await self._something_to_tell.wait()
            await anyio.sleep(BATCH_INTERVAL_S)
            self._something_to_tell = anyio.Event()
            while self._is_watched and (batch := self._batch()):
                first = self._sent
                self._from_beginning = False
                try:
                    wanted = await self._record.events(
                        self.job.run_id, self.job.attempt, batch, call=self._call, first=first
                    )
                except RecordError as error:
                    # Nothing that goes wrong here touches the call.
                    logger.debug("run {}: {}", self.job.run_id, error)
                    self._something_to_tell.set()
                    break
                if not self._from_beginning:
                    # The record may lack what was told before: another process of it, or one that was started anew.
                    self._sent = first + len(batch) if wanted is None else min(wanted, first + len(batch))

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
