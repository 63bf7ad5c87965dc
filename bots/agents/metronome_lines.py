"""What carries the metronome's audio: SmallWebRTC here, a Daily room in :mod:`bots.agents.metronome_daily`."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from bots.agents.backgrounds import BackgroundLoop
from bots.agents.metronome_audio import CODEC_DELAY_NS, BackgroundTrack, Clip, MetronomeTrack, Reports
from bots.agents.rtp_arrivals import RtpArrivals

if TYPE_CHECKING:
    from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection

RECEIVE_TIMEOUT_S = 1.0
"""Pipecat turns a track off that was not asked for a frame for two seconds, also while it is being waited on."""


@dataclass(frozen=True)
class MetronomeSounds:
    """The sentence, and what is heard behind it, if anything."""

    clip: Clip
    background: BackgroundLoop | None


@dataclass(frozen=True)
class Piece:
    """Some audio of the caller, mono at 48 kHz.

    Attributes:
        start_ns: When its first sample left the caller, as near as it can be told here.
        arrival_ns: When it came.
    """

    samples: Any
    start_ns: int
    arrival_ns: int


class Line(Protocol):
    """Carries the metronome's audio in both directions."""

    @property
    def peer(self) -> str: ...

    def track(self, sounds: MetronomeSounds, reports: Reports) -> MetronomeTrack:
        """Send what is to be heard; called once."""
        ...

    def heard(self) -> AsyncIterator[Piece]:
        """Return the caller's audio, until the call is over."""
        ...


class SmallWebRTCLine:
    """A connection of SmallWebRTC whose peer is connected."""

    def __init__(self, connection: "SmallWebRTCConnection"):
        self._connection = connection
        self._arrivals = RtpArrivals(connection.pc.getTransceivers()[0].receiver)

    @property
    def peer(self) -> str:
        return self._connection.pc_id

    def track(self, sounds: MetronomeSounds, reports: Reports) -> MetronomeTrack:
        """Send packets that were coded before; over a background they are coded as they are sent."""
        if sounds.background is None:
            track = MetronomeTrack(sounds.clip, reports)
        else:
            track = BackgroundTrack(sounds.clip, reports, sounds.background)
        self._connection.replace_audio_track(track)
        return track

    async def heard(self) -> AsyncIterator[Piece]:
        """Return what the connection's track decodes, by the arrival of its packets."""
        from aiortc.mediastreams import MediaStreamError

        track: Any = self._connection.audio_input_track()
        while True:
            try:
                frame = await asyncio.wait_for(track.recv(), RECEIVE_TIMEOUT_S)
            except TimeoutError:
                continue
            except MediaStreamError:
                return
            # Interleaved stereo, as aiortc decodes it; the caller's is mono, so one channel says it all.
            arrival_ns = self._arrivals.arrival_ns(frame.pts) or time.monotonic_ns()
            yield Piece(frame.to_ndarray()[0, ::2], arrival_ns - CODEC_DELAY_NS, arrival_ns)
