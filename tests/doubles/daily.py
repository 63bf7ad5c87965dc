"""A stand-in for the ``daily`` library at its edge: one meeting, in this process, at the real pace.

It does what the library was seen to do: it calls back on threads of its own, reports errors as text to completions
and to ``on_error``, drops app messages sent before the join, refuses ``None`` and ``"*"``, and plays written audio in
real time with silence in between. A join completes before its media connections do, and what is written until then is
lost; a microphone is playable a moment after it was asked for; of a participant that was killed it hands over zeros;
a websocket that was closed shows only in what can't be sent. What it does not know, it refuses.
"""

import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from bots.daily_library import RECEIVE_DELAY_NS

CHANNEL_NOT_OPEN = "AppMessage(Signalling(ChannelNotOpen))"
DISCONNECTED = "AppMessage(Signalling(MessageSendFailed(Disconnected)))"
LOOKUP_FAILED = (
    "Connection(Api(RoomLookup(RoomInfoFetchFailed("
    'IoError(Custom {{ kind: Other, error: "HTTP error: {status}" }})))))'
)
RELEASED = "this object has already been released"
BLOCK_S = 0.01
BLOCKS_AHEAD = 2
TONE_FIRST_S = 0.5
TONE_S = 0.3

AudioSource = Callable[[int, int, int], bytes]
"""(first sample, number of samples, rate) -> 16-bit mono PCM."""


def silence(first: int, count: int, rate_hz: int) -> bytes:
    return bytes(2 * count)


def loud(first: int, count: int, rate_hz: int) -> bytes:
    return np.full(count, 20000, dtype=np.int16).tobytes()


def tone(first: int, count: int, rate_hz: int) -> bytes:
    """Silence with a tone from TONE_FIRST_S on; its first sample is not zero."""
    t = (first + np.arange(count)) / rate_hz - TONE_FIRST_S
    wave = 12000 * np.cos(2 * np.pi * 440 * t)
    return np.where((t >= 0) & (t < TONE_S), wave, 0).astype(np.int16).tobytes()


class Sent(NamedTuple):
    message: Any
    participant_id: str | None


class HeardBlock(NamedTuple):
    """10 ms of the caller's track: when its first sample left, and the samples."""

    at_monotonic_ns: int
    pcm: bytes


class FakeParticipant:
    """Somebody else in the meeting."""

    def __init__(self, meeting: "Meeting", name: str, *, audio: bool, source: AudioSource):
        self.meeting = meeting
        self.id = str(uuid.uuid4())
        self.name = name
        self.microphone = "loading" if audio else "off"
        self.source = source
        self.joined_at = next(meeting.seconds)
        self.delivering = True
        self.started_ns: int | None = None
        """When sample 0 of the source was there."""
        self.is_killed = False

    def describe(self) -> dict[str, Any]:
        info = {"isLocal": False, "joinedAt": self.joined_at, "userName": self.name}
        info["permissions"] = {"hasPresence": True, "canSend": True, "canAdmin": False}
        return {"id": self.id, "info": info, "media": {"microphone": {"state": self.microphone}}}

    def become_playable(self) -> None:
        if self.microphone == "loading" and self.id in self.meeting.members:
            self.microphone = "playable"
            self.meeting.tell("on_participant_updated", self.describe())

    def be_killed(self) -> None:
        """Send nothing any more, without a word; the library makes zeros in its place, and says it is playable."""
        self.is_killed = True

    def leave(self, reason: str = "leftCall") -> None:
        self.meeting.members.pop(self.id)
        self.delivering = False
        self.meeting.tell("on_participant_left", self.describe(), reason)

    def send(self, message: Any) -> None:
        self.meeting.tell("on_app_message", message, self.id)


