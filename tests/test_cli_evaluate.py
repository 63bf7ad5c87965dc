"""The command `evaluate`: what it prints, what it writes, and its exit codes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from loguru import logger

from bots.timeline import CallEnded, EndedReason, TimelineEvent
from runner.calls.suite_file import SuiteResult, write_suite
from runner.cli import main
from tests.calls.test_evaluate import FACTS, rewritten, s, stored, suite_run

WRONG: list[TimelineEvent] = [
    *FACTS[:-2],
    CallEnded(at_ns=s(9.5), reason=EndedReason.AGENT_LEFT),
    FACTS[-1].model_copy(update={"text": "No tables today."}),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    logger.remove()


def evaluate(*options: str) -> Result:
    return CliRunner().invoke(main, ["evaluate", "--no-measure", *options])


@pytest.mark.parametrize(
    ("facts", "word", "code"),
    [
        (FACTS, "passed", 0),
        (WRONG, "failed", 1),
        ([*FACTS[:3], CallEnded(at_ns=s(1), reason=EndedReason.ICE_FAILED)], "inconclusive", 2),
    ],
)
def test_the_summary_and_the_exit_code_are_those_of_the_verdict(
    facts: list[TimelineEvent], word: str, code: int
) -> None:
    stored(Path("r"), facts)
    before = Path("r/run.json").read_bytes()
    result = evaluate("r")
    assert result.exit_code == code, result.output
    [folder] = [i for i, line in enumerate(result.stdout.splitlines()) if line == "  r"]
    assert result.stdout.splitlines()[folder - 1].startswith(word)
    assert "  report: r/report.html" in result.stdout.splitlines()[folder:]
    assert Path("r/report.html").read_text().startswith("<!doctype html>")
    assert Path("r/run.json").read_bytes() == before


def test_json_is_alone_on_standard_output() -> None:
    stored(Path("r"))
    result = evaluate("r", "--json")
    assert result.stdout == Path("r/run.json").read_text()
    assert "passed" in result.stderr


def test_a_suite_is_judged_again_as_a_whole() -> None:
    for name in ("one", "two"):
        stored(Path(name))
    runs = [suite_run("one"), suite_run("two", repeat=2)]
    write_suite(Path(), SuiteResult(suite="n", file="n", started_at="x", finished=True, runs=runs, open=[]))
    result = evaluate(".", "--json")
    assert result.exit_code == 0
    assert result.stdout == Path("suite.json").read_text()
    assert json.loads(result.stdout)["totals"]["passed"] == 2
    assert "passed: 2 of 2 runs passed" in result.stderr


def test_what_is_damaged_is_one_line_and_exit_code_2() -> None:
    stored(Path("r"))
    rewritten(Path("r"), FACTS[:4] + FACTS[5:])
    result = evaluate("r")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "error: r/timeline.jsonl: 1 of 19 lines are missing, or out of order: it is not what the run was judged by\n"
    )


def test_a_folder_without_a_call_is_one_line_and_exit_code_2() -> None:
    result = evaluate("nowhere")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: nowhere/run.json: can't be read")
    assert len(result.stderr.splitlines()) == 1
