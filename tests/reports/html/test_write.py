"""Reports from folders: of what is there, and of what is not."""

import base64
import io
import json
import re
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner, Result

from bots.timeline import CallEnded
from runner.calls.run_file import read_run, write_run
from runner.calls.suite_file import SuiteResult, write_suite
from runner.cli import main
from runner.reports.html import write
from runner.reports.html.write import write_run_report, write_suite_report
from tests.reports.html.calls import WRONG_CALL, call_facts, in_suite, kept


def report(*options: str) -> Result:
    return CliRunner().invoke(main, ["report", *options])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    kept(tmp_path / "r1", WRONG_CALL, call_facts())
    return tmp_path / "r1"


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    folder = tmp_path / "night of #1 & <b>"
    made = kept(folder / "one", WRONG_CALL, call_facts())
    runs = [in_suite(made, "one"), in_suite(None, None, repeat=2), in_suite(None, "gone", repeat=3)]
    result = SuiteResult(suite="n", file="n", started_at="2026-11-28T04:29:48Z", finished=True, runs=runs, open=[])
    write_suite(folder, result)
    return folder


def sound(page: str) -> tuple[np.ndarray, int]:
    """Return the samples that a page holds, one row a side, and their rate."""
    [data] = re.findall(r'src="data:audio/webm;base64,([^"]+)"', page)
    with av.open(io.BytesIO(base64.b64decode(data))) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        return np.concatenate(frames, axis=1), container.streams.audio[0].rate


def test_the_sound_lies_where_the_facts_say(run: Path) -> None:
    made = write_run_report(run)
    samples, rate_hz = sound(made.report.read_text())
    assert samples.shape[1] / rate_hz == pytest.approx(15.0, abs=0.02)
    for side, (begin_s, end_s) in enumerate([(4.0, 6.0), (8.5, 10.0)]):
        loud = np.flatnonzero(np.abs(samples[side]) > 0.05) / rate_hz
        assert (loud[0], loud[-1]) == pytest.approx((begin_s, end_s), abs=0.01)
    # What one side says is not heard on the other.
    assert np.abs(samples[1, round(4.5 * rate_hz) : round(5.5 * rate_hz)]).max() < 1e-3


def test_the_failing_moment_can_be_heard_alone(run: Path) -> None:
    made = write_run_report(run)
    assert made.snippet is not None
    with wave.open(str(made.snippet)) as file:
        assert (file.getnchannels(), file.getnframes() / file.getframerate()) == (2, pytest.approx(7.2))
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16).reshape(-1, 2)
        rate_hz = file.getframerate()
    # It begins at 5 s; the agent speaks from 8.5 s on.
    assert np.flatnonzero(samples[:, 1])[0] / rate_hz == pytest.approx(3.5, abs=0.01)


def test_a_run_that_passes_after_all_keeps_no_failing_moment(run: Path) -> None:
    snippet = write_run_report(run).snippet
    passed = read_run(run).model_copy(update={"success": True, "failure": None})
    write_run(run, passed)
    assert write_run_report(run).snippet is None
    assert snippet is not None and not snippet.exists()


def test_a_page_made_again_is_the_same_to_the_byte(run: Path) -> None:
    first = write_run_report(run).report.read_bytes()
    assert write_run_report(run).report.read_bytes() == first


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("recording.wav", None, "There is no recording"),
        ("recording.wav", b"no WAV", "There is no recording"),
        ("timeline.jsonl", None, "There are no facts of the call"),
        ("timeline.jsonl", b"{}\n{}\n", "There are no facts of the call"),
    ],
)
def test_a_report_says_what_is_missing(run: Path, file: str, content: bytes | None, said: str) -> None:
    (run / file).unlink() if content is None else (run / file).write_bytes(content)
    page = write_run_report(run).report.read_text()
    assert said in page
    assert "Failed in turn 2: " in page
    assert ("<audio" in page) is (file != "recording.wav")


def test_the_sound_of_a_very_long_call_stays_outside(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "MAX_RECORDING_BYTES", 1_000)
    page = write_run_report(run).report.read_text()
    assert "too long for its sound to be in this page" in page and "<audio" not in page


def test_facts_of_another_call_are_left_out(run: Path) -> None:
    lines = (run / "timeline.jsonl").read_text().splitlines()
    lines[0] = json.dumps({**json.loads(lines[0]), "run_id": "other"})
    (run / "timeline.jsonl").write_text("\n".join(lines))
    assert "is of another call" in write_run_report(run).report.read_text()


def test_a_call_that_was_cut_off_has_a_report(run: Path) -> None:
    facts = [fact for fact in call_facts() if not isinstance(fact, CallEnded)]
    kept(run.parent / "cut", WRONG_CALL, facts)
    page = write_run_report(run.parent / "cut").report.read_text()
    assert "Inconclusive: the timeline breaks off" in page


def test_each_run_of_a_suite_is_one_click_away(suite: Path) -> None:
    path, runs = write_suite_report(suite)
    page = path.read_text()
    assert list(runs) == ["one"] and runs["one"].report.is_file()
    assert page.count('href="one/report.html"') == 2
    assert "run 2: inconclusive" in page and "Nothing answers at http://localhost:1" in page
    # A run whose folder is gone is marked, and the others are there.
    assert "a run has no report" in page and "gone" in page
    back = runs["one"].report.read_text()
    assert 'href="../report.html"' in back and "run 1 of 3" in back


def test_links_hold_wherever_the_page_is_written(suite: Path, tmp_path: Path) -> None:
    path, _ = write_suite_report(suite, tmp_path / "pages" / "n.html")
    assert 'href="../night%20of%20%231%20%26%20%3Cb%3E/one/report.html"' in path.read_text()


def test_the_command_makes_a_report_of_a_run(run: Path) -> None:
    result = report(str(run))
    assert (result.exit_code, result.stdout) == (
        0,
        f"  report: {run}/report.html\n  failing moment: {run}/failing_moment.wav\n",
    )


def test_the_command_makes_a_report_of_a_suite(suite: Path, tmp_path: Path) -> None:
    result = report(str(suite), "--html", str(tmp_path / "x" / "n.html"))
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"  report: {tmp_path}/x/n.html"
    assert f"{suite}/one/report.html" in result.stdout
    assert (tmp_path / "x" / "n.html").is_file()


def test_a_run_of_a_suite_leads_back_to_it(suite: Path) -> None:
    assert report(str(suite / "one")).exit_code == 0
    assert 'href="../report.html"' in (suite / "one" / "report.html").read_text()


def test_a_folder_without_a_call_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    result = report(str(tmp_path / "nowhere"))
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "run.json: can't be read" in result.stderr


def test_a_file_that_can_not_be_written_is_one_line(run: Path) -> None:
    result = report(str(run), "--html", "/dev/null/x.html")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "can't be written" in result.stderr
