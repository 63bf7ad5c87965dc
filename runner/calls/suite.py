"""A suite of calls: so many at a time, each with a session of its own, and on disk as soon as it is over."""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread
from loguru import logger

from bots.timeline import (
    CallEnded,
    CallerUnderrun,
    EndedReason,
    HarnessStalled,
    TimelineEvent,
)
from runner.calls.call import Call
from runner.calls.headroom import CALLS_PER_CORE, CallLimit, MachineUse, UseMeter, available_cores
from runner.calls.loading import load, speech_lines
from runner.calls.repeating import earlier_attempt, reason_to_repeat
from runner.calls.request import CallMaker, LiveCall, new_run_id
from runner.calls.run_file import EarlierAttempt, utc_now
from runner.calls.suite_attempts import Attempts, shown
from runner.calls.suite_facts import session_facts
from runner.calls.suite_file import (
    FILE_NAME,
    OpenRun,
    SkippedScenario,
    SuiteResult,
    SuiteRun,
    write_suite,
)
from runner.calls.suite_room import SuiteRooms
from runner.comparison.facts import SessionFacts
from runner.errors import RunnerError, UsageError
from runner.evaluation.verdicts import Cause, ExpectationVerdict
from runner.files import keep_end
from runner.load import Kind, Load
from runner.scenarios.suites import PlannedRun, Suite
from runner.scenarios.targets import AgentByCommand
from runner.sessions.local_agent import LastingAgent
from runner.settings import Settings

MAX_LOG_BYTES = 10_000_000
"""What an agent printed is shortened to its end once it is more than that."""

LAG_INTERVAL_S = 0.1
LOAD_INTERVAL_S = 1.0
"""How often the event loop is looked at, and how often the machine."""


class SuiteWatcher(Protocol):
    """Watches a suite. Called on the event loop; must not block and must not raise."""

    def begun(self, run: PlannedRun) -> None:
        """See that a run begins."""
        ...

    def call_over(self, run: PlannedRun) -> None:
        """See that its call is over; what was said in it is recognised next."""
        ...

    def ended(self, run: PlannedRun, result: SuiteRun | None) -> None:
        """See what became of it; None if it was stopped before its call."""
        ...

    def repeats(self, run: PlannedRun, attempt: EarlierAttempt) -> None:
        """See that it is made again later, and what became of it so far."""
        ...

    def limited(self, allowed: int, warning: str | None) -> None:
        """See how many runs may be made at once from now on, and what there is to say of that."""
        ...


@dataclass(eq=False)
class _Live:
    """A run under way: until its call is there, what prepares it can be cut off.

    Attributes:
        slot: Which of the runs at a time it is, from 1.
        began_s: When it began, on the monotonic clock.
        call: Its call; this watches it.
        found_dead: A call that found the agent dead of the run before.
    """

    runner: "SuiteRunner"
    planned: PlannedRun
    slot: int
    scope: anyio.CancelScope
    began_s: float
    call: LiveCall | None = None
    found_dead: EarlierAttempt | None = None

    def fact(self, event: TimelineEvent) -> None:
        """See a fact of the call."""
        if isinstance(event, CallerUnderrun):
            self.runner.had_trouble(late_ms=event.duration_ms)
        elif isinstance(event, HarnessStalled):
            self.runner.had_trouble(stalled_ms=event.duration_ms)
        elif isinstance(event, CallEnded) and self.runner.watcher is not None:
            self.runner.watcher.call_over(self.planned)

    def verdicts(self, verdicts: Sequence[ExpectationVerdict]) -> None:
        """See verdicts: they come with the run."""

    def audio(self, channel: int, at_ns: int, pcm: bytes) -> None:
        """Hear a side: it is recorded."""