@dataclass
class Meeting:
    url: str = "https://example.daily.co/room"
    token: str | None = None
    join_delay_s: float = 0.05
    media_delay_s: float = 0.05
    """How long after a join its media connections are there."""
    microphone_delay_s: float = 0.03
    """How long after it was asked for a microphone is playable."""
    socket_is_closed: bool = False
    """Nothing can be sent, and nobody is told why."""
    sending: threading.Event = field(default_factory=threading.Event)
    opens: threading.Event | None = None
    """Joins wait for this."""
    join_error: str | None = None
    """Refuse every join with this."""
    members: dict[str, FakeParticipant] = field(default_factory=dict)
    clients: "list[FakeCallClient]" = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    on_sent: Callable[[Any], None] | None = None
    """Called with each message the caller sends, on the caller's thread."""
    dropped: list[Any] = field(default_factory=list)
    sources: "list[FakeCustomAudioSource]" = field(default_factory=list)
    delays_ns: list[int] = field(default_factory=list)
    """How late each piece of audio was handed over, in either direction."""
    seconds: Iterator[int] = field(default_factory=lambda: iter(range(1_700_000_000, 1_800_000_000)))

    def add(self, name: str, *, audio: bool = True, source: AudioSource = silence) -> FakeParticipant:
        participant = FakeParticipant(self, name, audio=audio, source=source)
        self.members[participant.id] = participant
        self.tell("on_participant_joined", participant.describe())
        return participant

    def tell(self, event: str, *args: Any) -> None:
        for client in self.clients:
            if client.joined:
                client.emit(event, *args)

    def eject(self, error: str | None = None) -> None:
        for client in self.clients:
            if client.joined:
                client.joined = False
                if error:
                    client.emit("on_error", error)
                client.emit("on_call_state_updated", "leaving")
                client.emit("on_call_state_updated", "left")

    @property
    def heard(self) -> list[HeardBlock]:
        return [block for source in self.sources for block in source.heard]

    @property
    def late_ns(self) -> int:
        """How late any audio was: what was placed by its coming can be off by so much."""
        return max(self.delays_ns, default=0)

    def close(self) -> None:
        if self.opens is not None:
            self.opens.set()
        for client in self.clients:
            client.stop()
        for source in self.sources:
            source.stop()


