"""What is said in Slack of finished results and of schedules that launched nothing: text and blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_SHOWN = 5
"""How many failures are shown."""

_ICONS = {True: ":white_check_mark:", False: ":x:", None: ":warning:"}
_MAX_TITLE = 150
_MAX_LINE = 300
_MAX_SECTION = 2_900
"""Slack refuses a longer title, and a section of more than 3,000 characters."""


@dataclass(frozen=True)
class ShownFailure:
    """A way in which so many runs of a result did not pass."""

    scenario: str
    headline: str
    count: int = 1


@dataclass(frozen=True)
class FiringNews:
    """What a firing of a schedule came to (None: inconclusive): runs that passed can be worse than a baseline."""

    passed: bool | None
    reason: str


@dataclass(frozen=True)
class ResultNews:
    """What is told of a finished result: the worst failures first."""

    title: str
    total: int
    passed: int
    failed: int
    inconclusive: int
    failures: Sequence[ShownFailure]
    link: str
    firing: FiringNews | None = None
    """Of the schedule that launched it, if one did."""

    @property
    def verdict(self) -> bool | None:
        """Whether all is well; None: inconclusive."""
        if self.firing is not None:
            return self.firing.passed
        return True if self.passed == self.total else False if self.failed else None

    @property
    def words(self) -> str:
        """What it came to."""
        if self.firing is not None:
            return _text(self.firing.reason)
        counts = f"{self.passed} of {self.total} runs passed"
        if self.failed:
            counts += f", {self.failed} failed"
        if self.inconclusive:
            counts += f", {self.inconclusive} inconclusive"
        return counts


def result_message(news: ResultNews) -> dict[str, Any]:
    """Return the body of a request to an incoming webhook."""
    failures = [_section("\n".join(_lines(news.failures)))] if news.failures else []
    link = _section(f"<{news.link}|Open the result>")
    return _message(news.title, _ICONS[news.verdict], news.words, *failures, link)


def schedule_message(title: str, reason: str, link: str) -> dict[str, Any]:
    """Return the same of a schedule that was due and launched nothing."""
    return _message(title, _ICONS[False], _text(reason), _section(f"<{link}|Open the history>"))


def _message(title: str, icon: str, words: str, *more: dict[str, Any]) -> dict[str, Any]:
    title = _cut(title, _MAX_TITLE)
    header = {"type": "header", "text": {"type": "plain_text", "text": title}}
    # What a notification shows, and a reader without blocks.
    return {"text": f"{icon} {_text(title)}: {words}", "blocks": [header, _section(f"{icon} {words}"), *more]}


def _lines(failures: Sequence[ShownFailure]) -> list[str]:
    lines: list[str] = []
    for one in failures[:MAX_SHOWN]:
        times = "" if one.count == 1 else f" (×{one.count})"
        line = f"• *{_text(one.scenario)}*{times}: {_text(one.headline)}"
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
