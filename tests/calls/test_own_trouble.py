"""What a call writes down of trouble with its own audio and of the network's."""

from pathlib import Path

import pytest

from bots.caller.mouth import Mouth
from bots.caller.script import Listen, Script, Turn
from bots.clock import CallClock
from bots.timeline import AgentAudioLate, AgentAudioLost, CallerAudioLost, TimelineEvent
from runner.calls.call import Call
from runner.calls.listener import Listener
from runner.calls.recording import RecordingWriter
from runner.calls.request import CallRequest
from runner.calls.stalls import StallWatch
from runner.rooms.base import AUDIO_RATE_HZ, Timeliness
from runner.rooms.open import RoomAddress
from runner.settings import Settings


@pytest.fixture
def noted() -> list[TimelineEvent]:
    return []


@pytest.fixture
def listener(noted: list[TimelineEvent], tmp_path: Path) -> Listener:
    return Listener(
        clock=CallClock.begin(),
        note=noted.append,
        end=lambda reason, detail: None,
        warn=lambda text: None,
        mouth=Mouth(AUDIO_RATE_HZ, noted.append),
        recording=RecordingWriter(tmp_path / "recording.wav", AUDIO_RATE_HZ),
        agent_turn_over=lambda onset_ns, end_ns: None,
        watcher=None,
        secrets=frozenset(),
    )


def test_holes_and_late_stretches_are_written_down(listener: Listener, noted: list[TimelineEvent]) -> None:
    listener.agent_audio_lost(1, 20.00049)
    listener.agent_audio_late(2, 40.00049, 60.00049)
    assert noted == [
        AgentAudioLost(at_ns=1, duration_ms=20.0),
        AgentAudioLate(at_ns=2, duration_ms=40.0, late_ms=60.0),
    ]


@pytest.mark.parametrize(
    ("url", "runs_here", "shared"),
    [
        ("http://127.0.0.1:7860", False, True),
        ("https://x.daily.co/r", True, True),
        ("https://x.daily.co/r", False, False),
    ],
)
def test_an_agent_on_this_machine_shares_it(tmp_path: Path, url: str, runs_here: bool, shared: bool) -> None:
    address = RoomAddress(url, runs_here=runs_here)
    call = Call(CallRequest(Script(name="test", turns=(Turn(action=Listen()),)), address), Settings(), tmp_path)
    assert call._processor._shared is shared  # pyright: ignore[reportPrivateUsage]


def test_what_the_agent_missed_is_written_down(listener: Listener, noted: list[TimelineEvent]) -> None:
    listener.caller_audio_lost(9, since_ns=4, lost=2, packets=50)
    assert noted == [CallerAudioLost(at_ns=9, since_ns=4, lost=2, packets=50)]


def test_the_calibration_tells_what_was_seen_on_our_side() -> None:
    stalls = StallWatch(CallClock.begin(), lambda event: None)
    for lag_ms in (0, 1, 2, 3):
        stalls.lags.add(lag_ms * 1_000_000)
    event = stalls.calibrated(Timeliness(1.5, 12.25))
    assert (event.loop_lag_ms, event.send_lag_ms, event.arrival_jitter_ms) == (2, 1.5, 12.25)
