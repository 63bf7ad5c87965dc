"""Measures a call's recording when the call is over."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import anyio.to_thread

from bots.timeline import CallEnded, CallerStartedSpeaking, CallerStoppedSpeaking, CallStarted, TimelineEvent
from runner.calls.recording import AGENT, read_recording
from runner.evaluation.measure import measure_agent, measured_facts


def caller_spans(facts: Sequence[TimelineEvent], until_ns: int) -> list[tuple[int, int]]:
    """Return where the caller speaks, in nanoseconds of the call; a line without an end lasts until ``until_ns``."""
    spans: list[tuple[int, int]] = []
    started_ns: int | None = None
    for fact in sorted(facts, key=lambda fact: fact.at_ns):
        match fact:
            case CallerStartedSpeaking():
                started_ns = fact.at_ns if started_ns is None else started_ns
            case CallerStoppedSpeaking() if started_ns is not None:
                spans.append((started_ns, fact.at_ns))
                started_ns = None
            case _:
                pass
    if started_ns is not None and until_ns > started_ns:
        spans.append((started_ns, until_ns))
    return spans


def measure_call(recording: Path, facts: Sequence[TimelineEvent]) -> list[TimelineEvent]:
    """Measure the agent's speech in a call's recording, and return what was found as facts. Blocks.

    Raises:
        UsageError: The recording can't be read.
    """
    channels, rate_hz = read_recording(recording)
    ended_ns = max((fact.at_ns for fact in facts if isinstance(fact, CallEnded)), default=0)
    until_ns = ended_ns or max((fact.at_ns for fact in facts if not isinstance(fact, CallStarted)), default=0)
    measured = measure_agent(channels[AGENT], rate_hz, caller=caller_spans(facts, until_ns))
    return measured_facts(measured, until_ns)


async def measure_call_aside(recording: Path, facts: Sequence[TimelineEvent]) -> list[TimelineEvent]:
    """Measure as :func:`measure_call` does, in a worker thread: the event loop goes on meanwhile."""
    return await anyio.to_thread.run_sync(partial(measure_call, recording, list(facts)))
