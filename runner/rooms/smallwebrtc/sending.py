"""The caller's packets leave on time, whatever the event loop is doing: a thread of its own paces and sends them.

aiortc sends from the event loop, which is late whenever anything else on it takes long, and late for as long as other
calls, recognition or a busy machine make it. Here the sending half of its :class:`RTCRtpSender` is replaced; what it
negotiates, its RTCP and its statistics stay as they are. aiortc has no public way to do so: what is touched of it is
in this module, and :func:`check_aiortc` names the version it is known to fit.
"""

import asyncio
import os
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiortc
from aiortc import RTCRtpSender, clock, rtp
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtcrtpsender import random_sequence_number
from aiortc.utils import random32, uint16_add, uint32_add
from loguru import logger

from bots.clock import NS_PER_MS, NS_PER_S, CallClock
from runner.rooms.base import PacketFault
from runner.rooms.smallwebrtc.outgoing import FRAME_NS, CallerTrack, Frame
from runner.rooms.smallwebrtc.placement import RTP_CLOCK_HZ

AIORTC_VERSION = "1.16.0"
"""The version whose private parts are known to be as they are used here."""

SKIP_NS = 200 * NS_PER_MS
"""A sender this much behind the clock does not catch up in a burst: it leaves out the time it missed."""

SWITCH_INTERVAL_S = 0.0005
"""How long another thread may keep the interpreter while a packet is due.

Python's own 5 ms are lost again each time that sending lets go of it, beside a loop that never rests."""

_RTP_UNITS_PER_FRAME = RTP_CLOCK_HZ * FRAME_NS // NS_PER_S

_NUMBERS = struct.Struct("!HL")
"""Sequence number and timestamp: bytes 2 to 7 of an RTP packet (RFC 3550 section 5.1)."""

_MANGLED = "_RTCRtpSender__"
_COUNTED = ("ntp_timestamp", "rtp_timestamp", "octet_count", "packet_count")
_SENDER_PARTS = (
    *("_run_rtp", "_ssrc", "_enabled"),
    *(_MANGLED + part for part in ("rtp_started", "rtp_exited", "mid", "rtp_header_extensions_map", *_COUNTED)),
)
"""What is used of an RTCRtpSender's private attributes."""

SentSink = Callable[[int, bytes, int | None], None]
"""(place on the call's clock, 16-bit mono PCM, how much later it left in ns; None: it could not be sent at all)."""


def check_aiortc(sender: RTCRtpSender) -> None:
    """Make sure that this version of aiortc can be used.

    Raises:
        RuntimeError: It is built differently.
    """
    missing = [part for part in _SENDER_PARTS if not hasattr(sender, part)]
    if not hasattr(sender.transport, "_tx_srtp"):
        missing.append("_tx_srtp")
    if missing:
        raise RuntimeError(
            f"aiortc {aiortc.__version__} is built differently from {AIORTC_VERSION} ({', '.join(missing)}): "
            f"install aiortc=={AIORTC_VERSION}"
        )


Step = Callable[[int], None]
"""Takes the time at which it was to be called (``time.monotonic_ns()``); must not raise."""


class Pacer:
    """Calls what was added every 20 ms, from one thread for all. The thread lives as long as there is anything."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: list[Step] = []
        self._thread: threading.Thread | None = None
        self._before_s = sys.getswitchinterval()

    def add(self, step: Step) -> None:
        with self._lock:
            self._steps.append(step)
            if self._thread is None:
                self._before_s = sys.getswitchinterval()
                sys.setswitchinterval(SWITCH_INTERVAL_S)
                self._thread = threading.Thread(target=self._run, name="send the callers' audio", daemon=True)
                self._thread.start()

    def remove(self, step: Step) -> None:
        with self._lock, suppress(ValueError):
            self._steps.remove(step)

    def _run(self) -> None:
        due_ns = time.monotonic_ns()
        while True:
            with self._lock:
                steps = list(self._steps)
                if not steps:
                    sys.setswitchinterval(self._before_s)
                    self._thread = None
                    return
            for step in steps:
                step(due_ns)
            due_ns += FRAME_NS
            behind_ns = time.monotonic_ns() - due_ns
            if behind_ns > 0:
                # Whole frames, so that everybody's next one stays due at a call.
                due_ns += behind_ns // FRAME_NS * FRAME_NS
            else:
                time.sleep(-behind_ns / NS_PER_S)


PACER = Pacer()


class LockedSession:
    """An SRTP session that two threads use: the packets leave from one, RTCP from the other."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._lock = threading.Lock()

    def protect(self, data: bytes) -> bytes:
        with self._lock:
            return self._session.protect(data)

    def protect_rtcp(self, data: bytes) -> bytes:
        with self._lock:
            return self._session.protect_rtcp(data)


