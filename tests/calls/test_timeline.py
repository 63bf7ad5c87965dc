"""The timeline on disk: every event comes back as it went, and a broken file says where it is broken."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots import timeline as events
from bots.timeline import EVENT_ADAPTER, EndedReason, LineEnd, Source, TimelineEvent
from runner.calls.timeline import TimelineWriter, read_timeline
from runner.errors import UsageError

EVERY_EVENT: list[TimelineEvent] = [
    events.CallStarted(
        at_ns=0,
        run_id="r1",
        scenario="s",
        room="https://acme.daily.co/x",
        wall_time="2026-01-01T00:00:00.000Z",
        monotonic_ns=2**62,
    ),
    events.RoomEntered(at_ns=1),
    events.AgentJoined(at_ns=2, participant="Bot"),
    events.AgentJoined(at_ns=2),
    events.MediaNotConnected(at_ns=3, waited_ms=10_000.0, sending=False, receiving=True),
    events.AgentLeft(at_ns=3, detail="it closed the connection"),
    events.AgentMediaStopped(at_ns=4),
    events.AgentMediaResumed(at_ns=5),
    events.AgentProbed(at_ns=5, answers=False),
    events.AgentSessionEnded(at_ns=5, state="agent_error"),
    events.AgentProbed(at_ns=5, answers=None),
    events.ClientReadySent(at_ns=6),
    events.BotReady(at_ns=7, protocol_version="2.0.0", about={"library": "pipecat", "n": [1, 2.5, None]}),
    events.DataMessagePublished(at_ns=8, message=None),
    events.DataMessagePublished(at_ns=8, message={"type": "x", "deep": [{"a": [True, "ü", 1e-9]}]}),
    events.CallerTurnStarted(at_ns=9, turn=0),
    events.CallerStartedSpeaking(at_ns=10, turn=0, text='Hi,\n"there" – \u2028 \x00 🙂'),
    events.CallerStoppedSpeaking(at_ns=11, turn=0),
    events.CallerStoppedSpeaking(at_ns=11, turn=0, end=LineEnd.CUT),
    events.CallerPressedKeys(at_ns=12, turn=1, keys="1*#"),
    events.CallerUnderrun(at_ns=13, turn=1, duration_ms=19.999),
    events.AgentStartedSpeaking(at_ns=14),
    events.AgentStoppedSpeaking(at_ns=15),
    events.AgentTurnEnded(at_ns=16),
    events.AgentSaid(at_ns=17, text="Hello", source=Source.HEARD, started_ns=14),
    events.AgentSaid(at_ns=17, text="Hello", source=Source.TOLD),
    events.CallerHeardAs(at_ns=18, text="hi"),
    events.AgentCalledFunction(at_ns=19, call_id="c", name="book", arguments={"people": 2}),
    events.AgentCalledFunction(at_ns=19, call_id="c"),
    events.AgentFunctionReturned(at_ns=20, call_id="c", name="book", result=[1, {"ok": None}], cancelled=True),
    events.MessageReceived(at_ns=21, message=["a", 10**40, {}, "\x7f"]),
    events.AgentAudioQuality(at_ns=22, packets=1, lost=2, late=3, jitter_ms=0.125, reanchored=4),
    events.CallerTurnSettled(at_ns=22, turn=1, failed=True),
    events.CallCalibrated(at_ns=22, loop_lag_ms=1.5, send_lag_ms=0.5, arrival_jitter_ms=2.25),
    events.HarnessStalled(at_ns=22, duration_ms=1003.5),
    events.AgentAudioLost(at_ns=22, duration_ms=60),
    events.AgentAudioLate(at_ns=22, duration_ms=160, late_ms=80.5),
    events.MachineBusy(at_ns=22, duration_ms=2_000, waited=0.625, shared=True),
    events.CallerAudioLost(at_ns=22, since_ns=20, lost=3, packets=50),
    events.CallerUnderrun(at_ns=22, turn=0, duration_ms=40, kind=events.UnderrunKind.GAP),
    events.CallerAudioQuality(
        at_ns=22, packets=9, lost=1, jitter_ms=0.5, round_trip_ms=12.5, late=2, latest_ms=81.25
    ),
    events.CallerAudioQuality(at_ns=22, packets=9),
    events.AgentSpeechMeasured(
        at_ns=22,
        end_ns=23,
        onset_uncertainty_ms=8,
        end_uncertainty_ms=12,
        level_dbfs=-22.5,
        bed_dbfs=-60,
        too_loud=True,
    ),
    events.RecordingMeasured(at_ns=22, method=1, bed_dbfs=-90, agent_dbfs=None, too_loud=False),
    events.AgentError(at_ns=22, text="'order'", fatal=True),
    events.AgentProcessEnded(at_ns=22, exit_code=-9, log_tail="Killed"),
    events.CallEnded(at_ns=23, reason=EndedReason.AGENT_LEFT, detail=None),
    *[events.CallEnded(at_ns=24, reason=reason, detail="why") for reason in EndedReason],
]


def test_the_table_below_holds_every_type_of_event() -> None:
    types = TimelineEvent.__subclasses__()
    assert {type(event) for event in EVERY_EVENT} == set(types)


def test_every_event_comes_back_as_it_went(tmp_path: Path) -> None:
    path = tmp_path / "timeline.jsonl"
    with TimelineWriter(path) as writer:
        for event in EVERY_EVENT:
            writer.write(event)
    assert read_timeline(path) == EVERY_EVENT
    lines = path.read_text(encoding="utf-8").split("\n")
    assert len(lines) == len(EVERY_EVENT) + 1 and lines[-1] == ""
    assert [json.loads(line)["type"] for line in lines[:-1]] == [event.type for event in EVERY_EVENT]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_any_json_message_comes_back_unchanged(message: Any) -> None:
    event = events.MessageReceived(at_ns=1, message=message)
    line = EVENT_ADAPTER.dump_json(event)
    assert b"\n" not in line
    assert EVENT_ADAPTER.validate_json(line) == event


def test_an_event_can_be_read_the_moment_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "timeline.jsonl"
    with TimelineWriter(path) as writer:
        for count, event in enumerate(EVERY_EVENT, start=1):
            writer.write(event)
            assert read_timeline(path) == EVERY_EVENT[:count]


def test_a_last_line_that_was_cut_off_anywhere_is_left_out(tmp_path: Path) -> None:
    lines = [EVENT_ADAPTER.dump_json(event) + b"\n" for event in EVERY_EVENT[:13]]
    path = tmp_path / "timeline.jsonl"
    for cut in range(1, len(lines[-1])):
        path.write_bytes(b"".join(lines)[:-cut])
        read = read_timeline(path)
        assert read == EVERY_EVENT[: 13 if cut == 1 else 12]


def test_an_existing_timeline_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "timeline.jsonl"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        TimelineWriter(path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello",
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"type":"room_entered"}',
        b'{"type":"no_such_event","at_ns":1}',
        b'{"type":"room_entered","at_ns":"soon"}',
        b'{"type":"room_entered","at_ns":1,"more":2}',
        b'{"type":"call_ended","at_ns":1,"reason":"bored"}',
        b"\xff\xfe",
        b'{"type":"room_entered","at_ns":1}{"type":"room_entered","at_ns":1}',
    ],
)
def test_a_line_that_is_no_event_is_named_by_file_and_line(tmp_path: Path, garbage: bytes) -> None:
    good = EVENT_ADAPTER.dump_json(EVERY_EVENT[1])
    path = tmp_path / "timeline.jsonl"
    path.write_bytes(b"\n".join([good, good, garbage, good]) + b"\n")
    with pytest.raises(UsageError) as caught:
        read_timeline(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_timeline(tmp_path / "none.jsonl")


def test_an_empty_file_holds_no_events(tmp_path: Path) -> None:
    (tmp_path / "timeline.jsonl").write_bytes(b"")
    assert read_timeline(tmp_path / "timeline.jsonl") == []
