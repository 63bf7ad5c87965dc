"""A SmallWebRTC room: one call to one Pipecat bot, which answers our offer."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import anyio
import httpx
from aiortc import RTCIceServer
from aiortc.rtp import RtpPacket
from anyio.abc import TaskGroup
from loguru import logger
from pydantic import SecretStr

from bots.clock import NS_PER_MS, CallClock
from bots.timeline import AgentAudioQuality, CallerAudioQuality, EndedReason
from runner.errors import RoomError
from runner.http import MAX_ANSWER_BYTES, AnswerTooLarge, post_json
from runner.rooms.base import EMPTY, Line, RoomListener, Timeliness
from runner.rooms.smallwebrtc.connection import OfferingConnection, own_error
from runner.rooms.smallwebrtc.incoming import AgentStream
from runner.rooms.smallwebrtc.outgoing import CallerTrack
from runner.rooms.smallwebrtc.placement import RTP_CLOCK_HZ
from runner.rooms.smallwebrtc.transport import OfferingTransport
from runner.text import public_url

OFFER_TIMEOUT_S = 20.0
"""How long a bot may take to answer an offer: it may have to start first."""

LEAVE_TIMEOUT_S = 2.0

PROBE_TIMEOUT_S = 2.0
"""How long the address of an agent that vanished may take to answer."""

STOOD_STILL_NS = 80 * NS_PER_MS
"""A pause in what happens here that is none of the network's."""


