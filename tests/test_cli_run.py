"""The command `run`: what it refuses before anybody is called, and what it prints where no call can be made."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from junitparser import JUnitXml
from loguru import logger

from runner.calls.suite_file import SuiteResult
from runner.cli import main
from runner.errors import UsageError
from runner.scenarios.suites import Suite

SUITE = "name: night\nagent: { url: 'http://127.0.0.1:9' }\nscenarios: [listen.yaml]\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in list(os.environ):
        if name.upper().startswith("SCENARIO_RUNNER_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "listen.yaml").write_text("name: listen\nturns: [{ expect: [{ event: response }] }]\n")
    (tmp_path / "suite.yaml").write_text(SUITE)
    yield tmp_path
    logger.remove()


def seen(tokens: list[str | None]) -> Callable[..., Any]:
    """Return what notes a suite's token where the suite would be run."""

    def look(suite: Suite, *args: Any, **more: Any) -> Any:
        tokens.append(suite.token and suite.token.get_secret_value())
        raise UsageError("seen")

    return look


def run(*options: str, stdin: str = "") -> Result:
    return CliRunner().invoke(main, ["run", *options], input=stdin)


def test_a_mistake_in_the_suite_is_one_line_and_writes_nothing(folder: Path) -> None:
    (folder / "suite.yaml").write_text(SUITE + "repaet: 3\n")
    result = run("suite.yaml", "--junit", "junit.xml")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == "error: suite.yaml:4: unknown key 'repaet' in the file; did you mean 'repeat'?\n"
    assert not (folder / "runs").exists() and not (folder / "junit.xml").exists()


@pytest.mark.parametrize("option", [("--repeat", "0"), ("--concurrency", "65"), ("--repeat", "often")])
def test_numbers_out_of_bounds_are_refused(option: tuple[str, str]) -> None:
    assert run("suite.yaml", *option).exit_code == 2


def test_where_nobody_answers_there_are_results_all_the_same(folder: Path) -> None:
    result = run("suite.yaml", "--repeat", "2", "--out", "out", "--junit", "reports/junit.xml", "--json")
    assert result.exit_code == 2
    told = json.loads(result.stdout)
    assert told == json.loads((folder / "out" / "suite.json").read_text())
    assert [(r["ended_reason"], r["cause"], r["exit_code"]) for r in told["runs"]] == [
        ("room-unreachable", "room", 2)
    ] * 2
    counts = {"runs": 2, "passed": 0, "failed": 0, "inconclusive": 2, "open": 0, "skipped": 0}
    assert told["totals"] == counts | {"success_rate": None}
    assert "2/2  inconclusive  listen #2" in result.stderr
    assert "inconclusive: 0 of 2 runs passed, 2 inconclusive" in result.stderr
    (suite,) = list(JUnitXml.fromfile("reports/junit.xml"))
    assert (suite.tests, suite.errors) == (2, 2)


def test_an_unwritable_report_is_known_before_the_first_call(folder: Path) -> None:
    (folder / "reports").write_text("a file")
    result = run("suite.yaml", "--out", "out", "--junit", "reports/junit.xml")
    assert result.exit_code == 2
    assert result.stderr == "error: reports: can't be written (File exists)\n"
    assert not (folder / "out").exists(), "the folder is still to be had"
    (folder / "reports").unlink()
    assert "2/2" in run("suite.yaml", "--repeat", "2", "--out", "out", "--junit", "reports/junit.xml").stdout


@pytest.mark.parametrize("html", ["listen.yaml/x.html", "."])
def test_a_page_that_can_t_be_written_is_known_before_the_first_call(folder: Path, html: str) -> None:
    result = run("suite.yaml", "--out", "out", "--html", html)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: --html: ") and len(result.stderr.splitlines()) == 1
    assert not (folder / "out").exists(), "the folder is still to be had"


def test_a_suite_has_a_page_and_so_has_each_of_its_calls(folder: Path) -> None:
    result = run("suite.yaml", "--out", "out", "--html", "pages/suite.html")
    assert result.stdout.splitlines()[-1] == "  report: pages/suite.html"
    [call] = (folder / "out").glob("*/report.html")
    assert f'href="../out/{call.parent.name}/report.html"' in (folder / "pages" / "suite.html").read_text()
    assert f"  listen: out/{call.parent.name}/report.html" in result.stdout


def test_a_report_that_is_a_folder_is_named_itself(folder: Path) -> None:
    (folder / "junit.xml").mkdir()
    result = run("suite.yaml", "--out", "out", "--junit", "junit.xml")
    assert result.exit_code == 2
    assert result.stderr == "error: junit.xml: can't be written (Is a directory)\n"
    assert not (folder / "out").exists()


