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
from runner.calls.call import Call, CallRequest, DataMessage, new_run_id, speech_lines
from runner.calls.run_file import Run, utc_now
from runner.calls.suite_file import FILE_NAME, OpenRun, SuiteResult, SuiteRun, write_suite
from runner.errors import RoomError, RunnerError, UsageError
from runner.evaluation.outcome import decide
from runner.evaluation.verdicts import Verdict
from runner.rooms.open import RoomAddress
from runner.scenarios.suites import AgentAtUrl, AgentByCommand, AgentToStart, PlannedRun, Suite
from runner.sessions.local_agent import LastingAgent
from runner.sessions.pipecat_runner import StartedDailySession, start_session
from runner.settings import Settings

_NO_CALL = frozenset({EndedReason.ROOM_UNREACHABLE, EndedReason.ICE_FAILED})
"""Endings of a run that may owe to an agent that the run before it had brought down."""

_UNWELL = _NO_CALL | {
    EndedReason.AGENT_NEVER_JOINED,
    EndedReason.AGENT_NEVER_SPOKE,
    EndedReason.AGENT_VANISHED,
    EndedReason.AGENT_FROZE,
}
"""Endings after which an agent of ours is not used again."""


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
    """A run under way: until its call is there, what prepares it can be cut off."""

    scope: anyio.CancelScope
    call: LiveCall | None = None


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
        keep: Is called with the suite's result as it stands, whenever that was written; in a worker thread, never
            twice at a time. What it raises as :class:`OSError` is logged, and before the first call ends the suite.
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
        self._live: list[_Live] = []
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
        """
        if (self.folder / FILE_NAME).exists():
            raise UsageError(f"{self.folder}: holds a suite's results already; name another folder")
        self._started_at = utc_now()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            await self._write()
        except OSError as error:
            raise UsageError(f"{error.filename}: can't be written ({error.strerror})") from error
        with self._preparing:
            # Before the first call: synthesis takes the whole machine, and a call under way would be late.
            for script in {id(run.script): run.script for run in self.suite.runs}.values():
                await speech_lines(script, self.settings)
        async with anyio.create_task_group() as tasks:
            for slot in range(1, min(self.suite.concurrency, len(self.suite.runs)) + 1):
                tasks.start_soon(self._work, slot)
        await self._record()
        return self._result()

    def cancel(self, detail: str | None = None) -> None:
        """Stop the suite: calls under way are cancelled in good order, the others are not begun."""
        if self._stopped is not None or not (self._waiting or self._live):
            return
        self._stopped = detail or "stopped"
        self._preparing.cancel()
        for live in self._live:
            if live.call is None:
                live.scope.cancel()
            else:
                live.call.cancel(detail)

    # The runs.

    async def _work(self, slot: int) -> None:
        """Make runs, one after the other, until none is left."""
        async with self._agent(slot) as agent:
            while self._waiting and self._stopped is None:
                await self._run(self._waiting.popleft(), agent)

    def _agent(self, slot: int) -> AbstractAsyncContextManager[LastingAgent | None]:
        match self.suite.agent:
            case AgentByCommand(command, env):
                return LastingAgent(command, env, self.folder / f"agent-{slot}.log")
            case _:
                return nullcontext()

    async def _run(self, planned: PlannedRun, agent: LastingAgent | None) -> None:
        if self.watcher is not None:
            self.watcher.begun(planned)
        live = _Live(anyio.CancelScope())
        self._live.append(live)
        result: SuiteRun | None = None
        with live.scope:
            result = await self._attempt(planned, agent, live)
        self._live.remove(live)
        if result is not None:
            self._results[planned.index] = result
        if self.watcher is not None:
            self.watcher.ended(planned, result)
        await self._record()

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
                detail=_one_line(error),
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
        if agent.exit_code is not None:
            died = f"the agent's process {_ended(agent.exit_code)}: what it printed is in {agent.log.name}"
            result = result.model_copy(update={"detail": "; ".join(filter(None, [result.detail, died]))})
        if result.ended_reason in _UNWELL:
            await agent.stop()
        return result

    async def _call(self, planned: PlannedRun, agent: LastingAgent | None, live: _Live) -> SuiteRun:
        starts = 0 if agent is None else agent.starts
        result = await self._call_at(await self._address(planned, agent), planned, live)
        if agent is None or agent.starts > starts or result.ended_reason not in _NO_CALL or await agent.is_alive():
            return result
        logger.warning("{}: the agent had died of the run before; made again with a new one", planned.title)
        live.call = None
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
            detail=None if run.detail is None else _one_line(run.detail),
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
                OpenRun(scenario=run.scenario.name, file=_shown(run.scenario.path), repeat=run.repeat)
                for run in runs
                if run.index not in self._results
            ],
        )

    async def _record(self) -> None:
        try:
            await self._write()
        except Exception as error:
            logger.error("the suite's results can't be written: {}", error)

    async def _write(self) -> None:
        def write(result: SuiteResult) -> None:
            write_suite(self.folder, result)
            if self.keep is not None:
                self.keep(result)

        # In a thread: the disk may take its time, and calls are under way.
        with anyio.CancelScope(shield=True):
            async with self._writing:
                await anyio.to_thread.run_sync(write, self._result())


async def _local_address(agent: LastingAgent | None) -> str:
    if agent is None:
        raise RunnerError("there is no command to start the agent")
    try:
        return await agent.address()
    except RunnerError as error:
        summary = str(error).partition("\n")[0]
        raise RoomError(EndedReason.ROOM_UNREACHABLE, f"{summary} (all it printed is in {agent.log.name})") from error


def _shown(path: Path) -> str:
    return os.path.normpath(path)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _ended(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was ended by signal {-exit_code}"
