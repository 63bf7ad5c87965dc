"""What a verdict rests on, in words."""

import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from bots.timeline import EndedReason
from runner.calls.run_file import EarlierAttempt
from runner.calls.suite_file import SuiteRun
from runner.evaluation.outcome import Failure, Status
from runner.evaluation.verdicts import Cause, Evidence, ExpectationVerdict

_EVENTS = {
    "agent_called_function": ("Called", "the agent called"),
    "agent_function_returned": ("Returned", "the agent's function returned:"),
    "agent_said": ("Said", "the agent said"),
    "agent_started_speaking": ("Began to speak", "the agent began to speak"),
    "agent_stopped_speaking": ("Stopped speaking", "the agent stopped speaking"),
    "agent_error": ("Its error", "the agent reported an error"),
    "agent_left": ("It left", "the agent left"),
    "agent_probed": ("Its address", "the agent's address was tried"),
    "agent_process_ended": ("Its process", "the agent's process ended"),
    "agent_session_ended": ("Its session", "the agent's session ended"),
    "machine_busy": ("Machine busy", "the machine was too busy"),
    "agent_audio_lost": ("Audio lost", "the agent's audio was lost on its way to us"),
    "agent_audio_late": ("Audio late", "the agent's audio came late"),
    "caller_heard_as": ("It understood", "the agent understood"),
    "caller_audio_lost": ("Audio lost", "the caller's audio was lost on its way to the agent"),
    "caller_underrun": ("Caller's audio late", "the caller's audio was late"),
    "harness_stalled": ("Runner stood still", "the runner stood still"),
    "caller_started_speaking": ("Caller spoke", "the caller began to speak"),
    "caller_stopped_speaking": ("Caller stopped", "the caller stopped speaking"),
    "message_received": ("Message", "the agent sent a message"),
}


def event_label(event: str) -> str:
    """Return what a fact is called beside its text, by its type on the timeline."""
    return _EVENTS[event][0] if event in _EVENTS else event.replace("_", " ").capitalize()


def evidence_line(evidence: Evidence) -> str:
    """Return a piece of evidence in one line: when, what, told or heard, and the words."""
    said = _EVENTS[evidence.event][1] if evidence.event in _EVENTS else evidence.event.replace("_", " ")
    source = f" ({evidence.source.value})" if evidence.source else ""
    words = f" {evidence.text!r}" if evidence.text else ""
    return f"{evidence.at_s:.2f} s: {said}{source}{words}"


def headline_of(failure: Failure | None, detail: str | None, ended_reason: EndedReason) -> str:
    """Return why a run did not pass, in one sentence, to stand behind the word that says what it came to."""
    headline = detail if failure is None else failure.headline
    return (headline or ended_reason.value).removeprefix("inconclusive: ")


def failure_lines(failure: Failure) -> Iterator[str]:
    """Yield what was expected and what was heard, one below the other, and the evidence."""
    if failure.expected is not None:
        yield f"expected  {failure.expected}"
    if failure.heard is not None:
        yield f"heard     {failure.heard}"
    for evidence in failure.evidence:
        yield evidence_line(evidence)


def verdict_word(success: bool | None) -> str:
    """Return what a run came to, in one word."""
    return {True: "passed", False: "failed", None: "inconclusive"}[success]


def verdict_words(success: bool | None, cause: Cause | None, failure: Failure | None) -> str:
    """Return what a run came to, with what went wrong in a word, or whose fault it is that there is no verdict."""
    word = verdict_word(success)
    if success is None:
        return word if cause is None else f"{word} (cause: {cause})"
    return word if success or failure is None else f"{word} ({failure.kind.words})"


def latency_text(latency_ms: float, uncertainty_ms: float | None) -> str:
    """Return a latency, with how sure it is."""
    return f"{latency_ms:.0f} ms" if uncertainty_ms is None else f"{latency_ms:.0f} ± {uncertainty_ms:.0f} ms"


def refused_line(reasons: Sequence[str], measured: int) -> str | None:
    """Return how many latencies were refused, and why; None if none was."""
    if not reasons:
        return None
    counted = Counter(reasons)
    why = "; ".join(reason if len(counted) == 1 else f"{reason} ({count})" for reason, count in counted.items())
    return f"{len(reasons)} of {len(reasons) + measured} latencies refused: {why}"


def attempt_line(attempt: EarlierAttempt, folder: str | None) -> str:
    """Return what became of a call that was made again, in one line."""
    headline = headline_of(attempt.failure, attempt.detail, attempt.ended_reason)
    why = f"made again, {attempt.repeated_because}: {headline}"
    return why if folder is None else f"{why} [{folder}]"


def process_end(exit_code: int) -> str:
    """Return how a process ended; a negative exit code is the number of a signal."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was ended by signal {-exit_code}"


def run_lines(run: SuiteRun, folder: Path) -> list[str]:
    """Return what there is to know of a run that did not pass, its headline first."""
    failure = run.failure
    lines = [headline_of(run.failure, run.detail, run.ended_reason)]
    if failure is not None:
        lines += [f"    {line}" for line in failure_lines(failure)]
    # A call that did not take place says nothing about what was expected of it.
    for verdict in run.unmet if run.status is Status.COMPLETED else ():
        if failure is None or (verdict.turn, verdict.expected) != (failure.turn, failure.expected):
            lines += _expectation(verdict)
    cause = "" if run.cause is None else f", cause: {run.cause.value}"
    lines.append(f"ended: {run.ended_reason.value} after {run.duration_s:.1f} s{cause}")
    if run.agent_exit_code is not None:
        lines.append(f"the agent's process {process_end(run.agent_exit_code)}")
    if run.agent_log is not None:
        lines.append(f"what the agent printed: {folder / run.agent_log}")
    if run.first_response_ms is not None:
        lines.append(f"first response: {run.first_response_ms:.0f} ms")
    if run.response_latencies_ms:
        latencies = zip_longest(run.response_latencies_ms, run.response_uncertainties_ms)
        lines.append("response latencies: " + ", ".join(latency_text(ms, sure_ms) for ms, sure_ms in latencies))
    if (refused := refused_line(run.refused_latencies, len(run.response_latencies_ms))) is not None:
        lines.append(refused)
    lines += [f"warning: {warning}" for warning in run.warnings]
    if run.folder is not None:
        lines.append(f"run: {folder / run.folder}")
    for attempt in run.earlier_attempts:
        lines.append(attempt_line(attempt, None if attempt.folder is None else str(folder / attempt.folder)))
    return lines


def _expectation(verdict: ExpectationVerdict) -> list[str]:
    kind = verdict.verdict.value.replace("_", " ")
    lines = [f"{kind}: turn {verdict.turn + 1}: {verdict.expected}: {verdict.reason}"]
    return [*lines, *(f"    {evidence_line(evidence)}" for evidence in verdict.evidence)]
