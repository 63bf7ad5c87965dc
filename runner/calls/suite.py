"""A suite of calls: so many at a time, each with a session of its own, and on disk as soon as it is over."""

import os.path
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread
import httpx
from loguru import logger

from bots.timeline import CallEnded, EndedReason
from runner.calls.call import Call, speech_lines
from runner.calls.request import CallRequest, DataMessage, new_run_id
from runner.calls.run_file import Run, utc_now
from runner.calls.suite_file import FILE_NAME, OpenRun, SkippedScenario, SuiteResult, SuiteRun, write_suite
from runner.errors import RoomError, RunnerError, UsageError
from runner.evaluation.outcome import decide
from runner.evaluation.verdicts import Verdict
from runner.files import keep_end
from runner.rooms.open import RoomAddress
from runner.scenarios.suites import AgentAtUrl, AgentByCommand, AgentToStart, PlannedRun, Suite
from runner.sessions.local_agent import LastingAgent
from runner.sessions.pipecat_runner import StartedDailySession, start_session
from runner.settings import Settings
from runner.text import one_line

MAX_LOG_BYTES = 10_000_000
"""What an agent printed is shortened to its end once it is more than that."""

_NOT_REACHED = frozenset({EndedReason.ROOM_UNREACHABLE, EndedReason.ICE_FAILED})
"""Endings of a run that may owe to an agent that the run before it had brought down."""

_UNWELL = _NOT_REACHED | {
    EndedReason.AGENT_NEVER_JOINED,
    EndedReason.AGENT_NEVER_SPOKE,
    EndedReason.AGENT_VANISHED,
    EndedReason.AGENT_FROZE,
}
"""Endings after which an agent of ours is not used again, and what it printed may say why."""


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

    def __call__(self, request: CallRequest, settings: Settings, folder: Path, run_id: str) -> LiveCall:
        """Return a call that is ready to be made."""
        ...


class SuiteWatcher(Protocol):
    """Watches a suite. Called on the event loop; must not block and must not raise."""

    def begun(self, run: PlannedRun) -> None:
        """See that a run begins."""
        ...

    def ended(self, run: PlannedRun, result: SuiteRun | None) -> None:
        """See what became of it; None if it was stopped before its call."""
        ...


@dataclass(eq=False)
class _Live:
    """A run under way: until its call is there, what prepares it can be cut off.

    Attributes:
        scope: What prepares it.
        call: Its call.
        first_attempt: The folder of a call that found the agent dead of the run before.
    """

    scope: anyio.CancelScope
    call: LiveCall | None = None
    first_attempt: str | None = None


