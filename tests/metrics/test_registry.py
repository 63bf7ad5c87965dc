"""The metrics there are, and where they are told."""

from pathlib import Path

import pytest

from runner.evaluation.turns import TurnMeasures
from runner.metrics.latency import latency
from runner.metrics.registry import Sample, as_table, metric, metric_ids, metrics

DOCS = Path(__file__).parents[2] / "docs" / "measuring.md"


def test_every_file_is_a_metric_with_an_id_of_its_own() -> None:
    files = {path.stem for path in Path(metric.__code__.co_filename).parent.glob("[a-z]*.py")} - {"registry"}
    assert set(metrics()) == files and len(set(metric_ids())) == len(files)
    for one in metrics().values():
        assert one.definition.endswith(".") and one.source and one.told.format(count=1)
        assert one.high is None or one.low < one.high


def test_the_documentation_has_the_table_of_the_registry() -> None:
    assert as_table() in DOCS.read_text(encoding="utf-8")


def test_two_metrics_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two metrics 'latency'"):
        metric(id=9, code="latency", name="", unit="", low=0, high=None, definition="", source="", told="")(
            lambda _: []
        )


def test_a_latency_is_told_with_its_turn_its_moment_and_its_error() -> None:
    turns = [
        TurnMeasures(turn=0, started_s=0.5),
        TurnMeasures(turn=2, started_s=4, agent_onset_s=7.25, response_latency_ms=812.5, uncertainty_ms=14),
    ]
    assert latency.measure(turns) == [Sample(812.5, 14, 7.25, 2)]
