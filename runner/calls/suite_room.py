"""The room of a suite's run: one that is there, or that of a session which is started for it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import httpx
from pydantic import SecretStr, ValidationError

from bots.timeline import EndedReason
from runner.errors import RoomError, RunnerError, UsageError
from runner.hosts import leads_here
from runner.rooms.open import RoomAddress
from runner.rooms.urls import RoomKind
from runner.scenarios.suites import PlannedRun, Suite
from runner.scenarios.targets import (
    Agent,
    AgentAtUrl,
    AgentByCommand,
    AgentInRooms,
    AgentOnPipecatCloud,
    AgentToStart,
)
from runner.sessions.local_agent import AgentEnded, LastingAgent
from runner.sessions.pipecat_runner import StartedDailySession, start_session
from runner.sessions.start import Session, SessionKind, SessionSpec, started_session
from runner.settings import Settings


@dataclass(frozen=True)
class SuiteRooms:
    """Where the runs of a suite find their agent.

    Attributes:
        settings: Which hosts are Daily rooms besides ``*.daily.co``.
    """

    suite: Suite
    settings: Settings

    def check(self) -> None:
        """Refuse a suite whose agent can't be reached with what is known.

        Raises:
            UsageError: A key is missing.
        """
        if isinstance(self.suite.agent, AgentOnPipecatCloud) and self.suite.token is None:
            raise UsageError(
                f"{self.suite.path}: Pipecat Cloud starts sessions with a public key; name its variable "
                "(token: env:NAME)"
            )

    @asynccontextmanager
    async def room_for(self, planned: PlannedRun, slot: int, local: LastingAgent | None) -> AsyncGenerator[Session]:
        """Yield a run's room; a session that was started on Pipecat Cloud ends with the context.

        Args:
            slot: Which of the runs at a time it is, from 1.
            local: The agent on this machine, if the suite starts one.

        Raises:
            AgentEnded: The command that starts the agent on this machine ended before the agent listened.
            RoomError: No session was started, or the agent on this machine does not start.
        """
        agent = planned.agent or self.suite.agent
        name = self.suite.participant_name
        if isinstance(agent, AgentOnPipecatCloud):
            domains = self.settings.room.daily_domains
            async with httpx.AsyncClient() as http:
                spec = _on_cloud(agent, self.suite.token, planned)
                async with started_session(spec, http, daily_domains=domains) as session:
                    yield replace(session, address=replace(session.address, participant_name=name))
        else:
            address = await self._address(agent, planned, slot, local)
            yield Session(replace(address, participant_name=name))

    async def _address(self, agent: Agent, planned: PlannedRun, slot: int, local: LastingAgent | None) -> RoomAddress:
        token = self.suite.token
        match agent:
            case AgentAtUrl(url):
                return RoomAddress(url, token, planned.data)
            case AgentInRooms(rooms):
                room = rooms[slot - 1]
                return RoomAddress(room.url, room.token or token, planned.data)
            case AgentToStart(start_url, kind):
                async with httpx.AsyncClient() as http:
                    session = await start_session(http, start_url, token, kind=kind, body=planned.data)
                if isinstance(session, StartedDailySession):
                    return RoomAddress(session.room_url, session.token, runs_here=leads_here(start_url))
                return RoomAddress(session.offer_url, token, ice_servers=tuple(session.ice_servers))
            case AgentByCommand():
                return RoomAddress(await _local_address(local), token, planned.data)
            case AgentOnPipecatCloud():
                raise RunnerError("a session on Pipecat Cloud has no address before it is started")


def _on_cloud(agent: AgentOnPipecatCloud, token: SecretStr | None, planned: PlannedRun) -> SessionSpec:
    try:
        return SessionSpec(
            kind=SessionKind.PIPECAT_CLOUD,
            agent_name=agent.name,
            cloud_url=agent.cloud_url,
            transport="webrtc" if agent.kind is RoomKind.SMALLWEBRTC else "daily",
            api_key=token,
            private_key=agent.private_key,
            data=planned.data or {},
        )
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False, include_context=False)[0]
        raise UsageError(f"{agent.name}: no session can be started on Pipecat Cloud: {problem['msg']}") from None


async def _local_address(agent: LastingAgent | None) -> str:
    if agent is None:
        raise RunnerError("there is no command to start the agent")
    try:
        return await agent.address()
    except AgentEnded:
        raise
    except RunnerError as error:
        # Without the end of what it printed, which is no single line.
        raise RoomError(EndedReason.ROOM_UNREACHABLE, str(error).partition("\n")[0]) from error
