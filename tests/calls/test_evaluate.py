"""Judging stored calls again: the same facts give the same file, and what is damaged gives no number."""

import errno
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from bots.caller.script import Expectation, Script, Speak, Turn, Words
from bots.timeline import (
    EVENT_ADAPTER,
    AgentJoined,
    AgentProcessEnded,
    AgentSaid,
    AgentSpeechMeasured,
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    AgentTurnEnded,
    CallEnded,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    CallerTurnStarted,
    CallerUnderrun,
    CallStarted,
    EndedReason,
    RecordingMeasured,
    RoomEntered,
    Source,
    TimelineEvent,
)
from runner import files
from runner.calls import evaluate
from runner.calls.evaluate import Measuring, evaluate_run, evaluate_suite
from runner.calls.repeating import earlier_attempt
from runner.calls.run_file import Circumstances, Run, judge_run, read_run, write_run
from runner.calls.suite_file import SuiteResult, SuiteRun, read_suite, write_suite
from runner.calls.timeline import TimelineWriter, read_timeline
from runner.errors import RunnerError, UsageError
from runner.evaluation.outcome import Status
from runner.evaluation.verdicts import Cause, Judgement, JudgeUsage, Question
from tests.evaluation.facts import s

SCRIPT = Script(
    name="booking",
    turns=tuple(
        Turn(action=Speak(parts=(Words(text="A table."),)), expect=(Expectation(text_contains=word),))
        for word in ("how many", "booked")
    ),
)


FACTS: list[TimelineEvent] = [
    CallStarted(
        at_ns=0,
        run_id="r1",
        scenario="booking",
        room="http://localhost:7860",
        wall_time="2026-01-01T00:00:00.000Z",
        monotonic_ns=5,
    ),
    RoomEntered(at_ns=s(0.1)),
    AgentJoined(at_ns=s(0.2)),
    CallerTurnStarted(at_ns=s(1), turn=0),
    CallerStartedSpeaking(at_ns=s(1.1), turn=0, text="A table."),
    CallerUnderrun(at_ns=s(1.5), turn=0, duration_ms=40),
    CallerStoppedSpeaking(at_ns=s(2), turn=0),
    AgentStartedSpeaking(at_ns=s(2.7)),
    AgentStoppedSpeaking(at_ns=s(4)),
    AgentTurnEnded(at_ns=s(5)),
    AgentSaid(at_ns=s(4), text="For how many?", source=Source.HEARD, started_ns=s(2.7)),
    CallerTurnStarted(at_ns=s(5.1), turn=1),
    CallerStartedSpeaking(at_ns=s(5.2), turn=1, text="A table."),
    CallerStoppedSpeaking(at_ns=s(6), turn=1),
    AgentStartedSpeaking(at_ns=s(6.5)),
    AgentStoppedSpeaking(at_ns=s(8)),
    AgentTurnEnded(at_ns=s(9)),
    CallEnded(at_ns=s(9.5), reason=EndedReason.CALLER_HUNG_UP),
    AgentSaid(at_ns=s(8), text="It is booked.", source=Source.HEARD, started_ns=s(6.5)),
]
LATE = "the caller's audio was late once, for 40 ms"
JUDGEMENT = Judgement(
    question=Question(turn=0, index=0, kind="reply", subject="x", criterion="y", at_ns=1), answer="yes", reason="so"
)


def stored(folder: Path, facts: Sequence[TimelineEvent] = FACTS, *, stamped: bool = True) -> Run:
    """Leave a call as one that was made leaves it."""
    folder.mkdir(parents=True)
    with TimelineWriter(folder / "timeline.jsonl") as timeline:
        for fact in facts:
            timeline.write(fact)
        stamp = timeline.stamp if stamped else None
    run = judge_run(
        SCRIPT,
        facts,
        Circumstances(
            judgements=[JUDGEMENT],
            judge=JudgeUsage(model="m", questions=1),
            allow_unjudged=True,
            notes=["a note"],
            warnings=["slow"],
            timeline=stamp,
            versions={"python": "2.7"},
        ),
    )
    run = run.model_copy(update={"earlier_attempts": [earlier_attempt(run, "it rained", folder="r0")]})
    write_run(folder, run)
    return run


def rewritten(folder: Path, facts: Sequence[TimelineEvent]) -> None:
    path = folder / "timeline.jsonl"
    path.write_bytes(b"".join(EVENT_ADAPTER.dump_json(fact) + b"\n" for fact in facts))


