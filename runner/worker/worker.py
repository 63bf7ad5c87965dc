"""Sees runs through: takes one, makes its call, and reports what came of it."""

import shutil
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.to_thread
import httpx
from anyio.abc import TaskGroup
from loguru import logger

from bots.caller.script import Script
from bots.masking import masked
from bots.timeline import CallEnded, CallerUnderrun, CallStarted, EndedReason, RoomEntered, TimelineEvent
from runner.calls import run_file
from runner.calls.call import Call
from runner.calls.repeating import earlier_attempt, reason_to_repeat
from runner.calls.request import CallMaker, CallRequest, DataMessage, LiveCall
from runner.calls.run_file import EarlierAttempt, Run, write_run
from runner.calls.tracing import export_report
from runner.errors import RoomError, RunnerError, UsageError
from runner.evaluation.outcome import decide
from runner.evaluation.verdicts import Cause
from runner.load import Load
from runner.protocol.messages import MAX_RUNS, Answer, Job, Order, Problem, Release, Report, RunNow
from runner.settings import Settings
from runner.worker.live_report import LiveReport
from runner.worker.outbox import Section
from runner.worker.record_client import RecordClient
from runner.worker.session_rooms import room_of, starts_anew, takes_another_call
from runner.worker.watch import LoadWatch

LEAVING_LIMIT_S = 20.0
"""How long runs that are broken off may take to end: to leave the room, and to be released."""

STOPPED_REPORT_LIMIT_S = 10.0
"""How long a run that was broken off may take to be released; then that is left for the next start."""

STOPPED_DETAIL = "its worker was stopped"
MAX_DETAIL_CHARACTERS = 2_000


@dataclass
class Counts:
    """What a worker's process counts: the calls it began, and those that came into their room."""

    calls_made: int = 0
    rooms_entered: int = 0
    setting_up_s: float = 0.0
    """How long it took from when a run was taken until it was in its room, all together."""


class _Live(LiveReport):
    """A run under way, and what is known of it; watches its call."""

    def __init__(self, worker: "Worker", job: Job):
        super().__init__(worker.record, job, worker.changed, self.cancel)
        self._worker = worker
        self._taken_s = time.monotonic()
        self.scope = anyio.CancelScope()
        """All of it, until its report is handed in."""
        self.call: LiveCall | None = None
        self.preparing = anyio.CancelScope()
        """Until the call has begun, what prepares it can be cut off."""
        self.confirmed = anyio.Event()
        """The record knows that this worker has it, or does not want it any more."""
        self.is_void = False
        """It is not this worker's (any more)."""
        self.is_cancelled = False
        self.ended: EndedReason | None = None
        self.report: Report | None = None
        """What came of it, once that is known."""
        self.handed_in: anyio.Event | None = None

    def obey(self, order: Order) -> None:
        if not self.confirmed.is_set():
            self.is_void = not order.counts
            self.confirmed.set()
        super().obey(order)

    def begin_again(self) -> None:
        self.call = self.ended = None
        self.preparing = anyio.CancelScope()
        self._taken_s = time.monotonic()
        super().begin_again()

    def cancel(self) -> None:
        self.is_cancelled = True
        if self.call is not None and self.has_begun:
            self.call.cancel("cancelled by request")
        else:
            self.preparing.cancel()

    def fact(self, event: TimelineEvent) -> None:
        counts = self._worker.counts
        if isinstance(event, CallStarted):
            counts.calls_made += 1
        elif isinstance(event, RoomEntered):
            counts.rooms_entered += 1
            counts.setting_up_s += time.monotonic() - self._taken_s
        elif isinstance(event, CallerUnderrun):
            if self._worker.watch.underrun(self._worker.load.clock_s()):
                self._worker.changed()
        elif isinstance(event, CallEnded):
            self.ended = event.reason
        super().fact(event)

    def reported(self, what: dict[str, Any] | Problem) -> Report:
        run, problem = (None, what) if isinstance(what, Problem) else (what, None)
        return self._report(run=run, problem=problem)

    def given_back(self, detail: str) -> Report:
        """Return that it is released."""
        may_end = self.said and not starts_anew(self.job, self._worker.settings.room.daily_domains)
        return self._report(release=Release(detail=detail, said=self.said, may_end=may_end))

    def _report(self, **what: Any) -> Report:
        executor = self._worker.section.executor
        return Report(run_id=self.job.run_id, attempt=self.job.attempt, executor=executor, **what)