@dataclass(frozen=True)
class _Way:
    """The way to the agent, as ICE found it.

    Attributes:
        address: Where packets go.
        socket: A duplicate of the pair's; None where packets go over a TURN server, which has its own protocol.
    """

    pair: Any
    address: tuple[str, int]
    socket: socket.socket | None

    @classmethod
    def over(cls, pair: Any) -> "_Way":
        own = pair.protocol.transport.get_extra_info("socket")
        duplicate = None if own is None else socket.socket(fileno=os.dup(own.fileno()))
        return cls(pair, pair.remote_addr, duplicate)

    def send(self, data: bytes) -> bool:
        """Send from any thread; return whether the packet is out."""
        if self.socket is None:
            return False
        try:
            self.socket.sendto(data, self.address)
        except OSError as error:
            # No buffer, no route for the moment: a lost packet, as on any network.
            logger.debug("a packet could not be sent: {}", error)
            return False
        return True

    def send_here(self, data: bytes) -> None:
        """Send from the event loop, which alone can use a TURN server."""
        self.pair.protocol.transport.sendto(data, self.address)

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()


class _Packet(NamedTuple):
    """A packet, encrypted before it is due: which 20 ms of the stream it holds, and its RTP timestamp."""

    number: int
    frame: Frame
    timestamp: int
    data: bytes


class _Left(NamedTuple):
    """A packet that has left; where ``left_ns`` is None, it is still for the event loop to send."""

    packet: _Packet
    due_ns: int
    left_ns: int | None
    is_lost: bool