@pytest.mark.parametrize("stamped", [True, False])
def test_the_same_facts_give_the_same_file_to_the_byte(tmp_path: Path, stamped: bool) -> None:
    run = stored(tmp_path / "r", stamped=stamped)
    if not stamped:
        # Of a version that did not count the facts; from now on it is known.
        run = evaluate_run(tmp_path / "r")
        assert run.timeline is not None
    before = (tmp_path / "r" / "run.json").read_bytes()
    for _ in range(2):
        assert evaluate_run(tmp_path / "r") == run
        assert (tmp_path / "r" / "run.json").read_bytes() == before
    assert run.success is True and run.versions == {"python": "2.7"}
    assert run.warnings == ["slow", LATE, *([] if stamped else [evaluate.UNCOUNTED])]


def test_the_verdict_is_that_of_the_facts_and_not_of_the_file(tmp_path: Path) -> None:
    run = stored(tmp_path / "r")
    changed = {"success": False, "cause": Cause.AGENT, "detail": "made up", "turns": [], "expectations": []}
    write_run(tmp_path / "r", run.model_copy(update=changed))
    assert evaluate_run(tmp_path / "r") == run


def test_what_became_known_since_is_judged_and_kept(tmp_path: Path) -> None:
    stored(tmp_path / "r")
    end = AgentProcessEnded(at_ns=s(9), exit_code=3, log_tail="KeyError: 'order'")
    run = evaluate_run(tmp_path / "r", added=[end])
    assert read_timeline(tmp_path / "r" / "timeline.jsonl") == [*FACTS, end]
    assert run.timeline is not None and run.timeline.facts == len(FACTS) + 1
    assert evaluate_run(tmp_path / "r") == run


# What is damaged.


def refused(folder: Path, *, match: str) -> None:
    before = (folder / "run.json").read_bytes()
    with pytest.raises(UsageError, match=match) as caught:
        evaluate_run(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    assert (folder / "run.json").read_bytes() == before


def test_whichever_line_is_missing_it_is_missed(tmp_path: Path) -> None:
    stored(tmp_path / "r")
    for index in range(len(FACTS)):
        rewritten(tmp_path / "r", FACTS[:index] + FACTS[index + 1 :])
        refused(tmp_path / "r", match="missing|not the beginning of a call")


def test_lines_out_of_order_are_refused(tmp_path: Path) -> None:
    stored(tmp_path / "r")
    shuffling = random.Random(7)
    for _ in range(50):
        facts = shuffling.sample(FACTS, len(FACTS))
        rewritten(tmp_path / "r", facts)
        refused(tmp_path / "r", match="out of order")


def test_a_file_cut_off_anywhere_is_refused_or_has_every_fact(tmp_path: Path) -> None:
    stored(tmp_path / "r")
    path = tmp_path / "r" / "timeline.jsonl"
    whole = path.read_bytes()
    evaluate_run(tmp_path / "r")
    for cut in [*range(2, 400, 7), len(whole) - 1]:
        path.write_bytes(whole[:-cut])
        refused(tmp_path / "r", match="missing|not the beginning of a call")


def test_what_was_being_added_when_the_power_went_is_left_out(tmp_path: Path) -> None:
    run = stored(tmp_path / "r")
    with (tmp_path / "r" / "timeline.jsonl").open("ab") as file:
        file.write(b'{"type": "agent_proc')
    assert evaluate_run(tmp_path / "r") == run


def test_a_turn_that_was_passed_over_is_no_damage(tmp_path: Path) -> None:
    run = stored(tmp_path / "r", [*FACTS[:3], *FACTS[11:]])
    assert evaluate_run(tmp_path / "r") == run


def test_a_call_of_a_killed_runner_is_inconclusive_and_ours(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    # As it is left: run.json is from the beginning of the call, and the last line is cut off.
    with TimelineWriter(folder / "timeline.jsonl") as timeline:
        timeline.write(FACTS[0])
        write_run(folder, judge_run(SCRIPT, FACTS[:1], Circumstances(timeline=timeline.stamp)))
        for fact in FACTS[1:15]:
            timeline.write(fact)
    with (folder / "timeline.jsonl").open("ab") as file:
        file.write(b'{"type": "agent_st')
    run = evaluate_run(folder)
    assert (run.success, run.cause, run.exit_code) == (None, Cause.HARNESS, 2)
    assert evaluate_run(folder) == run


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (FACTS[1:], "not the beginning of a call"),
        ([], "not the beginning of a call"),
        ([*FACTS[:3], *FACTS], "begins again"),
        ([f for f in FACTS if not isinstance(f, CallerTurnStarted)], "out of turn"),
        ([*FACTS[:3], *FACTS[4:]], "out of turn"),
        ([*FACTS[:4], *FACTS[5:]], "did not begin"),
        ([*FACTS[:6], *FACTS[7:]], "out of turn"),
        ([*FACTS[:7], *FACTS[8:]], "stops without having begun"),
        ([*FACTS[:8], *FACTS[9:]], "begins to speak twice"),
        ([*FACTS[:11], *FACTS[12:]], "out of turn"),
        ([FACTS[0], *FACTS[3:], *FACTS[1:3]], None),
        ([*FACTS[:12], CallerTurnStarted(at_ns=s(5.1), turn=0), *FACTS[12:]], "turn 1 is taken up after turn 2"),
        ([*FACTS[:-5], FACTS[-2], *FACTS[-5:-2]], "comes after the end"),
        ([*FACTS[:-3], CallerTurnStarted(at_ns=s(99), turn=2), *FACTS[-3:]], "no turn 3 in the script"),
        ([*FACTS[:14], AgentStartedSpeaking(at_ns=s(99)), *FACTS[15:]], "comes after the end"),
        ([*FACTS[:14], AgentStartedSpeaking(at_ns=s(2.6)), *FACTS[15:]], "from before the one above it"),
        ([*FACTS[:3], CallerTurnStarted(at_ns=s(1), turn=7), *FACTS[3:]], "no turn 8 in the script"),
        ([*FACTS[:3], CallerTurnStarted(at_ns=s(1), turn=-1), *FACTS[3:]], "no turn 0 in the script"),
        ([*FACTS[:1], RoomEntered(at_ns=-5), *FACTS[2:]], "from before the call"),
    ],
)
def test_without_a_count_of_facts_the_impossible_is_refused_too(
    tmp_path: Path, damage: list[TimelineEvent], match: str | None
) -> None:
    stored(tmp_path / "r", stamped=False)
    rewritten(tmp_path / "r", damage)
    if match is None:
        assert evaluate_run(tmp_path / "r").success is True
    else:
        refused(tmp_path / "r", match=match)