class FakeCallClient:
    def __init__(self, meeting: Meeting, event_handler: Any = None):
        self._meeting = meeting
        self._handler = event_handler
        self._released = False
        self._stopped = threading.Event()
        self._work: queue.Queue[Callable[[], Any] | None] = queue.Queue()
        self._id = str(uuid.uuid4())
        self._user_name: str | None = None
        self.asked = False
        self.joined = False
        self.left = False
        self.renderers: dict[str, threading.Thread] = {}
        self._thread = threading.Thread(target=self._run, name="fake-daily-events", daemon=True)
        self._thread.start()
        meeting.clients.append(self)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    def _alive(self) -> None:
        if self._released:
            raise RuntimeError(RELEASED)

    def emit(self, event: str, *args: Any) -> None:
        self._work.put(lambda: getattr(self._handler, event)(*args))

    def _complete(self, completion: Callable[..., None] | None, request: str, error: str | None) -> None:
        def work() -> None:
            if completion is not None:
                completion(error)
            if error is not None:
                self._handler.on_error(f"Error handling {request}: {error}")

        self._work.put(work)

    def _local(self) -> dict[str, Any]:
        info = {"isLocal": True, "isOwner": False, "joinedAt": 0, "userName": self._user_name}
        return {"id": self._id, "info": info, "media": {"microphone": {"state": "playable"}}}

    def stop(self) -> None:
        self._stopped.set()
        self._work.put(None)

    # What the library offers, as far as it is used.

    def release(self) -> None:
        self._alive()
        self._released = True
        self.stop()
        self._thread.join()  # as the library does: it waits for what is under way
        self.joined = False

    def set_user_name(self, user_name: str) -> None:
        self._alive()
        self._user_name = user_name

    def update_subscription_profiles(self, profile_settings: Any, completion: Any = None) -> None:
        self._alive()
        self._complete(completion, "updateSubscriptionProfiles", None)

    def update_subscriptions(
        self, participant_settings: Any = None, profile_settings: Any = None, completion: Any = None
    ) -> None:
        self._alive()
        self._complete(completion, "updateSubscriptions", None)

    def participants(self) -> dict[str, Any]:
        self._alive()
        others = {member.id: member.describe() for member in self._meeting.members.values()}
        return {"local": self._local(), **(others if self.joined else {})}

    def join(
        self, meeting_url: str, meeting_token: Any = None, client_settings: Any = None, completion: Any = None
    ) -> None:
        self._alive()
        assert client_settings["inputs"]["microphone"]["isEnabled"] is True
        assert client_settings["inputs"]["camera"]["isEnabled"] is False

        def work() -> None:
            if self._meeting.opens is not None:
                self._meeting.opens.wait()
            time.sleep(self._meeting.join_delay_s)
            error = self._meeting.join_error
            if error is None and meeting_url != self._meeting.url:
                error = LOOKUP_FAILED.format(status="404 Not Found")
            if error is None and meeting_token != self._meeting.token:
                error = LOOKUP_FAILED.format(status="401 Unauthorized")
            if error is not None:
                self._handler.on_call_state_updated("left")
                completion(None, error)
                self._handler.on_error(f"Error handling join: {error}")
                return
            self._handler.on_call_state_updated("joining")
            self.joined = True
            for member in list(self._meeting.members.values()):
                self._handler.on_participant_joined(member.describe())
            self._handler.on_call_state_updated("joined")
            self._handler.on_network_connection_status_updated({"connection": "signalling", "event": "connected"})
            completion({"meetingSession": {"id": "m"}, "participants": self.participants()}, None)
            threading.Timer(self._meeting.media_delay_s, self._connect_media).start()

        self._work.put(work)
        self.asked = True

    def _connect_media(self) -> None:
        self._meeting.sending.set()
        for connection in ("sendTransport", "recvTransport"):
            self.emit("on_network_connection_status_updated", {"connection": connection, "event": "connected"})

    def leave(self, completion: Any = None) -> None:
        self._alive()

        def work() -> None:
            self.left = self.left or self.joined
            self.joined = False

        # One thing after the other: a leave that follows a join waits for its end.
        self._work.put(work)
        self.emit("on_call_state_updated", "leaving")
        self.emit("on_call_state_updated", "left")
        self._complete(completion, "leave", None)

    def send_app_message(self, message: Any, participant_id: str | None = None, completion: Any = None) -> None:
        self._alive()
        if message is None:
            raise ValueError("invalid app message 'None'")
        if participant_id == "*":
            raise ValueError("invalid participant ID '*'")
        if not self.joined:
            self._meeting.dropped.append(message)
            self._complete(completion, "sendAppMessage", CHANNEL_NOT_OPEN)
            return
        if self._meeting.socket_is_closed:
            self._complete(completion, "sendAppMessage", DISCONNECTED)
            return
        self._meeting.sent.append(Sent(message, participant_id))
        self._complete(completion, "sendAppMessage", None)
        if self._meeting.on_sent is not None:
            self._meeting.on_sent(message)

    def set_audio_renderer(
        self,
        participant_id: str,
        callback: Callable[..., None],
        audio_source: str = "microphone",
        sample_rate: int = 16000,
        callback_interval_ms: int = 20,
    ) -> None:
        self._alive()
        assert audio_source == "microphone"
        assert callback_interval_ms % 10 == 0
        member = self._meeting.members[participant_id]

        def render() -> None:
            count = sample_rate * callback_interval_ms // 1000
            interval_ns = callback_interval_ms * 1_000_000
            started_ns = time.monotonic_ns()
            first = True
            number = 0
            while not self._stopped.is_set() and participant_id in self._meeting.members:
                number += 1
                due_ns = started_ns + number * interval_ns
                time.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
                if self.joined and member.delivering:
                    pcm = member.source((number - 1) * count, count, sample_rate)
                    if member.is_killed:
                        pcm = bytes(len(pcm))
                    if first:
                        # However late this thread is by now: time counts from the first piece.
                        first, due_ns = False, time.monotonic_ns()
                        started_ns = due_ns - number * interval_ns
                        member.started_ns = started_ns - RECEIVE_DELAY_NS
                    callback(participant_id, SimpleNamespace(audio_frames=pcm), audio_source)
                    self._meeting.delays_ns.append(time.monotonic_ns() - due_ns)

        thread = threading.Thread(target=render, name="fake-daily-renderer", daemon=True)
        self.renderers[participant_id] = thread
        thread.start()
        if member.microphone == "loading":
            threading.Timer(self._meeting.microphone_delay_s, member.become_playable).start()