@dataclass
class SuiteRunner:
    """Makes the runs of a suite, once.

    A run that can't be made is a result like every other.

    Args:
        folder: Where ``suite.json`` and a folder for each run go; is made if it is not there.
        allow_unjudged: Let runs pass whose only problem is inconclusive expectations.
        fail_fast: Begin no more runs once the agent failed in one; those under way go on to their end.
        keep: Is called with the suite's result as it stands, before anything is written and then whenever
            ``suite.json`` was; in a worker thread, never twice at a time. May raise :class:`OSError`.
        measure_use: Returns how much of this machine was in use since it was last asked, given how late the event
            loop was.
        session: The session of the runs, for comparisons; a new one unless it is given.
        turn: Is held while a run is on: lets in the runs of this suite and of another in turns.
    """

    suite: Suite
    settings: Settings
    folder: Path
    allow_unjudged: bool = False
    fail_fast: bool = False
    watcher: SuiteWatcher | None = None
    keep: Callable[[SuiteResult], None] | None = None
    make_call: CallMaker = Call
    measure_use: Callable[[float], MachineUse] = field(default_factory=lambda: UseMeter().read)
    cores: float = field(default_factory=available_cores)
    session: str = field(default_factory=new_run_id)
    turn: Callable[[], AbstractAsyncContextManager[None]] = nullcontext

    def __post_init__(self) -> None:
        self._waiting = deque(self.suite.runs)
        self._results: dict[int, SuiteRun] = {}
        self._earlier: dict[int, list[EarlierAttempt]] = {}
        self._repeats_left: dict[int, int] = {}
        self._live: dict[int, _Live] = {}
        self._limit = CallLimit(self.most_at_once, rises=self.suite.concurrency is None, cores=self.cores)
        self._load = Load(carrier=self._limit)
        self._limit_moved = anyio.Event()
        self._preparing = anyio.CancelScope()
        self._writing = anyio.Lock()
        self._stopped: str | None = None
        self._failed_fast: str | None = None
        self._started_at = utc_now()
        self._facts: SessionFacts | None = None

    @property
    def most_at_once(self) -> int:
        """How many runs are made at once at most."""
        by_cores = max(int(self.cores * CALLS_PER_CORE), 1)
        asked = min(by_cores, self.suite.most_at_once) if self.suite.concurrency is None else self.suite.concurrency
        return min(asked, len(self.suite.runs))

    async def make(self) -> SuiteResult:
        """Make all runs, and return what became of them. After each, it is on disk.

        Raises:
            UsageError: The folder holds a suite already or can't be written, a caller's line can't be spoken, or a
                key is missing; nothing was called.
            MissingExtra: The caller's speech needs an optional package; nothing was called.
            RunnerError: All runs were made, and what became of them is not on disk, or not all of it.
        """
        self._started_at = utc_now()
        self._attempts = Attempts(
            self.suite,
            self.settings,
            self.folder,
            allow_unjudged=self.allow_unjudged,
            make_call=self.make_call,
            stopped=lambda: self._stopped,
        )
        SuiteRooms(self.suite, self.settings).check()
        self._facts = session_facts(self.suite, self.settings, self.session, self._started_at)
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
            await prepare(self.suite, self.settings)
        async with anyio.create_task_group() as watching:
            watching.start_soon(self._watch_load)
            async with anyio.create_task_group() as slots:
                for slot in range(1, self.most_at_once + 1):
                    slots.start_soon(self._work, slot)
            watching.cancel_scope.cancel()
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
        self._wake()

    def had_trouble(self, *, late_ms: float = 0.0, stalled_ms: float = 0.0) -> None:
        """Take in that audio of ours was late in a call, or that we stood still in it."""
        if self._limit.trouble(self._load.clock_s(), self._load.on, late_ms=late_ms, stalled_ms=stalled_ms):
            self._limited()

    # How many runs at once.

    async def _watch_load(self) -> None:
        """Look at how much there is to do, until cancelled."""
        lag_ms, next_s = 0.0, self._load.clock_s() + LOAD_INTERVAL_S
        while True:
            began_s = self._load.clock_s()
            await anyio.sleep(LAG_INTERVAL_S)
            now_s = self._load.clock_s()
            lag_ms = max(lag_ms, (now_s - began_s - LAG_INTERVAL_S) * 1_000)
            if now_s >= next_s:
                if self._limit.sample(now_s, self.measure_use(lag_ms), self._load.on):
                    self._limited()
                lag_ms, next_s = 0.0, now_s + LOAD_INTERVAL_S

    def _limited(self) -> None:
        warning = self._limit.warning
        logger.info("{} runs at once from now on", self._limit.allowed)
        if self.watcher is not None:
            self.watcher.limited(self._limit.allowed, warning)
        self._wake()

    def _wake(self) -> None:
        """Let every slot see whether there is something for it to do."""
        self._limit_moved.set()
        self._limit_moved = anyio.Event()

    async def _turn_of(self, slot: int) -> bool:
        """Wait until a slot may make a run; return whether there is one left for it."""
        while not self._is_over and (self._waiting or self._live):
            if self._has_a_run_for(slot):
                return True
            # A run under way may have to be made again, and the number that is allowed may go up.
            await self._limit_moved.wait()
        return False

    @property
    def _is_over(self) -> bool:
        """Whether no more runs are begun."""
        return self._stopped is not None or self._failed_fast is not None

    def _has_a_run_for(self, slot: int) -> bool:
        # A slot above what is allowed rests, although the others have nothing to do: its agent is one of too many.
        return slot <= self._load.allowed and any(map(self._may_begin, self._waiting))

    def _may_begin(self, planned: PlannedRun) -> bool:
        return self._load.may_begin([_group(planned)])

    def _take(self) -> PlannedRun:
        planned = next(filter(self._may_begin, self._waiting))
        self._waiting.remove(planned)
        self._load.begin({_group(planned): planned.at_a_time})
        return planned

    # The runs.

    async def _work(self, slot: int) -> None:
        """Make runs, one after the other, until none is left."""
        async with self._agent(slot) as agent, anyio.create_task_group() as tasks:
            if agent is not None:
                tasks.start_soon(agent.watch)
            while await self._turn_of(slot):
                planned = self._take()
                began_s = self._load.clock_s()
                self._live[planned.index] = live = _Live(self, planned, slot, anyio.CancelScope(), began_s)
                # What came before is on disk, and that this one is under way, should it be the last that is made.
                await self._record()
                if agent is not None:
                    await self._bound(agent.log)
                    if planned.agent is not None:
                        await agent.become(planned.agent.command, planned.agent.env, planned.agent.folder)
                async with self.turn():
                    if self._is_over:
                        self._waiting.appendleft(planned)
                    else:
                        await self._run(planned, agent, live)
                del self._live[planned.index]
                self._load.end([_group(planned)])
                self._wake()
                if not self._has_a_run_for(slot):
                    await self._record()
            tasks.cancel_scope.cancel()

    def _agent(self, slot: int) -> AbstractAsyncContextManager[LastingAgent | None]:
        match self.suite.agent:
            case AgentByCommand(command, env, folder):
                return LastingAgent(command, env, self.folder / f"agent-{slot}.log", folder)
            case _:
                return nullcontext()

    async def _run(self, planned: PlannedRun, agent: LastingAgent | None, live: _Live) -> None:
        if self.watcher is not None:
            self.watcher.begun(planned)
        result: SuiteRun | None = None
        with live.scope:
            result = await self._attempts.make(planned, agent, live)
        if result is not None:
            earlier = [*self._earlier.get(planned.index, []), *([live.found_dead] if live.found_dead else [])]
            result = result.model_copy(update={"earlier_attempts": earlier})
            # Also of a run that is made again: should it come to that no more, this is what became of it.
            self._results[planned.index] = result
            if self._repeated(planned, result, live):
                return
            if self.fail_fast and result.success is False and self._failed_fast is None:
                self._failed_fast = f"the agent failed in {planned.title}, the first failure"
                self._wake()
        if self.watcher is not None:
            self.watcher.ended(planned, result)

    def _repeated(self, planned: PlannedRun, result: SuiteRun, live: _Live) -> bool:
        """Have a run made again that came to nothing, if that is worth it; return whether it will be."""
        reason = reason_to_repeat(result)
        # An error of ours says nothing of how many calls the machine takes; late audio does.
        if result.cause is Cause.HARNESS and result.ended_reason is not EndedReason.RUNNER_ERROR:
            now_s, warned = self._load.clock_s(), self._limit.warning
            if self._limit.spoilt(now_s, live.began_s, self._load.on) or self._limit.warning != warned:
                self._limited()
        # Without a call there was something that is the same the next time.
        if reason is None or result.folder is None or self._is_over:
            return False
        self._repeats_left.setdefault(planned.index, self.suite.retry_inconclusive)
        if self._repeats_left[planned.index] == 0:
            return False
        self._repeats_left[planned.index] -= 1
        attempt = earlier_attempt(result, reason, folder=result.folder)
        self._earlier[planned.index] = [*result.earlier_attempts, attempt]
        self._waiting.appendleft(planned)
        if self.watcher is not None:
            self.watcher.repeats(planned, attempt)
        return True

    # The results.

    def _result(self) -> SuiteResult:
        runs = self.suite.runs
        # After the first failure nothing was stopped if there was nothing left to begin.
        begun = self._results.keys() | self._live.keys()
        left = bool(self._waiting) or any(run.index not in begun for run in runs)
        failed_fast = self._stopped is None and self._failed_fast is not None and left
        stopped = self._failed_fast if failed_fast else self._stopped
        return SuiteResult(
            suite=self.suite.name,
            file=shown(self.suite.path),
            started_at=self._started_at,
            session=self._facts,
            finished=not (self._waiting or self._live) and stopped is None,
            stopped=stopped,
            failed_fast=failed_fast,
            allow_unjudged=self.allow_unjudged,
            runs=[self._results[run.index] for run in runs if run.index in self._results],
            open=[
                OpenRun(
                    scenario=run.scenario.name,
                    file=shown(run.scenario.path),
                    repeat=run.repeat,
                    under_way=run.index in self._live,
                )
                for run in runs
                if run.index not in self._results
            ],
            skipped=[
                SkippedScenario(scenario=skipped.name, file=shown(skipped.path), reason=skipped.refusal or "")
                for skipped in self.suite.skipped
            ],
            warnings=[*self.suite.notes, *([] if self._limit.warning is None else [self._limit.warning])],
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


async def prepare(suite: Suite, settings: Settings) -> None:
    """Load what calls need, and have all lines of a suite spoken.

    Before the first call: it takes the whole machine, and a call under way would be late.

    Raises:
        UsageError: A line can't be spoken.
        MissingExtra: The caller's speech needs an optional package.
    """
    await anyio.to_thread.run_sync(load)
    for script in {id(run.script): run.script for run in suite.runs}.values():
        await speech_lines(script, settings)


def _group(planned: PlannedRun) -> Kind:
    """Return what runs have in common of which only so many are made at a time."""
    return "group", planned.group
