"""A comparison in words: a line for each scenario, one for the whole, one for each threshold."""

from collections.abc import Iterator

from runner.comparison.changes import Change, Comparison, RateChange, ScenarioChange
from runner.comparison.gates import GateOutcome, GateStatus
from runner.comparison.summary import Repeats


def change_word(change: Change) -> str:
    """Return what became of something, in capitals: as it stands in a line."""
    return "TOO FEW RUNS" if change is Change.TOO_FEW else change.value.upper()


def scenario_line(scenario: ScenarioChange) -> str:
    """Return a scenario in one line.

    Such as ``booking REGRESSED 20/20→1/5 (p .0008) · +40 ms [-80,+160] · 1 inconclusive · shows ≥ 330 ms``.
    """
    parts = [f"{scenario.scenario} {change_word(scenario.change)} {_rate(scenario.pass_rate)}", *_rest(scenario)]
    if scenario.runs_needed is not None:
        least = f"{scenario.runs_needed} runs a side would tell"
        current = scenario.current_runs_needed
        parts.append(
            least + (f", or {current} with this base" if current not in (None, scenario.runs_needed) else "")
        )
    return " · ".join(parts)


def _rest(change: ScenarioChange | Comparison) -> Iterator[str]:
    latency = change.latency
    if latency is not None and None not in (latency.difference_ms, latency.low_ms, latency.high_ms):
        yield f"{latency.difference_ms:+.0f} ms [{latency.low_ms:+.0f},{latency.high_ms:+.0f}]"
    if inconclusive := change.base_inconclusive + change.current_inconclusive:
        yield f"{inconclusive} inconclusive"
    if latency is not None and latency.shows_ms is not None:
        yield f"shows ≥ {latency.shows_ms:.0f} ms"
    if change.why_too_few is not None:
        yield change.why_too_few


def suite_lines(comparison: Comparison) -> Iterator[str]:
    """Yield what there is to say of the whole: the verdict, the measures behind it, scenarios on one side alone."""
    parts = [f"suite {change_word(comparison.change)} {_rate(comparison.pass_rate)}"]
    if comparison.pass_rate.difference_points is not None:
        rate = comparison.pass_rate
        parts.append(f"{rate.difference_points:+.0f} points [{rate.low_points:+.0f},{rate.high_points:+.0f}]")
    yield " · ".join([*parts, *_rest(comparison)])
    for side, names in (("base", comparison.only_in_base), ("current side", comparison.only_in_current)):
        if names:
            yield f"only on the {side}, not compared: {', '.join(names)}"


def gate_line(outcome: GateOutcome) -> str:
    """Return a threshold in one line, such as ``pass_rate ≥ 0.95 missed: 14/20 (70 %, 48 to 85 %)``."""
    sign, limit = ("≥", f"{outcome.limit:g}") if outcome.gate == "pass_rate" else ("≤", f"{outcome.limit:g} ms")
    word = "too few runs to say" if outcome.status is GateStatus.TOO_FEW else outcome.status.value
    if outcome.observed is None or outcome.low is None or outcome.high is None:
        return f"{outcome.gate} {sign} {limit} {word}: nothing to judge it by"
    interval = f"{100 * outcome.low:.0f} to {100 * outcome.high:.0f} %"
    if outcome.gate == "pass_rate":
        seen = f"{outcome.count}/{outcome.total} ({100 * outcome.observed:.0f} %, {interval})"
    else:
        share = 100 * outcome.count / outcome.total
        above = f"{outcome.count}/{outcome.total} turns above ({share:.0f} %, {interval}; 5 % allowed)"
        seen = f"{outcome.observed:.0f} ms; {above}"
    more = f"; {outcome.runs_needed} such runs would tell" if outcome.runs_needed is not None else ""
    kept = "; kept so far" if outcome.status is GateStatus.TOO_FEW and outcome.is_kept else ""
    left_out = f"; {outcome.inconclusive} inconclusive" if outcome.inconclusive else ""
    return f"{outcome.gate} {sign} {limit} {word}: {seen}{left_out}{kept}{more}"


def repeats_line(repeats: Repeats) -> str:
    """Return what the runs of a scenario say in one line; empty where none was decided."""
    if repeats.pass_rate is None:
        return ""
    rate = repeats.pass_rate
    parts = [
        f"{repeats.scenario or 'all'} {repeats.passed}/{repeats.decided} passed "
        f"({100 * rate.low:.0f} to {100 * rate.high:.0f} %)"
    ]
    if len(repeats.pass_hat_k) > 1:
        parts.append(f"pass^{len(repeats.pass_hat_k)} {repeats.pass_hat_k[-1]:.2f}")
    for name, estimate in (("p50", repeats.p50_latency_ms), ("p95", repeats.p95_latency_ms)):
        if estimate is not None:
            parts.append(f"{name} {estimate.value:.0f} ms [{estimate.low:.0f},{estimate.high:.0f}]")
    if repeats.inconclusive:
        parts.append(f"{repeats.inconclusive} inconclusive")
    return " · ".join(parts)


def _rate(rate: RateChange) -> str:
    counts = f"{rate.base_passed}/{rate.base_runs}→{rate.current_passed}/{rate.current_runs}"
    return counts if rate.p is None else f"{counts} (p {_p(rate.p)})"


def _p(p: float) -> str:
    if p < 0.0001:
        return "<.0001"
    return "1" if p >= 0.9995 else f"{p:.2g}".removeprefix("0") if p >= 0.001 else f"{p:.4f}".removeprefix("0")