class FakeCustomAudioSource:
    def __init__(self, meeting: Meeting, sample_rate: int, channels: int, auto_silence: bool = True):
        assert auto_silence
        assert channels == 1
        self._meeting = meeting
        self.sample_rate = sample_rate
        self.channels = channels
        self.heard: list[HeardBlock] = []
        self._writes: list[tuple[bytearray, int, Callable[[int], None]]] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        meeting.sources.append(self)
        threading.Thread(target=self._drain, name="fake-daily-source", daemon=True).start()

    def write_frames(self, frames: bytes, completion: Callable[[int], None] | None = None) -> int:
        assert completion is not None, "would block"
        if len(frames) % 2:
            raise ValueError("frames bytestring should contain 16-bit samples")
        with self._lock:
            self._writes.append((bytearray(frames), len(frames) // 2, completion))
        return len(frames) // 2

    def stop(self) -> None:
        self._stopped.set()

    def _drain(self) -> None:
        """Send a block every 10 ms, from two that are kept ahead; where there is nothing to keep, it is silence.

        So the library was measured: a write is done when its last block is among the two, and the next one may be
        up to 20 ms late before silence gets in between. What this thread misses by being late it does not make up.
        """
        due_ns = time.monotonic_ns()
        block_ns = int(BLOCK_S * 1e9)
        block_bytes = int(self.sample_rate * BLOCK_S) * 2
        ahead = bytearray()
        while not self._stopped.is_set():
            planned_ns, now_ns = due_ns, time.monotonic_ns()
            if now_ns - planned_ns > BLOCKS_AHEAD * block_ns:
                due_ns = now_ns
            done: list[tuple[int, Callable[[int], None]]] = []
            with self._lock:
                while self._writes and len(ahead) < BLOCKS_AHEAD * block_bytes:
                    pcm, count, completion = self._writes[0]
                    take = BLOCKS_AHEAD * block_bytes - len(ahead)
                    ahead += pcm[:take]
                    del pcm[:take]
                    if not pcm:
                        done.append((count, completion))
                        del self._writes[0]
            for count, completion in done:
                completion(count)
            if not ahead:
                ahead += bytes(BLOCKS_AHEAD * block_bytes)
            if self._meeting.sending.is_set():
                self.heard.append(HeardBlock(due_ns, bytes(ahead[:block_bytes])))
            self._meeting.delays_ns.append(time.monotonic_ns() - planned_ns)
            del ahead[:block_bytes]
            due_ns += block_ns
            time.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))


class FakeCustomAudioTrack:
    def __init__(self, audio_source: FakeCustomAudioSource):
        assert isinstance(audio_source, FakeCustomAudioSource)
        self.id = str(uuid.uuid4())


class FakeDaily:
    @staticmethod
    def init(worker_threads: int = 2, log_level: Any = None) -> None:
        pass


@contextmanager
def fake_daily(monkeypatch: pytest.MonkeyPatch, meeting: Meeting) -> Iterator[Meeting]:
    """Put the double where Pipecat's transport looks the library up."""
    module = "pipecat.transports.daily.transport"

    def call_client(event_handler: Any = None) -> FakeCallClient:
        return FakeCallClient(meeting, event_handler)

    def audio_source(sample_rate: int, channels: int, auto_silence: bool = True) -> FakeCustomAudioSource:
        return FakeCustomAudioSource(meeting, sample_rate, channels, auto_silence)

    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.CallClient", call_client)
        patch.setattr(f"{module}.CustomAudioSource", audio_source)
        patch.setattr(f"{module}.CustomAudioTrack", FakeCustomAudioTrack)
        patch.setattr(f"{module}.Daily", FakeDaily)
        patch.setattr(f"{module}.DailyTransportClient._daily_initialized", False)
        patch.setattr("runner.rooms.daily.client.Daily", FakeDaily)
        try:
            yield meeting
        finally:
            meeting.close()
