"""Sees runs through: takes one, makes its call, and reports what came of it."""

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.to_thread
import httpx
from loguru import logger

from bots.caller.script import Script
from bots.timeline import CallEnded, CallerUnderrun, CallStarted, EndedReason, RoomEntered, TimelineEvent
from runner.calls import run_file
from runner.calls.call import Call
from runner.calls.request import CallRequest, CallWatcher, DataMessage
from runner.calls.run_file import EarlierAttempt, Run, earlier_attempt, reason_to_repeat, write_run
from runner.errors import RoomError, RunnerError, UsageError
from runner.evaluation.outcome import decide
from runner.evaluation.verdicts import Cause, ExpectationVerdict
from runner.settings import Settings
from runner.worker.asked import ask, judge_for
from runner.worker.errors import RecordError
from runner.worker.live_report import LiveReport
from runner.worker.outbox import GiveBack, Report, Shelf
from runner.worker.progress import Progress
from runner.worker.record_client import REFUSED, Job, Problem, RecordClient
from runner.worker.retries import retried
from runner.worker.session_rooms import room_of, takes_another_call
from runner.worker.watch import LoadWatch

if TYPE_CHECKING:
    from runner.judge.judge import LLMJudge

CLAIM_PATIENCE_S = 180.0
"""How long the record may not answer before a run is left to others."""

STOPPED_REPORT_LIMIT_S = 10.0
"""How long a run that was broken off may take to be given back; then that is left for the next start."""

STOPPED_DETAIL = "its worker was stopped"
MAX_DETAIL_CHARACTERS = 2_000


class LiveCall(Protocol):
    """A call under way (see :class:`runner.calls.call.Call`)."""

    async def make(self) -> Run:
        """Make the call."""
        ...

    def cancel(self, detail: str | None = None) -> None:
        """End it in good order."""
        ...


class CallMaker(Protocol):
    """Prepares a call."""

    def __call__(
        self, request: CallRequest, settings: Settings, folder: Path, run_id: str, watcher: CallWatcher
    ) -> LiveCall:
        """Return a call that is ready to be made."""
        ...


@dataclass
class Counts:
    """What a worker's process counts.

    Attributes:
        calls_made: The calls it began.
        rooms_entered: How many of them came into their room.
        setting_up_s: How long that took from when the run was taken, all together.
    """

    calls_made: int = 0
    rooms_entered: int = 0
    setting_up_s: float = 0.0


class _Live:
    """A run under way, and what is known of it; watches its call."""

    def __init__(self, worker: "Worker", run_id: int, attempt: int):
        self._worker = worker
        self._claimed_s = 0.0
        self.run_id = run_id
        self.attempt = attempt
        self.scope = anyio.CancelScope()
        """All of it, until its report is handed in."""
        self.job: Job | None = None
        self.call: LiveCall | None = None
        self.preparing = anyio.CancelScope()
        """Until the call has begun, what prepares it can be cut off."""
        self.judging = anyio.CancelScope()
        """Once the call is over, what asks the judge can be cut off."""
        self.told: LiveReport | None = None
        self.is_cancelled = False
        self.ended: EndedReason | None = None
        self.report: Report | None = None
        """What came of it, once that is known."""
        self.handed_in: anyio.Event | None = None

    def begin(self, job: Job) -> None:
        """Note that it is this worker's."""
        self.job = job
        self._claimed_s = time.monotonic()

    def begin_again(self) -> None:
        """Note that its call is made again."""
        self.call = self.ended = None
        self.preparing, self.judging = anyio.CancelScope(), anyio.CancelScope()
        self._claimed_s = time.monotonic()
        if self.told is not None:
            self.told.begin_again()

    def cancel(self) -> None:
        """End it, because the record wants that."""
        self.is_cancelled = True
        if self.call is not None and self.told is not None and self.told.has_begun:
            self.call.cancel("cancelled by request")
            self.judging.cancel()
        else:
            self.preparing.cancel()

    def fact(self, event: TimelineEvent) -> None:
        """See a fact."""
        counts = self._worker.counts
        if isinstance(event, CallStarted):
            counts.calls_made += 1
        elif isinstance(event, RoomEntered):
            counts.rooms_entered += 1
            counts.setting_up_s += time.monotonic() - self._claimed_s
        elif isinstance(event, CallerUnderrun):
            if self._worker.watch.underrun(time.monotonic()):
                self._worker.changed()
        elif isinstance(event, CallEnded):
            self.ended = event.reason
        if self.told is not None:
            self.told.fact(event)

    def verdicts(self, verdicts: Sequence[ExpectationVerdict]) -> None:
        """See verdicts: they come with the outcome."""

    def audio(self, channel: int, at_ns: int, pcm: bytes) -> None:
        """Hear a side: the recording comes with the outcome."""

    def reported(self, what: dict[str, Any] | Problem) -> Report:
        """Return the report of what it came to."""
        if isinstance(what, Problem):
            return Report(run_id=self.run_id, attempt=self.attempt, problem=what)
        return Report(run_id=self.run_id, attempt=self.attempt, run=what)

    def given_back(self, detail: str) -> Report:
        """Return that it is given back."""
        said = self.told is not None and self.told.said
        starts_anew = self.job is not None and self.job.session is not None
        back = GiveBack(detail=detail, said=said, may_end=said and not starts_anew)
        return Report(run_id=self.run_id, attempt=self.attempt, back=back)


