"""What a call writes down of trouble with its own audio and of the network's."""

from pathlib import Path

import pytest

from bots.caller.script import Listen, Script, Turn
from bots.timeline import AgentAudioLate, AgentAudioLost, CallCalibrated, CallerAudioLost, TimelineEvent
from runner.calls.call import Call
from runner.calls.request import CallRequest
from runner.calls.timeline import TimelineWriter, read_timeline
from runner.rooms.base import Timeliness
from runner.rooms.open import RoomAddress
from runner.settings import Settings


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """A call that writes its timeline, though it was not made."""
    request = CallRequest(Script(name="test", turns=(Turn(action=Listen()),)), RoomAddress("http://127.0.0.1:1"))
    call = Call(request, Settings(), tmp_path / "run")
    call._timeline = TimelineWriter(tmp_path / "timeline.jsonl")  # pyright: ignore[reportPrivateUsage]
    return call


def written(tmp_path: Path) -> list[TimelineEvent]:
    return read_timeline(tmp_path / "timeline.jsonl")


def test_holes_and_late_stretches_are_written_down(call: Call, tmp_path: Path) -> None:
    call.agent_audio_lost(1, 20.00049)
    call.agent_audio_late(2, 40.00049, 60.00049)
    assert written(tmp_path) == [
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


def test_what_the_agent_missed_is_written_down(call: Call, tmp_path: Path) -> None:
    call.caller_audio_lost(9, since_ns=4, lost=2, packets=50)
    assert written(tmp_path) == [CallerAudioLost(at_ns=9, since_ns=4, lost=2, packets=50)]


def test_the_calibration_tells_what_was_seen_on_our_side(call: Call, tmp_path: Path) -> None:
    class Punctual:
        def timeliness(self) -> Timeliness:
            return Timeliness(1.5, 12.25)

    for lag_ms in (0, 1, 2, 3):
        call._stalls.lags.add(lag_ms * 1_000_000)  # pyright: ignore[reportPrivateUsage]
    call._calibrate(Punctual())  # type: ignore[arg-type]
    (event,) = written(tmp_path)
    assert isinstance(event, CallCalibrated)
    assert (event.loop_lag_ms, event.send_lag_ms, event.arrival_jitter_ms) == (2, 1.5, 12.25)
