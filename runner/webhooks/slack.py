"""What a finished result says in Slack: an incoming webhook's text and blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SLACK_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")

MAX_SHOWN = 5
"""How many failures are shown."""

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
    """

    title: str
    total: int
    passed: int
    failed: int
    inconclusive: int
    failures: Sequence[ShownFailure]
    link: str | None


def slack_message(news: ResultNews) -> dict[str, Any]:
    """Return the body of a request to an incoming webhook."""
    counts = f"{news.passed} of {news.total} runs passed"
    if news.failed:
        counts += f", {news.failed} failed"
    if news.inconclusive:
        counts += f", {news.inconclusive} inconclusive"
    icon = ":white_check_mark:" if news.passed == news.total else ":x:" if news.failed else ":warning:"
    title = _cut(news.title, _MAX_TITLE)
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": title}},
        _section(f"{icon} {counts}"),
    ]
    if news.failures:
        blocks.append(_section("\n".join(_lines(news.failures))))
    if news.link is not None:
        blocks.append(_section(f"<{news.link}|Open the result>"))
    # What a notification shows, and a reader without blocks.
    return {"text": f"{icon} {_text(title)}: {counts}", "blocks": blocks}


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
