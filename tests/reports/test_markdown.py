"""The summary for a pull request: what it says, and that nothing that is said can break it."""

import html
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from bots.timeline import EndedReason
from runner.calls.suite_file import SkippedScenario
from runner.evaluation.outcome import Failure, FailureKind
from runner.evaluation.verdicts import Cause
from runner.reports.markdown import MAX_CHARACTERS, suite_markdown, write_markdown
from tests.reports.test_junit import FAILED, FOLDER, OPEN, UNDECIDED, run, suite

RENDER = MarkdownIt("commonmark", {"html": True}).render

HEARD = FAILED.model_copy(
    update={
        "failure": Failure(
            kind=FailureKind.WRONG,
            cause=Cause.AGENT,
            headline="turn 2: the agent did not say 'booked'",
            turn=1,
            expected="a response that holds 'booked'",
            heard="Sorry, no tables.",
        )
    }
)


def text_of(markdown: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", RENDER(markdown)))


def test_it_has_verdict_table_and_what_did_not_pass() -> None:
    told = suite_markdown(suite(run(), HEARD, UNDECIDED, left=(OPEN,), stopped="stopped by SIGINT"), FOLDER)
    assert told.startswith("<h3>⚠️ inconclusive: <code>night</code></h3>")
    assert "<p>passed: 1 of 4, failed: 1, inconclusive: 1, not made: 1.</p>" in told
    assert (
        "<tr><td><code>booking/four</code></td><td>1</td><td>1</td><td>1</td><td>0</td><td>922 ms</td></tr>" in told
    )
    text = text_of(told)
    assert "Stopped:  stopped by SIGINT" in text
    assert "expected  a response that holds 'booked'\nheard     Sorry, no tables.\n" in text
    assert f"run       {FOLDER}/20260101-000000-abc\n" in text
    assert "inconclusive (cause: room):  booking/four" in text
    assert text.index("did not say") < text.index("nothing answers"), "the agent's failures first"
    assert f"Everything is in  {FOLDER} ." in text


@pytest.mark.parametrize(
    ("runs", "verdict"), [([run()], "✅ passed"), ([HEARD], "❌ failed"), ([UNDECIDED], "⚠️ inconclusive")]
)
def test_the_verdict_comes_first(runs: list, verdict: str) -> None:
    assert suite_markdown(suite(*runs), FOLDER).startswith(f"<h3>{verdict}: ")


def test_a_scenario_that_can_t_be_played_is_told() -> None:
    skipped = SkippedScenario(scenario="b", file="b.yaml", reason="a simulation (persona:)")
    told = suite_markdown(suite(run(), skipped=[skipped]), FOLDER)
    assert "skipped scenarios: 1" in told and "skipped: <code>a simulation (persona:)</code>" in told


HOSTILE = (
    "</code></pre></details>\n\n<script>alert(1)</script> ![x](http://evil/?q) [a](javascript:x) @all\u2028 `a` "
    "\x1b[31m\x00 \u202e <img src=x onerror=y> https://evil.example #1 ~~~ ```\n\n# Heading\n"
)


def test_words_of_others_stay_words() -> None:
    bad = HEARD.model_copy(
        update={
            "scenario": HOSTILE,
            "detail": HOSTILE,
            "ended_reason": EndedReason.CALLER_HUNG_UP,
            "failure": HEARD.failure and HEARD.failure.model_copy(update={"headline": HOSTILE, "heard": HOSTILE}),
            "folder": HOSTILE.replace("/", ""),
        }
    )
    skipped = SkippedScenario(scenario=HOSTILE, file="b.yaml", reason=HOSTILE)
    told = suite_markdown(
        suite(bad, suite=HOSTILE, stopped=HOSTILE, warnings=[HOSTILE], skipped=[skipped]), Path(HOSTILE)
    )
    rendered = RENDER(told)
    tags = set(re.findall(r"<(/?\w+)", rendered))
    ours = {"h3", "p", "table", "tr", "th", "td", "details", "summary", "pre", "code"}
    assert tags <= ours | {f"/{tag}" for tag in ours}
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e\u2028]", told)
    # Nothing of theirs stands outside of code and pre, where mentions and links would be made of it.
    outside = re.sub(r"(?s)<(pre|code)>.*?</\1>", "", rendered)
    assert "evil" not in outside and "@" not in outside and "Heading" not in outside


def test_it_fits_into_a_comment() -> None:
    many = [HEARD.model_copy(update={"scenario": f"s{number}", "detail": "x" * 2_000}) for number in range(1_500)]
    told = suite_markdown(suite(*many), FOLDER)
    assert len(told) <= MAX_CHARACTERS
    assert re.search(r"<p>More does not fit here \(\d{4} left out\)", told)
    assert told.endswith(f"<p>Everything is in <code>{FOLDER}</code>.</p>\n")


def test_it_is_written_whole_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "summary.md"
    write_markdown(path, suite(run()), FOLDER)
    assert path.read_text() == suite_markdown(suite(run()), FOLDER)
    assert list(path.parent.iterdir()) == [path]
