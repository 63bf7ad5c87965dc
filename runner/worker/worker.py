"""Sees runs through: takes one, makes its call, and reports what came of it."""

import gc
import importlib
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import anyio
import anyio.to_thread
import httpx
from loguru import logger

from bots.caller.script import Script
from bots.timeline import CallEnded, EndedReason
from runner.calls import recording, run_file, timeline
from runner.calls.call import Call
from runner.calls.request import CallRequest, CallWatcher, DataMessage
from runner.calls.run_file import Run
from runner.dispatch.queue import Queue
from runner.errors import RoomError, RunnerError, UsageError
from runner.evaluation.outcome import Cause, decide
from runner.settings import Settings
from runner.worker.live_report import LiveReport
from runner.worker.record_client import Job, Problem, RecordClient, RecordError
from runner.worker.session_rooms import room_of

ARTEFACTS = (recording.FILE_NAME, timeline.FILE_NAME, run_file.FILE_NAME)

CLAIM_TRIES = 8
UPLOAD_TRIES = 4
FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 10.0
STOPPED_REPORT_LIMIT_S = 12.0
"""How long a run that was broken off may take to be reported."""

MAX_DETAIL_CHARACTERS = 2_000

_NEEDED = ("runner.rooms.smallwebrtc", "runner.rooms.daily", "bots.caller.speech.recognition")

_T = TypeVar("_T")


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


class _Live:
    """A run under way: until its call has begun, what prepares it can be cut off."""

    def __init__(self) -> None:
        self.preparing = anyio.CancelScope()
        self.report: LiveReport | None = None
        self.call: LiveCall | None = None

    def cancel(self) -> None:
        if self.call is not None and self.report is not None and self.report.has_begun:
            self.call.cancel("cancelled by request")
        else:
            self.preparing.cancel()


