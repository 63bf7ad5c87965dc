"""Starts a session for a run, and ends it afterwards."""

import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

import anyio
import httpx
from loguru import logger
from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr, StringConstraints, model_validator

from bots.timeline import EndedReason
from runner.errors import RoomError, UsageError
from runner.hosts import leads_here
from runner.rooms.allowed import RoomGuard
from runner.rooms.open import RoomAddress
from runner.rooms.urls import RoomKind, check_start_url, room_kind
from runner.sessions.pipecat_cloud import AGENT_NAME, CLOUD_URL, session_end_state, start_url, stop_session
from runner.sessions.pipecat_runner import (
    SessionNotStarted,
    StartedDailySession,
    StartedSession,
    check_ice_servers,
    start_session,
)
from runner.text import public_url

START_TIMEOUT_S = 90.0
"""Pipecat Cloud calls ten seconds the best a cold start can do, and a minute no surprise."""

RETRIES = 5
"""How often a start that failed is tried again at most."""

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 16.0
SHORTEST_WAIT_S = 0.25
LEAST_TRY_S = 2.0
"""With less time than this left, trying again would only hide the reason behind a timeout."""

END_GRACE_S = 3.0
"""How long an agent on Pipecat Cloud may take to end by itself before it is stopped: it has work to do when its
caller leaves, such as a booking to write down."""

END_TIMEOUT_S = 5.0
"""How long each request that ends something may take."""

RUN_ID_KEY = "cekura_run_id"
"""Where the body of a session has the run: Cekura's tracer sends it back, and so tells which run it speaks of."""

_SESSION_OFFER = re.compile(r"/sessions/[^/]+/api/offer/?$")
_TRANSPORTS = {"daily": RoomKind.DAILY, "webrtc": RoomKind.SMALLWEBRTC}


class SessionKind(StrEnum):
    """Where a run's session comes from."""

    ROOM = "room"
    """There is one: somebody started it, and gave its room."""
    START_URL = "start_url"
    """An address that starts one: ``/start`` of a Pipecat runner, or of a server that answers as it does."""
    PIPECAT_CLOUD = "pipecat_cloud"
    """An agent deployed on Pipecat Cloud."""


class SessionSpec(BaseModel):
    """The session of one run.

    Attributes:
        kind: Where it comes from.
        url: For a fixed room: its address, as :class:`runner.rooms.open.RoomAddress` has it. A Daily room takes no
            data; the base address of a Pipecat runner starts its session when the room is opened.
        start_url: For a start URL: where to post.
        agent_name: For Pipecat Cloud: the agent.
        cloud_url: For Pipecat Cloud: the API's base address, where it is not the public one.
        transport: What room to ask for. None leaves it to a start URL's other side; on Pipecat Cloud it is Daily.
        token: For a fixed room its token, for a start URL the bearer token it wants.
        api_key: For Pipecat Cloud: the key that starts sessions (public).
        private_key: For Pipecat Cloud: the key that stops them (private). Without it ``api_key`` is tried, unless it
            is public.
        data: The session's data, which the agent gets as its runner arguments' ``body``.
        run_id: The run; ``cekura_run_id`` in the data. None: a run that no record has.
        room_properties: How a Daily room is to be, as Daily's REST API has it.
        start_timeout_s: How long starting may take, all retries together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    kind: SessionKind
    url: str | None = None
    start_url: str | None = None
    agent_name: Annotated[str, StringConstraints(pattern=AGENT_NAME)] | None = None
    cloud_url: str = CLOUD_URL
    transport: Literal["daily", "webrtc"] | None = None
    token: SecretStr | None = None
    api_key: SecretStr | None = None
    private_key: SecretStr | None = None
    data: dict[str, JsonValue] = Field(default_factory=dict, repr=False)
    run_id: int | None = None
    room_properties: dict[str, JsonValue] = Field(default_factory=dict, repr=False)
    start_timeout_s: float = Field(default=START_TIMEOUT_S, gt=0, le=600)

    @property
    def address(self) -> str:
        """The address that is asked first: the room's, or the one that starts a session."""
        if self.kind is SessionKind.PIPECAT_CLOUD:
            return start_url(self.cloud_url, self.agent_name or "")
        return self.url or self.start_url or ""

    @property
    def stop_key(self) -> SecretStr | None:
        """The key that stops a session on Pipecat Cloud, and tells of its end."""
        return (self.private_key or self.api_key) if self.kind is SessionKind.PIPECAT_CLOUD else None

    @property
    def body(self) -> dict[str, JsonValue]:
        """What the agent gets as its runner arguments' ``body``."""
        of_run: dict[str, JsonValue] = {} if self.run_id is None else {RUN_ID_KEY: self.run_id}
        return {**self.data, **of_run}

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        for kind, field in zip(SessionKind, ("url", "start_url", "agent_name"), strict=True):
            if (getattr(self, field) is not None) != (kind is self.kind):
                raise ValueError(f"{field} belongs to the kind {kind.value}, and is needed there")
        if self.kind is not SessionKind.ROOM:
            try:
                check_start_url(self.address)
            except UsageError as error:
                raise ValueError(str(error)) from None
        if self.kind is SessionKind.PIPECAT_CLOUD and self.api_key is None:
            raise ValueError("an agent on Pipecat Cloud needs api_key: a public key of its organization")
        return self


