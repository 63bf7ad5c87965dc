"""A suite as Markdown, for a pull request or a step summary: GitHub and GitLab show it alike.

Words of others stand only inside HTML elements, escaped and in `code` or `pre`: no Markdown, no link and no mention
is made of them there. Such an element ends at an empty line, and no words of others hold one.
"""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from statistics import median

from runner.calls.suite_file import OpenRun, SkippedScenario, SuiteResult, SuiteRun, by_scenario
from runner.files import write_atomically
from runner.reports.comparison import weighed_lines
from runner.reports.evidence import attempt_line, failure_lines, headline_of, verdict_words
from runner.text import one_line

MAX_CHARACTERS = 60_000
"""A comment on GitHub takes 65,536 characters, a step summary a megabyte."""

MAX_WORDS = 500
MAX_LINES = 20

_VERDICTS = {0: "✅ passed", 1: "❌ failed"}
_HEAD = ("scenario", "passed", "failed", "inconclusive", "not made", "median latency")


def write_markdown(path: Path, result: SuiteResult, folder: Path) -> None:
    """Write a suite's result as Markdown, atomically.

    Raises:
        OSError: It can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, suite_markdown(result, folder))


def suite_markdown(result: SuiteResult, folder: Path) -> str:
    """Return a suite's result as Markdown: verdict, scenarios, gates, comparison, and every run that did not pass."""
    totals = result.totals
    counts = [f"passed: {totals.passed} of {totals.runs}", f"failed: {totals.failed}"]
    counts += [f"inconclusive: {totals.inconclusive}"]
    counts += [f"not made: {totals.open}"] if totals.open else []
    counts += [f"skipped scenarios: {totals.skipped}"] if totals.skipped else []
    verdict = _VERDICTS.get(result.exit_code, "⚠️ inconclusive")
    blocks = [f"<h3>{verdict}: {_code(result.suite)}</h3>", f"<p>{', '.join(counts)}.</p>"]
    if result.stopped is not None:
        blocks.append(f"<p>Stopped: {_code(result.stopped)}</p>")
    blocks += [f"<p>⚠️ {_code(warning)}</p>" for warning in result.warnings]
    rest = f"<p>Everything is in {_code(str(folder))}.</p>"
    bad = sorted((run for run in result.runs if not run.success), key=lambda run: run.success is None)
    blocks += _that_fit(
        [
            _table([*_rows(result)]),
            *(f"<p>{_code(line)}</p>" for line in weighed_lines(result)),
            *(_not_passed(run, folder) for run in bad),
        ],
        MAX_CHARACTERS - sum(len(block) + 2 for block in [*blocks, rest]) - 200,
    )
    return "\n\n".join([*blocks, rest]) + "\n"


def _that_fit(blocks: Sequence[str], characters: int) -> list[str]:
    fitting: list[str] = []
    for block in blocks:
        characters -= len(block) + 2
        if characters < 0:
            left = len(blocks) - len(fitting)
            return [
                *fitting,
                f"<p>More does not fit here ({left} left out); the suite's folder has all of it.</p>",
            ]
        fitting.append(block)
    return fitting


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["<table>", _row("th", _HEAD), *(_row("td", row) for row in rows), "</table>"]
    return "\n".join(lines)


def _row(kind: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{kind}>{cell}</{kind}>" for cell in cells) + "</tr>"


def _rows(result: SuiteResult) -> Iterator[list[str]]:
    for runs in by_scenario(result):
        first = runs[0]
        if isinstance(first, SkippedScenario):
            yield [_code(first.scenario), "", "", "", "", f"skipped: {_code(first.reason)}"]
            continue
        done = [run for run in runs if isinstance(run, SuiteRun)]
        counts = [sum(run.success is verdict for run in done) for verdict in (True, False, None)]
        counts.append(sum(isinstance(run, OpenRun) for run in runs))
        latencies_ms = [latency_ms for run in done for latency_ms in run.response_latencies_ms]
        latency = f"{median(latencies_ms):.0f} ms" if latencies_ms else ""
        yield [_code(first.scenario), *(str(count) for count in counts), latency]


def _not_passed(run: SuiteRun, folder: Path) -> str:
    headline = headline_of(run.failure, run.detail, run.ended_reason)
    lines = [] if run.failure is None else [*failure_lines(run.failure)]
    lines += [] if run.folder is None else [f"run       {folder / run.folder}"]
    lines += [] if run.agent_log is None else [f"agent     {folder / run.agent_log}"]
    lines += [
        attempt_line(attempt, None if attempt.folder is None else str(folder / attempt.folder))
        for attempt in run.earlier_attempts
    ]
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], f"and {len(lines) - MAX_LINES} lines more, in the run's folder"]
    shown = "\n".join(_words(line) for line in [headline, *lines])
    summary = f"{verdict_words(run.success, run.cause, run.failure)}: {_code(run.title)}"
    # An empty line ends the element, as Markdown has it: what follows begins as one that holds any text.
    return f"<details open><summary>{summary}</summary>\n\n<pre>\n{shown}\n</pre>\n\n</details>"


def _code(text: str) -> str:
    return f"<code>{_words(text)}</code>"


def _words(text: str) -> str:
    """Return words of others in one line, escaped, and cut where they are long."""
    line = "".join(character if character.isprintable() else "�" for character in one_line(text))
    return escape(line if len(line) <= MAX_WORDS else line[:MAX_WORDS] + "…")