@dataclass
class Worker:
    """Takes runs from the queue, and knows the record only over HTTP.

    Args:
        settings: How to make calls.
        record: The record.
        folder: Where calls are kept until the record has them.
        executor: Who this is, for the record.
        make_call: Prepares a call.
    """

    settings: Settings
    record: RecordClient
    folder: Path
    executor: str
    make_call: CallMaker = Call

    async def start(self, queue: Queue) -> None:
        """Begin to take runs.

        Raises:
            RunnerError: The queue can't be used.
        """
        # The first call would wait for these, and calls under way with it.
        await anyio.to_thread.run_sync(_load)
        await queue.start_worker(self.see_through, concurrency=self.settings.server.concurrency)
        # A full collection takes longer than a frame of audio: what is there from the beginning stays out of it.
        gc.collect()
        gc.freeze()

    async def see_through(self, run_id: int) -> None:
        """See a run through, from claiming it to reporting its outcome. Every error is an outcome.

        Raises:
            RecordError: The record does not say whether the run is still wanted.
        """
        with logger.contextualize(run_id=run_id):
            job = await self._retried(lambda: self.record.claim(run_id, self.executor), tries=CLAIM_TRIES)
            if job is None:
                logger.info("run {}: not wanted any more", run_id)
                return
            folder = self.folder / f"{run_id}-{job.attempt}"
            try:
                await self._make(job, folder)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))

    async def _make(self, job: Job, folder: Path) -> None:
        report: dict[str, Any] | Problem | None = None
        try:
            report = await self._attempt(job, folder)
            await self._deliver(job, folder, report)
        except anyio.get_cancelled_exc_class():
            # Broken off from outside: the call has left its room, and its facts are on disk.
            with anyio.move_on_after(STOPPED_REPORT_LIMIT_S, shield=True):
                await self._deliver(job, folder, report or _stopped(folder))
            raise

    async def _attempt(self, job: Job, folder: Path) -> dict[str, Any] | Problem:
        """Make a run's call, and return what to report."""
        live = _Live()
        live.report = report = LiveReport(self.record, job, live.cancel)
        outcome: dict[str, Any] | Problem | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(report.run)
            try:
                outcome = _dump(await self._call(job, folder, live, report))
            except RoomError as error:
                outcome = _no_session(job, error)
            except RunnerError as error:
                outcome = _problem(job, str(error))
            except Exception as error:
                logger.opt(exception=True).error("run {}: broke off", job.run_id)
                outcome = _problem(job, f"our own error: {type(error).__name__}: {error}")
            tasks.cancel_scope.cancel()
        return outcome or _cancelled_before_its_call()

    async def _call(self, job: Job, folder: Path, live: _Live, report: LiveReport) -> Run | None:
        """Make a run's call; None if it was cancelled before."""
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))
        try:
            script = Script.model_validate(job.script)
        except ValueError as error:
            raise UsageError(f"the scenario is of another version of this program ({type(error).__name__})") from None
        made: Run | None = None
        with live.preparing:
            async with (
                httpx.AsyncClient() as http,
                room_of(job, http, self.settings.room.daily_domains) as address,
            ):
                request = CallRequest(
                    script=script,
                    address=address,
                    data_message=None if job.data_message is None else DataMessage(job.data_message["value"]),
                    transcribe=job.transcribe,
                    allow_unjudged=job.allow_unjudged,
                    notes=job.notes,
                )
                live.call = self.make_call(
                    request, _settings_for(job, self.settings), folder, run_id=str(job.run_id), watcher=report
                )
                made = await live.call.make()
        return made

    async def _deliver(self, job: Job, folder: Path, report: dict[str, Any] | Problem) -> None:
        """Upload what there is, and report; as often as it takes."""
        for name in ARTEFACTS:
            path = folder / name
            if not await anyio.Path(path).is_file():
                continue
            try:
                await self._retried(
                    lambda name=name, path=path: self.record.put_artefact(job.run_id, job.attempt, name, path),
                    tries=UPLOAD_TRIES,
                )
            except (RecordError, OSError) as error:
                logger.warning("run {}: {} could not be uploaded: {}", job.run_id, name, error)
        try:
            accepted = await self._told(job, report)
        except RecordError as error:
            logger.error("run {}: its outcome was refused: {}", job.run_id, error)
            accepted = await self._told(job, _problem(job, f"the record refused the outcome: {error}"))
        logger.info("run {}: reported{}", job.run_id, "" if accepted else ", and did not count any more")

    async def _told(self, job: Job, report: dict[str, Any] | Problem) -> bool:
        return await self._retried(lambda: self.record.outcome(job.run_id, job.attempt, report), tries=None)

    async def _retried(self, tell: Callable[[], Awaitable[_T]], *, tries: int | None) -> _T:
        """Tell the record something until it takes it.

        Raises:
            RecordError: It never will, or has not in so many tries.
        """
        tried = 0
        wait_s = FIRST_WAIT_S
        while True:
            tried += 1
            try:
                return await tell()
            except RecordError as error:
                if not error.transient or tried == tries:
                    raise
                logger.log("WARNING" if tried in (3, 30) else "DEBUG", "{}; tried again", error)
            await anyio.sleep(wait_s)
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)


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


def _stopped(folder: Path) -> dict[str, Any] | Problem:
    """Return what there is to report of a run that was broken off."""
    try:
        return run_file.read_run(folder).model_dump(mode="json", exclude={"script"})
    except RunnerError:
        return Problem(cause=Cause.HARNESS, reason=EndedReason.CANCELLED, detail="the worker was stopped")


def _safe(job: Job, detail: str) -> str:
    """Return a text in one line, without the run's secrets."""
    text = " ".join(detail.split())
    secrets = (job.token, None if job.session is None else job.session.credential)
    for secret in secrets:
        if secret is not None and secret.get_secret_value():
            text = text.replace(secret.get_secret_value(), "***")
    return text[:MAX_DETAIL_CHARACTERS]


def _load() -> None:
    """Load what calls need: seconds of imports."""
    for module in _NEEDED:
        # What is not installed is missed by the run that needs it.
        with suppress(ImportError):
            importlib.import_module(module)
