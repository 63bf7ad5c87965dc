"""The latency of each turn, with its error bar and its limit, on one axis."""

from dataclasses import dataclass

from bots.caller.script import AGENT_SPEAKS, Script
from runner.calls.run_file import RunReport
from runner.reports.html.shown import percent, seconds

MAX_BARS = 500
"""Of so many turns the latency is drawn."""


@dataclass(frozen=True)
class LatencyBar:
    """The latency of one turn, on an axis in percent.

    Attributes:
        x: The time; None where there is none.
        over: Whether it is above the limit.
    """

    label: str
    x: float | None
    low: float
    high: float
    limit: float | None
    over: bool
    text: str


def limits_of(script: Script) -> dict[int, float]:
    """Return within how many milliseconds the agent is to answer, of each turn that says so."""
    return {
        index: float(expectation.budget_ms)
        for index, turn in enumerate(script.turns)
        for expectation in turn.expect
        if expectation.event == AGENT_SPEAKS
    }


def latency_bars(run: RunReport, limits: dict[int, float]) -> tuple[list[LatencyBar], list[tuple[float, str]]]:
    """Return the latencies of the caller's turns, and the ticks of their axis."""
    asked = [turn for turn in run.turns if turn.caller_speech_end_s is not None][:MAX_BARS]
    ends = [(turn.response_latency_ms or 0.0) + (turn.uncertainty_ms or 0.0) for turn in asked]
    longest_s = max([*ends, *(limits.get(turn.turn, 0.0) for turn in asked), 1.0]) / 1000
    step_s = next((s for s in (0.5, 1, 2, 5, 10, 20, 60) if longest_s / s <= 4), 300)
    whole_ms = (int(longest_s / step_s) + 1) * step_s * 1000
    bars: list[LatencyBar] = []
    for turn in asked:
        limit = limits.get(turn.turn)
        ms, sure_ms = turn.response_latency_ms, turn.uncertainty_ms or 0.0
        text = "no answer"
        if ms is not None:
            text = seconds(ms) if turn.uncertainty_ms is None else f"{ms / 1000:.2f} ± {sure_ms / 1000:.2f} s"
        elif turn.refused is not None:
            text = "not measured"
        elif turn.talked_over:
            text = "talked over"
        bars.append(
            LatencyBar(
                label=f"Turn {turn.turn + 1}",
                x=None if ms is None else percent(ms, whole_ms),
                low=0.0 if ms is None else percent(ms - sure_ms, whole_ms),
                high=0.0 if ms is None else percent(ms + sure_ms, whole_ms),
                limit=None if limit is None else percent(limit, whole_ms),
                over=ms is not None and limit is not None and ms - sure_ms > limit,
                text=text,
            )
        )
    steps = round(whole_ms / 1000 / step_s)
    return bars, [(percent(n, steps), f"{n * step_s:g} s") for n in range(steps + 1)]


def bars_note(run: RunReport, limits: dict[int, float]) -> str:
    """Return what the latencies are, in words."""
    note = "From the caller's last sample to the agent's first audible one, with the 95 % interval."
    if run.latencies_include_jitter:
        note += " In a Daily room they include what the network's jitter adds."
    return note if limits else f"{note} No limit was set."
