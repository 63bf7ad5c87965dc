"""Any two-channel recording: measured, refused in one sentence, or marked; never a wrong number."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from bots.timeline import (
    EVENT_ADAPTER,
    CallEnded,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    EndedReason,
    TimelineEvent,
)
from runner.calls import any_recording
from runner.calls.any_recording import RecordingMeasures, measure_recording
from runner.cli import main
from runner.errors import UsageError
from runner.evaluation.measure import measure_agent
from tests.evaluation.measure.sounds import RATE_HZ, Signal, all_is_speech, at, buzz, noise, pcm

SECONDS = 12.0
CALLER = ((1.0, 2.0), (5.0, 6.5), (9.0, 10.0))
AGENT = ((2.8, 4.0), (7.4, 9.3), (10.9, 11.5))
"""The second answer is broken into by the caller's third line."""


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A buzz is no speech to Silero: here everything is."""

    def measure(pcm: Any, rate_hz: int, **options: Any) -> Any:
        return measure_agent(pcm, rate_hz, **options, speech_probability=all_is_speech)

    monkeypatch.setattr(any_recording, "measure_agent", measure)


def recording(
    path: Path,
    *,
    rate_hz: int = RATE_HZ,
    header_hz: int | None = None,
    subtype: str = "PCM_16",
    agent: Signal | None = None,
    caller: Signal | None = None,
    swapped: bool = False,
) -> Path:
    sides = [
        buzz(*CALLER, seconds=SECONDS, rate_hz=rate_hz, hz=130) if caller is None else caller,
        buzz(*AGENT, seconds=SECONDS, rate_hz=rate_hz) if agent is None else agent,
    ]
    soundfile.write(path, np.stack(sides[::-1] if swapped else sides, axis=1), header_hz or rate_hz, subtype=subtype)
    return path


def timeline(ended_s: float | None = SECONDS) -> list[TimelineEvent]:
    events: list[TimelineEvent] = []
    for turn, (start_s, end_s) in enumerate(CALLER):
        events += [
            CallerStartedSpeaking(at_ns=at(start_s), turn=turn, text="…"),
            CallerStoppedSpeaking(at_ns=at(end_s), turn=turn),
        ]
    if ended_s is not None:
        events.append(CallEnded(at_ns=at(ended_s), reason=EndedReason.CALLER_HUNG_UP))
    return events


def check(measured: RecordingMeasures) -> None:
    first, second, third = measured.turns
    assert first.response_latency_ms == pytest.approx(800, abs=15)
    assert second.response_latency_ms == pytest.approx(900, abs=15)
    assert third.response_latency_ms == pytest.approx(900, abs=15)
    assert [turn.interrupted for turn in measured.turns] == [False] * 3
    for turn, (start_s, end_s) in zip(measured.turns, AGENT, strict=True):
        assert turn.agent_start_s == pytest.approx(start_s, abs=0.015)
        assert turn.agent_end_s == pytest.approx(end_s, abs=0.015)
        assert turn.uncertainty_ms is not None
        assert turn.uncertainty_ms <= 30
    (barge_in,) = measured.barge_ins
    assert barge_in.caller_start_s == pytest.approx(9, abs=0.015)
    assert barge_in.stop_time_ms == pytest.approx(300, abs=25)
    assert [s.start_s for s in measured.caller_segments] == [pytest.approx(a, abs=0.015) for a, _ in CALLER]
    assert [s.end_s for s in measured.agent_segments] == [pytest.approx(b, abs=0.015) for _, b in AGENT]


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 24_000, 48_000])
@pytest.mark.parametrize("known", [True, False])
def test_a_recording_is_measured_at_any_rate(tmp_path: Path, rate_hz: int, known: bool) -> None:
    measured = measure_recording(recording(tmp_path / "call.wav", rate_hz=rate_hz), timeline() if known else None)
    check(measured)
    assert measured.caller_known is known
    assert measured.rate_hz == rate_hz
    assert any("8000 Hz" in warning for warning in measured.warnings) is (rate_hz == 8_000)


@pytest.mark.parametrize(
    ("name", "subtype"), [("call.wav", "PCM_24"), ("call.wav", "FLOAT"), ("call.flac", "PCM_16")]
)
def test_whatever_soundfile_reads_is_measured(tmp_path: Path, name: str, subtype: str) -> None:
    check(measure_recording(recording(tmp_path / name, subtype=subtype), timeline()))


def test_the_caller_can_be_on_the_other_channel(tmp_path: Path) -> None:
    path = recording(tmp_path / "call.wav", swapped=True)
    check(measure_recording(path, timeline(), caller_channel=1))
    with pytest.raises(UsageError, match="--caller-channel"):
        measure_recording(path, timeline())


def test_known_edges_of_the_caller_are_exact(tmp_path: Path) -> None:
    measured = measure_recording(recording(tmp_path / "call.wav"), timeline())
    assert [(turn.caller_start_s, turn.caller_end_s) for turn in measured.turns] == list(CALLER)


def test_an_agent_that_talks_over_the_line_gives_no_latency(tmp_path: Path) -> None:
    agent = buzz((1.5, 3), (7, 8), seconds=SECONDS)
    first, second, third = measure_recording(recording(tmp_path / "call.wav", agent=agent), timeline()).turns
    assert (first.interrupted, first.response_latency_ms, first.uncertainty_ms) == (True, None, None)
    assert second.response_latency_ms == pytest.approx(500, abs=15)
    assert (third.agent_start_s, third.response_latency_ms) == (None, None)


def test_events_in_any_order_give_the_same(tmp_path: Path) -> None:
    path = recording(tmp_path / "call.wav")
    assert measure_recording(path, timeline()[::-1]) == measure_recording(path, timeline())


def test_a_file_that_breaks_off_is_marked_with_its_end_unknown(tmp_path: Path) -> None:
    path = recording(tmp_path / "call.wav")
    data = path.read_bytes()
    path.write_bytes(data[: 44 + int(11.2 * RATE_HZ) * 4])
    for facts in (timeline(), None):
        measured = measure_recording(path, facts)
        assert any("breaks off 0.80 s before" in warning for warning in measured.warnings)
        assert measured.turns[-1].agent_start_s == pytest.approx(10.9, abs=0.015)
        assert measured.turns[-1].agent_end_s is None
        assert measured.agent_segments[-1].end_s is None
        assert measured.agent_segments[-2].end_s is not None


def test_silence_and_clipping_are_told(tmp_path: Path) -> None:
    silent = measure_recording(recording(tmp_path / "silent.wav", agent=np.zeros(round(SECONDS * RATE_HZ))))
    assert "the agent's channel is silent" in silent.warnings
    assert silent.agent_segments == []
    assert {turn.response_latency_ms for turn in silent.turns} == {None}
    loud = measure_recording(recording(tmp_path / "loud.wav", agent=buzz(*AGENT, seconds=SECONDS, dbfs=3)))
    assert any("agent's channel is clipped" in warning for warning in loud.warnings)


def test_a_background_too_loud_to_tell_is_told(tmp_path: Path) -> None:
    agent = buzz(*AGENT, seconds=SECONDS, dbfs=-24) + noise(-28, SECONDS)
    measured = measure_recording(recording(tmp_path / "call.wav", agent=agent), timeline())
    assert measured.too_loud
    assert all(turn.too_loud for turn in measured.turns if turn.agent_start_s is not None)


@pytest.mark.parametrize("header_hz", [16_000, 48_000])
def test_a_wrong_rate_in_the_header_is_refused(tmp_path: Path, header_hz: int) -> None:
    path = recording(tmp_path / "call.wav", header_hz=header_hz)
    with pytest.raises(UsageError, match="header's rate is wrong"):
        measure_recording(path, timeline())
    with pytest.raises(UsageError, match=r"header's rate is wrong|silent at|sounds at"):
        measure_recording(path, timeline(ended_s=None))


@pytest.mark.parametrize("left_out", range(6))
def test_a_timeline_that_lacks_a_line_is_refused(tmp_path: Path, left_out: int) -> None:
    facts = timeline()
    del facts[left_out]
    with pytest.raises(UsageError, match=r"lacks a line: .*; leave the timeline out"):
        measure_recording(recording(tmp_path / "call.wav"), facts)


def test_a_timeline_without_a_whole_line_is_refused(tmp_path: Path) -> None:
    facts = timeline()
    del facts[2:4]
    with pytest.raises(UsageError, match=r"sounds at 5\.\d+ s, where it says nothing"):
        measure_recording(recording(tmp_path / "call.wav"), facts)


def unreadable(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    mono, many, empty, text = (tmp_path / f"{name}.wav" for name in ("mono", "many", "empty", "text"))
    soundfile.write(mono, np.zeros(1000), RATE_HZ)
    soundfile.write(many, np.zeros((1000, 3)), RATE_HZ)
    soundfile.write(empty, np.zeros((0, 2)), RATE_HZ)
    slow = tmp_path / "slow.wav"
    soundfile.write(slow, np.zeros((1000, 2)), 4_000)
    text.write_text("no audio")
    broken = tmp_path / "broken.wav"
    soundfile.write(broken, np.full((1000, 2), np.nan, dtype=np.float32), RATE_HZ, subtype="FLOAT")
    return {
        "none": (tmp_path / "none.wav", "no such file"),
        "mono": (mono, "has one channel"),
        "many": (many, "has 3 channels"),
        "empty": (empty, "holds no audio"),
        "slow": (slow, "4000 Hz"),
        "text": (text, "no audio file that can be read"),
        "broken": (broken, "no numbers"),
    }


@pytest.mark.parametrize("kind", ["none", "mono", "many", "empty", "slow", "text", "broken"])
def test_what_can_not_be_measured_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    path, problem = unreadable(tmp_path)[kind]
    with pytest.raises(UsageError) as refused:
        measure_recording(path)
    assert str(path) in str(refused.value)
    assert problem in str(refused.value)


def test_the_command_prints_json_alone(tmp_path: Path) -> None:
    path = recording(tmp_path / "call.wav")
    facts = tmp_path / "timeline.jsonl"
    facts.write_bytes(b"".join(EVENT_ADAPTER.dump_json(event) + b"\n" for event in timeline()))
    done = CliRunner().invoke(main, ["measure", str(path), "--timeline", str(facts), "--json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert [turn["response_latency_ms"] for turn in printed["turns"]] == [
        pytest.approx(ms, abs=15) for ms in (800, 900, 900)
    ]
    assert set(printed["turns"][0]) >= {
        "caller_start_s",
        "caller_end_s",
        "agent_start_s",
        "agent_end_s",
        "response_latency_ms",
        "uncertainty_ms",
        "interrupted",
    }
    assert set(printed["agent_segments"][0]) == {"start_s", "end_s"}


def test_the_command_prints_a_table_for_a_person(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["measure", str(recording(tmp_path / "call.wav"))])
    assert done.exit_code == 0, done.output
    assert "detected" in done.stdout
    assert "ms ± " in done.stdout
    assert "barge-in at 9.0" in done.stdout


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["measure", str(tmp_path / "none.wav")])
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [f"error: {tmp_path / 'none.wav'}: no such file"]


def test_pcm_of_the_tests_is_what_soundfile_writes(tmp_path: Path) -> None:
    path = recording(tmp_path / "call.wav")
    written, _ = soundfile.read(path, dtype="int16")
    assert np.abs(written[:, 1].astype(int) - pcm(buzz(*AGENT, seconds=SECONDS))).max() <= 1
