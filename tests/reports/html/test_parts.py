"""What an answer took its time for, by the agent's metrics."""

from typing import Any

import pytest

from runner.reports.html.parts import answer_parts
from tests.evaluation.facts import told
from tests.reports.html.calls import metrics


def ttfb(at_s: float, processor: Any, value: Any) -> Any:
    return metrics(at_s, ttfb=[{"processor": processor, "value": value}])


def parts(*facts: Any, from_s: float = 10.0, to_s: float = 12.0) -> dict[str, float]:
    return {part.name: round(part.seconds, 3) for part in answer_parts(facts, from_s, to_s)}


def test_each_metric_is_the_time_before_its_message() -> None:
    found = parts(
        ttfb(10.8, "DeepgramSTTService#0", 0.3),
        ttfb(11.4, "OpenAILLMService#1", 0.5),
        ttfb(11.6, "CartesiaTTSService#0", 0.15),
        metrics(11.62, ttfa=[{"processor": "CartesiaTTSService#0", "leading_silence": 0.2}]),
    )
    assert found == {
        "recognising": 0.3,
        "thinking": 0.5,
        "making speech": 0.15,
        "silence before the words": 0.2,
        "the rest": 0.85,
    }


def test_the_parts_come_to_the_whole() -> None:
    found = parts(ttfb(10.5, "STT", 9.0), ttfb(11.0, "LLM", 0.9), ttfb(12.1, "TTS", 0.9))
    assert sum(found.values()) == pytest.approx(2.0)
    assert found == {"recognising": 0.5, "thinking": 0.5, "making speech": 0.8, "the rest": 0.2}


def test_metrics_of_another_answer_do_not_count() -> None:
    assert parts(ttfb(9.9, "STT", 0.5), ttfb(13.0, "TTS", 0.5)) == {}


@pytest.mark.parametrize(
    "fact",
    [
        ttfb(11, "Filter", 0.5),
        ttfb(11, None, 0.5),
        ttfb(11, "STT", "0.5"),
        ttfb(11, "STT", True),
        ttfb(11, "STT", -1),
        ttfb(11, "STT", float("nan")),
        ttfb(11, "STT", 0.0),
        metrics(11, ttfb=["STT"]),
        metrics(11, ttfb="STT"),
        told(11, "words"),
    ],
)
def test_what_is_no_metric_gives_no_parts(fact: Any) -> None:
    assert parts(fact) == {}
