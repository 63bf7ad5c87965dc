"""A finished call, shown again from its folder."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

from bots.timeline import TimelineEvent
from runner.calls.run_file import judge_run, write_run
from runner.calls.suite_file import SuiteResult, write_suite
from runner.calls.timeline import TimelineWriter
from runner.cli import main
from runner.errors import UsageError
from runner.evaluation.verdicts import ExpectationVerdict, Verdict
from runner.reports.replay import replay
from runner.reports.terminal import TerminalReport
from tests.reports.html.calls import WRONG_CALL, call_facts, kept
from tests.reports.test_suite_report import run
from tests.reports.test_terminal import FACTS, LINES, SCRIPT, printed

VERDICTS = {
    "✓ function_call to book()": "→ book",
    "✓ response containing 'how many' (told)": "For how many?",
    "✗ response containing 'smoking' within 3 s: the agent said nothing within 3 s": "caller-hung-up",
}
"""Each expectation, and the line of the call it is decided by."""


@dataclass
class Watcher:
    """Keeps what it sees, and when."""

    facts: list[TimelineEvent] = field(default_factory=list)
    decided: list[tuple[int, ExpectationVerdict]] = field(default_factory=list)

    def fact(self, event: TimelineEvent) -> None:
        self.facts.append(event)

    def verdicts(self, verdicts: Sequence[ExpectationVerdict]) -> None:
        known = {verdict.index for _, verdict in self.decided}
        new = [v for v in verdicts if v.verdict is not Verdict.PENDING and v.index not in known]
        self.decided += [(self.facts[-1].at_ns, verdict) for verdict in new]

    def audio(self, channel: int, at_ns: int, pcm: bytes) -> None:
        raise AssertionError("a replay is silent")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A call whose last words became known when it was over."""
    folder = tmp_path / "call"
    folder.mkdir()
    with TimelineWriter(folder / "timeline.jsonl") as writer:
        for fact in [*FACTS[:8], *FACTS[9:], FACTS[8]]:
            writer.write(fact)
    write_run(folder, judge_run(SCRIPT, FACTS))
    return folder


def test_a_replay_at_speed_0_shows_the_lines_of_the_call(folder: Path) -> None:
    def show(console: object) -> None:
        with TerminalReport(console, show_heard=True) as report:  # type: ignore[arg-type]
            anyio.run(lambda: replay(folder, report, speed=0))

    lines = printed(show)
    assert [text for text in lines if text.strip() not in VERDICTS] == LINES
    for verdict, decided_by in VERDICTS.items():
        (at,) = [index for index, text in enumerate(lines) if text.strip() == verdict]
        assert decided_by in lines[at - 1]


def test_facts_are_seen_in_order_and_the_run_is_returned(folder: Path) -> None:
    watcher = Watcher()
    run = anyio.run(lambda: replay(folder, watcher, speed=0))
    assert watcher.facts == FACTS
    assert run == judge_run(SCRIPT, FACTS)
    assert [verdict for _, verdict in watcher.decided][-1] == run.expectations[-1]


@pytest.mark.parametrize("speed", [0.5, 1, 4])
def test_a_replay_keeps_the_pace_of_the_call(folder: Path, monkeypatch: pytest.MonkeyPatch, speed: float) -> None:
    waits: list[float] = []

    async def sleep_until(deadline_s: float) -> None:
        waits.append(deadline_s)

    monkeypatch.setattr(anyio, "current_time", lambda: 1_000.0)
    monkeypatch.setattr(anyio, "sleep_until", sleep_until)
    anyio.run(lambda: replay(folder, Watcher(), speed=speed))
    assert waits == pytest.approx([1_000 + fact.at_s / speed for fact in FACTS])


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def holding(name: str, text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_text(text)

    return write


def of_another_call(folder: Path) -> None:
    text = (folder / "timeline.jsonl").read_text()
    (folder / "timeline.jsonl").write_text(text.replace("20260101-000000-abc", "20260101-000000-abd"))


BROKEN = [
    pytest.param(shutil.rmtree, "run.json: can't be read", id="no folder"),
    pytest.param(without("run.json"), "run.json: can't be read", id="no run"),
    pytest.param(holding("run.json", "{}"), "run.json: no run", id="empty run"),
    pytest.param(holding("run.json", "hello"), "run.json: no run", id="not valid JSON"),
    pytest.param(without("timeline.jsonl"), "timeline.jsonl: can't be read", id="no timeline"),
    pytest.param(holding("timeline.jsonl", "a\nb\n"), "timeline.jsonl:1: no event", id="no events"),
    pytest.param(holding("timeline.jsonl", ""), "timeline.jsonl is not of the call", id="empty timeline"),
    pytest.param(of_another_call, "timeline.jsonl is not of the call", id="of another call"),
]


@pytest.mark.parametrize(("break_it", "says"), BROKEN)
def test_a_broken_folder_gives_one_clear_error(folder: Path, break_it: Callable[[Path], None], says: str) -> None:
    break_it(folder)
    watcher = Watcher()
    with pytest.raises(UsageError) as caught:
        anyio.run(lambda: replay(folder, watcher, speed=0))
    assert says in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert watcher.facts == []


def test_the_command_shows_the_call_summary_and_exit_code(folder: Path) -> None:
    result = CliRunner().invoke(main, ["replay", str(folder), "--speed", "0"])
    lines = result.stdout.splitlines()
    assert [text for text in lines[: len(LINES) + len(VERDICTS)] if text.strip() not in VERDICTS] == LINES
    assert "failed: 2 of 3 expectations met in 7.0 s (caller-hung-up, cause: agent)" in lines
    assert (result.exit_code, result.stderr) == (1, "")


def test_a_replayed_failure_leads_to_its_report_and_sound(tmp_path: Path) -> None:
    kept(tmp_path / "run", WRONG_CALL, call_facts())
    files = [f"  report: {tmp_path}/run/report.html", f"  failing moment: {tmp_path}/run/failing_moment.wav"]
    made: list[int] = []
    for _ in range(2):
        result = CliRunner().invoke(main, ["replay", str(tmp_path / "run"), "--speed", "0"])
        assert result.stdout.splitlines()[-3:] == [f"  {tmp_path}/run", *files]
        made.append((tmp_path / "run" / "report.html").stat().st_mtime_ns)
    assert made[0] == made[1]


@pytest.mark.parametrize(("break_it", "says"), BROKEN)
def test_the_command_says_in_one_line_what_is_broken(
    folder: Path, break_it: Callable[[Path], None], says: str
) -> None:
    break_it(folder)
    result = CliRunner().invoke(main, ["replay", str(folder)])
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and says in line


def test_of_a_suite_the_run_to_replay_is_named(tmp_path: Path) -> None:
    passed, failed = run(True, folder="a"), run(False, 2, folder="a-2")
    result = SuiteResult(suite="s", file="s.yaml", started_at="x", finished=True, runs=[passed, failed], open=[])
    write_suite(tmp_path, result)
    done = CliRunner().invoke(main, ["replay", str(tmp_path)])
    assert done.exit_code == 2
    assert done.stderr == (
        f"error: {tmp_path}: holds a suite; replay one of its runs: {tmp_path}/a-2, or another of its 2 runs\n"
    )