class SmallWebRTCRoom:
    """A call to the bot behind an ``/api/offer`` address.

    Args:
        token: Goes along as a bearer header, if there is one.
        tasks: Task group that owns the room's tasks; cancelled with the call.
        request_data: Goes to the bot with the offer, as ``request_data``: Pipecat's own route knows no other name.
    """

    def __init__(
        self,
        url: str,
        token: SecretStr | None,
        *,
        clock: CallClock,
        listener: RoomListener,
        http: httpx.AsyncClient,
        tasks: TaskGroup,
        ice_servers: list[RTCIceServer],
        request_data: Any = None,
        line: Line = EMPTY,
    ):
        self._url = url
        self._shown = public_url(url)
        self._token = token
        self._clock = clock
        self._listener = listener
        self._http = http
        self._tasks = tasks
        self._ice_servers = ice_servers
        self._request_data = request_data
        self._line = line
        self._track = CallerTrack(line.samples)
        self._transport = OfferingTransport(self._track, self.publish)
        self._stream = AgentStream(
            clock,
            recording=listener.agent_audio,
            pipeline=self._transport.input().put,
            hole=listener.agent_audio_lost,
            late=listener.agent_audio_late,
        )
        self._awake_ns = clock.now_ns()
        self._agent_here = anyio.Event()
        self._left = False
        self._broken = False
        self._connection: OfferingConnection | None = None

    @property
    def transport(self) -> OfferingTransport:
        return self._transport

    async def enter(self) -> None:
        """Offer, and wait until media flows, for some 35 s at most."""
        self._connection = OfferingConnection(
            self._clock,
            post_offer=self._post_offer,
            track=self._track,
            sent=self._caller_sent,
            packets=self._agent_packet,
            message=self._message,
            lost=self._lost,
            listener=self._listener,
            ice_servers=self._ice_servers,
            line=self._line,
        )
        await self._connection.connect()
        self._connection.start(self._tasks)

    async def wait_for_agent(self) -> None:
        """Wait for the bot's first audio packet: from then on it hears and is heard."""
        await self._agent_here.wait()

    async def wait_for_media(self) -> None:
        """Do nothing: the agent is there when its audio is."""

    async def publish(self, message: Any) -> None:
        if self._connection is None or self._left:
            raise RoomError(EndedReason.RUNNER_ERROR, "a message was sent outside the call")
        await self._connection.send(message)

    async def send_client_message(self, message: dict[str, Any]) -> None:
        await self.publish(message)

    def participants(self) -> list[str]:
        return ["agent"] if self._agent_here.is_set() else []

    def agent_audio_quality(self, at_ns: int) -> AgentAudioQuality | None:
        return self._stream.quality(at_ns)

    def caller_audio_quality(self, at_ns: int) -> CallerAudioQuality | None:
        if self._connection is None:
            return None
        sent, delivery = self._track.punctuality, self._connection.delivery
        delivered: dict[str, Any] = {}
        if delivery is not None:
            delivered = {"lost": delivery.packetsLost, "jitter_ms": round(delivery.jitter / RTP_CLOCK_HZ * 1_000, 3)}
            # Not known at first, whatever its type says.
            if cast("float | None", delivery.roundTripTime) is not None:
                delivered["round_trip_ms"] = round(delivery.roundTripTime * 1_000, 3)
        return CallerAudioQuality(
            at_ns=at_ns,
            packets=sent.packets,
            late=sent.late,
            latest_ms=round(sent.latest_ns / NS_PER_MS, 3),
            **delivered,
        )

    def timeliness(self) -> Timeliness:
        return Timeliness(self._track.punctuality.lags.worst_ms, self._stream.arrival_jitter_ms)

    async def leave(self) -> None:
        if self._left:
            return
        self._left = True
        self._track.stop()
        if self._connection is not None:
            with anyio.move_on_after(LEAVE_TIMEOUT_S, shield=True) as scope:
                try:
                    await self._connection.close()
                except Exception:
                    # Whatever aiortc trips over while it closes, the call is over and its facts stay.
                    logger.opt(exception=True).warning("the connection did not close cleanly")
            if scope.cancelled_caught:
                logger.warning("the connection did not close within {} s", LEAVE_TIMEOUT_S)
        with self._own_errors():
            self._stream.close()

    # What the connection reports.

    def _message(self, at_ns: int, message: Any) -> None:
        with self._own_errors():
            self._listener.message_received(at_ns, message)

    def _lost(self, error: RoomError) -> None:
        """Pass on that the connection is dead; of an agent that vanished, whether its process is still there."""
        if error.reason is EndedReason.AGENT_VANISHED:
            self._tasks.start_soon(self._probe, error)
        else:
            self._listener.room_lost(error)

    async def _probe(self, error: RoomError) -> None:
        """Try the agent's address: a process that died refuses connections, a network that is cut says nothing."""
        answers: bool | None = None
        url = httpx.URL(self._url)
        with anyio.move_on_after(PROBE_TIMEOUT_S):
            try:
                stream = await anyio.connect_tcp(url.host, url.port or (443 if url.scheme == "https" else 80))
            except OSError as problem:
                answers = False if _is_refused(problem) else None
            else:
                answers = True
                await anyio.aclose_forcefully(stream)
        self._listener.agent_probed(self._clock.now_ns(), answers=answers)
        self._listener.room_lost(error)

    def _caller_sent(self, at_ns: int, pcm: bytes, late_ns: int | None) -> None:
        with self._own_errors():
            self._listener.caller_audio(at_ns, pcm, late_ns=late_ns)
            # The outgoing track is the one thing that goes on whatever the agent does: it keeps the stream going.
            self._stream.tick(self._note_awake())

    def _note_awake(self) -> int:
        """Notice that we stood still: something happens here every 20 ms at least, once the call is on."""
        now_ns = self._clock.now_ns()
        if now_ns - self._awake_ns > STOOD_STILL_NS:
            self._stream.stood_still(now_ns)
        self._awake_ns = now_ns
        return now_ns

    def _agent_packet(self, packet: RtpPacket, monotonic_ns: int) -> None:
        if self._left:
            return
        with self._own_errors():
            self._note_awake()
            if not self._agent_here.is_set():
                self._agent_here.set()
                self._listener.agent_joined(self._clock.at_ns(monotonic_ns), None)
            self._stream.packet_arrived(packet, monotonic_ns)

    @contextmanager
    def _own_errors(self) -> Generator[None]:
        """End the call as ours if something fails here: aiortc would take it for the end of the connection."""
        try:
            yield
        except Exception as error:
            if self._broken:
                return
            self._broken = True
            logger.opt(exception=True).error("what the room reported could not be taken")
            self._listener.room_lost(own_error(error))

    async def _post_offer(self, offer: dict[str, Any]) -> dict[str, Any]:
        if self._request_data is not None:
            offer = offer | {"request_data": self._request_data}
        try:
            answered = await post_json(self._http, self._url, self._token, offer, timeout_s=OFFER_TIMEOUT_S)
        except httpx.HTTPError as error:
            raise RoomError(EndedReason.ROOM_UNREACHABLE, _unreachable(self._shown, error)) from error
        status = answered.status
        if status in (401, 403):
            raise RoomError(
                EndedReason.TOKEN_REFUSED,
                f"{self._shown} refused the token (HTTP {status}): pass one valid for this session",
            )
        if not 200 <= status < 300:
            hint = "the session is unknown or over" if status == 404 else "see the agent's own log"
            raise self._no_answer(f"HTTP {status}: {hint}")
        try:
            answer = answered.json()
        except ValueError as error:
            raise self._no_answer("invalid JSON") from error
        if not isinstance(answer, dict):
            raise self._no_answer("JSON that is not an object")
        return answer

    def _no_answer(self, what: str) -> RoomError:
        return RoomError(EndedReason.ROOM_UNREACHABLE, f"{self._shown} answered the offer with {what}")


def _is_refused(problem: BaseException | None) -> bool:
    """Whether a connection was refused, by any of the addresses of a host."""
    if isinstance(problem, BaseExceptionGroup):
        return any(_is_refused(one) for one in problem.exceptions)
    return isinstance(problem, ConnectionRefusedError) or (
        problem is not None and problem.__cause__ is not None and _is_refused(problem.__cause__)
    )


def _unreachable(url: str, error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.ConnectError):
        return f"nothing answers at {url}: is the agent running, and is this its address?"
    if isinstance(error, AnswerTooLarge):
        return f"{url} answered the offer with more than {MAX_ANSWER_BYTES} bytes: is it a Pipecat bot?"
    if isinstance(error, httpx.TimeoutException):
        return f"{url} did not answer the offer within {OFFER_TIMEOUT_S:.0f} s"
    return f"{url} could not be reached ({type(error).__name__})"
