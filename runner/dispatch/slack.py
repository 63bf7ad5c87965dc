"""What is said in Slack of finished results and of schedules that launched nothing: text and blocks."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from runner.records.statuses import FiringState
from runner.records.tables import Firing, RunRow

MAX_SHOWN = 5
"""How many failures are shown."""

_ICONS = {True: ":white_check_mark:", False: ":x:", None: ":warning:"}
_MAX_TITLE = 150
_MAX_LINE = 300
_MAX_SECTION = 2_900
"""Slack refuses a longer title, and a section of more than 3,000 characters."""


def result_message(title: str, runs: Sequence[RunRow], link: str, firing: Firing | None = None) -> dict[str, Any]:
    """Return the body of a request to an incoming webhook that tells of a finished result.

    Args:
        title: What it is called.
        runs: Its runs.
        link: Its address.
        firing: Of the schedule that launched it, if one did. Runs that passed can be worse than a baseline: what it
            came to is told.
    """
    not_passed = [run for run in runs if not run.passed]
    failed = sum(run.success is False for run in not_passed)
    words = f"{len(runs) - len(not_passed)} of {len(runs)} runs passed"
    words += f", {failed} failed" if failed else ""
    words += f", {len(not_passed) - failed} inconclusive" if len(not_passed) > failed else ""
    verdict = False if failed else None if not_passed else True
    if firing is not None:
        verdict = {FiringState.PASSED.value: True, FiringState.FAILED.value: False}.get(firing.state)
        words = _text(firing.reason)
    # The agent's failures come before inconclusive runs; among each, what happened most often comes first.
    alike = Counter((run.success is None, run.scenario_name, headline_of(run)) for run in not_passed)
    worst = sorted(alike.items(), key=lambda one: (one[0][0], -one[1]))
    failures = _lines([(scenario, headline, count) for (_, scenario, headline), count in worst])
    more = [_section("\n".join(failures))] if failures else []
    return _message(title, _ICONS[verdict], words, *more, _section(f"<{link}|Open the result>"))


def schedule_message(title: str, reason: str, link: str) -> dict[str, Any]:
    """Return the same of a schedule that was due and launched nothing."""
    return _message(title, _ICONS[False], _text(reason), _section(f"<{link}|Open the history>"))


def headline_of(run: RunRow) -> str:
    """Return why a run did not pass."""
    return (run.came_to.get("failure") or {}).get("headline") or run.detail or "no reason is known"


def _message(title: str, icon: str, words: str, *more: dict[str, Any]) -> dict[str, Any]:
    title = _cut(title, _MAX_TITLE)
    header = {"type": "header", "text": {"type": "plain_text", "text": title}}
    # What a notification shows, and a reader without blocks.
    return {"text": f"{icon} {_text(title)}: {words}", "blocks": [header, _section(f"{icon} {words}"), *more]}


def _lines(failures: Sequence[tuple[str, str, int]]) -> list[str]:
    lines: list[str] = []
    for scenario, headline, count in failures[:MAX_SHOWN]:
        times = "" if count == 1 else f" (×{count})"
        line = f"• *{_text(scenario)}*{times}: {_text(headline)}"
        if sum(map(len, lines)) + len(line) > _MAX_SECTION:
            break
        lines.append(line)
    more = len(failures) - len(lines)
    return [*lines, f"and {more} more"] if more else lines


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _text(text: str) -> str:
    """Return a text of others: shortened, on one line, and with nothing that Slack takes for its own marks."""
    one_line = " ".join(_cut(text, _MAX_LINE).split())
    return one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
