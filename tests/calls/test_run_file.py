"""The run file: what a timeline comes to, and its way to disk and back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bots.caller.script import Expectation, Script, Speak, Turn, Words
from bots.timeline import (
    AgentJoined,
    AgentSaid,
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    CallEnded,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    CallerTurnStarted,
    CallerUnderrun,
    CallStarted,
    DataMessagePublished,
    EndedReason,
    RoomEntered,
    Source,
    TimelineEvent,
)
from runner.calls.run_file import Circumstances, judge_run, read_run, utc_now, write_run
from runner.errors import UsageError
from runner.evaluation.ending import CEKURA_ENDED_REASON
from runner.evaluation.outcome import Status
from runner.evaluation.verdicts import Cause, Verdict
from tests.evaluation.facts import s

SCRIPT = Script(
    name="booking",
    turns=(
        Turn(
            action=Speak(parts=(Words(text="A table, please. ☎"),)), expect=(Expectation(text_contains="how many"),)
        ),
    ),
)


STARTED = CallStarted(
    at_ns=0,
    run_id="20260101-000000-abc",
    scenario="booking",
    room="http://localhost:7860/api/offer",
    wall_time="2026-01-01T00:00:00.000Z",
    monotonic_ns=5,
)


def facts(said: str = "For how many?", reason: EndedReason = EndedReason.CALLER_HUNG_UP) -> list[TimelineEvent]:
    return [
        STARTED,
        RoomEntered(at_ns=s(0.5)),
        AgentJoined(at_ns=s(0.6)),
        DataMessagePublished(at_ns=s(0.61234), message={"type": "x"}),
        CallerTurnStarted(at_ns=s(1), turn=0),
        CallerStartedSpeaking(at_ns=s(1.1), turn=0, text="A table, please. ☎"),
        CallerUnderrun(at_ns=s(1.5), turn=0, duration_ms=20),
        CallerStoppedSpeaking(at_ns=s(2), turn=0),
        AgentStartedSpeaking(at_ns=s(2.75)),
        AgentStoppedSpeaking(at_ns=s(4)),
        CallEnded(at_ns=s(5.0004), reason=reason),
        AgentSaid(at_ns=s(4), text=said, source=Source.HEARD, started_ns=s(2.75)),
    ]


def test_a_run_tells_what_the_timeline_holds() -> None:
    run = judge_run(SCRIPT, facts(), Circumstances(warnings=["slow"]))
    assert (run.id, run.scenario, run.room) == (STARTED.run_id, "booking", STARTED.room)
    assert run.started_at == STARTED.wall_time
    assert (run.status, run.success, run.cause, run.exit_code) == (Status.COMPLETED, True, None, 0)
    assert run.ended_reason is EndedReason.CALLER_HUNG_UP
    assert run.call_ended_reason == "Testing agent-ended-call"
    assert run.duration_s == 5.0
    assert run.first_response_ms == 2_150.0
    assert [turn.response_latency_ms for turn in run.turns] == [750.0]
    assert [verdict.verdict for verdict in run.expectations] == [Verdict.MET]
    assert [(entry.role, entry.content) for entry in run.transcript_object] == [
        ("Testing Agent", "A table, please. ☎"),
        ("Main Agent", "For how many?"),
    ]
    assert run.publish_data_message is not None
    assert (run.publish_data_message.message, run.publish_data_message.sent_at_s) == ({"type": "x"}, 0.612)
    assert run.caller_underruns == 1
    assert run.warnings == ["slow", "the caller's audio was late once, for 20 ms"]
    assert run.script == SCRIPT
    assert {"python", "pipecat-ai", "pipecat-scenario-runner"} <= run.versions.keys()


def test_the_agent_failing_is_exit_code_1() -> None:
    run = judge_run(SCRIPT, facts("No tables today.", reason=EndedReason.AGENT_LEFT))
    assert (run.success, run.cause, run.exit_code) == (False, Cause.AGENT, 1)
    assert run.detail is not None and "how many" in run.detail


def test_what_nobody_can_say_is_exit_code_2() -> None:
    run = judge_run(SCRIPT, [STARTED, CallEnded(at_ns=s(1), reason=EndedReason.ICE_FAILED, detail="no way")])
    assert (run.success, run.cause, run.exit_code) == (None, Cause.NETWORK, 2)
    assert (run.detail, run.first_response_ms, run.publish_data_message) == ("no way", None, None)


def test_a_timeline_that_breaks_off_is_nobodys_failure() -> None:
    run = judge_run(SCRIPT, facts()[:8])
    assert (run.status, run.success, run.cause) == (Status.FAILED, None, Cause.HARNESS)
    assert run.duration_s == 2.0


@pytest.mark.parametrize("reason", EndedReason)
def test_every_ending_makes_a_run_with_cekuras_word_for_it(reason: EndedReason) -> None:
    run = judge_run(SCRIPT, facts(reason=reason))
    assert run.ended_reason is reason
    assert run.call_ended_reason == CEKURA_ENDED_REASON[reason]


def test_a_timeline_without_its_beginning_is_refused() -> None:
    with pytest.raises(UsageError, match="first event"):
        judge_run(SCRIPT, facts()[1:])
    with pytest.raises(UsageError, match="first event"):
        judge_run(SCRIPT, [])


def test_judging_the_same_facts_again_gives_the_same_run() -> None:
    assert judge_run(SCRIPT, facts()) == judge_run(SCRIPT, facts())


def test_a_run_comes_back_from_disk_as_it_went(tmp_path: Path) -> None:
    run = judge_run(SCRIPT, facts())
    path = write_run(tmp_path, run)
    assert path == tmp_path / "run.json"
    assert read_run(tmp_path) == run
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]
    assert path.stat().st_mode & 0o777 == 0o644
    assert json.loads(path.read_bytes())["success"] is True


def test_a_run_that_can_t_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = judge_run(SCRIPT, facts())
    write_run(tmp_path, before)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_run(tmp_path, judge_run(SCRIPT, facts("No tables.")))
    assert read_run(tmp_path) == before


def test_a_run_is_replaced_whole(tmp_path: Path) -> None:
    write_run(tmp_path, judge_run(SCRIPT, facts("x" * 10_000)))
    after = judge_run(SCRIPT, facts())
    write_run(tmp_path, after)
    assert read_run(tmp_path) == after


def test_a_run_is_written_in_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    facts_path = tmp_path / "facts.py"
    facts_path.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from tests.calls.test_run_file import SCRIPT, facts\n"
        "from runner.calls.run_file import judge_run, write_run\n"
        f"write_run(Path({str(tmp_path)!r}), judge_run(SCRIPT, facts()))\n"
    )
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    subprocess.run([sys.executable, "-X", "utf8=0", facts_path], check=True, env=environment, timeout=60)
    assert read_run(tmp_path).transcript_object[0].content == "A table, please. ☎"


def test_a_run_that_can_t_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_run(tmp_path)
    path = tmp_path / "run.json"
    for content, says in [
        ("", "no run"),
        ("hello", "no run"),
        ("{}", "no run \\(id: "),
        (judge_run(SCRIPT, facts()).model_dump_json().replace('"completed"', '"s3cr3t"'), "no run \\(status: "),
    ]:
        path.write_text(content)
        with pytest.raises(UsageError, match=says) as caught:
            read_run(tmp_path)
        assert str(path) in str(caught.value)
        assert "s3cr3t" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_wall_time_is_utc_to_the_millisecond() -> None:
    stamp = utc_now()
    assert len(stamp) == len("2026-01-01T00:00:00.000Z") and stamp.endswith("Z") and stamp[19] == "."
