"""What a Daily room makes of the library's events: who the agent is, where it is heard, whether it is still there.

Pure, on stamps made up: time passes where a test says so.
"""

import re
from typing import Any

import numpy as np
import pytest

from bots.clock import NS_PER_MS, NS_PER_S, CallClock
from bots.daily_library import RECEIVE_DELAY_NS
from bots.timeline import CallerAudioQuality, EndedReason
from runner.errors import RoomError
from runner.rooms.base import AUDIO_RATE_HZ, Timeliness
from runner.rooms.daily import people
from runner.rooms.daily.session import GONE_AFTER_S, MEDIA_STOPPED_AFTER_S, RoomSession
from tests.rooms.in_daily import URL
from tests.rooms.listener import Listener

CHUNK_NS = 20 * NS_PER_MS
CHUNK_SAMPLES = AUDIO_RATE_HZ // 50
LOUD = np.full(CHUNK_SAMPLES, 5_000, dtype=np.int16).tobytes()
QUIET = np.full(CHUNK_SAMPLES, 1, dtype=np.int16).tobytes()
ZEROS = bytes(2 * CHUNK_SAMPLES)
READY = {"label": "rtvi-ai", "type": "bot-ready", "data": {"version": "2.0.0"}}
HELLO = {"type": "hello"}
VANISHED = r"^nothing has arrived from the agent for (\d\.\d) s: its process died, or the network in between is cut$"


def described(name: str, microphone: str = "playable", joined_at: Any = 1, **permissions: Any) -> dict[str, Any]:
    """Return a participant as the library describes one; its id is its name."""
    info = {"userName": name, "joinedAt": joined_at, "permissions": permissions}
    return {"id": name, "info": info, "media": {"microphone": {"state": microphone}}}


class Visit:
    """A session that has joined, and what carries its media.

    Args:
        there: Who is in the room by then.
        name: The agent's name, where it is known.
    """

    def __init__(self, *there: dict[str, Any], name: str | None = None):
        self.listener = Listener()
        self.session = RoomSession(URL, CallClock(0), self.listener, name)
        self.session.attach(self)
        self.at_ns = 0
        self.captured: list[str] = []
        self.sent_to: list[tuple[str, Any]] = []
        self.pushed: list[int] = []
        self.session.joined(0, {raw["id"]: raw for raw in there})
        for connection in ("sendTransport", "recvTransport"):
            self.connection(connection, there=True)

    def capture(self, participant_id: str) -> None:
        self.captured.append(participant_id)

    def send_to(self, participant_id: str, message: Any) -> None:
        self.sent_to.append((participant_id, message))

    def push_placed(self, at_ns: int, pcm: bytes, participant_id: str) -> None:
        self.pushed.append(at_ns)

    def connection(self, name: str, *, there: bool) -> None:
        self.session.connection_changed(self.at_ns, name, there)

    def seen(self, name: str, *args: Any, **kwargs: Any) -> None:
        self.session.participant_seen(self.at_ns, described(name, *args, **kwargs))

    def says(self, name: str, message: Any) -> None:
        self.session.message_arrived(self.at_ns, message, name)

    def leaves(self, name: str) -> None:
        self.session.participant_left(self.at_ns, name, "leftCall")

    def passes(self, seconds: float, audio: bytes | None = None, of: str = "agent") -> None:
        """Let time pass, with audio or without."""
        for number in range(1, round(seconds * NS_PER_S / CHUNK_NS) + 1):
            self.at_ns += CHUNK_NS
            if audio is not None:
                self.session.audio_arrived(self.at_ns, of, audio)
            if number % 5 == 0:
                self.session.tick(self.at_ns)

    @property
    def joined(self) -> list[str | None]:
        return [name for _, name in self.listener.joined]

    @property
    def lost(self) -> list[EndedReason]:
        return [error.reason for error in self.listener.lost]


@pytest.fixture
def visit() -> Visit:
    """With an agent that is heard."""
    visit = Visit(described("agent"))
    visit.passes(0.2, QUIET)
    return visit