@dataclass(frozen=True)
class Session:
    """A session that is there to be called.

    Attributes:
        address: Its room. Where a session was started, the agent's side chose it: a Daily room, or one on the host
            that was asked.
        session_id: Its id on the agent's side; None where there is none, or none is known.
    """

    address: RoomAddress
    session_id: str | None = None
    end_state: Callable[[], Awaitable[str | None]] | None = None
    """Asks whoever runs the agent how the session ended; None where nobody can be asked."""


def is_session_offer(url: str) -> bool:
    """Return whether an address is that of a session that was started: it has its agent, and its data."""
    return _SESSION_OFFER.search(urlsplit(url).path) is not None


@asynccontextmanager
async def started_session(
    spec: SessionSpec,
    http: httpx.AsyncClient,
    *,
    daily_domains: Sequence[str] = (),
    guard: RoomGuard | None = None,
) -> AsyncGenerator[Session]:
    """Start a run's session, and end it with the context.

    How a session ends depends on where it runs. On Pipecat Cloud it is stopped, after a moment in which the agent can
    end by itself; at once where the context is left by an error or a cancellation. A session of a Pipecat runner ends
    when its caller leaves the room, and there is nothing to ask; a fixed room is not ours to end. A Daily room that
    was made for the session expires by itself. Ending never raises; what could not be ended is logged.

    A start that fails is tried again where that may help: the connection failed or broke, HTTP 502, 503 or 504, and
    429, as late as ``Retry-After`` says; all of it within ``spec.start_timeout_s``. Whoever calls has to have checked
    that ``spec.address`` may be asked.

    Args:
        spec: The session.
        http: Client for requests to the agent's side.
        daily_domains: Hosts that are Daily rooms, besides ``*.daily.co``.
        guard: What ICE servers that come with the session are held to, also where it is started when the room is
            opened; None allows all.

    Raises:
        RoomError: No session was started; says why and what to do. Its reason is never one that the agent's
            behaviour is to blame for.
    """
    if spec.kind is SessionKind.ROOM:
        url = spec.url or ""
        # A session that somebody started got its data then: ours would stand in its place.
        body = None if is_session_offer(url) else spec.body
        yield Session(RoomAddress(url, spec.token, body, guard=guard))
        return
    started = await _start(spec, http, guard)
    try:
        if isinstance(started, StartedSession):
            await check_ice_servers(started, spec.address, guard)
        yield Session(
            _room_of(spec, started, daily_domains), started.session_id, _asks_for_end_state(spec, http, started)
        )
        if spec.kind is SessionKind.PIPECAT_CLOUD:
            await anyio.sleep(END_GRACE_S)
    finally:
        key, session_id = spec.stop_key, started.session_id
        if key is not None and session_id:
            with anyio.CancelScope(shield=True):
                await stop_session(
                    http, spec.cloud_url, spec.agent_name or "", session_id, key, timeout_s=END_TIMEOUT_S
                )


