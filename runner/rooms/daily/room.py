"""The Daily room, as a call uses it."""

import asyncio
import json
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from loguru import logger
from pipecat.transports.daily.transport import DailyTransport
from pydantic import SecretStr

from bots.clock import NS_PER_S, CallClock
from bots.timeline import AgentAudioQuality, CallerAudioQuality, EndedReason
from runner.errors import RoomError
from runner.rooms.base import RoomListener, SampleFilter, Timeliness
from runner.rooms.daily import failures
from runner.rooms.daily.client import NOT_CONFIRMED, RoomTransport
from runner.rooms.daily.session import RoomSession

_LEAVE_LIMIT_S = 5.0  # above what the client allows itself for leaving and releasing together
_JOIN_GRACE_S = 0.5

SEND_AGAIN_FOR_S = 5.0
SEND_AGAIN_AFTER_S = 0.5
"""A message that the library could not send is tried again as often and as long."""

NOT_IN_THE_ROOM = "the caller is not in the room, or is reconnecting"

DOCUMENTED_MESSAGE_BYTES = 4096
"""The size of an app message that Daily's documentation gives as the limit. Larger ones are known to have passed."""


class DailyRoom:
    """A Daily room, entered as one participant with a microphone.

    The agent is the participant named ``participant_name``; without a name :class:`RoomSession` says who it is. Only
    its microphone is received; participants without one, hidden ones and every further one are left alone.

    The pipeline joins the room while it sets itself up. Pipecat limits the set-up too
    (``PipelineWorker(setup_timeout_secs=…)``, 20 s by default): its limit must be above ``join_timeout_s``.

    Args:
        join_timeout_s: How long joining may take, in seconds.
        samples: What the caller's lines go through on their way into the room.
    """

    def __init__(
        self,
        url: str,
        token: SecretStr | None,
        *,
        clock: CallClock,
        listener: RoomListener,
        caller_name: str = "Testing Agent",
        participant_name: str | None = None,
        join_timeout_s: float = 40.0,
        samples: SampleFilter | None = None,
    ):
        address, token_in_url = _split_token(url)
        self._address = address
        self._join_timeout_s = join_timeout_s
        self._session = RoomSession(address, clock, listener, participant_name)
        self._transport = RoomTransport(
            address,
            token or token_in_url,
            caller_name,
            events=self._session,
            join_timeout_s=join_timeout_s,
            samples=samples,
        )
        self._left = False

    @property
    def transport(self) -> DailyTransport:
        return self._transport

    async def enter(self) -> None:
        """Wait until the pipeline has joined the room."""
        try:
            async with asyncio.timeout(self._join_timeout_s + _JOIN_GRACE_S):
                await self._session.join_over.wait()
        except TimeoutError:
            raise failures.join_failed(failures.JOIN_TIMED_OUT, self._address) from None
        if self._session.join_error is not None:
            raise self._session.join_error

    async def wait_for_agent(self) -> None:
        """Wait until somebody is there who may be the agent."""
        await self._session.agent_here.wait()

    async def wait_for_media(self) -> None:
        await self._session.media_over.wait()

    async def publish(self, message: Any) -> None:
        """Send any JSON value but ``null``, which Daily cannot send."""
        if not isinstance(message, dict):
            logger.warning(
                f"the data message to {self._address} is no object: a Pipecat bot gets it in on_app_message, and its "
                "RTVI processor reports an error"
            )
        await self._send(message)

    async def send_client_message(self, message: dict[str, Any]) -> None:
        """Send it the way RTVI clients do on Daily: to everyone in the room."""
        await self._send(message)

    def participants(self) -> list[str]:
        return self._session.people.others()

    def agent_audio_quality(self, at_ns: int) -> AgentAudioQuality | None:
        """Return None: Daily tells neither packets nor jitter, only a share of loss over all its connections."""
        return None

    def caller_audio_quality(self, at_ns: int) -> CallerAudioQuality | None:
        """Return how the caller's audio left so far; its losses, jitter and round trip are not known."""
        return self._session.caller_audio_quality(at_ns)

    def timeliness(self) -> Timeliness:
        return self._session.timeliness()

    async def leave(self) -> None:
        if self._left:
            return
        self._left = True
        self._session.close(time.monotonic_ns())
        try:
            async with asyncio.timeout(_LEAVE_LIMIT_S):
                await self._transport.client.leave_now()
        except TimeoutError:
            logger.warning(f"Daily did not confirm leaving {self._address} within {_LEAVE_LIMIT_S:.0f} s")
        except Exception as e:
            logger.warning(f"leaving {self._address}: {self._transport.client.scrub(str(e))}")

    async def _send(self, message: Any) -> None:
        try:
            size_bytes = len(json.dumps(message, allow_nan=False, ensure_ascii=False).encode())
        except (TypeError, ValueError) as e:
            raise RoomError(EndedReason.RUNNER_ERROR, f"The message is not a JSON value: {e}.") from None
        if size_bytes > DOCUMENTED_MESSAGE_BYTES:
            logger.warning(
                f"a message of {size_bytes} bytes goes to {self._address}: Daily promises to deliver "
                f"{DOCUMENTED_MESSAGE_BYTES}, so it may not arrive"
            )
        error = await self._sent_in_time(message)
        if error:
            raise failures.message_not_sent(error, SEND_AGAIN_FOR_S, self._address)
        self._session.sent_to_all(message)

    async def _sent_in_time(self, message: Any) -> str | None:
        """Send a message, again and again while the library says that it was not sent; return its last word.

        A websocket that the other side closed shows first in this: until the library has connected again by itself,
        it sends nothing.
        """
        client, began_ns = self._transport.client, time.monotonic_ns()
        while True:
            try:
                error = await client.send(message) if client.can_send() else NOT_IN_THE_ROOM
            except (TypeError, ValueError) as e:
                raise RoomError(
                    EndedReason.RUNNER_ERROR,
                    f"Daily cannot send this message ({e}). Any JSON value but null at the top can be sent.",
                ) from None
            now_ns = time.monotonic_ns()
            self._session.message_sent(now_ns, sent=error is None)
            # A message that was not confirmed may have arrived: twice is worse than late.
            if error is None or error == NOT_CONFIRMED or now_ns - began_ns > SEND_AGAIN_FOR_S * NS_PER_S:
                return error
            await asyncio.sleep(SEND_AGAIN_AFTER_S)


def _split_token(url: str) -> tuple[str, SecretStr | None]:
    """Return the room's address without credentials and query, and the token the query held."""
    parts = urlsplit(url)
    tokens = parse_qs(parts.query).get("t")
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", "")), SecretStr(tokens[0]) if tokens else None
