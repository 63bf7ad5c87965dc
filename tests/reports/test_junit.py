"""JUnit XML: what each outcome becomes, and that nothing an agent says can break it."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from junitparser import Error, Failure, JUnitXml, Skipped, TestCase

from bots.timeline import EndedReason, Source
from runner.calls.repeating import earlier_attempt
from runner.calls.suite_file import OpenRun, SkippedScenario, SuiteResult, SuiteRun
from runner.comparison.gates import GateOutcome, GateStatus
from runner.evaluation.outcome import Failure as RunFailure
from runner.evaluation.outcome import FailureKind, Status
from runner.evaluation.verdicts import Cause, Evidence, ExpectationVerdict, Verdict
from runner.reports.junit import junit_xml, write_junit

FOLDER = Path("runs/suite-1")
MISSED = ExpectationVerdict(
    turn=1,
    index=0,
    event="response",
    expected="a response that holds 'booked'",
    verdict=Verdict.MISSED,
    reason="does not contain 'booked'",
    source=Source.HEARD,
    evidence=(Evidence(event="response", at_s=7.25, text="Sorry, no tables.", source=Source.HEARD),),
)


def run(**given: Any) -> SuiteRun:
    return SuiteRun.model_validate(
        {
            "scenario": "booking/four",
            "file": "config/scenarios/booking.yaml",
            "repeat": 1,
            "status": Status.COMPLETED,
            "success": True,
            "cause": None,
            "ended_reason": EndedReason.CALLER_HUNG_UP,
            "detail": None,
            "started_at": "2026-01-01T00:00:00.000Z",
            "duration_s": 31.5,
            "folder": "20260101-000000-abc",
            "first_response_ms": 812.4,
            "response_latencies_ms": [640.2, 1203.9],
            **given,
        }
    )


FAILED = run(
    success=False, cause=Cause.AGENT, detail="turn 2: a response that holds 'booked': does not", unmet=[MISSED]
)
UNDECIDED = run(
    success=None,
    cause=Cause.ROOM,
    status=Status.FAILED,
    ended_reason=EndedReason.ROOM_UNREACHABLE,
    detail="nothing answers",
    folder=None,
    first_response_ms=None,
    response_latencies_ms=[],
    duration_s=0.25,
)
OPEN = OpenRun(scenario="booking/five", file="config/scenarios/booking.yaml", repeat=2)


def suite(*runs: SuiteRun, left: tuple[OpenRun, ...] = (), **given: Any) -> SuiteResult:
    return SuiteResult.model_validate(
        {
            "suite": "night",
            "file": "config/suites/night.yaml",
            "started_at": "2026-01-01T00:00:00.000Z",
            "finished": not left,
            "runs": list(runs),
            "open": list(left),
            **given,
        }
    )


def parsed(result: SuiteResult) -> tuple[Any, list[TestCase]]:
    document = JUnitXml.fromstring(junit_xml(result, FOLDER).encode())
    (only,) = list(document)
    return document, list(only)


def only_case(result: SuiteResult) -> TestCase:
    _, (case,) = parsed(result)
    return case


def test_the_totals_are_those_of_the_suite() -> None:
    document, cases = parsed(suite(run(), FAILED, UNDECIDED, left=(OPEN,), stopped="stopped by SIGINT"))
    assert (document.tests, document.failures, document.errors) == (4, 1, 1)
    assert document.time == pytest.approx(31.5 + 31.5 + 0.25)
    (only,) = list(document)
    assert (only.name, only.timestamp) == ("night", "2026-01-01T00:00:00.000")
    assert (only.tests, only.failures, only.errors, only.skipped) == (4, 1, 1, 1)
    assert len(cases) == 4


@pytest.mark.parametrize(
    ("status", "is_kept", "becomes"),
    [(GateStatus.MISSED, False, Failure), (GateStatus.TOO_FEW, False, Error), (GateStatus.TOO_FEW, True, None)],
)
def test_a_gate_is_a_case_that_fails_where_it_is_missed(
    status: GateStatus, is_kept: bool, becomes: type | None
) -> None:
    missed = GateOutcome(
        gate="pass_rate", limit=0.9, status=status, observed=1, low=0.5, high=0.8, count=1, total=1, is_kept=is_kept
    )
    _, (_, case) = parsed(suite(run(), gates=[missed]))
    assert case.name == "gate pass_rate" and [type(one) for one in case.result] == ([becomes] if becomes else [])
    assert "pass_rate ≥ 0.9" in (case.result[0].text if becomes else case.system_out)


@pytest.mark.parametrize("spoilt", [FAILED, UNDECIDED])
@pytest.mark.parametrize(("status", "becomes"), [(GateStatus.MET, Skipped), (GateStatus.MISSED, (Failure, Error))])
def test_a_run_that_a_kept_gate_allows_to_fail_is_none_of_the_failures(
    spoilt: SuiteRun, status: GateStatus, becomes: Any
) -> None:
    gate = GateOutcome(
        gate="pass_rate", limit=0.5, status=status, observed=0.5, low=0.5, high=0.8, count=1, total=2,
        is_kept=status is GateStatus.MET,
    )  # fmt: skip
    result = suite(run(), spoilt, gates=[gate])
    document, (_, case, _) = parsed(result)
    assert isinstance(case.result[0], becomes) and (document.failures + document.errors == 0) == (
        result.exit_code == 0
    )
    assert case.result[0].text


def test_a_run_that_passed_is_a_case_without_a_result() -> None:
    case = only_case(suite(run()))
    assert case.is_passed
    assert (case.name, case.classname, case.time) == ("booking/four", "night.booking", 31.5)
    assert case.system_out.splitlines() == [
        "ended: caller-hung-up after 31.5 s",
        "first response: 812 ms",
        "response latencies: 640 ms, 1204 ms",
        "run: runs/suite-1/20260101-000000-abc",
    ]


def test_repeats_have_names_of_their_own() -> None:
    _, cases = parsed(suite(run(), run(repeat=2), run(repeat=3)))
    assert [case.name for case in cases] == ["booking/four", "booking/four #2", "booking/four #3"]


def test_the_agents_failure_has_what_was_missed_and_the_evidence() -> None:
    (result,) = only_case(suite(FAILED)).result
    assert isinstance(result, Failure)
    assert result.message == "turn 2: a response that holds 'booked': does not"
    assert result.text.splitlines() == [
        "turn 2: a response that holds 'booked': does not",
        "missed: turn 2: a response that holds 'booked': does not contain 'booked'",
        "    7.25 s: response (heard) 'Sorry, no tables.'",
        "ended: caller-hung-up after 31.5 s, cause: agent",
        "first response: 812 ms",
        "response latencies: 640 ms, 1204 ms",
        "run: runs/suite-1/20260101-000000-abc",
    ]


def test_an_unjudgeable_run_is_an_error_with_cause_and_ending() -> None:
    (result,) = only_case(suite(UNDECIDED.model_copy(update={"unmet": [MISSED]}))).result
    assert isinstance(result, Error)
    assert result.text is not None and MISSED.expected not in result.text, "there was no call to expect it of"
    assert result.message == "inconclusive (cause: room): nothing answers"
    assert result.type == "Inconclusive"
    assert "ended: room-unreachable after 0.2 s, cause: room" in result.text.splitlines()
    assert str(FOLDER) not in junit_xml(suite(UNDECIDED), FOLDER)


def test_a_cancelled_run_is_an_error() -> None:
    cancelled = run(success=None, status=Status.CANCELLED, ended_reason=EndedReason.CANCELLED, detail="stopped")
    (result,) = only_case(suite(cancelled)).result
    assert isinstance(result, Error)
    assert result.message == "inconclusive: stopped"


UNDER_WAY = OPEN.model_copy(update={"repeat": 1, "under_way": True})
STOPPED = {"stopped": "stopped by SIGINT"}
NOT_YET = (Skipped, "not made yet when this was written")
STOPPED_BEFORE = (Skipped, "not made: the suite was stopped (stopped by SIGINT)")


@pytest.mark.parametrize(
    ("left", "given", "results"),
    [
        ([UNDER_WAY, OPEN], {}, [(Error, "under way when this was written"), NOT_YET]),
        ([UNDER_WAY, UNDER_WAY], {}, [(Error, "under way when this was written")] * 2),
        ([OPEN, OPEN], {}, [(Error, "about to be made when this was written"), NOT_YET]),
        ([UNDER_WAY, OPEN], STOPPED, [(Error, "under way when this was written"), STOPPED_BEFORE]),
        ([OPEN, OPEN], STOPPED, [STOPPED_BEFORE] * 2),
    ],
)
def test_a_suite_that_dies_does_not_leave_a_green_report(
    left: list[OpenRun], given: dict[str, Any], results: list[tuple[type[Any], str]]
) -> None:
    _, cases = parsed(suite(run(), left=tuple(left), **given))
    assert cases[0].is_passed
    assert [case.name.partition("/")[2] for case in cases[1:]] == [r.title.partition("/")[2] for r in left]
    assert [(type(case.result[0]), case.result[0].message) for case in cases[1:]] == results


def test_an_unplayable_scenario_is_skipped_with_its_reason() -> None:
    skipped = SkippedScenario(scenario="booking/simulated", file="config/scenarios/booking.yaml", reason="a persona")
    document, cases = parsed(suite(run(), skipped=[skipped]))
    (result,) = cases[1].result
    assert isinstance(result, Skipped)
    assert result.message == result.text == "can't be played in a room: a persona"
    assert (cases[1].name, cases[1].classname) == ("booking/simulated", "night.booking")
    assert (document.tests, document.errors) == (2, 0)


@pytest.mark.parametrize("success", [True, False])
def test_an_earlier_attempt_is_told_with_its_reason_and_folder(success: bool) -> None:
    attempt = earlier_attempt(UNDECIDED, "inconclusive (cause: harness)", folder="20260101-000000-abb")
    told = "made again, inconclusive (cause: harness): nothing answers [runs/suite-1/20260101-000000-abb]"
    first = run() if success else FAILED
    case = only_case(suite(first.model_copy(update={"earlier_attempts": [attempt]})))
    said = case.system_out if success else case.result[0].text
    assert said.splitlines()[-1] == told


def test_warnings_are_told_of_the_run_and_of_the_suite() -> None:
    document, (case,) = parsed(suite(run(warnings=["late \x00 twice"]), warnings=["went down to 2"]))
    assert "warning: late \ufffd twice" in case.system_out.splitlines()
    (only,) = list(document)
    assert {p.name: p.value for p in only.properties()} == {"warning": "went down to 2"}


def test_a_failure_has_its_headline_and_what_was_heard() -> None:
    failure = RunFailure(
        kind=FailureKind.LATE,
        cause=Cause.AGENT,
        headline="turn 2 failed: the agent answered 1.2 s too late (limit 2 s)",
        turn=1,
        expected=MISSED.expected,
        heard="'Sorry, no tables.'",
        evidence=MISSED.evidence,
    )
    told = FAILED.model_copy(
        update={
            "failure": failure,
            "agent_exit_code": 3,
            "agent_log": "agent-1.log",
            "response_uncertainties_ms": [8.2, None],
            "refused_latencies": ["the background is too loud", "the line had gaps", "the line had gaps"],
            "warnings": ["the runner stood still"],
        }
    )
    (result,) = only_case(suite(told)).result
    assert (result.message, result.type) == (failure.headline, "late")
    assert result.text.splitlines() == [
        failure.headline,
        "    expected  a response that holds 'booked'",
        "    heard     'Sorry, no tables.'",
        "    7.25 s: response (heard) 'Sorry, no tables.'",
        "ended: caller-hung-up after 31.5 s, cause: agent",
        "the agent's process ended with exit code 3",
        "what the agent printed: runs/suite-1/agent-1.log",
        "first response: 812 ms",
        "response latencies: 640 ± 8 ms, 1204 ms",
        "3 of 5 latencies refused: the background is too loud (1); the line had gaps (2)",
        "warning: the runner stood still",
        "run: runs/suite-1/20260101-000000-abc",
    ]


def test_a_file_that_can_t_be_written_is_named_itself(tmp_path: Path) -> None:
    (tmp_path / "junit.xml").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_junit(tmp_path / "junit.xml", suite(run()), FOLDER)
    assert caught.value.filename == str(tmp_path / "junit.xml")
    assert [entry.name for entry in tmp_path.iterdir()] == ["junit.xml"]


HOSTILE = (
    "\x00\x01\x08\x0b\x1f\x7f\x85\ud800\udfff\ufffe\uffff ]]> & < > \" ' \r\n\t </failure> 😀 ü \u2028 &#0; <!--"
)


@pytest.mark.parametrize("absolute", [True, False])
def test_the_recording_of_a_run_that_did_not_pass_is_attached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absolute: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    recording = FOLDER / str(FAILED.folder) / "recording.wav"
    recording.parent.mkdir(parents=True)
    told = suite(FAILED, UNDECIDED, run(warnings=["said [[[ATTACHMENT|/etc/passwd]]"]))
    assert "[[ATTACHMENT" not in junit_xml(told, FOLDER), "a call that failed early has no recording"
    recording.touch()
    text = junit_xml(told, tmp_path / FOLDER if absolute else FOLDER)
    (only,) = list(JUnitXml.fromstring(text.encode()))
    failed, undecided, _ = list(only)
    assert failed.system_out == f"[[ATTACHMENT|{recording}]]"
    assert undecided.system_out is None
    assert text.count("[[ATTACHMENT") == 1


CASE = {"name", "classname", "file", "time"}
SUITE = {"name", "file", "timestamp", "tests", "errors", "failures", "skipped", "time"}


def test_nothing_is_in_it_that_jenkins_would_refuse() -> None:
    text = junit_xml(suite(run(), FAILED, UNDECIDED, left=(OPEN,), warnings=["w"]), FOLDER)
    root = ElementTree.fromstring(text.encode())
    assert set(root.attrib) <= {"name", "time", "tests", "failures", "errors"}
    (only,) = root
    assert set(only.attrib) <= SUITE
    assert {child.tag for child in only} == {"testcase", "properties"}
    for case in only.findall("testcase"):
        assert set(case.attrib) <= CASE
        assert {child.tag for child in case} <= {"skipped", "error", "failure", "system-out"}
        for child in case:
            assert set(child.attrib) <= {"type", "message"} and len(child) == 0


def test_nothing_that_is_said_can_break_the_file() -> None:
    verdict = MISSED.model_copy(
        update={
            "expected": HOSTILE,
            "reason": HOSTILE,
            "evidence": (Evidence(event="response", at_s=1, text=HOSTILE),),
        }
    )
    # Built without validation: a lone surrogate gets this far only by accident.
    hostile = FAILED.model_copy(
        update={"detail": HOSTILE, "scenario": HOSTILE, "file": HOSTILE, "folder": HOSTILE, "unmet": [verdict]}
    )
    undecided = UNDECIDED.model_copy(update={"detail": HOSTILE, "repeat": 2})
    left = OPEN.model_copy(update={"scenario": HOSTILE})
    skipped = SkippedScenario(scenario="s", file="f", reason="r").model_copy(
        update={"scenario": HOSTILE, "file": HOSTILE, "reason": HOSTILE}
    )
    result = suite(left=()).model_copy(
        update={
            "suite": HOSTILE,
            "file": HOSTILE,
            "stopped": HOSTILE,
            "runs": [hostile, undecided],
            "open": [left],
            "skipped": [skipped],
        }
    )
    text = junit_xml(result, FOLDER)
    text.encode("utf-8")
    root = ElementTree.fromstring(text.encode("utf-8"))
    cases = root.findall("testsuite/testcase")
    kinds = ["failure", "error", "skipped", "skipped"]
    assert [len(case.findall(kind)) for case, kind in zip(cases, kinds, strict=True)] == [1] * 4
    failure = root.find("testsuite/testcase/failure")
    assert failure is not None and failure.text is not None
    for said in (failure.get("message") or "", failure.text):
        assert "]]> & < > \" '" in said
        assert "😀 ü" in said
        assert "\x00" not in said
    assert failure.get("message", "").count("\ufffd") == 9


def test_the_file_is_replaced_whole_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "junit.xml"
    write_junit(path, suite(left=(OPEN,)), FOLDER)
    write_junit(path, suite(run()), FOLDER)
    assert [entry.name for entry in path.parent.iterdir()] == ["junit.xml"]
    assert len(list(next(iter(JUnitXml.fromfile(str(path)))))) == 1
    assert path.read_text(encoding="utf-8").startswith('<?xml version="1.0" encoding="utf-8"?>\n<testsuites ')
