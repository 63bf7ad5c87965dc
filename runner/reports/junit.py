"""JUnit XML of a suite, as the test reports of GitHub, GitLab and Jenkins read it.

It keeps to what they have in common: Jenkins' schema (junit-10.xsd of its xUnit plugin) knows no properties of a test
case and no ``skipped`` of the whole; GitLab shows the text of an element and not its message, and links ``file`` and
the first ``[[ATTACHMENT|path]]`` of a test case's ``system-out``.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from junitparser import Attr, Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from runner.calls.recording import FILE_NAME as RECORDING
from runner.calls.suite_file import OpenRun, SkippedScenario, SuiteResult, SuiteRun
from runner.comparison.wording import gate_line
from runner.files import write_atomically
from runner.reports.comparison import comparison_lines
from runner.reports.evidence import headline_of, run_lines, verdict_words

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 can't hold, not even escaped."""


class _Case(TestCase):
    file = Attr()


class _Suite(TestSuite):
    file = Attr()
    testcase = _Case


def write_junit(path: Path, result: SuiteResult, folder: Path) -> None:
    """Write a suite's result as JUnit XML, atomically.

    Raises:
        OSError: It can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, junit_xml(result, folder))


def junit_xml(result: SuiteResult, folder: Path) -> str:
    """Return a suite's result as JUnit XML.

    A run in which the agent failed is a failure. An inconclusive one is an error, with its cause: it is no failure of
    the agent, and no reason to believe that it works; the suite is not green with it, as its exit code is not 0.
    Where thresholds or a baseline are kept, and so decide in place of the single runs, both are skipped.
    A run without a result and a scenario that can't be played are skipped. As long as the suite is not over there is
    an error in it, also before its first run: it may be the last that is written. Thresholds and a
    comparison are cases as well, once the suite was held against them. Times are in seconds.
    """
    suite = _Suite(_text(result.suite))
    suite.file = _text(result.file)
    suite.timestamp = result.started_at.removesuffix("Z")
    cases = [_case(result, run, folder) for run in result.runs]
    cases += [_open_case(result, run, first=index == 0) for index, run in enumerate(result.open)]
    cases += [_skipped_case(result, scenario) for scenario in result.skipped]
    cases += [_weighed_case(result, f"gate {gate.gate}", gate.exit_code, [gate_line(gate)]) for gate in result.gates]
    if result.unweighed:
        cases.append(_weighed_case(result, "comparison", 2, result.warnings[-1:]))
    if result.comparison is not None:
        lines = [*comparison_lines(result.comparison)]
        cases.append(_weighed_case(result, "comparison", result.comparison.exit_code, lines))
    suite.add_testcases(cases)
    for warning in result.warnings:
        suite.add_property("warning", _text(warning))
    document = JUnitXml(_text(result.suite))
    document.add_testsuite(suite)
    document.update_statistics()
    root = ElementTree.fromstring(document.tostring())  # noqa: S314 - our own
    del root.attrib["skipped"]
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _named_case(result: SuiteResult, run: SuiteRun | OpenRun | SkippedScenario) -> TestCase:
    case = _Case(_text(run.title), _text(f"{result.suite}.{Path(run.file).stem}"))
    case.file = _text(run.file)
    return case


def _open_case(result: SuiteResult, run: OpenRun, *, first: bool) -> TestCase:
    case = _named_case(result, run)
    if run.under_way:
        case.append(Error("under way when this was written", "Inconclusive"))
    elif result.stopped is not None:
        case.append(_skipped(f"not made: the suite was stopped ({result.stopped})"))
    elif first and not any(other.under_way for other in result.open):
        case.append(Error("about to be made when this was written", "Inconclusive"))
    else:
        case.append(_skipped("not made yet when this was written"))
    return case


def _skipped_case(result: SuiteResult, scenario: SkippedScenario) -> TestCase:
    case = _named_case(result, scenario)
    case.append(_skipped(f"can't be played in a room: {scenario.reason}"))
    return case


def _weighed_case(result: SuiteResult, name: str, exit_code: int, lines: Sequence[str]) -> TestCase:
    case = _Case(name, _text(result.suite))
    case.file = _text(result.file)
    said = _text("\n".join(lines))
    if exit_code:
        outcome = Failure(_text(lines[0]), "Missed") if exit_code == 1 else Error(_text(lines[0]), "Inconclusive")
        outcome.text = said
        case.append(outcome)
    else:
        case.system_out = _without_attachments(said)
    return case


def _skipped(reason: str) -> Skipped:
    skipped = Skipped(_text(reason))
    skipped.text = _text(reason)
    return skipped


def _case(result: SuiteResult, run: SuiteRun, folder: Path) -> TestCase:
    case = _named_case(result, run)
    case.time = run.duration_s
    out = _system_out(run, folder)
    if out:
        case.system_out = _text(out)
    if run.success:
        return case
    headline = headline_of(run.failure, run.detail, run.ended_reason)
    if result.exit_code == 0:
        # What the thresholds or a baseline decide: a failure in the file would turn a suite red that is green.
        case.append(_skipped(f"did not pass, as the suite's thresholds allow: {headline}"))
        case.result[0].text = _text("\n".join(run_lines(run, folder)))
        return case
    if run.success is False:
        outcome = Failure(_text(headline), "AgentFailed" if run.failure is None else run.failure.kind.value)
    else:
        verdict = verdict_words(run.success, run.cause, run.failure)
        outcome = Error(_text(f"{verdict}: {headline}"), "Inconclusive")
    # GitLab shows the text and not the message.
    outcome.text = _text("\n".join(run_lines(run, folder)))
    case.append(outcome)
    return case


def _system_out(run: SuiteRun, folder: Path) -> str:
    """Return what there is to know of a run that passed, and the recording of one that did not."""
    if run.success:
        return _without_attachments("\n".join(run_lines(run, folder)[1:]))
    recording = None if run.folder is None else folder / run.folder / RECORDING
    if recording is None or not recording.is_file():
        return ""
    if recording.is_absolute() and recording.is_relative_to(Path.cwd()):
        # GitLab reads it relative to the project.
        recording = recording.relative_to(Path.cwd())
    return f"[[ATTACHMENT|{recording}]]"


def _without_attachments(text: str) -> str:
    """Return words of others so that they attach nothing."""
    return re.sub(r"\[(?=\[)", "[ ", text)


def _text(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