def test_results_that_are_lost_are_one_error_and_not_a_pass(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "reports").mkdir()

    def lose(path: Path, result: SuiteResult, folder: Path) -> None:
        if result.runs:
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("runner.reports.junit.write_junit", lose)
    result = run("suite.yaml", "--out", "out", "--junit", "reports/junit.xml", "--json")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == (
        "error: reports/junit.xml: can't be written (No space left on device); the suite's last results are not in it"
    )


def test_what_can_t_be_played_is_told_and_the_rest_is_run(folder: Path) -> None:
    (folder / "listen.yaml").write_text(
        "name: listen\nscenarios:\n  - { name: a, turns: [{ expect: [{ event: response }] }] }\n"
        "  - { name: b, persona: A caller. }\n"
    )
    result = run("suite.yaml", "--out", "out", "--junit", "junit.xml")
    told = json.loads((folder / "out" / "suite.json").read_text())
    assert [(s["scenario"], s["file"]) for s in told["skipped"]] == [("listen/b", "listen.yaml")]
    assert "persona:" in told["skipped"][0]["reason"]
    assert "skipped: it is a simulation (persona:)" in result.stdout
    (suite,) = list(JUnitXml.fromfile("junit.xml"))
    assert (suite.tests, suite.errors, suite.skipped) == (2, 1, 1)


@pytest.mark.parametrize(
    ("options", "stdin", "variable", "sent"),
    [
        ((), "", None, "of-the-file"),
        (("--token", "given"), "", "of-ours", "given"),
        (("--token", "-"), "piped\n", None, "piped"),
    ],
)
def test_the_token_given_goes_before_the_one_of_the_file(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    stdin: str,
    variable: str | None,
    sent: str,
) -> None:
    tokens: list[str | None] = []

    monkeypatch.setattr("runner.calls.suite.SuiteRunner", seen(tokens))
    monkeypatch.setenv("AGENT_TOKEN", "of-the-file")
    if variable is not None:
        monkeypatch.setenv("SCENARIO_RUNNER_TOKEN", variable)
    (folder / "suite.yaml").write_text(SUITE.replace(" }", ", token: env:AGENT_TOKEN }"))
    run("suite.yaml", *options, stdin=stdin)
    assert tokens == [sent]


def test_without_a_token_in_the_file_ours_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens: list[str | None] = []

    monkeypatch.setattr("runner.calls.suite.SuiteRunner", seen(tokens))
    run("suite.yaml")
    monkeypatch.setenv("SCENARIO_RUNNER_TOKEN", "ours")
    run("suite.yaml")
    assert tokens == [None, "ours"]


def test_scenarios_are_chosen_by_name_or_tag(folder: Path) -> None:
    (folder / "listen.yaml").write_text(
        "name: all\nscenarios:\n  - { name: a, tags: [smoke], turns: [{ expect: [{ event: response }] }] }\n"
        "  - { name: b, turns: [{ expect: [{ event: response }] }] }\n"
    )
    result = run("suite.yaml", "-k", "smoke and not b", "--out", "out")
    told = json.loads((folder / "out" / "suite.json").read_text())
    assert [r["scenario"] for r in told["runs"]] == ["all/a"]
    assert "1 run," in result.stdout
    refused = run("suite.yaml", "-k", "(a", "--out", "other")
    assert (refused.exit_code, refused.stderr) == (2, "error: -k: ends where ) is expected\n")
    assert not (folder / "other").exists()


def test_the_last_failed_are_run_and_there_may_be_none(folder: Path) -> None:
    none = run("suite.yaml", "--last-failed")
    assert none.exit_code == 2
    assert none.stderr == "error: --last-failed: no earlier run of suite.yaml in runs; run it once without\n"
    assert run("suite.yaml", "--repeat", "2", "--out", "results/one").exit_code == 2
    again = run("suite.yaml", "--repeat", "3", "--last-failed", "--out", "results/two")
    assert "2 runs," in again.stdout and "listen #3" not in again.stdout
    two = folder / "results" / "two" / "suite.json"
    told = json.loads(two.read_text())
    for done in told["runs"]:
        done["success"] = True
    two.write_text(json.dumps(told))
    passed = run("suite.yaml", "--last-failed", "--out", "results/three")
    assert passed.exit_code == 0
    assert passed.stdout == f"nothing to run: every run in {folder / 'results' / 'two'} passed\n"


def test_a_markdown_summary_is_written(folder: Path) -> None:
    (folder / "summary.md").write_text("of another step\n")
    assert run("suite.yaml", "--out", "out", "--markdown", "summary.md").exit_code == 2
    summary = (folder / "summary.md").read_text()
    assert summary.startswith("<h3>⚠️ inconclusive: <code>night</code></h3>")
    assert "room-unreachable" in summary or "no answer" in summary
