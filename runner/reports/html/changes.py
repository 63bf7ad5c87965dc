"""What a comparison says, as pages show it."""

from collections.abc import Iterable

from runner.comparison.changes import Change as Verdict
from runner.comparison.changes import Comparison, LatencyChange, RateChange, ScenarioChange
from runner.comparison.gates import GateOutcome, GateStatus
from runner.comparison.wording import gate_line
from runner.reports.html.shown import sentence, words
from runner.reports.html.suite_runs import Change
from runner.text import count

_KINDS = {
    Verdict.REGRESSED: "worse",
    Verdict.IMPROVED: "better",
    Verdict.UNCHANGED: "same",
    Verdict.FLAKY: "unsure",
    Verdict.TOO_FEW: "unsure",
}
_ORDER = ("worse", "better", "unsure", "same")
_GATES = {GateStatus.MET: "pass", GateStatus.MISSED: "fail", GateStatus.TOO_FEW: "unsure"}


def gates_of(outcomes: Iterable[GateOutcome]) -> list[tuple[str, str]]:
    """Return what became of each threshold: ``pass``, ``fail`` or ``unsure``, and a sentence."""
    return [(_GATES[outcome.status], gate_line(outcome)) for outcome in outcomes]


def scenario_changes(comparison: Comparison) -> dict[str, Change]:
    """Return what became of each scenario, by its name."""
    return {scenario.scenario: _change(scenario) for scenario in comparison.scenarios}


def listed_changes(comparison: Comparison) -> list[Change]:
    """Return what became of the scenarios, worst first; those without a difference are one line."""
    changes = list(scenario_changes(comparison).values())
    listed = [change for kind in _ORDER[:-1] for change in changes if change.kind == kind]
    same = [scenario for scenario in comparison.scenarios if _KINDS[scenario.change] == "same"]
    if same:
        points = [s.pass_rate.shows_points for s in same if s.pass_rate.shows_points is not None]
        unseen = "a drop of any size"
        if len(points) == len(same):
            unseen = f"a drop of less than about {max(points)} points"
        name = f"No difference to be seen: {count(len(same), 'scenario')}"
        listed.append(Change("same", name, f"With so many runs {unseen} can stay unseen in one scenario."))
    return listed


def compared_with(comparison: Comparison) -> str:
    """Return what was compared with what."""
    sessions = count(comparison.base_sessions, "session")
    return f"{comparison.pass_rate.base_runs} runs in {sessions}" + (
        ", interleaved" if comparison.interleaved else ""
    )


def _change(scenario: ScenarioChange) -> Change:
    rate, latency = scenario.pass_rate, scenario.latency
    kind = _KINDS[scenario.change]
    parts = [rate_text(rate)]
    if latency is not None and (text := latency_text(latency)):
        parts.append(text)
    if scenario.why_too_few:
        parts.append(scenario.why_too_few)
    if scenario.change is Verdict.TOO_FEW and scenario.runs_needed:
        parts.append(f"{scenario.runs_needed} runs a side would tell")
    if scenario.was_edited:
        parts.append("the scenario itself was changed")
    name = words(scenario.scenario, 120)
    word = change_word(scenario)
    was = f", was {rate.base_passed} of {rate.base_runs}" if word in ("worse", "better") else ""
    return Change(kind, name, sentence("; ".join(parts)), word + was)


def change_word(scenario: ScenarioChange) -> str:
    """Return what became of a scenario, in a word or two."""
    rate, latency = scenario.pass_rate, scenario.latency
    by_latency = latency is not None and latency.significant and not rate.significant
    match scenario.change:
        case Verdict.REGRESSED:
            return "slower" if by_latency else "worse"
        case Verdict.IMPROVED:
            return "faster" if by_latency else "better"
        case Verdict.UNCHANGED:
            return "no difference"
        case Verdict.FLAKY:
            return "flaky on both sides"
        case Verdict.TOO_FEW:
            return "too few runs to say"


def rate_text(rate: RateChange) -> str:
    """Return both pass rates and their difference, with its interval."""
    text = f"passed {rate.current_passed} of {rate.current_runs}, was {rate.base_passed} of {rate.base_runs}"
    if rate.difference_points is None or rate.low_points is None or rate.high_points is None:
        return text
    low, high = signed(rate.low_points), signed(rate.high_points)
    return f"{text}: {signed(rate.difference_points)} points, between {low} and {high}"


def latency_text(latency: LatencyChange) -> str:
    """Return the difference of the latencies with its interval; empty without one."""
    if latency.difference_ms is None or latency.low_ms is None or latency.high_ms is None:
        return ""
    low, high = signed(latency.low_ms / 1000, 2), signed(latency.high_ms / 1000, 2)
    text = f"answers {signed(latency.difference_ms / 1000, 2)} s, between {low} and {high}"
    return text if latency.shows_ms is None else f"{text} (from {latency.shows_ms / 1000:.2f} s on it would show)"


def signed(number: float, digits: int = 0) -> str:
    """Return a difference with its sign."""
    text = f"{number:+.{digits}f}"
    return text.replace("-", "−") if float(text) else f"{0:.{digits}f}"
