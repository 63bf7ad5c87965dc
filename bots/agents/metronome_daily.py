"""The metronome's audio in a Daily room: what the library hands over, and what is handed to it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import numpy as np
from daily import AudioData
from pipecat.transports.daily.transport import DailyParams, DailyTransport

from bots.agents.metronome_audio import RATE_HZ, Reports, SampleTrack
from bots.agents.metronome_lines import MetronomeSounds, Piece
from bots.clock import samples_to_ns
from bots.daily_library import RECEIVE_DELAY_NS

BOT_NAME = "Metronome"
RECEIVE_INTERVAL_MS = 10


def daily_line(room_url: str, token: str | None) -> tuple[DailyTransport, Callable[[Mapping[str, Any]], "DailyLine"]]:
    """Return a transport to a room, and what makes a line of a participant in it."""
    params = DailyParams(
        audio_in_enabled=False, audio_out_enabled=True, audio_out_sample_rate=RATE_HZ, camera_out_enabled=False
    )
    transport = DailyTransport(room_url, token, BOT_NAME, params)
    return transport, lambda participant: DailyLine(transport, str(participant["id"]))


class DailyLine:
    """One participant's microphone, and our own track, by the library itself: Pipecat's frames have no times."""

    def __init__(self, transport: DailyTransport, participant_id: str):
        self._client: Any = transport._client  # pyright: ignore[reportPrivateUsage]  # has the library's own client
        self._participant_id = participant_id
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue()
        self._sending: asyncio.Task[None] | None = None

    @property
    def peer(self) -> str:
        return self._participant_id

    def track(self, sounds: MetronomeSounds, reports: Reports) -> SampleTrack:
        """Send samples every 20 ms, without a pause: the library sends each as it comes."""
        track = SampleTrack(sounds.clip, reports, sounds.background)
        self._sending = asyncio.create_task(self._send(track))
        return track

    async def heard(self) -> AsyncIterator[Piece]:
        """Return what the library hands over, stamped on its own thread."""
        self._client._client.update_subscriptions(
            participant_settings={self._participant_id: {"media": {"microphone": "subscribed"}}}
        )
        self._client._client.set_audio_renderer(
            self._participant_id,
            self._take,
            audio_source="microphone",
            sample_rate=RATE_HZ,
            callback_interval_ms=RECEIVE_INTERVAL_MS,
        )
        while True:
            yield await self._pieces.get()

    def _take(self, _participant_id: str, audio: AudioData, _source: str) -> None:
        arrival_ns = time.monotonic_ns()
        samples = np.frombuffer(audio.audio_frames, np.int16)[:: audio.num_channels]
        start_ns = arrival_ns - samples_to_ns(len(samples), RATE_HZ) - RECEIVE_DELAY_NS
        try:
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, Piece(samples, start_ns, arrival_ns))
        except RuntimeError:
            return  # the loop is closed: the library outlives the call by a moment

    async def _send(self, track: SampleTrack) -> None:
        source: Any = self._client._microphone_track.source
        while track.readyState == "live":
            source.write_frames(await track.next_payload(), completion=lambda _: None)
