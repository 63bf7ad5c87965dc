"""A runner that was stopped for three seconds in a good call (SIGSTOP) says so, goes on, and blames nobody else."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from bots.timeline import (
    EVENT_ADAPTER,
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    CallerUnderrun,
    EndedReason,
    HarnessStalled,
    TimelineEvent,
    UnderrunKind,
)
from runner.calls.run_file import read_run
from runner.calls.timeline import read_timeline
from runner.evaluation.verdicts import Cause
from runner.sessions.local_agent import free_port, local_agent, reference_agent_command

pytestmark = [pytest.mark.anyio, pytest.mark.webrtc, pytest.mark.slow]

STOPPED_S = 3.0
LIMIT_S = 60
"""What the call may take at most, and would if it hung."""

SCENARIO = f"""
name: stopped
scenarios:
  - name: good
    max_duration_s: {LIMIT_S}
    turns:
      - expect: [{{ event: response, within_ms: 10000 }}]
      - user: "Good morning. I would like to know what time it is, and whether you are open today."
        expect: [{{ event: response, within_ms: 10000 }}]
      - user: "Thank you very much."
        expect: [{{ event: response, within_ms: 10000 }}]
"""

Moment = Callable[[Sequence[TimelineEvent]], bool]


def in_mid_line(facts: Sequence[TimelineEvent]) -> bool:
    return any(isinstance(fact, CallerStartedSpeaking) for fact in facts)


def before_the_answer(facts: Sequence[TimelineEvent]) -> bool:
    return any(isinstance(fact, CallerStoppedSpeaking) for fact in facts)


def while_the_agent_speaks(facts: Sequence[TimelineEvent]) -> bool:
    return sum(isinstance(fact, AgentStartedSpeaking) for fact in facts) == 2


def as_the_agent_falls_silent(facts: Sequence[TimelineEvent]) -> bool:
    return sum(isinstance(fact, AgentStoppedSpeaking) for fact in facts) == 2


def facts_so_far(folder: Path) -> list[TimelineEvent]:
    path = folder / "timeline.jsonl"
    if not path.exists():
        return []
    # The last line may be half written.
    return [EVENT_ADAPTER.validate_json(line) for line in path.read_text().split("\n")[:-1]]


@pytest.mark.parametrize(
    "moment", [in_mid_line, before_the_answer, while_the_agent_speaks, as_the_agent_falls_silent]
)
async def test_a_good_call_survives_that_we_stood_still(moment: Moment, tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    folder, port = tmp_path / "run", free_port()
    async with local_agent(reference_agent_command("metronome", port), port) as url:
        command = [sys.executable, "-m", "runner.cli", "call", url, "--scenario", f"{tmp_path}/scenario.yaml"]
        async with await anyio.open_process(
            [*command, "--out", str(folder)], stdout=subprocess.DEVNULL, env=dict(os.environ)
        ) as runner:
            with anyio.fail_after(60):
                while not moment(facts_so_far(folder)):
                    await anyio.sleep(0.02)
            runner.send_signal(signal.SIGSTOP)
            await anyio.sleep(STOPPED_S)
            runner.send_signal(signal.SIGCONT)
            with anyio.fail_after(90):
                await runner.wait()
    facts, run = read_timeline(folder / "timeline.jsonl"), read_run(folder)
    stalled_ms = [fact.duration_ms for fact in facts if isinstance(fact, HarnessStalled)]
    assert max(stalled_ms) >= 2_500
    if moment is in_mid_line:
        gaps_ms = [f.duration_ms for f in facts if isinstance(f, CallerUnderrun) and f.kind is UnderrunKind.GAP]
        assert max(gaps_ms) >= 2_500
    ends = [fact.at_ns for fact in facts if isinstance(fact, CallerStartedSpeaking | CallerStoppedSpeaking)]
    assert all(before < after for before, after in pairwise(ends))
    assert run.ended_reason is not EndedReason.MAX_DURATION and run.duration_s < LIMIT_S
    assert run.cause is not Cause.AGENT, run.detail
