"""How a Daily room tells of its audio's delivery, as far as the library lets it know: pure, on stamps made up."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from bots.clock import NS_PER_MS, NS_PER_S, CallClock
from bots.daily_library import RECEIVE_DELAY_NS
from bots.timeline import CallerAudioQuality
from runner.rooms.base import AUDIO_RATE_HZ, Timeliness
from runner.rooms.daily.session import RoomSession
from tests.rooms.listener import Listener

CHUNK_NS = 20 * NS_PER_MS
CHUNK_SAMPLES = AUDIO_RATE_HZ // 50
LOUD = np.full(CHUNK_SAMPLES, 5_000, dtype=np.int16).tobytes()
QUIET = bytes(2 * CHUNK_SAMPLES)
AGENT: dict[str, Any] = {
    "id": "a-1",
    "info": {"userName": "agent", "joinedAt": 1},
    "media": {"microphone": {"state": "playable"}},
}


@dataclass
class Carrier:
    pushed: list[int] = field(default_factory=list)

    def capture(self, participant_id: str) -> None: ...

    def push_placed(self, at_ns: int, pcm: bytes, participant_id: str) -> None:
        self.pushed.append(at_ns)


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def session(listener: Listener) -> RoomSession:
    session = RoomSession("https://example.daily.co/room", CallClock(0), listener, None)
    session.attach(Carrier())
    session.joined(0, {"a-1": AGENT})
    return session


def arrive(session: RoomSession, *chunks: bytes, from_ns: int, every_ns: int = CHUNK_NS) -> int:
    """Let chunks arrive; return when the next is due."""
    for chunk in chunks:
        from_ns += every_ns
        session.audio_arrived(from_ns, "a-1", chunk)
    return from_ns


@pytest.mark.parametrize(
    ("before", "after", "holes"),
    [
        (LOUD, LOUD, [(10 * CHUNK_NS - RECEIVE_DELAY_NS, 300.0)]),
        (QUIET, LOUD, []),
        (LOUD, QUIET, []),
        (QUIET, QUIET, []),
    ],
)
def test_speech_that_was_torn_apart_is_a_hole(
    session: RoomSession, listener: Listener, before: bytes, after: bytes, holes: list[tuple[int, float]]
) -> None:
    next_ns = arrive(session, *[before] * 10, from_ns=0)
    arrive(session, *[after] * 10, from_ns=next_ns + 300 * NS_PER_MS)
    assert listener.holes == holes


def test_what_we_slept_through_is_no_hole(session: RoomSession, listener: Listener) -> None:
    next_ns = arrive(session, *[LOUD] * 10, from_ns=0)
    next_ns = arrive(session, *[LOUD] * 15, from_ns=next_ns + 300 * NS_PER_MS, every_ns=1)
    arrive(session, *[LOUD] * 10, from_ns=next_ns)
    assert listener.holes == []


def test_the_spread_of_arrivals_is_told(session: RoomSession) -> None:
    assert session.timeliness() == Timeliness(0.0, 0.0, library_ms=40.0)
    for number in range(100):
        session.audio_arrived((number + 1) * CHUNK_NS + (number % 4) * 10 * NS_PER_MS, "a-1", QUIET)
    assert session.timeliness().arrival_jitter_ms == pytest.approx(30)


def test_before_the_room_is_joined_nothing_was_sent(listener: Listener) -> None:
    session = RoomSession("https://example.daily.co/room", CallClock(0), listener, None)
    assert session.caller_audio_quality(9) is None


def test_packets_are_counted_and_hidden_figures_are_unknown(session: RoomSession) -> None:
    session.tick(NS_PER_S + 100 * NS_PER_MS)
    assert session.caller_audio_quality(9) == CallerAudioQuality(at_ns=9, packets=50)


def test_a_write_so_late_that_silence_left_in_a_line_is_late(session: RoomSession) -> None:
    taken_ns = NS_PER_S
    for late_ns in (0, 0, 150 * NS_PER_MS):
        done_ns = taken_ns + CHUNK_NS + late_ns
        session.audio_taken(taken_ns)
        session.audio_sent(taken_ns, done_ns, LOUD)
        taken_ns = done_ns
    quality = session.caller_audio_quality(9)
    assert quality is not None
    assert (quality.late, quality.latest_ms) == (1, pytest.approx(150, abs=25))
