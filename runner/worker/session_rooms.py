"""The room of a run: one that is there, or that of a session started for it."""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
from pydantic import ValidationError

from runner.errors import UsageError
from runner.protocol.messages import Job
from runner.rooms.allowed import RoomGuard
from runner.rooms.urls import RoomKind, room_kind
from runner.sessions.pipecat_cloud import CLOUD_URL
from runner.sessions.start import Session, SessionKind, SessionSpec, is_session_offer, started_session
from runner.settings import Settings

_CLOUD_START = re.compile(re.escape(CLOUD_URL) + r"/v1/public/([^/?#]+)/start/?")


@asynccontextmanager
async def room_of(job: Job, http: httpx.AsyncClient, settings: Settings) -> AsyncGenerator[Session]:
    """Yield a run's session and its room; a session started for it ends with the context.

    Which hosts may be asked the record says; which are Daily rooms besides ``*.daily.co``, the worker's settings.

    Raises:
        UsageError: The run has neither a room nor a way to start a session, or one that can't be used.
        RoomError: No session was started.
    """
    rules = {"allowed_rooms": list(job.allowed_rooms), "allow_loopback": job.allow_loopback}
    guard = RoomGuard(settings.model_copy(update={"server": settings.server.model_copy(update=rules)}))
    domains = settings.room.daily_domains
    async with started_session(_session(job), http, daily_domains=domains, guard=guard) as session:
        yield replace(session, address=replace(session.address, participant_name=job.participant_name))


def starts_anew(job: Job, daily_domains: Sequence[str]) -> bool:
    """Return whether a session is started for every call of a run, also where another worker makes it."""
    if job.room_url is None:
        return job.session is not None
    return room_kind(job.room_url, list(daily_domains)) is RoomKind.PIPECAT_RUNNER


def takes_another_call(job: Job, daily_domains: Sequence[str]) -> bool:
    """Return whether a second call of a run meets an agent of its own.

    It does where a session is started for each, and where an offer starts one. In a Daily room, or in a session, that
    somebody else has started there is one agent, which may have met the caller already.
    """
    if job.room_url is None:
        return job.session is not None
    return room_kind(job.room_url, list(daily_domains)) is not RoomKind.DAILY and not is_session_offer(job.room_url)


def _session(job: Job) -> SessionSpec:
    try:
        if job.room_url is not None:
            return SessionSpec(
                kind=SessionKind.ROOM, url=job.room_url, token=job.token, data=job.session_data, run_id=job.run_id
            )
        start = job.session
        if start is None:
            raise UsageError("the run has no room, and its agent has no session that could be started")
        common: dict[str, Any] = {
            "transport": start.transport,
            "data": {**start.data, **job.session_data},
            "room_properties": start.room_properties,
            "run_id": job.run_id,
            "private_key": start.private_key,
        }
        if start.start_timeout_s is not None:
            common["start_timeout_s"] = start.start_timeout_s
        if cloud := _CLOUD_START.fullmatch(start.start_url):
            return SessionSpec.model_validate(
                {**common, "kind": SessionKind.PIPECAT_CLOUD, "agent_name": cloud[1], "api_key": start.credential}
            )
        return SessionSpec.model_validate(
            {**common, "kind": SessionKind.START_URL, "start_url": start.start_url, "token": start.credential}
        )
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise UsageError(f"the agent's session can't be started: {where}: {problem['msg']}") from None