@pytest.mark.parametrize("line", [b"hello", b"{}", b'{"type":"room_entered","at_ns":"soon"}', b"\xff\xfe", b""])
def test_a_line_that_is_no_fact_is_named(tmp_path: Path, line: bytes) -> None:
    stored(tmp_path / "r")
    path = tmp_path / "r" / "timeline.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:4], line, *lines[4:]]))
    refused(tmp_path / "r", match="timeline.jsonl:5: no event of a timeline")


def test_files_of_two_calls_are_refused(tmp_path: Path) -> None:
    stored(tmp_path / "r", stamped=False)
    rewritten(tmp_path / "r", [FACTS[0].model_copy(update={"run_id": "other"}), *FACTS[1:]])
    refused(tmp_path / "r", match="not of the call that run.json is of")


@pytest.mark.parametrize("name", ["timeline.jsonl", "run.json"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    stored(tmp_path / "r")
    (tmp_path / "r" / name).unlink()
    with pytest.raises(UsageError, match=name):
        evaluate_run(tmp_path / "r")


# Measuring.

MEASURED: list[TimelineEvent] = [
    AgentSpeechMeasured(
        at_ns=s(2.7), end_ns=s(4), onset_uncertainty_ms=8, end_uncertainty_ms=9, level_dbfs=-20, bed_dbfs=-70
    ),
    AgentSpeechMeasured(
        at_ns=s(6.5), end_ns=s(8), onset_uncertainty_ms=8, end_uncertainty_ms=9, level_dbfs=-20, bed_dbfs=-70
    ),
    RecordingMeasured(at_ns=s(9.5), method=1, bed_dbfs=-70, agent_dbfs=-20, too_loud=False),
]


class Meter:
    def __init__(self) -> None:
        self.seen: list[list[TimelineEvent]] = []

    def __call__(self, recording: Path, facts: Sequence[TimelineEvent]) -> list[TimelineEvent]:
        assert recording.name == "recording.wav"
        self.seen.append(list(facts))
        return MEASURED


def test_a_recording_is_measured_once_and_the_measures_are_kept(tmp_path: Path) -> None:
    stored(tmp_path / "r")
    (tmp_path / "r" / "recording.wav").write_bytes(b"")
    meter = Meter()
    run = evaluate_run(tmp_path / "r", measure=meter)
    assert meter.seen == [FACTS]
    assert read_timeline(tmp_path / "r" / "timeline.jsonl") == [*FACTS, *MEASURED]
    before = (tmp_path / "r" / "run.json").read_bytes()
    assert evaluate_run(tmp_path / "r", measure=meter) == run
    assert len(meter.seen) == 1
    assert evaluate_run(tmp_path / "r", measure=meter, measuring=Measuring.ALWAYS) == run
    assert meter.seen[1] == FACTS, "what was measured before is none of the facts it goes by"
    assert (tmp_path / "r" / "run.json").read_bytes() == before


def test_nothing_is_measured_where_unwanted_or_empty(tmp_path: Path) -> None:
    meter = Meter()
    stored(tmp_path / "r")
    evaluate_run(tmp_path / "r", measure=meter, measuring=Measuring.NEVER)
    stored(tmp_path / "alone", [*FACTS[:2], CallEnded(at_ns=s(1), reason=EndedReason.ICE_FAILED)])
    evaluate_run(tmp_path / "alone", measure=meter)
    assert meter.seen == []


def test_a_missing_recording_is_an_error_with_a_way_round(tmp_path: Path) -> None:
    stored(tmp_path / "r")
    with pytest.raises(UsageError, match=r"recording\.wav: the recording is missing; --no-measure"):
        evaluate_run(tmp_path / "r", measure=Meter())


# Suites.


def everything_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_on_a_full_disk_a_call_stays_and_can_be_judged_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "r"
    stored(folder)
    (folder / "recording.wav").touch()
    before = everything_in(folder)
    synced: list[int] = []

    def full(file: int) -> None:
        synced.append(file)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RunnerError, match=r"run\.json: can't be written \(No space left on device\)"):
        evaluate_run(folder, measure=Meter(), measuring=Measuring.ALWAYS)
    assert everything_in(folder) == before
    evaluate_run(folder, measure=Meter(), measuring=Measuring.ALWAYS)
    assert everything_in(folder).keys() == before.keys() and everything_in(folder) != before


def suite_run(folder: str | None, **given: object) -> SuiteRun:
    values: dict[str, object] = {
        "scenario": "booking",
        "file": "b.yaml",
        "repeat": 1,
        "status": Status.COMPLETED,
        "success": None,
        "cause": Cause.HARNESS,
        "ended_reason": EndedReason.RUNNER_ERROR,
        "detail": "made up",
        "started_at": "x",
        "duration_s": 1.0,
        "folder": folder,
    }
    return SuiteRun.model_validate(values | given)


def test_a_suite_is_judged_again_with_every_call_in_it(tmp_path: Path) -> None:
    run = stored(tmp_path / "one")
    first = stored(tmp_path / "first")
    attempt = earlier_attempt(suite_run("first"), "it rained", folder="first")
    not_made = suite_run(None, detail="nobody there")
    runs = [suite_run("one", earlier_attempts=[attempt]), not_made]
    write_suite(
        tmp_path, SuiteResult(suite="night", file="n.yaml", started_at="x", finished=True, runs=runs, open=[])
    )
    result = evaluate_suite(tmp_path)
    assert result == read_suite(tmp_path)
    again, other = result.runs
    assert (again.success, again.detail, again.response_latencies_ms) == (True, run.detail, [700.0, 500.0])
    assert [(a.success, a.folder, a.repeated_because) for a in again.earlier_attempts] == [
        (True, "first", "it rained")
    ]
    assert read_run(tmp_path / "first") == first
    assert other == not_made
    before = (tmp_path / "suite.json").read_bytes()
    evaluate_suite(tmp_path)
    assert (tmp_path / "suite.json").read_bytes() == before


def test_an_unjudgeable_call_of_a_suite_is_named_and_left_alone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        stored(tmp_path / name)
        (tmp_path / name / "recording.wav").touch()
    runs = [suite_run("one"), suite_run("two")]
    write_suite(tmp_path, SuiteResult(suite="n", file="n", started_at="x", finished=True, runs=runs, open=[]))
    before = everything_in(tmp_path)
    (tmp_path / "two" / "timeline.jsonl").unlink()
    with pytest.raises(UsageError, match=r"two/timeline\.jsonl"):
        evaluate_suite(tmp_path, measure=Meter(), measuring=Measuring.ALWAYS)
    del before[tmp_path / "two" / "timeline.jsonl"]
    assert everything_in(tmp_path) == before
    assert evaluate.is_suite(tmp_path) and not evaluate.is_suite(tmp_path / "one")