# Who the agent is.


def test_who_has_no_audio_or_is_hidden_is_not_the_agent_and_nobody_after_it_is() -> None:
    visit = Visit(described("observer", "off"), described("recorder", hasPresence=False))
    visit.seen("agent", "off")
    assert visit.joined == [] and not visit.session.agent_here.is_set()
    visit.seen("agent")
    visit.seen("another", joined_at=2)
    visit.says("another", {"not": "the agent's"})
    visit.says("agent", READY)
    visit.passes(0.2, LOUD, of="another")
    visit.passes(0.2, QUIET)
    visit.leaves("another")
    assert visit.joined == visit.captured == ["agent"]
    assert visit.listener.messages == [READY]
    assert len(visit.listener.agent) == 10 and visit.pushed
    assert visit.listener.holes == visit.listener.left == []


def test_the_agent_is_chosen_by_name() -> None:
    visit = Visit(described("somebody"), described("the agent", joined_at=2), name="the agent")
    visit.says("somebody", "ignored")
    visit.says("the agent", ["any", {"json": None}])
    assert set(visit.session.people.others()) == {"somebody", "the agent"}
    assert visit.captured == visit.joined == ["the agent"]
    assert visit.listener.messages == [["any", {"json": None}]]


def test_who_daily_says_speaks_is_the_agent_if_none_was_heard() -> None:
    visit = Visit(described("tester"), described("agent", joined_at=2))
    visit.session.sent_to_all(HELLO)
    visit.session.speaker_changed(0, "agent")
    assert visit.joined == ["tester", "agent"]
    # It may not have been there when this was sent.
    assert visit.sent_to == [("agent", HELLO)]


def test_sound_alone_proves_no_agent_against_one_with_rtvi() -> None:
    """A tester's microphone has noise."""
    visit = Visit(described("tester"), described("agent", joined_at=2))
    visit.passes(0.2, LOUD, of="tester")
    visit.session.speaker_changed(visit.at_ns, "agent")
    assert visit.joined == ["tester"]
    visit.says("agent", READY)
    assert visit.joined == ["tester", "agent"]
    assert visit.listener.messages == [READY]


def test_an_agent_muted_until_it_speaks_is_not_waited_for() -> None:
    visit = Visit(described("agent", "loading"))
    assert visit.session.agent_here.is_set() and visit.joined == []
    visit.seen("agent", "off")
    assert visit.session.media_over.is_set() and visit.listener.not_connected == []


def test_where_the_first_leaves_silently_the_next_is_the_agent() -> None:
    visit = Visit(described("tester"), described("agent", joined_at=2))
    visit.leaves("tester")
    assert visit.joined == ["tester", "agent"]
    assert visit.listener.left == []


@pytest.mark.parametrize("joined_at", [["1700000005", 1700000001], ["2023-11-14T22:13:25Z", 1700000001], [None, 5]])
def test_who_came_first_is_told_however_the_time_is_written(joined_at: list[Any]) -> None:
    times = [people.Participant.parse(described("x", joined_at=at)).joined_at_s for at in joined_at]
    assert times == [0.0 if joined_at[0] is None else 1700000005.0, float(joined_at[1])]


def test_who_left_while_the_join_ended_is_not_there() -> None:
    visit = Visit()
    visit.leaves("gone")
    visit.session.joined(0, {"gone": described("gone")})
    assert visit.session.people.others() == []


def test_messages_before_the_agent_is_known_are_kept(log_text: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "MESSAGES_KEPT", 3)
    visit = Visit(described("agent", "off"))
    for number in range(6):
        visit.says("agent", number)
    assert visit.listener.messages == []
    visit.seen("agent")
    assert visit.listener.messages == [0, 1, 2]
    (warning,) = [line for line in log_text if "WARNING" in line]
    assert "more than 3 messages came before it was clear who the agent in" in warning


# What is heard, and what was sent.