@dataclass
class SuiteRunner:
    """Makes the runs of a suite, once.

    A run that can't be made is a result like every other.

    Args:
        suite: The suite.
        settings: How to make the calls.
        folder: Where ``suite.json`` and a folder for each run go; is made if it is not there.
        allow_unjudged: Let runs pass whose only trouble is expectations that nobody could judge.
        watcher: Watches the runs.
        keep: Is called with the suite's result as it stands, before anything is written and then whenever
            ``suite.json`` was; in a worker thread, never twice at a time. May raise :class:`OSError`.
        make_call: Prepares a call.
    """

    suite: Suite
    settings: Settings
    folder: Path
    allow_unjudged: bool = False
    watcher: SuiteWatcher | None = None
    keep: Callable[[SuiteResult], None] | None = None
    make_call: CallMaker = Call

    def __post_init__(self) -> None:
        self._waiting = deque(self.suite.runs)
        self._results: dict[int, SuiteRun] = {}
        self._live: dict[int, _Live] = {}
        self._preparing = anyio.CancelScope()
        self._writing = anyio.Lock()
        self._stopped: str | None = None
        self._started_at = utc_now()

    async def make(self) -> SuiteResult:
        """Make all runs, and return what became of them. After each, it is on disk.

        Raises:
            UsageError: The folder holds a suite already or can't be written, or a caller's line can't be spoken;
                nothing was called.
            MissingExtra: The caller's speech needs an optional package; nothing was called.
            RunnerError: All runs were made, and what became of them is not on disk, or not all of it.
        """
        self._started_at = utc_now()
        try:
            if (self.folder / FILE_NAME).exists():
                raise UsageError(f"{self.folder}: holds a suite's results already; name another folder")
            # First what may lie anywhere: where it is refused, the folder is still to be had.
            await self._write(self._keep)
            self.folder.mkdir(parents=True, exist_ok=True)
            await self._write(self._save)
        except OSError as error:
            raise UsageError(f"{error.filename}: can't be written ({error.strerror})") from error
        with self._preparing:
            # Before the first call: synthesis takes the whole machine, and a call under way would be late.
            for script in {id(run.script): run.script for run in self.suite.runs}.values():
                await speech_lines(script, self.settings)
        async with anyio.create_task_group() as tasks:
            for slot in range(1, min(self.suite.concurrency, len(self.suite.runs)) + 1):
                tasks.start_soon(self._work, slot)
        if (lost := await self._record()) is not None:
            raise RunnerError(
                f"{lost.filename}: can't be written ({lost.strerror}); the suite's last results are not in it"
            )
        return self._result()

    def cancel(self, detail: str | None = None) -> None:
        """Stop the suite: calls under way are cancelled in good order, the others are not begun."""
        if self._stopped is not None or not (self._waiting or self._live):
            return
        self._stopped = detail or "stopped"
        self._preparing.cancel()
        for live in self._live.values():
            if live.call is None:
                live.scope.cancel()
            else:
                live.call.cancel(detail)

    # The runs.

    async def _work(self, slot: int) -> None:
        """Make runs, one after the other, until none is left."""
        async with self._agent(slot) as agent:
            while self._waiting and self._stopped is None:
                planned = self._waiting.popleft()
                self._live[planned.index] = live = _Live(anyio.CancelScope())
                # What came before is on disk, and that this one is under way, should it be the last that is made.
                await self._record()
                if agent is not None:
                    await self._bound(agent.log)
                if self._stopped is None:
                    await self._run(planned, agent, live)
                del self._live[planned.index]
            await self._record()

    def _agent(self, slot: int) -> AbstractAsyncContextManager[LastingAgent | None]:
        match self.suite.agent:
            case AgentByCommand(command, env):
                return LastingAgent(command, env, self.folder / f"agent-{slot}.log")
            case _:
                return nullcontext()

    async def _run(self, planned: PlannedRun, agent: LastingAgent | None, live: _Live) -> None:
        if self.watcher is not None:
            self.watcher.begun(planned)
        result: SuiteRun | None = None
        with live.scope:
            result = await self._attempt(planned, agent, live)
        if result is not None:
            self._results[planned.index] = result
        if self.watcher is not None:
            self.watcher.ended(planned, result)

    async def _attempt(self, planned: PlannedRun, agent: LastingAgent | None, live: _Live) -> SuiteRun:
        began_s, started_at = time.monotonic(), utc_now()

        def no_call(reason: EndedReason, error: str) -> SuiteRun:
            outcome = decide(planned.script, [CallEnded(at_ns=0, reason=reason, detail=error)], [])
            return SuiteRun(
                scenario=planned.scenario.name,
                file=_shown(planned.scenario.path),
                repeat=planned.repeat,
                status=outcome.status,
                success=outcome.success,
                cause=outcome.cause,
                ended_reason=reason,
                detail=_in_one_line(error),
                started_at=started_at,
                duration_s=round(time.monotonic() - began_s, 3),
            )

        try:
            result = await self._call(planned, agent, live)
        except RoomError as error:
            result = no_call(error.reason, str(error))
        except RunnerError as error:
            result = no_call(EndedReason.RUNNER_ERROR, str(error))
        except Exception as error:
            logger.opt(exception=True).error("a run broke off")
            result = no_call(EndedReason.RUNNER_ERROR, f"our own error: {type(error).__name__}: {error}")
        if agent is None:
            return result
        if live.first_attempt is not None:
            result = result.model_copy(update={"first_attempt": live.first_attempt})
        notes = [] if agent.exit_code is None else [f"the agent's process {_ended(agent.exit_code)}"]
        if (notes or result.ended_reason in _UNWELL) and agent.log.exists():
            notes.append(f"what the agent printed is in {agent.log.name}")
        if notes:
            result = result.model_copy(update={"detail": "; ".join(filter(None, [result.detail, *notes]))})
        if result.ended_reason in _UNWELL:
            await agent.stop()
        return result

    async def _call(self, planned: PlannedRun, agent: LastingAgent | None, live: _Live) -> SuiteRun:
        starts = 0 if agent is None else agent.starts
        result = await self._call_at(await self._address(planned, agent), planned, live)
        reached = result.ended_reason not in _NOT_REACHED
        if agent is None or agent.starts > starts or reached or await agent.is_alive():
            return result
        logger.warning("{}: the agent had died of the run before; made again with a new one", planned.title)
        live.call, live.first_attempt = None, result.folder
        return await self._call_at(await self._address(planned, agent), planned, live)

    async def _call_at(self, address: RoomAddress, planned: PlannedRun, live: _Live) -> SuiteRun:
        request = CallRequest(
            script=planned.script,
            address=address,
            data_message=None if planned.publish is None else DataMessage(planned.publish),
            allow_unjudged=self.allow_unjudged,
            notes=planned.scenario.notes,
        )
        run_id = new_run_id()
        call = self.make_call(request, self.settings, self.folder / run_id, run_id=run_id)
        live.call = call
        if self._stopped is not None:
            call.cancel(self._stopped)
        run = await call.make()
        return SuiteRun(
            scenario=planned.scenario.name,
            file=_shown(planned.scenario.path),
            repeat=planned.repeat,
            status=run.status,
            success=run.success,
            cause=run.cause,
            ended_reason=run.ended_reason,
            detail=None if run.detail is None else _in_one_line(run.detail),
            started_at=run.started_at,
            duration_s=run.duration_s,
            folder=run_id,
            first_response_ms=run.first_response_ms,
            response_latencies_ms=[t.response_latency_ms for t in run.turns if t.response_latency_ms is not None],
            unmet=[v for v in run.expectations if v.verdict is not Verdict.MET],
        )

    async def _address(self, planned: PlannedRun, agent: LastingAgent | None) -> RoomAddress:
        token = self.suite.token
        match self.suite.agent:
            case AgentAtUrl(url):
                return RoomAddress(url, token, planned.data)
            case AgentToStart(start_url, kind):
                async with httpx.AsyncClient() as http:
                    session = await start_session(http, start_url, token, kind=kind, body=planned.data)
                if isinstance(session, StartedDailySession):
                    return RoomAddress(session.room_url, session.token)
                return RoomAddress(session.offer_url, token, ice_servers=tuple(session.ice_servers))
            case AgentByCommand():
                return RoomAddress(await _local_address(agent), token, planned.data)

    # The results.

    def _result(self) -> SuiteResult:
        runs = self.suite.runs
        return SuiteResult(
            suite=self.suite.name,
            file=_shown(self.suite.path),
            started_at=self._started_at,
            finished=len(self._results) == len(runs) and self._stopped is None,
            stopped=self._stopped,
            allow_unjudged=self.allow_unjudged,
            runs=[self._results[run.index] for run in runs if run.index in self._results],
            open=[
                OpenRun(
                    scenario=run.scenario.name,
                    file=_shown(run.scenario.path),
                    repeat=run.repeat,
                    under_way=run.index in self._live,
                )
                for run in runs
                if run.index not in self._results
            ],
            skipped=[
                SkippedScenario(scenario=skipped.name, file=_shown(skipped.path), reason=skipped.refusal or "")
                for skipped in self.suite.skipped
            ],
        )

    async def _record(self) -> OSError | None:
        """Write the results wherever they are kept, and return what one of them could not be written for."""
        lost: OSError | None = None
        for writer in (self._save, self._keep):
            try:
                await self._write(writer)
            except OSError as error:
                logger.error("{}: can't be written ({})", error.filename, error.strerror)
                lost = lost or error
        return lost

    def _save(self, result: SuiteResult) -> None:
        write_suite(self.folder, result)

    def _keep(self, result: SuiteResult) -> None:
        if self.keep is not None:
            self.keep(result)

    async def _write(self, writer: Callable[[SuiteResult], None]) -> None:
        # In a thread: the disk may take its time, and calls are under way.
        with anyio.CancelScope(shield=True):
            async with self._writing:
                await anyio.to_thread.run_sync(writer, self._result())

    async def _bound(self, log: Path) -> None:
        try:
            await anyio.to_thread.run_sync(keep_end, log, MAX_LOG_BYTES)
        except OSError as error:
            logger.warning("{}: can't be shortened ({})", log, error.strerror)


async def _local_address(agent: LastingAgent | None) -> str:
    if agent is None:
        raise RunnerError("there is no command to start the agent")
    try:
        return await agent.address()
    except RunnerError as error:
        # Without the end of what it printed, which is no single line.
        raise RoomError(EndedReason.ROOM_UNREACHABLE, str(error).partition("\n")[0]) from error


def _shown(path: Path) -> str:
    return os.path.normpath(path)


def _in_one_line(text: str) -> str:
    return " ".join(one_line(text).split())


def _ended(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was ended by signal {-exit_code}"