@dataclass
class Worker:
    """Sees the runs through that it is given, and knows the record only over HTTP.

    Args:
        settings: How to make calls.
        record: The record.
        shelf: Where calls are kept until the record has them.
        make_call: Prepares a call.
        watch: Gets to know of calls without audio to send.
        counts: Is counted up.
        changed: Is called when :attr:`live` has changed, or whether the worker is overloaded.
    """

    settings: Settings
    record: RecordClient
    shelf: Shelf
    make_call: CallMaker = Call
    watch: LoadWatch = field(default_factory=LoadWatch)
    counts: Counts = field(default_factory=Counts)
    changed: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._runs: dict[tuple[int, int], _Live] = {}
        self._progress = Progress(self.record)
        self._given_up: str | None = None
        self._draining = anyio.Event()
        self.live: tuple[int, ...] = ()
        """The runs under way."""

    def give_up(self, reason: str) -> None:
        """Hang up everywhere at once, and take nothing more: somebody else may have been given what was here."""
        self._given_up = reason
        for live in self._runs.values():
            live.scope.cancel()

    def drain(self) -> None:
        """Wait no longer than a moment for a record that does not take reports: the worker is to end."""
        self._draining.set()

    async def see_through(self, run_id: int, attempt: int) -> None:
        """See a run through, from claiming it to reporting its outcome. Every error is an outcome."""
        if self._given_up is not None or (run_id, attempt) in self._runs:
            return
        live = _Live(self, run_id, attempt)
        self._runs[run_id, attempt] = live
        self._note()
        try:
            with logger.contextualize(run_id=run_id, attempt=attempt):
                # In a task of its own: the queue's is asyncio's, and may be cancelled in a way that no shield of
                # anyio's holds off, in the middle of leaving a room. Here that comes as a cancellation of anyio's.
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._see_through, live)
        finally:
            del self._runs[run_id, attempt]
            self._note()

    def _note(self) -> None:
        self.live = tuple(sorted({run_id for run_id, _ in self._runs}))
        self.changed()

    async def _see_through(self, live: _Live) -> None:
        try:
            with live.scope:
                live.report = await self._work(live)
                if live.report is not None:
                    await self._hand_in(live, live.report)
                return
            await self._hand_in_given_up(live)
        except anyio.get_cancelled_exc_class():
            # Broken off from outside: the call has left its room, and its facts are on disk.
            with anyio.move_on_after(STOPPED_REPORT_LIMIT_S, shield=True):
                if self._given_up is None:
                    await self._hand_in(live, live.report or await self._broken_off(live))
                else:
                    await self._hand_in_given_up(live)
            raise

    async def _hand_in(self, live: _Live, report: Report) -> None:
        """Write a report down, and wait until it is seen to."""
        if live.handed_in is None:
            live.handed_in = await self.shelf.put(report)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._wait_no_longer, tasks.cancel_scope)
            await live.handed_in.wait()
            tasks.cancel_scope.cancel()

    async def _wait_no_longer(self, scope: anyio.CancelScope) -> None:
        """End a wait a while after the worker is told to stop: what is on disk whoever comes next reports."""
        await self._draining.wait()
        await anyio.sleep(STOPPED_REPORT_LIMIT_S)
        scope.cancel()

    async def _hand_in_given_up(self, live: _Live) -> None:
        """Write down that a run is given back. The record learns of it, but nobody waits for that."""
        if live.handed_in is None:
            # Most often that is done already, and this attempt does not count any more.
            live.handed_in = await self.shelf.put(live.given_back(self._given_up or STOPPED_DETAIL))

    async def _broken_off(self, live: _Live) -> Report:
        """Return what there is to report of a run that was broken off from outside."""
        if live.is_cancelled or live.ended not in (None, EndedReason.CANCELLED):
            # Its call was over, or was to be.
            folder = self.shelf.folder(live.run_id, live.attempt)
            try:
                run = await anyio.to_thread.run_sync(run_file.read_run, folder)
                return live.reported(_dump(run) or _cancelled_before_its_call())
            except RunnerError:
                if live.is_cancelled:
                    return live.reported(_cancelled_before_its_call())
        return live.given_back(STOPPED_DETAIL)

    async def _work(self, live: _Live) -> Report | None:
        """Take a run and make its call; return what to report, or None if it is not this worker's any more."""
        until_s = anyio.current_time() + CLAIM_PATIENCE_S
        try:
            job = await retried(
                lambda: self.record.claim(live.run_id, live.attempt, self.shelf.executor),
                gives_up=lambda error: error.status in REFUSED or anyio.current_time() > until_s,
            )
        except RecordError as error:
            logger.warning("run {}: could not be taken on: {}", live.run_id, error)
            if error.status in REFUSED:
                # Giving it back would be refused as well; who does not list it any more is taken it from.
                return None
            if error.transient:
                return live.given_back("its worker could not reach the record")
            problem = Problem(cause=Cause.HARNESS, reason=EndedReason.RUNNER_ERROR, detail=str(error))
            return live.reported(problem)
        if job is None:
            logger.info("run {}: not wanted any more", live.run_id)
            return None
        live.begin(job)
        return live.reported(await self._attempt(job, live))

    async def _attempt(self, job: Job, live: _Live) -> dict[str, Any] | Problem:
        """Make a run's call, and return what to report."""
        live.told = told = LiveReport(self.record, job, self._progress, live.cancel)
        outcome: dict[str, Any] | Problem | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(told.run)
            try:
                outcome = _dump(await self._calls(job, live))
            except RoomError as error:
                outcome = _no_session(job, error)
            except RunnerError as error:
                outcome = _problem(job, str(error))
            except Exception as error:
                logger.opt(exception=True).error("run {}: broke off", job.run_id)
                outcome = _problem(job, f"our own error: {type(error).__name__}: {error}")
            tasks.cancel_scope.cancel()
        return outcome or _cancelled_before_its_call()

    async def _calls(self, job: Job, live: _Live) -> Run | None:
        """Make a run's call, and again where we or the network spoilt it; None if it was cancelled before."""
        earlier: list[EarlierAttempt] = []
        last: Run | None = None
        while True:
            try:
                made = await self._call(job, live)
            except (RoomError, RunnerError) as error:
                if last is None:
                    raise
                # The call before took place: what it came to stands.
                logger.warning("run {}: its call could not be made again: {}", job.run_id, error)
                made, earlier = last, earlier[:-1]
                break
            if made is None:
                break
            last = made
            reason = reason_to_repeat(made)
            if reason is None or len(earlier) == self.settings.worker.retry_inconclusive:
                break
            if not self._may_be_repeated(job, live):
                break
            logger.info("run {}: {}; its call is made again", job.run_id, reason)
            earlier.append(earlier_attempt(made, reason))
            live.begin_again()
        if made is None or not earlier:
            return made
        made = made.model_copy(update={"earlier_attempts": earlier})
        await anyio.to_thread.run_sync(write_run, self.shelf.folder(live.run_id, live.attempt), made)
        return made

    def _may_be_repeated(self, job: Job, live: _Live) -> bool:
        """Whether a run's call can be made again as if for the first time, and there is time for it."""
        if live.is_cancelled or self._draining.is_set():
            return False
        # Where there is one agent in one room, it must not have met this caller.
        unsaid = live.told is not None and not live.told.said
        return unsaid or takes_another_call(job, self.settings.room.daily_domains)

    async def _call(self, job: Job, live: _Live) -> Run | None:
        """Make a run's call; None if it was cancelled before."""
        folder = self.shelf.folder(live.run_id, live.attempt)
        try:
            script = Script.model_validate(job.script)
        except ValueError as error:
            raise UsageError(f"the scenario is of another version of this program ({type(error).__name__})") from None
        judge = judge_for(job.asked, self.settings.judge)
        made: Run | None = None
        with live.preparing:
            async with (
                httpx.AsyncClient() as http,
                room_of(job, http, self.settings.room.daily_domains) as session,
            ):
                request = CallRequest(
                    script=script,
                    address=session.address,
                    data_message=None if job.data_message is None else DataMessage(job.data_message["value"]),
                    transcribe=job.transcribe,
                    allow_unjudged=job.allow_unjudged,
                    notes=job.notes,
                    asked=job.asked,
                    session_end_state=session.end_state,
                )
                # What lies there is of an earlier call, which this one takes the place of.
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))
                live.call = self.make_call(
                    request, _settings_for(job, self.settings), folder, run_id=str(job.run_id), watcher=live
                )
                made = await live.call.make()
        if made is not None and judge is not None:
            with live.judging:
                made = await _asked(made, folder, judge)
        return made


