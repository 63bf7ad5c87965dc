"""The offering side of a SmallWebRTC connection, as a browser would be it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCRtpSender,
    RTCRtpTransceiver,
    RTCSessionDescription,
    RTCStatsReport,
)
from aiortc import (
    clock as aiortc_clock,
)
from aiortc.exceptions import InvalidStateError
from aiortc.stats import RTCRemoteInboundRtpStreamStats
from anyio.abc import TaskGroup
from loguru import logger

from bots.clock import NS_PER_S, CallClock
from bots.timeline import EndedReason
from runner.errors import RoomError
from runner.rooms.base import Line, PacketFault, RoomListener, agent_vanished
from runner.rooms.smallwebrtc.incoming import ArrivalBuffer, PacketSink
from runner.rooms.smallwebrtc.outgoing import CallerTrack
from runner.rooms.smallwebrtc.sending import PacedSender, SentSink

CONNECT_TIMEOUT_S = 15.0
"""How long ICE and DTLS may take once the answer is there."""

PING_INTERVAL_S = 1.0
"""A Pipecat bot that was pinged once takes a gap of 3 s for a disconnect."""

WATCH_INTERVAL_S = 0.25
MEDIA_TIMEOUT_NS = int(2.5 * NS_PER_S)
"""Nothing at all arriving for so long is noticed. RTCP alone comes every 0.5 to 1.5 s (aiortc)."""

GONE_TIMEOUT_NS = int(3.5 * NS_PER_S)
"""Nothing at all arriving for so long means the agent is gone. ICE consent would take 30 s to say so."""

MAX_MESSAGE_BYTES = 256 * 1024
"""Messages larger than this are left out (the data channel's own limit on a message is 64 KiB by default)."""

AUDIO_INDEX = 0
VIDEO_INDEXES = (1, 2)
"""Transceivers a Pipecat bot looks for, in this order: audio, camera, screen."""

REPORT_INTERVAL_S = 1.0
"""How often the agent's reports are looked at; it sends one every 0.5 to 1.5 s (aiortc)."""

PostOffer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


def own_error(error: Exception) -> RoomError:
    return RoomError(EndedReason.RUNNER_ERROR, f"our own error: {type(error).__name__}: {error}")


class OfferingConnection:
    """A peer connection that offers: audio, camera and screen transceivers and a data channel.

    Args:
        post_offer: Posts an offer (``sdp``, ``type`` and, from the second on, ``pc_id``) and returns the answer.
        sent: Takes what left of it.
        packets: Takes the agent's audio packets as they arrive.
    """

    def __init__(
        self,
        clock: CallClock,
        *,
        post_offer: PostOffer,
        track: CallerTrack,
        sent: SentSink,
        packets: PacketSink,
        message: Callable[[int, Any], None],
        lost: Callable[[RoomError], None],
        listener: RoomListener,
        ice_servers: list[RTCIceServer],
        line: Line,
    ):
        self._clock = clock
        self._post_offer = post_offer
        self._packets = packets
        self._message = message
        self._lost = lost
        self._listener = listener
        self._line = line
        self._forwarded: set[asyncio.Task[None]] = set()
        # One transport for all media, as browsers have it; aiortc would otherwise open several.
        configuration = RTCConfiguration(iceServers=ice_servers, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        self._pc = RTCPeerConnection(configuration)
        audio = self._pc.addTransceiver(track, direction="sendrecv")
        self._sender = PacedSender(
            audio.sender, track, clock, sent=sent, failed=lambda error: lost(own_error(error)), fault=line.to_agent
        )
        # Ours is encoded already and the peer's is decoded here, both as Opus: an answer must not choose another.
        codecs = RTCRtpSender.getCapabilities("audio").codecs
        audio.setCodecPreferences([codec for codec in codecs if codec.mimeType == "audio/opus"])
        for _ in VIDEO_INDEXES:
            self._pc.addTransceiver("video", direction="recvonly")
        self._channel: RTCDataChannel = self._pc.createDataChannel("chat", ordered=True)
        self._pc_id: str | None = None
        self._connected = anyio.Event()
        self._failed: RoomError | None = None
        self._channel_open = anyio.Event()
        self._leaving = False
        self._peer_gone = False
        self.delivery: RTCRemoteInboundRtpStreamStats | None = None
        """What the agent's latest report says of our audio, since the call began (RFC 3550 section 6.4.1)."""
        self._delivery_ns = 0
        self._renegotiate = anyio.Event()
        self._pc.on("connectionstatechange", self._on_connection_state)
        self._channel.on("open", self._on_channel_open)
        self._channel.on("close", lambda: self._peer_closed("it closed the data channel"))
        self._channel.on("message", self._on_message)

    async def connect(self) -> None:
        """Offer, take the answer, and wait until media can flow.

        Raises:
            RoomError: The offer was refused, or no connection came about within :data:`CONNECT_TIMEOUT_S`.
        """
        await self._negotiate()
        self._tap_receivers()
        with anyio.move_on_after(CONNECT_TIMEOUT_S):
            await self._connected.wait()
        if self._failed is not None:
            raise self._failed
        if not self._connected.is_set():
            raise RoomError(
                EndedReason.ICE_FAILED,
                f"no media connection to the agent within {CONNECT_TIMEOUT_S:.0f} s: its answer came, but "
                "none of its addresses can be reached; check firewalls, or configure a TURN server (ice_servers)",
            )

    def start(self, tasks: TaskGroup) -> None:
        """Start what keeps the connection alive and watches it, in the given task group."""
        for task in (self._keep_alive, self._watch, self._watch_delivery, self._answer_renegotiations):
            tasks.start_soon(task)

    async def send(self, message: Any) -> None:
        """Send a message as JSON over the data channel, once it is open.

        Raises:
            RoomError: The channel did not open in time, or is closed.
        """
        with anyio.move_on_after(CONNECT_TIMEOUT_S):
            await self._channel_open.wait()
        if self._channel.readyState != "open":
            raise RoomError(EndedReason.ICE_FAILED, "the data channel to the agent is not open")
        try:
            self._channel.send(json.dumps(message, ensure_ascii=False))
        except ValueError as error:
            # Not JSON, no Unicode, or larger than the peer said it takes.
            raise RoomError(EndedReason.RUNNER_ERROR, f"the message can't be sent: {error}") from error

    async def close(self) -> None:
        """Close the connection. The peer sees it close, as when a browser tab is shut."""
        self._leaving = True
        self._sender.stop()
        try:
            await self._note_losses()
        finally:
            await self._pc.close()

    async def _negotiate(self) -> None:
        await self._pc.setLocalDescription(await self._pc.createOffer())
        local = self._pc.localDescription
        offer: dict[str, Any] = {"sdp": local.sdp, "type": local.type}
        if self._pc_id is not None:
            offer |= {"pc_id": self._pc_id, "restart_pc": False}
        answer = await self._post_offer(offer)
        try:
            await self._pc.setRemoteDescription(RTCSessionDescription(sdp=answer["sdp"], type=answer["type"]))
        except Exception as error:
            # aiortc's parser trips over what it doesn't know in many ways, and has no error of its own for it.
            raise RoomError(
                EndedReason.ROOM_UNREACHABLE,
                f"the answer to the offer is no usable session description ({type(error).__name__}): "
                "is this the /api/offer address of a Pipecat bot?",
            ) from error
        pc_id = answer.get("pc_id")
        if isinstance(pc_id, str):
            self._pc_id = pc_id

    def _tap_receivers(self) -> None:
        transceivers: list[RTCRtpTransceiver] = self._pc.getTransceivers()
        audio: RTCRtpReceiver = transceivers[AUDIO_INDEX].receiver
        # aiortc offers no other way to see packets as they arrive; Pipecat replaces the buffer in the same way.
        if not hasattr(audio, "_RTCRtpReceiver__jitter_buffer"):
            raise RuntimeError(
                "this version of aiortc keeps its jitter buffer elsewhere: pin the version in the lock file"
            )
        setattr(audio, "_RTCRtpReceiver__jitter_buffer", ArrivalBuffer(self._packets))  # noqa: B010 - a mangled name
        if self._line.from_agent is not None:
            self._disturb(audio.transport, self._line.from_agent)
        for index in VIDEO_INDEXES:
            # Nobody looks at the agent's video: without this, undecoded frames would pile up.
            transceivers[index].receiver._enabled = False  # pyright: ignore[reportPrivateUsage]

    def _disturb(self, dtls: Any, fault: PacketFault) -> None:
        """Let the agent's packets go through a fault before anything of aiortc counts them."""
        take = dtls._handle_rtp_data

        def forward(data: bytes) -> None:
            task = asyncio.ensure_future(take(data, arrival_time_ms=aiortc_clock.current_ms()))
            self._forwarded.add(task)
            task.add_done_callback(self._forwarded.discard)

        async def disturbed(data: bytes, arrival_time_ms: int) -> None:
            fault(data, forward)

        dtls._handle_rtp_data = disturbed

    def _on_connection_state(self) -> None:
        state = self._pc.connectionState
        logger.debug("peer connection is {}", state)
        if state == "connected":
            self._connected.set()
        elif state == "failed":
            error = RoomError(EndedReason.ICE_FAILED, "the media connection to the agent failed (ICE)")
            if self._connected.is_set():
                self._lost(error)
            else:
                self._failed = error
                self._connected.set()
        elif state == "closed":
            self._peer_closed("it closed the connection")

    def _on_channel_open(self) -> None:
        for index in VIDEO_INDEXES:
            # A bot that takes video waits for none, and does not warn that none comes.
            status = {"type": "trackStatus", "receiver_index": index, "enabled": False}
            self._channel.send(json.dumps({"type": "signalling", "message": status}))
        self._channel_open.set()

    def _on_message(self, raw: str | bytes) -> None:
        at_ns = self._clock.now_ns()
        size_bytes = len(raw.encode(errors="replace") if isinstance(raw, str) else raw)
        if size_bytes > MAX_MESSAGE_BYTES:
            logger.warning("left out a message of {} bytes: larger than {}", size_bytes, MAX_MESSAGE_BYTES)
            return
        try:
            message = json.loads(raw)
        except (ValueError, RecursionError):
            logger.warning("left out a message that is not JSON, or nested without end")
            return
        if isinstance(message, dict) and message.get("type") == "signalling":
            self._on_signalling(message.get("message"))
        else:
            self._message(at_ns, message)

    def _on_signalling(self, message: Any) -> None:
        kind = message.get("type") if isinstance(message, dict) else None
        if kind == "renegotiate":
            self._renegotiate.set()
        elif kind == "peerLeft":
            self._peer_closed("it said that it leaves")
        else:
            logger.debug("ignored signalling of type {!r}", kind)

    def _peer_closed(self, detail: str) -> None:
        if not self._leaving and not self._peer_gone:
            self._peer_gone = True
            self._listener.agent_left(self._clock.now_ns(), detail)

    async def _keep_alive(self) -> None:
        await self._channel_open.wait()
        while self._channel.readyState == "open":
            self._channel.send("ping")
            await anyio.sleep(PING_INTERVAL_S)

    async def _answer_renegotiations(self) -> None:
        while True:
            await self._renegotiate.wait()
            self._renegotiate = anyio.Event()
            try:
                await self._negotiate()
            except RoomError as error:
                if not self._leaving:
                    # The media that was agreed before goes on; the bot may ask again.
                    logger.warning("renegotiation failed: {}", error)
            except InvalidStateError:
                # Closed in the meantime, by either side.
                return

    async def _watch(self) -> None:
        received = await self._packets_received()
        last_life_ns = now_ns = self._clock.now_ns()
        stopped = False
        while not self._peer_gone:
            await anyio.sleep(WATCH_INTERVAL_S)
            overslept = self._clock.now_ns() - now_ns > NS_PER_S
            now_ns = self._clock.now_ns()
            count = await self._packets_received()
            if count != received:
                received = count
                last_life_ns = now_ns
                if stopped:
                    stopped = False
                    self._listener.agent_media_resumed(now_ns)
            elif overslept:
                # Whoever slept (a suspended laptop, a blocked process) has heard nothing, and can blame nobody.
                last_life_ns = now_ns
            elif not stopped and now_ns - last_life_ns > MEDIA_TIMEOUT_NS:
                stopped = True
                self._listener.agent_media_stopped(last_life_ns)
            elif now_ns - last_life_ns > GONE_TIMEOUT_NS:
                self._lost(agent_vanished(GONE_TIMEOUT_NS / NS_PER_S))
                return

    async def _watch_delivery(self) -> None:
        while True:
            await anyio.sleep(REPORT_INTERVAL_S)
            await self._note_losses()

    async def _note_losses(self) -> None:
        """Report what the agent missed since it last said so."""
        report: RTCStatsReport = await self._pc.getTransceivers()[AUDIO_INDEX].sender.getStats()
        for stats in report.values():
            if not isinstance(stats, RTCRemoteInboundRtpStreamStats):
                continue
            before, since_ns, now_ns = self.delivery, self._delivery_ns, self._clock.now_ns()
            if before is not None and before.timestamp == stats.timestamp:
                continue
            self.delivery, self._delivery_ns = stats, now_ns
            # A count can go back, where what was taken for lost came late.
            lost = stats.packetsLost - max(before.packetsLost if before else 0, 0)
            packets = _sent_by(stats) - (_sent_by(before) if before else 0)
            if lost > 0:
                self._listener.caller_audio_lost(now_ns, since_ns=since_ns, lost=lost, packets=max(packets, lost))

    async def _packets_received(self) -> int:
        report: RTCStatsReport = await self._pc.getTransceivers()[AUDIO_INDEX].receiver.getStats()
        return sum(stats.packetsReceived for stats in report.values() if stats.type == "transport")


def _sent_by(stats: RTCRemoteInboundRtpStreamStats) -> int:
    """Return how many packets were sent by the time of a report: aiortc works the ones received out from it."""
    return stats.packetsReceived + stats.packetsLost