@pytest.mark.parametrize(
    ("before", "after", "holes"),
    [
        (LOUD, LOUD, [(10 * CHUNK_NS - RECEIVE_DELAY_NS, 300.0)]),
        (QUIET, LOUD, []),
        (LOUD, QUIET, []),
        (QUIET, QUIET, []),
    ],
)
def test_speech_that_was_torn_apart_is_a_hole(before: bytes, after: bytes, holes: list[tuple[int, float]]) -> None:
    visit = Visit(described("agent"))
    visit.passes(0.2, before)
    visit.at_ns += 300 * NS_PER_MS
    visit.passes(0.2, after)
    assert visit.listener.holes == holes


def test_what_we_slept_through_is_no_hole() -> None:
    visit = Visit(described("agent"))
    visit.passes(0.2, LOUD)
    visit.at_ns += 300 * NS_PER_MS
    for number in range(15):
        visit.session.audio_arrived(visit.at_ns + number, "agent", LOUD)
    visit.passes(0.2, LOUD)
    assert visit.listener.holes == []


def test_the_spread_of_arrivals_is_told() -> None:
    visit = Visit(described("agent"))
    assert visit.session.timeliness() == Timeliness(0.0, 0.0, library_ms=40.0)
    for number in range(100):
        late_ns = (number % 4) * 10 * NS_PER_MS
        visit.session.audio_arrived((number + 1) * CHUNK_NS + late_ns, "agent", QUIET)
    assert visit.session.timeliness().arrival_jitter_ms == pytest.approx(30)


def test_packets_are_counted_and_hidden_figures_are_unknown() -> None:
    assert RoomSession(URL, CallClock(0), Listener(), None).caller_audio_quality(9) is None
    visit = Visit()
    visit.session.tick(NS_PER_S + 100 * NS_PER_MS)
    assert visit.session.caller_audio_quality(9) == CallerAudioQuality(at_ns=9, packets=50)


def test_a_write_so_late_that_silence_left_in_a_line_is_late() -> None:
    session, taken_ns = Visit().session, NS_PER_S
    for late_ns in (0, 0, 150 * NS_PER_MS):
        done_ns = taken_ns + CHUNK_NS + late_ns
        session.audio_taken(taken_ns)
        session.audio_sent(taken_ns, done_ns, LOUD)
        taken_ns = done_ns
    quality = session.caller_audio_quality(9)
    assert quality is not None
    assert (quality.late, quality.latest_ms) == (1, pytest.approx(150, abs=25))


# An agent whose audio stops: has it vanished, is it muted, or is it our own fault?


def test_media_stops_and_resumes(visit: Visit) -> None:
    last_ns = visit.at_ns
    visit.passes(MEDIA_STOPPED_AFTER_S)
    assert visit.listener.stopped == []
    visit.passes(0.2)
    # The last sign of life, not when it was missed.
    assert visit.listener.stopped == [last_ns]
    visit.passes(0.2, QUIET)
    assert visit.listener.resumed == [last_ns + round((MEDIA_STOPPED_AFTER_S + 0.2) * NS_PER_S) + CHUNK_NS]
    # The gap is kept: audio after it is placed after it.
    before, after = (at_ns for at_ns, _ in visit.listener.agent[9:11])
    assert after - before > MEDIA_STOPPED_AFTER_S * NS_PER_S
    assert visit.listener.lost == []


def test_an_agent_of_which_nothing_arrives_has_vanished(visit: Visit) -> None:
    visit.passes(GONE_AFTER_S)
    assert visit.lost == []
    visit.passes(0.5)
    visit.leaves("agent")
    assert visit.lost == [EndedReason.AGENT_VANISHED]
    told = re.match(VANISHED, str(visit.listener.lost[0]))
    assert told and GONE_AFTER_S <= float(told[1]) <= GONE_AFTER_S + 0.2
    assert len(visit.listener.stopped) == 1
    assert visit.listener.left == []


