"""The command `compare`, and what `run` refuses of baselines and gates before anybody is called."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from junitparser import Error
from loguru import logger

from runner.calls.suite_facts import runs_of_suite
from runner.calls.suite_file import SuiteResult
from runner.cli import main
from runner.cli.weighing import Weighing
from runner.comparison.baseline import read_baseline, write_baseline
from runner.scenarios.suites import load_suite
from runner.settings import Settings
from tests.comparison.runs import run_set, runs
from tests.reports.test_junit import parsed, run, suite

SUITE = "name: night\nagent: { url: 'http://127.0.0.1:9' }\nretry_inconclusive: 0\nscenarios: [listen.yaml]\n"


@pytest.fixture(autouse=True)
def folder(bare_folder: Path) -> Iterator[Path]:
    (bare_folder / "listen.yaml").write_text("name: listen\nturns: [{ expect: [{ event: response }] }]\n")
    (bare_folder / "suite.yaml").write_text(SUITE)
    (bare_folder / "far.yaml").write_text(SUITE.replace("listen.yaml", "far/listen.yaml"))
    (bare_folder / "far").mkdir()
    (bare_folder / "far" / "listen.yaml").write_text("name: far\nturns: [{ expect: [{ event: response }] }]\n")
    for name, sides in (("good", (20, 0)), ("same", (5, 0)), ("bad", (1, 4)), ("few", (2, 0))):
        write_baseline(bare_folder / f"{name}.json", run_set(runs(name, *sides)))
    yield bare_folder
    logger.remove()


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(
    ("current", "code", "said"),
    [
        ("same", 0, "booking UNCHANGED 20/20→5/5"),
        ("bad", 1, "booking REGRESSED 20/20→1/5 (p .0008)"),
        ("few", 2, "booking TOO FEW RUNS 20/20→2/2"),
    ],
)
def test_two_baselines_are_compared(current: str, code: int, said: str) -> None:
    result = invoke("compare", "good.json", f"{current}.json")
    assert result.exit_code == code, result.output
    assert result.stdout.startswith(said)
    assert "\nsuite " in result.stdout and "note: base and current were made in different sessions" in result.stdout


def test_a_comparison_can_be_read_by_machines() -> None:
    result = invoke("compare", "good.json", "bad.json", "--json")
    told = json.loads(result.stdout)
    assert (told["change"], told["exit_code"], result.exit_code) == ("regressed", 1, 1)
    assert told["scenarios"][0]["pass_rate"]["current_passed"] == 1


def test_a_comparison_can_be_opened_in_a_browser(folder: Path) -> None:
    result = invoke("compare", "good.json", "bad.json", "--html", "pages/c.html")
    assert result.exit_code == 1 and result.stdout.startswith("booking REGRESSED")
    page = (folder / "pages" / "c.html").read_text()
    assert "<h1>Regressed: 1 of 1 scenario.</h1>" in page and "bad.json against good.json" in page


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (("good.json", "nowhere.json"), "nowhere.json: can't be read (No such file or directory)"),
        (("suite.yaml", "good.json"), "suite.yaml: not a baseline (Invalid JSON"),
        ((".", "good.json"), ".: holds no suite.json and no run.json"),
        (("good.json", "good.json"), "base and current are the same runs"),
        (("result:x", "good.json"), "result:x: a result is named by its number"),
        (("result:1", "good.json"), "SCENARIO_RUNNER_API_URL"),
    ],
)
def test_what_can_t_be_compared_is_one_line(sources: tuple[str, str], said: str) -> None:
    result = invoke("compare", *sources)
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and said in line


def test_an_api_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENARIO_RUNNER_API_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SCENARIO_RUNNER_API_KEY", "s3cr3t")
    result = invoke("compare", "result:1", "good.json")
    assert result.exit_code == 2 and "does not answer" in result.stderr and "s3cr3t" not in result.output


def test_without_the_libraries_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in __import__("sys").modules if name.startswith("runner.comparison.")]:
        monkeypatch.delitem(__import__("sys").modules, module)
    monkeypatch.setitem(__import__("sys").modules, "scipy.stats", None)
    result = invoke("compare", "good.json", "same.json")
    assert result.exit_code == 2
    assert "'compare' (scipy.stats is not installed): install the runner again with it added" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--baseline", "nowhere.json"), "nowhere.json: can't be read"),
        (("--baseline", "good.json"), "good.json: has no scenario in common with suite.yaml"),
        (("--save-baseline", "suite.yaml"), "suite.yaml: not a baseline"),
        (("--save-baseline", "nowhere/base.json"), "there is no folder nowhere"),
        (("--save-baseline", "base.json", "-k", "listen"), "--save-baseline and -k"),
        (("--save-baseline", "base.json", "--last-failed"), "--save-baseline and --last-failed"),
        (("--against", "other"), "neither a suite file (.yaml, .yml) nor an address"),
        (("--against", "https://x.daily.co/room"), "a Daily room holds one call"),
        (("--against", "far.yaml"), "far.yaml: has no scenario in common with suite.yaml"),
        (("--against", "suite.yaml", "--baseline", "good.json"), "a suite is compared with one of them"),
    ],
)
def test_what_a_suite_can_t_be_held_against_is_known_before(
    folder: Path, options: tuple[str, ...], said: str
) -> None:
    result = invoke("run", "suite.yaml", *options, "--out", "out")
    assert result.exit_code == 2 and said in result.stderr, result.output
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ("{ pass_rate: 1.5 }", "suite.yaml:5: pass_rate must be from 0.01 to 1"),
        ("{ p95_latency_ms: fast }", "suite.yaml:5: p95_latency_ms must be a number"),
        ("{ p99: 1 }", "suite.yaml:5: unknown key 'p99'"),
        ("{}", "suite.yaml:5: gates must hold pass_rate or p95_latency_ms"),
        ("0.95", "suite.yaml:5: gates must be a mapping"),
    ],
)
def test_wrong_gates_are_told_with_their_line(folder: Path, gates: str, said: str) -> None:
    (folder / "suite.yaml").write_text(f"{SUITE}gates: {gates}\n")
    result = invoke("run", "suite.yaml")
    assert result.exit_code == 2 and said in result.stderr, result.output


def test_runs_are_saved_and_further_sessions_added(folder: Path) -> None:
    # Nobody answers: the runs are inconclusive, and kept as that.
    first = invoke("run", "suite.yaml", "--repeat", "2", "--out", "one", "--save-baseline", "base.json")
    assert "base.json: saved; 1 session, 2 runs" in first.stdout
    against = ("--baseline", "base.json", "--save-baseline", "base.json")
    reports = ("--junit", "junit.xml", "--markdown", "summary.md")
    second = invoke("run", "suite.yaml", "--out", "two", *against, *reports)
    assert "base.json: saved; 2 sessions, 3 runs" in second.stdout
    assert "listen TOO FEW RUNS 0/0→0/0" in second.stdout and second.exit_code == 2
    for report in ("junit.xml", "summary.md"):
        assert "listen TOO FEW RUNS 0/0→0/0" in (folder / report).read_text(), "they are written once more at the end"
    saved = read_baseline(folder / "base.json")
    assert [run.success for run in saved.runs] == [None] * 3
    told = json.loads((folder / "two" / "suite.json").read_text())
    assert told["comparison"]["change"] == "too_few" and told["exit_code"] == 2


def test_a_comparison_that_fails_stands_beside_the_runs(folder: Path) -> None:
    result, kept = suite(run(folder=None)), list[SuiteResult]()
    weighing = Weighing(load_suite(folder / "suite.yaml", Settings()), runs_of_suite(folder, result))
    weighed = weighing.weigh(folder, result, None, kept.append)
    assert kept == [weighed] and (weighed.exit_code, weighed.runs) == (2, result.runs)
    assert "the same runs" in weighed.warnings[-1]
    _, (_, case) = parsed(weighed)
    assert [type(one) for one in case.result] == [Error]


def test_a_suite_runs_in_turns_with_another(folder: Path) -> None:
    result = invoke("run", "suite.yaml", "--against", "http://127.0.0.1:10", "--out", "out", "--json")
    assert result.exit_code == 2
    told = json.loads(result.stdout)
    assert told["comparison"]["interleaved"] is True
    assert "base: listen" in result.stderr and "current: listen" in result.stderr
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["base", "current"]
    again = invoke("compare", "out/base", "out/current", "--json")
    assert json.loads(again.stdout) == told["comparison"]


def test_as_many_at_once_on_both_sides_as_the_suite_says(folder: Path) -> None:
    (folder / "other.yaml").write_text((folder / "suite.yaml").read_text())
    result = invoke("run", "suite.yaml", "--against", "other.yaml", "--concurrency", "3", "--out", "out", "--json")
    assert not [said for said in json.loads(result.stdout)["comparison"]["warnings"] if "concurrency" in said]