class PacedSender:
    """Sends a track in place of an aiortc sender's own task.

    Args:
        sender: The sender of the track's transceiver, before it is negotiated.
        sent: Takes every frame that left, on the event loop.
        failed: Takes the error that kept anything more from leaving, on the event loop.
        fault: What each packet goes through behind our socket.
    """

    def __init__(
        self,
        sender: RTCRtpSender,
        track: CallerTrack,
        clock: CallClock,
        *,
        sent: SentSink,
        failed: Callable[[Exception], None],
        fault: PacketFault | None = None,
    ):
        check_aiortc(sender)
        self._sender: Any = sender
        self._track, self._clock = track, clock
        self._sent, self._failed, self._fault = sent, failed, fault
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._ended = asyncio.Event()
        self._way: _Way | None = None
        self._left: deque[_Left] = deque()
        self._next: _Packet | None = None
        self._reporting = False
        self._start_ns: int | None = None
        self._frames = 0
        self._sequence_number = random_sequence_number()
        self._timestamp_origin = random32()
        self._header = b""
        self._sender._run_rtp = self._run

    # On the event loop.

    async def _run(self, codec: RTCRtpCodecParameters) -> None:
        """Take the place of ``RTCRtpSender._run_rtp``: started once media can flow, cancelled to stop."""
        self._part("rtp_started").set()
        self._header = self._make_header(codec)
        dtls = self._sender.transport
        dtls._tx_srtp = LockedSession(dtls._tx_srtp)
        try:
            self._find_way()
            PACER.add(self._step)
            await self._ended.wait()
        except asyncio.CancelledError:
            # Being cancelled is how aiortc stops it; it waits for rtp_exited, not for the task.
            pass
        except Exception as error:
            # A caller that nobody can hear is nothing to hold against the agent.
            self._failed(error)
        finally:
            PACER.remove(self._step)
            with self._lock:
                way, self._way = self._way, None
            if way is not None:
                way.close()
            self._report()
            self._track.stop()
            self._part("rtp_exited").set()

    def _make_header(self, codec: RTCRtpCodecParameters) -> bytes:
        """Return what is the same in front of every packet; sequence number and timestamp are put in each time."""
        assert codec.payloadType is not None  # noqa: S101 - a negotiated codec has one
        packet = rtp.RtpPacket(payload_type=codec.payloadType, marker=1, ssrc=self._sender._ssrc)
        # The one extension of these that aiortc negotiates for audio.
        packet.extensions.mid = self._part("mid")
        return packet.serialize(self._part("rtp_header_extensions_map"))

    def stop(self) -> None:
        """Send nothing any more, even if aiortc never comes to close the connection."""
        PACER.remove(self._step)
        self._ended.set()

    def _find_way(self) -> None:
        """Follow ICE, which may find another way later on."""
        pair = self._sender.transport.transport._connection._nominated.get(1)
        if self._way is not None and self._way.pair is pair:
            return
        way = None if pair is None else _Way.over(pair)
        with self._lock:
            old, self._way = self._way, way
        if old is not None:
            old.close()

    def _report(self) -> None:
        """Note what has left since: for RTCP, whose reports are made on the loop, and for the call."""
        self._reporting = False
        if self._way is not None:
            try:
                self._find_way()
            except OSError as error:
                PACER.remove(self._step)
                self._failed(error)
            if self._sender.transport.state != "connected":
                self._ended.set()
        while self._left:
            packet, due_ns, left_ns, is_lost = self._left.popleft()
            if is_lost or (left_ns is None and not self._send_here(packet.data)):
                self._sent(due_ns, packet.frame.pcm, None)
                continue
            left_ns = self._clock.now_ns() if left_ns is None else left_ns
            ago_ns = self._clock.now_ns() - left_ns
            self._set("ntp_timestamp", clock.current_ntp_time() - (ago_ns << 32) // NS_PER_S)
            self._set("rtp_timestamp", packet.timestamp)
            self._set("octet_count", self._part("octet_count") + len(packet.frame.payload))
            self._set("packet_count", self._part("packet_count") + 1)
            late_ns = max(left_ns - due_ns, 0)
            self._track.punctuality.add(late_ns)
            self._sent(due_ns, packet.frame.pcm, late_ns)

    def _send_here(self, data: bytes) -> bool:
        """Send over a TURN server, which only the event loop can."""
        way = self._way
        if way is None:
            return False
        if self._fault is None:
            way.send_here(data)
        else:
            self._fault(data, way.send_here)
        return True

    def _part(self, name: str) -> Any:
        return getattr(self._sender, _MANGLED + name)

    def _set(self, name: str, value: Any) -> None:
        setattr(self._sender, _MANGLED + name, value)

    # On the pacer's thread.

    def _step(self, due_ns: int) -> None:
        try:
            with self._lock:
                self._send_what_is_due(self._clock.at_ns(due_ns))
        except Exception as error:
            PACER.remove(self._step)
            self._on_loop(self._failed, error)
        if self._left and not self._reporting:
            self._reporting = True
            self._on_loop(self._report)

    def _on_loop(self, callback: Callable[..., None], *args: Any) -> None:
        # The loop may be closed in the meantime, and the call with it.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)

    def _send_what_is_due(self, due_ns: int) -> None:
        if self._way is None:
            return
        if self._start_ns is None:
            self._start_ns = due_ns
        now_ns = self._clock.now_ns()
        behind = (now_ns - self._start_ns) // FRAME_NS - self._frames
        if behind * FRAME_NS > SKIP_NS:
            self._frames += behind
        while (due_ns := self._start_ns + self._frames * FRAME_NS) <= now_ns:
            if self._sender._enabled:
                self._send(due_ns, self._way)
            self._frames += 1
        if self._next is None or self._next.number != self._frames:
            self._next = self._prepare()

    def _send(self, due_ns: int, way: _Way) -> None:
        packet = self._next
        if packet is None or packet.number != self._frames:
            packet = self._prepare()
        self._next = None
        self._sequence_number = uint16_add(self._sequence_number, 1)
        left_ns, is_lost = None, False
        if way.socket is not None:
            if self._fault is not None:
                self._fault(packet.data, way.send)
            else:
                is_lost = not way.send(packet.data)
            left_ns = self._clock.now_ns()
        self._left.append(_Left(packet, due_ns, left_ns, is_lost))

    def _prepare(self) -> _Packet:
        """Encode and encrypt what comes next. What was made for a time that was missed is made anew for now."""
        frame = self._track.take() if self._next is None else self._next.frame
        timestamp = uint32_add(self._timestamp_origin, self._frames * _RTP_UNITS_PER_FRAME & 0xFFFFFFFF)
        start, rest = self._header[:2], self._header[8:]
        packet = start + _NUMBERS.pack(self._sequence_number, timestamp) + rest + frame.payload
        return _Packet(self._frames, frame, timestamp, self._sender.transport._tx_srtp.protect(packet))