async def _start(
    spec: SessionSpec, http: httpx.AsyncClient, guard: RoomGuard | None
) -> StartedSession | StartedDailySession:
    """Start the session, as often as it takes and may."""
    on_cloud = spec.kind is SessionKind.PIPECAT_CLOUD
    transport = spec.transport or ("daily" if on_cloud else None)
    began_s = anyio.current_time()
    tries = 0
    while True:
        tries += 1
        try:
            return await start_session(
                http,
                spec.address,
                spec.api_key if on_cloud else spec.token,
                kind=None if transport is None else _TRANSPORTS[transport],
                body=spec.body,
                room_properties=spec.room_properties,
                timeout_s=spec.start_timeout_s - (anyio.current_time() - began_s),
                guard=guard,
            )
        except SessionNotStarted as error:
            passed_s = anyio.current_time() - began_s
            wait_s = _wait_s(error, tries)
            in_time = passed_s + wait_s + LEAST_TRY_S <= spec.start_timeout_s
            if not (error.transient and in_time and tries <= RETRIES):
                if tries == 1:
                    raise
                raise RoomError(error.reason, f"{error} (tried {tries} times in {passed_s:.0f} s)") from error
            run = "a run" if spec.run_id is None else f"run {spec.run_id}"
            logger.info("{}: {}; tried again in {:.1f} s", run, error, wait_s)
        await anyio.sleep(wait_s)


def _wait_s(error: SessionNotStarted, tries: int) -> float:
    """Return how long to wait before the next try, in seconds."""
    if error.retry_after_s is not None:
        return max(error.retry_after_s, SHORTEST_WAIT_S)
    # Not all at the same time: runs that were refused together would be refused together again.
    return min(FIRST_WAIT_S * 2 ** (tries - 1), LONGEST_WAIT_S) * random.uniform(0.5, 1.0)  # noqa: S311


def _room_of(
    spec: SessionSpec, started: StartedSession | StartedDailySession, daily_domains: Sequence[str]
) -> RoomAddress:
    """Return how to get into the room that came with a session.

    Raises:
        RoomError: It is on a host that is neither Daily's nor the one that was asked.
    """
    if isinstance(started, StartedSession):
        token = spec.api_key if spec.kind is SessionKind.PIPECAT_CLOUD else spec.token
        return RoomAddress(started.offer_url, token, ice_servers=tuple(started.ice_servers))
    # Only what was asked is known to be allowed: an answer must not lead somewhere else.
    asked = urlsplit(spec.address)
    try:
        kind = room_kind(started.room_url, list(daily_domains))
        room = urlsplit(started.room_url)
    except UsageError as error:
        raise RoomError(
            EndedReason.ROOM_UNREACHABLE, f"{public_url(spec.address)} started a session in no room ({error})"
        ) from None
    if (room.scheme, room.netloc) != (asked.scheme, asked.netloc) and not (
        kind is RoomKind.DAILY and room.scheme == "https"
    ):
        raise RoomError(
            EndedReason.ROOM_UNREACHABLE,
            f"{public_url(spec.address)} started a session in {public_url(started.room_url)}, which is no Daily "
            "room; custom Daily domains are listed in the setting room.daily_domains",
        )
    return RoomAddress(started.room_url, started.token, runs_here=leads_here(spec.address))


def _asks_for_end_state(
    spec: SessionSpec, http: httpx.AsyncClient, started: StartedSession | StartedDailySession
) -> Callable[[], Awaitable[str | None]] | None:
    key, session_id = spec.stop_key, started.session_id
    if key is None or session_id is None:
        return None
    return lambda: session_end_state(http, spec.cloud_url, spec.agent_name or "", session_id, key)
