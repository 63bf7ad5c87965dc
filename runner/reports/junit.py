"""JUnit XML of a suite, as GitHub's and GitLab's test reports read it."""

import re
from pathlib import Path

from junitparser import Attr, Error, Failure, JUnitXml, Properties, Property, Skipped, TestCase, TestSuite

from runner.calls.suite_file import OpenRun, SkippedScenario, SuiteResult, SuiteRun
from runner.files import write_atomically
from runner.reports.evidence import attempt_line, headline_of, run_lines, verdict_words

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 can't hold, not even escaped."""


class _Case(TestCase):
    file = Attr()


class _Suite(TestSuite):
    file = Attr()
    testcase = _Case


def write_junit(path: Path, result: SuiteResult, folder: Path) -> None:
    """Write a suite's result as JUnit XML, atomically.

    Args:
        path: The file; its folder is made if it is not there.
        result: The suite's result, as it stands.
        folder: The suite's folder.

    Raises:
        OSError: It can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, junit_xml(result, folder))


def junit_xml(result: SuiteResult, folder: Path) -> str:
    """Return a suite's result as JUnit XML.

    A run in which the agent failed is a failure. An inconclusive one is an error, with its cause: it is no failure of
    the agent, and no reason to believe that it works; the suite is not green with it, as its exit code is not 0.
    A run without a result and a scenario that can't be played are skipped. As long as the suite is not over there is
    an error in it, also before its first run: it may be the last that is written. Times are in seconds.

    Args:
        result: The suite's result, as it stands.
        folder: The suite's folder, which the runs' folders are shown below.
    """
    suite = _Suite(_text(result.suite))
    suite.file = _text(result.file)
    suite.timestamp = result.started_at.removesuffix("Z")
    cases = [_case(result, run, folder) for run in result.runs]
    cases += [_open_case(result, run, first=index == 0) for index, run in enumerate(result.open)]
    cases += [_skipped_case(result, scenario) for scenario in result.skipped]
    suite.add_testcases(cases)
    for warning in result.warnings:
        suite.add_property("warning", _text(warning))
    document = JUnitXml(_text(result.suite))
    document.add_testsuite(suite)
    document.update_statistics()
    return '<?xml version="1.0" encoding="utf-8"?>\n' + document.tostring().decode("utf-8") + "\n"


def _named_case(result: SuiteResult, run: SuiteRun | OpenRun | SkippedScenario) -> TestCase:
    case = _Case(_text(run.title), _text(f"{result.suite}.{Path(run.file).stem}"))
    case.file = _text(run.file)
    return case


def _open_case(result: SuiteResult, run: OpenRun, *, first: bool) -> TestCase:
    case = _named_case(result, run)
    if run.under_way:
        case.append(Error("under way when this was written", "Inconclusive"))
    elif result.stopped is not None:
        case.append(Skipped(_text(f"not made: the suite was stopped ({result.stopped})")))
    elif first and not any(other.under_way for other in result.open):
        case.append(Error("about to be made when this was written", "Inconclusive"))
    else:
        case.append(Skipped("not made yet when this was written"))
    return case


def _skipped_case(result: SuiteResult, scenario: SkippedScenario) -> TestCase:
    case = _named_case(result, scenario)
    case.append(Skipped(_text(f"can't be played in a room: {scenario.reason}")))
    return case


def _case(result: SuiteResult, run: SuiteRun, folder: Path) -> TestCase:
    case = _named_case(result, run)
    case.time = run.duration_s
    properties = Properties()
    if run.folder is not None:
        properties.add_property(Property("run_folder", _text(str(folder / run.folder))))
    properties.add_property(Property("ended_reason", run.ended_reason.value))
    if run.cause is not None:
        properties.add_property(Property("cause", run.cause.value))
    for attempt in run.earlier_attempts:
        kept = None if attempt.folder is None else str(folder / attempt.folder)
        properties.add_property(Property("earlier_attempt", _text(attempt_line(attempt, kept))))
    for warning in run.warnings:
        properties.add_property(Property("warning", _text(warning)))
    case.append(properties)
    if run.success:
        return case
    headline = headline_of(run.failure, run.detail, run.ended_reason)
    if run.success is False:
        outcome = Failure(_text(headline), "AgentFailed" if run.failure is None else run.failure.kind.value)
    else:
        verdict = verdict_words(run.success, run.cause, run.failure)
        outcome = Error(_text(f"{verdict}: {headline}"), "Inconclusive")
    # GitLab shows the text and not the message.
    outcome.text = _text("\n".join(run_lines(run, folder)))
    case.append(outcome)
    return case


def _text(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
