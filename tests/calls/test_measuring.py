"""What is measured of a call's recording when the call is over."""

from pathlib import Path

import numpy as np
import pytest

from bots.timeline import (
    AgentSpeechMeasured,
    CallEnded,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    EndedReason,
    RecordingMeasured,
    TimelineEvent,
)
from runner.calls import measuring
from runner.calls.measuring import caller_spans, measure_call, measure_call_aside
from runner.calls.recording import AGENT, CALLER, FILE_NAME, RecordingWriter
from runner.errors import UsageError
from tests.evaluation.measure.sounds import RATE_HZ, at, buzz, pcm

ENDED = CallEnded(at_ns=at(6), reason=EndedReason.CALLER_HUNG_UP)


def line(start_s: float, end_s: float | None, turn: int = 0) -> list[TimelineEvent]:
    started = CallerStartedSpeaking(at_ns=at(start_s), turn=turn, text="…")
    return [started] if end_s is None else [started, CallerStoppedSpeaking(at_ns=at(end_s), turn=turn)]


def test_the_callers_spans_are_those_of_its_lines_in_any_order() -> None:
    facts = [*line(3, 4, 1), *line(1, 2)]
    assert caller_spans(facts, at(6)) == caller_spans(facts[::-1], at(6)) == [(at(1), at(2)), (at(3), at(4))]


def test_a_line_without_an_end_lasts_until_the_call_does() -> None:
    assert caller_spans(line(3, None), at(6)) == [(at(3), at(6))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    writer = RecordingWriter(tmp_path / FILE_NAME, RATE_HZ)
    writer.put(CALLER, 0, pcm(buzz((0.5, 1.5), seconds=6, hz=130)).tobytes())
    writer.put(AGENT, 0, pcm(buzz((2.4, 4), seconds=6)).tobytes())
    writer.flush(at(6))
    writer.close()
    return tmp_path


def everything_is_speech(samples: np.ndarray) -> np.ndarray:
    return np.ones(samples.size // 512, dtype=np.float32)


@pytest.mark.anyio
async def test_the_agents_speech_becomes_facts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.calls.measuring.measure_agent", _with_model(measuring.measure_agent))
    facts = [*line(0.5, 1.5), ENDED]
    speech, whole = await measure_call_aside(folder / FILE_NAME, facts)
    assert [speech, whole] == measure_call(folder / FILE_NAME, facts)
    assert isinstance(speech, AgentSpeechMeasured)
    assert speech.at_ns == pytest.approx(at(2.4), abs=at(0.01))
    assert speech.end_ns == pytest.approx(at(4), abs=at(0.01))
    assert isinstance(whole, RecordingMeasured)
    assert whole.at_ns == ENDED.at_ns


def _with_model(measure):  # type: ignore[no-untyped-def]
    return lambda audio, rate_hz, **options: measure(
        audio, rate_hz, **options, speech_probability=everything_is_speech
    )


def test_a_call_without_a_recording_can_not_be_measured(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        measure_call(tmp_path / FILE_NAME, [ENDED])
