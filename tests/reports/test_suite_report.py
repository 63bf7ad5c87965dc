"""A suite on the terminal: lines as runs end, the time that is left, and the closing table."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bots.timeline import EndedReason
from runner.calls.suite_file import OpenRun, SkippedScenario, SuiteResult, SuiteRun
from runner.evaluation.failure import Failure, FailureKind
from runner.evaluation.outcome import Status
from runner.evaluation.verdicts import Cause
from runner.reports.suite import SuiteReport, print_suite
from runner.scenarios.suites import Suite, load_suite
from runner.settings import Settings


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    (tmp_path / "a.yaml").write_text("name: a [b]\nturns: [{ expect: [{ event: response }] }]\n")
    (tmp_path / "suite.yaml").write_text(
        "name: night [x]\nagent: { url: 'http://a' }\nrepeat: 4\nconcurrency: 2\nscenarios: [a.yaml]\n"
    )
    return load_suite(tmp_path / "suite.yaml", Settings())


def run(success: bool | None, repeat: int = 1, **given: Any) -> SuiteRun:
    return SuiteRun.model_validate(
        {
            "scenario": "a [b]",
            "file": "a.yaml",
            "repeat": repeat,
            "status": Status.COMPLETED,
            "success": success,
            "cause": {True: None, False: Cause.AGENT, None: Cause.ROOM}[success],
            "ended_reason": EndedReason.CALLER_HUNG_UP if success is not None else EndedReason.ROOM_UNREACHABLE,
            "detail": None if success else "said [red]nothing[/red]",
            "started_at": "2026-01-01T00:00:00.000Z",
            "duration_s": 10.0,
            **given,
        }
    )


def console(width: int = 120, *, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=terminal)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_each_ended_run_is_one_plain_line(suite: Suite) -> None:
    plain = console(40)
    with SuiteReport(plain, suite) as report:
        for planned, success in zip(suite.runs, [True, False, None], strict=False):
            report.begun(planned)
            report.ended(planned, run(success))
        report.begun(suite.runs[3])
        report.ended(suite.runs[3], None)
    assert text_of(plain).splitlines() == [
        "night [x]: 4 runs, 2 at a time",
        "      1/4  passed        a [b]  10.0 s",
        "      2/4  failed        a [b] #2  10.0 s  caller-hung-up: said [red]nothing[/red]",
        "      3/4  inconclusive  a [b] #3  10.0 s  room-unreachable (room): said [red]nothing[/red]",
    ]


def test_the_status_counts_and_names_what_is_under_way(suite: Suite) -> None:
    clock = Clock()
    report = SuiteReport(console(), suite, clock=clock)
    report.begun(suite.runs[0])
    report.begun(suite.runs[1])
    assert report.time_left_s() is None
    assert report.status().plain == "  0/4 done: 0 passed, 0 failed, 0 inconclusive\n  now: a [b], a [b] #2"
    report.call_over(suite.runs[1])
    assert report.status().plain.endswith("now: a [b], a [b] #2 (call over, recognising)")
    clock.now_s += 60
    report.ended(suite.runs[0], run(True))
    report.begun(suite.runs[2])
    # One waits (60 s), one is just begun (60 s), one is as long under way as the first took: two at a time.
    assert report.time_left_s() == 60
    assert "1/4 done: 1 passed" in report.status().plain
    assert "1 min 00 s left" in report.status().plain


def test_on_a_terminal_it_is_shown_and_taken_away_again(suite: Suite) -> None:
    live = console(terminal=True)
    with SuiteReport(live, suite) as report:
        report.begun(suite.runs[0])
        report.ended(suite.runs[0], run(True))
    assert "passed" in text_of(live)


def test_the_closing_table_has_a_line_a_scenario_failures_first() -> None:
    result = SuiteResult(
        suite="night",
        file="night.yaml",
        started_at="2026-01-01T00:00:00.000Z",
        finished=True,
        runs=[run(None), run(False, 2), run(True, 3), run(True, scenario="c"), run(None, scenario="d")],
        open=[OpenRun(scenario="e", file="e.yaml", repeat=1), OpenRun(scenario="e", file="e.yaml", repeat=2)],
    )
    plain = console()
    print_suite(plain, result, "runs/[1]")
    lines = [" ".join(line.split()) for line in text_of(plain).splitlines() if line.strip()]
    assert lines == [
        "scenario passed failed inconclusive first reason",
        "a [b] 1 1 1 caller-hung-up: said [red]nothing[/red]",
        "c 1 0 0",
        "d 0 0 1 room-unreachable (room): said [red]nothing[/red]",
        "e 0 0 0 2 runs not made",
        "failed: 2 of 7 runs passed, 1 failed, 2 inconclusive, 2 not made",
        "success rate 66.7 %: of the 3 with a verdict",
        "runs/[1]",
    ]


LONG = "a reason that goes on for longer than anything that is as wide as a terminal without one is thought to be"


def closing(shown: Console) -> str:
    result = SuiteResult(
        suite="night",
        file="night.yaml",
        started_at="2026-01-01T00:00:00.000Z",
        finished=True,
        runs=[run(False, scenario="booking/table_for_four_at_a_quarter_past_seven", detail=LONG)],
        open=[],
        skipped=[SkippedScenario(scenario="booking/simulated", file="a.yaml", reason=f"{LONG} (persona:)")],
    )
    print_suite(shown, result, "runs/1")
    return text_of(shown)


def test_what_was_skipped_is_listed_with_its_reason() -> None:
    lines = [" ".join(line.split()) for line in closing(console(400)).splitlines()]
    assert f"booking/simulated 0 0 0 skipped: {LONG} (persona:)" in lines
    assert "failed: 0 of 1 run passed, 1 failed, 1 scenario skipped" in lines


def test_without_a_terminal_the_closing_table_is_not_folded() -> None:
    told = closing(console(60))
    assert LONG in told
    assert "booking/table_for_four_at_a_quarter_past_seven " in told
    assert max(map(len, closing(console(60, terminal=True)).splitlines())) < 200


def test_at_80_columns_no_word_is_broken_and_the_next_step_is_said() -> None:
    failure = Failure(
        kind=FailureKind.WRONG,
        cause=Cause.AGENT,
        headline="turn 3: the answer does not contain 'thirty dollars'",
        expected="an answer that contains 'thirty dollars', within 12 s of the caller's question",
        heard="It's three hundred dollars for the whole evening, drinks and service included.",
    )
    name = "restaurant/stops_when_it_is_interrupted"
    failed = run(False, scenario=name, folder="stops_when_interrupted-2", failure=failure)
    result = SuiteResult(
        suite="night", file="night.yaml", started_at="x", finished=True, runs=[failed, run(True)], open=[]
    )
    narrow = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    print_suite(narrow, result, "runs/suite-1")
    told = text_of(narrow)
    assert max(map(len, told.splitlines())) <= 80
    whole = " ".join(told.split())
    for text in (name, f"wrong: {failure.headline}", f"expected {failure.expected}", f"heard {failure.heard}"):
        assert text in whole
    assert "scenario-runner replay runs/suite-1/stops_when_interrupted-2" in [
        line.strip() for line in told.splitlines()
    ]


def test_what_the_agent_printed_is_one_path_away() -> None:
    failure = Failure(kind=FailureKind.NO_ROOM, cause=Cause.ROOM, headline="the agent ended with exit code 1")
    dead = run(None, agent_log="agent-1.log").model_copy(update={"failure": failure})
    result = SuiteResult(suite="n", file="n", started_at="x", finished=True, runs=[dead], open=[])
    shown = console()
    print_suite(shown, result, "runs/1")
    assert "    what the agent printed: runs/1/agent-1.log" in text_of(shown).splitlines()


def test_no_control_code_reaches_the_terminal(suite: Suite) -> None:
    plain = console()
    with SuiteReport(plain, suite) as report:
        report.begun(suite.runs[0])
        report.ended(suite.runs[0], run(False, detail="\x1b[2Jgone\x07"))
    print_suite(
        plain,
        SuiteResult(
            suite="night", file="n", started_at="x", finished=True, runs=[run(False, detail="\x1b[2Jgone")], open=[]
        ),
        "runs/1",
    )
    assert "gone" in text_of(plain)
    assert "\x1b" not in text_of(plain) and "\x07" not in text_of(plain)