@dataclass
class Worker:
    """Sees the runs through that it is given, and knows the record only over HTTP.

    Args:
        section: Where calls are kept until the record has them.
        watch: Gets to know of calls without audio to send.
    """

    settings: Settings
    record: RecordClient
    section: Section
    make_call: CallMaker = Call
    watch: LoadWatch = field(default_factory=LoadWatch)
    counts: Counts = field(default_factory=Counts)
    changed: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._runs: dict[tuple[int, int], _Live] = {}
        self.load = Load(self.settings.worker.calls, carrier=self.watch)
        """The runs under way, from when they are taken on until their outcomes are reported or kept."""
        self._taken: deque[tuple[int, int]] = deque(maxlen=MAX_RUNS)
        """The runs it took on last: an answer that was long on its way may bring one again that is over."""
        self._tasks: TaskGroup | None = None
        self._given_up: str | None = None
        self._draining = anyio.Event()
        self._ended = anyio.Event()
        self._patience: anyio.CancelScope | None = None
        self._is_finished = anyio.Event()

    @property
    def runs(self) -> list[RunNow]:
        """The runs under way, and how far they are."""
        return [live.now for live in self._runs.values()]

    @property
    def _is_ending(self) -> bool:
        return self._given_up is not None or self._draining.is_set()

    async def run(self) -> None:
        """See runs through until :meth:`finish` has returned, or this is cancelled."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            await self._is_finished.wait()
        self._tasks = None

    def take_in(self, answer: Answer) -> None:
        """Do what the record wants about runs, and take new ones on."""
        for order in answer.orders:
            live = self._runs.get(order.key)
            if live is not None:
                live.obey(order)
        for job in answer.jobs:
            self.take(job)

    def take(self, job: Job) -> None:
        """Take a run on. The same one again changes nothing."""
        if self._tasks is None or self._is_ending or job.key in self._taken:
            return
        self._taken.append(job.key)
        self._runs[job.key] = live = _Live(self, job)
        self.load.begin()
        self._tasks.start_soon(self._see_through, live)
        self.changed()

    def give_up(self, reason: str) -> None:
        """Hang up everywhere at once, and take nothing more: somebody else may have been given what was here."""
        self._given_up = reason
        self._break_off()

    async def finish(self, limit_s: float) -> None:
        """Wait for what is under way, at most for so long; the rest is broken off, and released."""
        self._draining.set()
        with anyio.move_on_after(limit_s) as patience:
            self._patience = patience
            await self._until_idle()
        self._break_off()
        with anyio.move_on_after(LEAVING_LIMIT_S):
            await self._until_idle()
        self._is_finished.set()

    def force_stop(self) -> None:
        """Let :meth:`finish` wait no longer."""
        if self._patience is not None:
            self._patience.cancel()

    def _break_off(self) -> None:
        for live in self._runs.values():
            live.scope.cancel()

    async def _until_idle(self) -> None:
        while self._runs:
            self._ended = anyio.Event()
            await self._ended.wait()

    async def _see_through(self, live: _Live) -> None:
        """See a run through, from taking it on to reporting its outcome. Every error is an outcome."""
        run_id, attempt = live.job.key
        try:
            with logger.contextualize(run_id=run_id, attempt=attempt):
                try:
                    with live.scope:
                        await live.confirmed.wait()
                        if live.is_void:
                            logger.info("run {}: not wanted any more", run_id)
                            return
                        live.report = live.reported(await self._attempt(live))
                        await self._hand_in(live, live.report)
                        return
                    # Broken off: the call has left its room, and its facts are on disk.
                    await self._hand_in_broken_off(live)
                except anyio.get_cancelled_exc_class():
                    await self._hand_in_broken_off(live)
                    raise
        finally:
            del self._runs[live.job.key]
            self.load.end()
            self._ended.set()
            self.changed()

    async def _hand_in_broken_off(self, live: _Live) -> None:
        """Hand in what there is of a run that was broken off."""
        with anyio.move_on_after(STOPPED_REPORT_LIMIT_S, shield=True):
            report = live.report or await self._broken_off(live)
            if self._given_up is None:
                await self._hand_in(live, report)
            elif live.handed_in is None:
                # Most often this attempt does not count any more: the record learns of it, but nobody waits for that.
                live.handed_in = await self.section.put(report)

    async def _hand_in(self, live: _Live, report: Report) -> None:
        """Write a report down, and wait until it is seen to."""
        if live.handed_in is None:
            live.handed_in = await self.section.put(report)
        began_ns = time.time_ns()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._wait_no_longer, tasks.cancel_scope)
            await live.handed_in.wait()
            if report.run is not None:
                export_report(str(report.run["id"]), str(report.run["started_at"]), began_ns)
            tasks.cancel_scope.cancel()

    async def _wait_no_longer(self, scope: anyio.CancelScope) -> None:
        """End a wait a while after the worker is told to stop: what is on disk whoever comes next reports."""
        await self._draining.wait()
        await anyio.sleep(STOPPED_REPORT_LIMIT_S)
        scope.cancel()

    async def _broken_off(self, live: _Live) -> Report:
        """Return what there is to report of a run that was broken off."""
        if live.is_cancelled or live.ended not in (None, EndedReason.CANCELLED):
            # Its call was over, or was to be.
            folder = self.section.folder(*live.job.key)
            try:
                run = await anyio.to_thread.run_sync(run_file.read_run, folder)
                return live.reported(_dump(run) or _cancelled_before_its_call())
            except RunnerError:
                if live.is_cancelled:
                    return live.reported(_cancelled_before_its_call())
        return live.given_back(self._given_up or STOPPED_DETAIL)

    async def _attempt(self, live: _Live) -> dict[str, Any] | Problem:
        """Make a run's call, and return what to report."""
        job = live.job
        outcome: dict[str, Any] | Problem | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(live.run)
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
        await anyio.to_thread.run_sync(write_run, self.section.folder(*live.job.key), made)
        return made

    def _may_be_repeated(self, job: Job, live: _Live) -> bool:
        """Whether a run's call can be made again as if for the first time, and there is time for it."""
        if live.is_cancelled or self._draining.is_set():
            return False
        # Where there is one agent in one room, it must not have met this caller.
        return not live.said or takes_another_call(job, self.settings.room.daily_domains)

    async def _call(self, job: Job, live: _Live) -> Run | None:
        """Make a run's call; None if it was cancelled before."""
        folder = self.section.folder(*live.job.key)
        try:
            script = Script.model_validate(job.script)
        except ValueError as error:
            raise UsageError(f"the scenario is of another version of this program ({type(error).__name__})") from None
        made: Run | None = None
        with live.preparing:
            async with (
                httpx.AsyncClient() as http,
                room_of(job, http, self.settings) as session,
            ):
                request = CallRequest(
                    script=script,
                    address=session.address,
                    data_message=_message(job),
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
        return made


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


def _message(job: Job) -> DataMessage | None:
    message = job.data_message
    return None if message is None else DataMessage(message["value"], message.get("shown"))


def _safe(job: Job, detail: str) -> str:
    """Return a text in one line, without the run's secrets."""
    session = job.session
    secrets = (job.token, *(() if session is None else (session.credential, session.private_key)))
    return " ".join(masked(detail, secrets).split())[:MAX_DETAIL_CHARACTERS]
