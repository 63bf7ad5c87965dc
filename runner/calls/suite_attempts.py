"""One attempt at a run of a suite: a session, its call, and what the end of the agent's own process says of it."""

import os.path
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.to_thread
from loguru import logger

from bots.caller.speech.settings import SECRET_NAME
from bots.masking import masked
from bots.timeline import AgentProcessEnded, CallEnded, EndedReason, TimelineEvent
from runner.calls.evaluate import began_ns, evaluate_run
from runner.calls.repeating import earlier_attempt
from runner.calls.request import CallMaker, CallRequest, CallWatcher, DataMessage, LiveCall, new_run_id
from runner.calls.run_file import EarlierAttempt, Run, utc_now
from runner.calls.suite_facts import planned_hash
from runner.calls.suite_file import SuiteRun, in_one_line
from runner.calls.suite_room import SuiteRooms
from runner.errors import RoomError, RunnerError
from runner.evaluation.outcome import decide
from runner.scenarios.suites import PlannedRun, Suite
from runner.scenarios.targets import AgentByCommand
from runner.sessions.local_agent import AgentEnded, LastingAgent
from runner.sessions.start import Session
from runner.settings import Settings

EXIT_GRACE_S = 0.5
"""How long the agent's process may take to end after its call did, to be known for the reason."""

_NOT_REACHED = frozenset({EndedReason.ROOM_UNREACHABLE, EndedReason.ICE_FAILED})
"""Endings of a run that may owe to an agent that the run before it had brought down."""

_UNWELL = _NOT_REACHED | {
    EndedReason.AGENT_NEVER_JOINED,
    EndedReason.AGENT_NEVER_SPOKE,
    EndedReason.AGENT_VANISHED,
    EndedReason.AGENT_FROZE,
}
"""Endings after which an agent of ours is not used again, and what it printed may say why."""


_MAY_BE_A_CRASH = _UNWELL | {EndedReason.AGENT_LEFT}
"""Endings that the end of the agent's process may be the reason for."""


_OF_A_RUN = ("status", "success", "cause", "ended_reason", "detail", "started_at", "duration_s")
"""What is the same of a run of a suite and of its call."""


class Live(CallWatcher, Protocol):
    """A run under way; watches its call.

    Attributes:
        slot: Which of the runs at a time it is, from 1.
        call: Its call, once there is one.
        found_dead: A call that found the agent dead of the run before.
    """

    slot: int
    call: LiveCall | None
    found_dead: EarlierAttempt | None