async def _asked(run: Run, folder: Path, judge: "LLMJudge") -> Run:
    """Return a run with what the judge says to it; as it is where that fails: nobody loses a call over it."""
    try:
        return await ask(run, folder, judge)
    except Exception as error:
        logger.opt(exception=True).error("run {}: could not be judged: {}", run.id, type(error).__name__)
        return run


def _settings_for(job: Job, settings: Settings) -> Settings:
    """Return the settings, with what the agent's session has of its own in their place."""
    if job.session is None:
        return settings
    names = ("agent_join_timeout_s", "bot_ready_timeout_s")
    own = {name: value for name in names if (value := getattr(job.session, name)) is not None}
    return settings.model_copy(update={"room": settings.room.model_copy(update=own)})


def _dump(run: Run | None) -> dict[str, Any] | None:
    return None if run is None else run.model_dump(mode="json", exclude={"script"})


def _problem(job: Job, detail: str) -> Problem:
    """Return that our side failed."""
    return Problem(cause=Cause.HARNESS, reason=EndedReason.RUNNER_ERROR, detail=_safe(job, detail))


def _no_session(job: Job, error: RoomError) -> Problem:
    """Return that no session was started, and whose fault that is."""
    with suppress(ValueError):
        ending = CallEnded(at_ns=0, reason=error.reason, detail=None)
        outcome = decide(Script.model_validate(job.script), [ending], [])
        return Problem(cause=outcome.cause or Cause.HARNESS, reason=error.reason, detail=_safe(job, str(error)))
    return _problem(job, str(error))


def _cancelled_before_its_call() -> Problem:
    return Problem(cause=Cause.HARNESS, reason=EndedReason.CANCELLED, detail="cancelled before its call")


def _safe(job: Job, detail: str) -> str:
    """Return a text in one line, without the run's secrets."""
    text = " ".join(detail.split())
    session = job.session
    secrets = (job.token, *(() if session is None else (session.credential, session.private_key)))
    for secret in secrets:
        if secret is not None and secret.get_secret_value():
            text = text.replace(secret.get_secret_value(), "***")
    return text[:MAX_DETAIL_CHARACTERS]
