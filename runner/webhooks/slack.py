"""What is said in Slack of finished results and of schedules that launched nothing: text and blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SLACK_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")

MAX_SHOWN = 5
"""How many failures are shown."""

_ICONS = {True: ":white_check_mark:", False: ":x:", None: ":warning:"}
_MAX_TITLE = 150
_MAX_LINE = 300
_MAX_SECTION = 2_900
"""Slack refuses a longer title, and a section of more than 3,000 characters."""


@dataclass(frozen=True)
class ShownFailure:
    """A way in which runs of a result did not pass.

    Attributes:
        scenario: The scenario's name.
        headline: Why.
        count: How many runs that were.
    """

    scenario: str
    headline: str
    count: int = 1


@dataclass(frozen=True)
class FiringNews:
    """What a firing of a schedule came to.

    Attributes:
        passed: Whether all is well; None: inconclusive. Also runs that all passed can be worse than a baseline.
        reason: Why, in words: how many runs passed, how they compare with the baseline.
    """

    passed: bool | None
    reason: str


@dataclass(frozen=True)
class ScheduleNews:
    """A schedule was due and launched nothing.

    Attributes:
        title: What the schedule is called.
        reason: Why nothing was launched.
        link: Where its history can be read.
    """

    title: str
    reason: str
    link: str


@dataclass(frozen=True)
class ResultNews:
    """What is told of a finished result.

    Attributes:
        title: What it is called.
        total: All runs.
        passed: Those that passed.
        failed: Those in which the agent failed.
        inconclusive: Those without a verdict.
        failures: The worst first.
        link: Where it can be read; None where that is not known.
        firing: What the firing came to of the schedule that launched it, if one did.
    """

    title: str
    total: int
    passed: int
    failed: int
    inconclusive: int
    failures: Sequence[ShownFailure]
    link: str | None
    firing: FiringNews | None = None

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


def slack_message(news: ResultNews | ScheduleNews) -> dict[str, Any]:
    """Return the body of a request to an incoming webhook."""
    if isinstance(news, ScheduleNews):
        link = _section(f"<{news.link}|Open the history>")
        return _message(news.title, _ICONS[False], _text(news.reason), link)
    more: list[dict[str, Any]] = []
    if news.failures:
        more.append(_section("\n".join(_lines(news.failures))))
    if news.link is not None:
        more.append(_section(f"<{news.link}|Open the result>"))
    return _message(news.title, _ICONS[news.verdict], news.words, *more)


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