class Attempts:
    """Makes attempts at the runs of a suite.

    Args:
        allow_unjudged: Let runs pass whose only problem is inconclusive expectations.
        stopped: Returns why the suite was stopped; None as long as it was not.
    """

    def __init__(
        self,
        suite: Suite,
        settings: Settings,
        folder: Path,
        *,
        allow_unjudged: bool,
        make_call: CallMaker,
        stopped: Callable[[], str | None],
    ):
        self._suite = suite
        self._settings = settings
        self._folder = folder
        self._allow_unjudged = allow_unjudged
        self._make_call = make_call
        self._stopped = stopped

    async def make(self, planned: PlannedRun, agent: LastingAgent | None, live: Live) -> SuiteRun:
        """Make a run, and return what became of it; that it can't be made is a result as well.

        Args:
            agent: The process that runs the agent, where that is ours.
            live: Watches it.
        """
        began_s, started_at = time.monotonic(), utc_now()

        def no_call(reason: EndedReason, error: str, *facts: TimelineEvent) -> SuiteRun:
            outcome = decide(planned.script, [*facts, CallEnded(at_ns=0, reason=reason, detail=error)], [])
            return _suite_run(
                planned,
                status=outcome.status,
                success=outcome.success,
                cause=outcome.cause,
                ended_reason=reason,
                detail=in_one_line(outcome.detail or error),
                failure=outcome.failure,
                started_at=started_at,
                duration_s=round(time.monotonic() - began_s, 3),
            )

        try:
            result = await self._call(planned, agent, live)
        except AgentEnded as error:
            # Without the end of what it printed, which is no single line.
            said = masked(str(error).partition("\n")[0], self._secrets())
            printed = masked(error.printed, self._secrets())
            ended = AgentProcessEnded(at_ns=0, exit_code=error.exit_code, log_tail=printed)
            result = no_call(EndedReason.ROOM_UNREACHABLE, said, ended)
            result = result.model_copy(update={"agent_exit_code": error.exit_code})
        except RoomError as error:
            result = no_call(error.reason, str(error))
        except RunnerError as error:
            result = no_call(EndedReason.RUNNER_ERROR, str(error))
        except Exception as error:
            logger.opt(exception=True).error("a run broke off")
            result = no_call(EndedReason.RUNNER_ERROR, f"our own error: {type(error).__name__}: {error}")
        if agent is None:
            return result
        if (agent.exit_code is not None or result.ended_reason in _UNWELL) and agent.log.exists():
            exit_code = result.agent_exit_code if agent.exit_code is None else agent.exit_code
            update = {"agent_exit_code": exit_code, "agent_log": agent.log.name}
            result = result.model_copy(update=update)
        if result.ended_reason in _UNWELL:
            await agent.stop()
        return result

    async def _call(self, planned: PlannedRun, agent: LastingAgent | None, live: Live) -> SuiteRun:
        starts = 0 if agent is None else agent.starts
        result = await self._call_once(planned, agent, live)
        reached = result.ended_reason not in _NOT_REACHED
        if agent is None or agent.starts > starts or reached or await agent.is_alive():
            return result
        reason = "the agent had died of the run before"
        logger.warning("{}: {}; made again with a new one", planned.title, reason)
        live.call, live.found_dead = None, earlier_attempt(result, reason, folder=result.folder)
        return await self._call_once(planned, agent, live)

    async def _call_once(self, planned: PlannedRun, agent: LastingAgent | None, live: Live) -> SuiteRun:
        async with SuiteRooms(self._suite, self._settings).room_for(planned, live.slot, agent) as session:
            return await self._call_in(session, planned, agent, live)

    async def _call_in(
        self, session: Session, planned: PlannedRun, agent: LastingAgent | None, live: Live
    ) -> SuiteRun:
        request = CallRequest(
            script=planned.script,
            address=session.address,
            data_message=None if planned.publish is None else DataMessage(planned.publish),
            allow_unjudged=self._allow_unjudged,
            notes=planned.scenario.notes,
            session_end_state=session.end_state,
        )
        run_id = new_run_id()
        folder = self._folder / run_id
        call = self._make_call(request, self._settings, folder, run_id=run_id, watcher=live)
        live.call = call
        stopped = self._stopped()
        if stopped is not None:
            call.cancel(stopped)
        printed_bytes = 0 if agent is None else agent.printed_bytes
        run = await call.make()
        if agent is not None:
            run = await self._with_its_agents_end(run, folder, agent, printed_bytes)
        came_to = {name: getattr(run, name) for name in _OF_A_RUN}
        return _suite_run(planned, **came_to, folder=run_id).judged(run)

    def _secrets(self) -> list[str]:
        """Return what an agent may print and nobody may read: the token, secrets in variables and messages."""
        secrets = [] if self._suite.token is None else [self._suite.token.get_secret_value()]
        if isinstance(self._suite.agent, AgentByCommand):
            secrets += [value for name, value in self._suite.agent.env.items() if SECRET_NAME.search(name)]
        for planned in self._suite.runs:
            secrets += DataMessage(planned.publish).secrets(self._settings.redact_keys)
        return secrets

    async def _with_its_agents_end(self, run: Run, folder: Path, agent: LastingAgent, printed_bytes: int) -> Run:
        """Return a run judged with the end of the process that ran its agent, if that ended in it.

        Args:
            printed_bytes: How much it had printed before the call: that is not what it ended with.
        """
        if run.ended_reason in _MAY_BE_A_CRASH:
            await agent.wait_ended(EXIT_GRACE_S)
        exit_code = agent.exit_code
        if exit_code is None:
            return run
        ended_ns = agent.ended_ns or time.monotonic_ns()

        def judge_again() -> Run:
            tail = masked(agent.log_tail(printed_bytes), self._secrets())
            at_ns = max(ended_ns - began_ns(folder), 0)
            return evaluate_run(folder, added=[AgentProcessEnded(at_ns=at_ns, exit_code=exit_code, log_tail=tail)])

        try:
            return await anyio.to_thread.run_sync(judge_again)
        except RunnerError as error:
            logger.error("{}", error)
            warning = f"the agent's process ended, which the verdict does not know of: {error}"
            return run.model_copy(update={"warnings": [*run.warnings, warning]})


def _suite_run(planned: PlannedRun, **came_to: Any) -> SuiteRun:
    """Return what a planned run came to; the arguments are the other fields of :class:`SuiteRun`."""
    return SuiteRun(
        scenario=planned.scenario.name,
        file=shown(planned.scenario.path),
        repeat=planned.repeat,
        scenario_hash=planned_hash(planned),
        compared_as=planned.compared_as,
        **came_to,
    )


def shown(path: Path) -> str:
    """Return a path as results show it."""
    return os.path.normpath(path)
