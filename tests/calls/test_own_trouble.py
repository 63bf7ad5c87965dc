"""What a call writes down of trouble with its own audio and of the network's."""

from pathlib import Path

import pytest

from bots.caller.script import Listen, Script, Turn
from bots.timeline import AgentAudioLost, CallCalibrated, CallerAudioLost, TimelineEvent
from runner.calls.call import MAX_HOLES, Call
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


def test_holes_are_kept_up_to_a_limit_then_warned_of_once(call: Call, tmp_path: Path) -> None:
    for number in range(MAX_HOLES + 20):
        call.agent_audio_lost(number, 20.00049)
    holes = [event for event in written(tmp_path) if isinstance(event, AgentAudioLost)]
    assert [(hole.at_ns, hole.duration_ms) for hole in holes] == [(number, 20.0) for number in range(MAX_HOLES)]
    warnings = call._warnings  # pyright: ignore[reportPrivateUsage]
    assert warnings == ["the agent's audio had more than 500 holes: the rest are not on the timeline"]


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
