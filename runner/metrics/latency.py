"""How long the agent takes to answer."""

from collections.abc import Sequence

from runner.evaluation.turns import TurnMeasures
from runner.metrics.registry import Sample, metric


@metric(
    id=1,
    code="latency",
    name="Latency (in ms)",
    unit="ms",
    low=0.0,
    high=None,
    definition="From the last voiced sample of the caller's line to the first audible sample of the agent's answer, "
    "for every turn that was handed over and answered.",
    source="Cekura's predefined metric of this name; measured from the recording",
    told="the median of {count} answers, from the caller's last sound to the agent's first",
)
def latency(turns: Sequence[TurnMeasures]) -> list[Sample]:
    """Return the latency of each turn that has one."""
    return [
        Sample(turn.response_latency_ms, turn.uncertainty_ms, turn.agent_onset_s, turn.turn)
        for turn in turns
        if turn.response_latency_ms is not None
    ]
