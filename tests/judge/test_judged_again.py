"""Judging what is stored of a call again comes to the same, byte for byte, in whatever process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bots.caller.script import Expectation, Script, Speak, Turn, Words
from bots.timeline import (
    AgentError,
    AgentJoined,
    CallStarted,
    EndedReason,
    RoomEntered,
    TimelineEvent,
)
from runner.calls.run_file import Circumstances, judge_run, read_run, write_run
from runner.calls.timeline import TimelineWriter, read_timeline
from runner.evaluation.asked import Asked, Condition, Statement, judged, open_questions
from runner.evaluation.outcome import judge_expectations
from runner.evaluation.verdicts import Judgement
from tests.evaluation.facts import called, ended, heard, line, onset, over, s, stop, taken_up, told

SCRIPT = Script(
    name="stored",
    turns=tuple(
        Turn(
            action=Speak(parts=(Words(text=f"line {n}"),)),
            expect=(
                Expectation(text_contains="table"),
                Expectation(event="agent_speaks", within_ms=2_000),
                Expectation(criterion="is polite"),
                Expectation(event="function_call"),
            ),
        )
        for n in range(3)
    ),
)
AGAIN = """
import sys
from pathlib import Path
from runner.calls.run_file import judge_run, read_run, write_run
from runner.calls.timeline import read_timeline
folder = Path(sys.argv[1])
run = read_run(folder)
write_run(folder, judge_run(run.script, read_timeline(folder / "timeline.jsonl"), run.circumstances))
"""


def stored_facts(said: str, reason: EndedReason) -> list[TimelineEvent]:
    facts: list[TimelineEvent] = [
        CallStarted(at_ns=0, run_id="1", scenario="stored", room="r", wall_time="now", monotonic_ns=1),
        RoomEntered(at_ns=s(0.1)),
        AgentJoined(at_ns=s(0.2)),
    ]
    for turn in range(3):
        at = 1 + 6 * turn
        facts += [
            taken_up(at, turn),
            *line(at + 0.1, at + 1, turn, f"line {turn}"),
            called(at + 1.2, "look", str(turn), b=1, a=[2]),
            onset(at + 1.5 + turn),
            told(at + 1.6, said),
            stop(at + 4),
            heard(at + 1.5 + turn, at + 4, said),
            over(at + 5),
        ]
    return [*facts, AgentError(at_ns=s(19), text="'order'"), ended(20, reason)]


def store(folder: Path, facts: list[TimelineEvent], *, with_judge: bool) -> None:
    """Write a call as a worker leaves it."""
    folder.mkdir()
    asked = Asked(
        expected_outcome="The agent is polite, and books a table.",
        conditions=tuple(
            Condition(turn=n, where=f"conditions[{n}].when", when=when)
            for n, when in enumerate(("The agent greets", 'contains "table" OR contains "seat"', "The agent asks"))
        ),
        not_honoured=("personality.language: 'es'", "scenario.metrics: 7"),
    )
    circumstances = Circumstances(asked=asked, notes=["n"], warnings=["w"])
    if with_judge:
        questions = [v.question for v in judge_expectations(SCRIPT, facts, {}) if v.question is not None]
        questions += open_questions(asked, facts, {})
        judgements = [
            Judgement(question=question, answer="yes" if n % 2 else "no", reason=f"r{n}", confidence=0.1 + n)
            for n, question in enumerate(questions)
        ]
        statements = [
            Statement(statement="polite", answer="yes", reason="r"),
            Statement(statement="books", answer="unreached", reason="r"),
        ]
        circumstances = Circumstances(
            asked=asked,
            judgements=judgements,
            expected_outcome=judged(asked.expected_outcome or "", statements, "m"),
        )
    writer = TimelineWriter(folder / "timeline.jsonl")
    for fact in facts:
        writer.write(fact)
    writer.close()
    write_run(folder, judge_run(SCRIPT, facts, circumstances))


@pytest.mark.parametrize("with_judge", [False, True])
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("A table, of course.", EndedReason.CALLER_HUNG_UP),
        pytest.param("Nothing of the kind.", EndedReason.CALLER_HUNG_UP, marks=pytest.mark.slow),
        pytest.param("A table, of course.", EndedReason.AGENT_LEFT, marks=pytest.mark.slow),
        pytest.param("A table, of course.", EndedReason.MAX_DURATION, marks=pytest.mark.slow),
        ("A table, of course.", EndedReason.ICE_FAILED),
    ],
)
def test_runs_judged_in_other_processes_are_the_same_bytes(
    tmp_path: Path, said: str, reason: EndedReason, with_judge: bool
) -> None:
    folder = tmp_path / "run"
    store(folder, stored_facts(said, reason), with_judge=with_judge)
    before = (folder / "run.json").read_bytes()
    run = read_run(folder)
    again = judge_run(run.script, read_timeline(folder / "timeline.jsonl"), run.circumstances)
    assert (again.model_dump_json(indent=2) + "\n").encode() == before
    if with_judge and reason is EndedReason.CALLER_HUNG_UP:
        # Another order of sets and hashes, at another time.
        for seed in ("1", "2"):
            env: dict[str, Any] = {**os.environ, "PYTHONHASHSEED": seed}
            subprocess.run([sys.executable, "-c", AGAIN, str(folder)], env=env, check=True, timeout=60)
            assert (folder / "run.json").read_bytes() == before
    assert json.loads(before)["success"] is not True
