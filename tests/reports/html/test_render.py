"""The pages as HTML: nothing that was said in a call can become part of them."""

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import pytest

from bots.timeline import AgentError, AgentProcessEnded, CallStarted, EndedReason, TimelineEvent
from runner.reports.html.render import render_run, render_suite
from runner.reports.html.run_page import Link, Surroundings, run_page
from runner.reports.html.suite_page import About, suite_page
from runner.reports.html.suite_runs import RunFacts, ScenarioRuns
from tests.evaluation.facts import ended, s
from tests.reports.html.calls import STARTED, WRONG_CALL, call_facts, judged

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'`{{ 7*7 }}\u202egnp\ud800\x1b[31m&amp;"


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self.unclosed: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "br", "path", "circle", "rect", "line", "use", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("path", "circle", "rect", "line", "use"):
            return
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.unclosed.append(tag)

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open[-1:] == ["script"] else self.text).append(data)


def rendered(facts: Sequence[TimelineEvent], **around: Any) -> str:
    run = judged(WRONG_CALL, facts)
    return render_run(run_page(run, facts, script=WRONG_CALL, around=Surroundings(**around)))


def hostile_facts(text: str = HOSTILE) -> list[TimelineEvent]:
    facts = call_facts(people=text, understood=[text], reply=text)
    started = CallStarted(**{**STARTED.model_dump(), "scenario": text, "run_id": text, "room": text})
    return [
        started,
        *facts[1:-1],
        AgentError(at_ns=s(11), text=text),
        AgentProcessEnded(at_ns=s(12), exit_code=1, log_tail=text),
        ended(15, EndedReason.CALLER_HUNG_UP, text),
    ]


def suite(name: str = "night") -> str:
    run = RunFacts(1, False, name, "wrong 1", "r/report.html", latencies_ms=(900.0,))
    about = About(
        name,
        False,
        around=Surroundings(crumbs=(Link(name),), files=(Link(name, "a.json"), Link(name, "b.json"))),
        warnings=[name],
    )
    return render_suite(
        suite_page(about, [ScenarioRuns(name, (run,), limit_ms=800.0), ScenarioRuns("z", skipped=name)])
    )


@pytest.mark.parametrize("page", [rendered(call_facts()), suite()], ids=["run", "suite"])
def test_every_element_is_closed_and_every_id_is_there_once(page: str) -> None:
    found = Page(page)
    assert (found.open, found.unclosed) == ([], [])
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    hrefs = {attributes["href"] or "" for tag, attributes in found.tags if tag in ("a", "use")}
    assert {href[1:] for href in hrefs if href.startswith("#")} <= set(ids)


@pytest.mark.parametrize("page", [rendered(call_facts()), suite()], ids=["run", "suite"])
def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    found = Page(page)
    sources = [
        a.get("src") or a.get("href") or "" for tag, a in found.tags if tag in ("link", "img", "audio", "script")
    ]
    assert [source for source in sources if source and not source.startswith("data:")] == []
    assert not re.findall(r"url\((?!data:)", page)
    [policy] = [a["content"] for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'; style-src 'sha256-")
    # The policy lets no style attribute and no handler work.
    assert not [a for _, a in found.tags if "style" in a or any(name.startswith("on") for name in a)]


def test_hostile_words_are_words() -> None:
    page, plain = rendered(hostile_facts(), crumbs=(Link(HOSTILE, "x"),)), rendered(call_facts())
    found = Page(page)
    assert (found.open, found.unclosed) == ([], [])
    assert len(found.scripts) == len(Page(plain).scripts) == 2
    assert "img" not in {tag for tag, _ in found.tags}
    assert json.loads(found.scripts[0])["length"] == 15.0
    text = "".join(found.text)
    assert "<script>alert(1)</script>" in text and "{{ 7*7 }}" in text and "&amp;" in text
    assert not re.search("[\u202e\ud800\x1b]", page)
    assert "[U+202E]gnp" in text


def test_hostile_names_of_a_suite_are_names() -> None:
    found = Page(suite(HOSTILE))
    assert (found.open, found.unclosed, len(found.scripts)) == ([], [], 1)
    assert "img" not in {tag for tag, _ in found.tags}


def test_a_line_of_a_megabyte_is_cut() -> None:
    page = rendered(call_facts(reply="word " * 200_000))
    assert len(page) < 150_000
    assert "more characters" in page


def test_the_same_facts_give_the_same_page() -> None:
    assert rendered(call_facts()) == rendered(call_facts())
    assert suite() == suite()


def test_a_page_without_audio_is_small() -> None:
    assert len(rendered(call_facts())) < 100_000