def test_an_agent_dropped_after_its_audio_stopped_has_vanished(visit: Visit) -> None:
    visit.passes(MEDIA_STOPPED_AFTER_S + 0.2)
    visit.leaves("agent")
    assert visit.lost == [EndedReason.AGENT_VANISHED]
    assert re.match(VANISHED, str(visit.listener.lost[0]))
    assert visit.listener.left == []


@pytest.mark.parametrize("audio", [ZEROS, None])
def test_a_muted_agent_has_not_vanished(visit: Visit, audio: bytes | None) -> None:
    visit.seen("agent", "off")
    visit.passes(2 * GONE_AFTER_S, audio)
    visit.seen("agent")
    visit.passes(0.2, audio)
    assert visit.lost == []  # time counts from when it is on again
    visit.passes(GONE_AFTER_S, audio)
    assert visit.lost == ([] if audio else [EndedReason.AGENT_VANISHED])


def test_a_muted_agent_that_leaves_has_left(visit: Visit) -> None:
    visit.seen("agent", "off")
    visit.passes(2 * GONE_AFTER_S)
    visit.leaves("agent")
    ((_, detail),) = visit.listener.left
    assert detail == "left the call, 7.0 s after its audio had stopped"
    assert visit.lost == []


@pytest.mark.parametrize(("audio", "lost"), [(ZEROS, True), (LOUD, False)])
def test_zeros_of_a_microphone_without_network_are_no_life(visit: Visit, audio: bytes, lost: bool) -> None:
    visit.seen("agent", "interrupted")
    visit.passes(2 * GONE_AFTER_S, audio)
    assert visit.lost == [EndedReason.AGENT_VANISHED] * lost


@pytest.mark.parametrize("audio", [ZEROS, None])
def test_an_agent_whose_audio_never_began_has_not_vanished(audio: bytes | None) -> None:
    visit = Visit(described("agent", "interrupted" if audio else "playable"))
    visit.passes(2 * GONE_AFTER_S, audio)
    assert visit.lost == []
    visit.leaves("agent")
    assert len(visit.listener.left) == 1


def test_a_connection_of_ours_that_is_away_is_not_the_agents_fault(visit: Visit) -> None:
    visit.connection("recvTransport", there=False)
    visit.passes(2 * GONE_AFTER_S)
    assert len(visit.listener.stopped) == 1
    visit.connection("recvTransport", there=True)
    visit.passes(0.2)
    visit.passes(0.2, QUIET)
    assert len(visit.listener.resumed) == 1
    assert visit.lost == []


@pytest.mark.parametrize(
    ("connection", "reason"),
    [("signalling", EndedReason.ROOM_UNREACHABLE), ("recvTransport", EndedReason.ICE_FAILED)],
)
def test_a_connection_that_stays_away_loses_the_room(visit: Visit, connection: str, reason: EndedReason) -> None:
    visit.connection(connection, there=False)
    visit.passes(14, QUIET)
    visit.connection(connection, there=True)
    visit.passes(14, QUIET)
    visit.connection(connection, there=False)
    visit.passes(14, QUIET)
    assert visit.lost == []
    visit.passes(2, QUIET)
    assert visit.lost == [reason]


def test_the_agent_is_not_blamed_for_a_stop_of_our_own(visit: Visit) -> None:
    visit.at_ns += 5 * NS_PER_S
    visit.session.tick(visit.at_ns)
    visit.passes(0.2)
    assert visit.lost == visit.listener.stopped == []


def test_the_agents_leaving_is_told_once(visit: Visit) -> None:
    for _ in range(2):
        visit.leaves("agent")
    visit.passes(0.2, LOUD)
    assert visit.listener.left == [(200 * NS_PER_MS, "left the call")]
    assert not any(pcm == LOUD for _, pcm in visit.listener.agent)
    assert visit.lost == []


def test_an_agent_that_can_not_be_received_is_our_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Visit, participant_id: str) -> None:
        raise OSError("no memory")

    monkeypatch.setattr(Visit, "capture", failing)
    (error,) = Visit(described("agent")).listener.lost
    assert isinstance(error, RoomError) and error.reason is EndedReason.RUNNER_ERROR
