"""The page in real browsers, at two widths and in both themes."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext

from tests.api.telling import ROOM
from tests.browser import looking, until, violations
from tests.records.outcomes import agent_failed, no_call, outcome, undecided
from tests.reports.html.calls import WRONG_CALL, call_facts, kept
from tests.web.page_server import PageServer, timeline_of
from tests.web.test_live import LINE, SAID, STARTED

HOSTILE = "<img src=x onerror=alert(1)>\u202etxet"

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    folder = tmp_path_factory.mktemp("page")
    with PageServer(folder / "record").running() as found:
        run = kept(folder / "run", WRONG_CALL, call_facts())
        _, ids = found.do(found.finished(run, outcome(), undecided(), no_call(), agent_failed(HOSTILE)))
        found.do(found.keep(ids[0], folder / "run"))
        found.do(found.finished(outcome(), outcome()))
        found.do(found.scheduled())
        assert timeline_of(folder / "run")
        yield found


def visitor(browser: Browser, server: PageServer, width: int = 1280, theme: Any = "light") -> BrowserContext:
    """Return the browser of somebody who signed in."""
    context = looking(browser, width, theme)
    page = context.new_page()
    page.goto(f"{server.url}/sign-in")
    page.fill("#key", server.key)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{server.url}/")
    page.close()
    return context


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_are_accessible_quiet_and_fit(browser: Browser, server: PageServer, width: int, theme: Any) -> None:
    context = visitor(browser, server, width, theme)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith(server.url) else None)
    for path in (
        "/", "/runs", "/results/1", "/runs/1", "/runs/4", "/live", "/trends", "/schedules", "/schedules/new",
        "/schedules/1", "/schedules/1/edit", "/scenarios", "/scenarios/1", "/workers", "/launch",
        "/compare?result=1&result=2", "/sign-in", "/results/99", "/docs",
    ):  # fmt: skip
        page.goto(server.url + path)
        page.wait_for_timeout(300)
        if path == "/docs":
            until(page, "document.querySelectorAll('.opblock-tag').length > 10", within_s=120)
            page.locator(".opblock-tag").first.click()
            page.locator(".opblock-summary-control").first.click()
            until(page, "document.querySelectorAll('.opblock-body').length == 1", within_s=60)
        is_wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
        quiet = [line for line in said if "404" not in line]
        assert (path, violations(page), is_wide, quiet) == (path, [], False, [])
        said.clear()
    context.close()


def test_a_call_is_followed_as_it_happens(browser: Browser, server: PageServer) -> None:
    context = visitor(browser, server)
    run_id = server.do(server.begun())
    page, board = context.new_page(), context.new_page()
    page.goto(f"{server.url}/runs/{run_id}")
    board.goto(f"{server.url}/live")
    page.wait_for_timeout(700)
    server.do(server.tell(run_id, STARTED, SAID))
    assert until(page, "document.querySelector('#follow').textContent.includes('<b>Hello</b>')") < 1
    until(board, "document.body.textContent.includes('<b>Hello</b>')", within_s=1.5)
    server.do(server.tell(run_id, LINE))
    assert until(page, "document.querySelector('#follow').textContent.includes('Good evening')") < 1
    assert violations(page) == [] and violations(board) == []
    assert page.evaluate("document.querySelectorAll('#follow b').length") == 0
    context.close()


def test_what_a_new_connection_tells_again_is_shown_once(browser: Browser, server: PageServer) -> None:
    context = visitor(browser, server)
    page = context.new_page()

    def told(*words: str) -> dict[str, Any]:
        rows = "".join(f"event: row\ndata: <li>{word}</li>\n\n" for word in words)
        return {"body": f"retry: 50\n{rows}", "content_type": "text/event-stream"}

    # A connection that ended the browser takes up again; one that was refused it gives up.
    answers = iter([told("One"), told("Two"), {"status": 502}, told("One", "Two", "Three")])
    page.route("**/follow", lambda route: route.fulfill(**next(answers, {"status": 502})))
    page.goto(f"{server.url}/runs/{server.do(server.begun())}")
    until(page, "document.querySelector('#follow').textContent.includes('Three')")
    assert page.inner_text("#follow").split() == ["One", "Two", "Three"]
    context.close()


PLAYED = """
window.played = [];
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (at) {
  const sides = [0, 1].map(side => Math.round(32768 * this.buffer.getChannelData(side)[0]));
  played.push([...sides, this.buffer.length, at - this.context.currentTime]);
  return start.call(this, at);
};
"""
"""Notes what is played: the first sample of each side, how long it is, and how far that lies ahead."""


def test_a_call_is_heard_while_somebody_asks_for_it(browser: Browser, server: PageServer) -> None:
    context = visitor(browser, server)
    run_id = server.do(server.begun())
    page = context.new_page()
    page.add_init_script(PLAYED)
    page.goto(f"{server.url}/runs/{run_id}")
    assert not server.services.dispatcher.is_listened_to(run_id)
    page.focus("#listen")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('listen-told').textContent.startsWith('Waiting')")
    server.heard(run_id, b"\x07\x00\xf7\xff" * 6_000)
    until(page, "played.length == 1")
    ((*piece, _),) = page.evaluate("played")
    assert piece == [7, -9, 6_000]
    assert page.get_attribute("#listen", "aria-pressed") == "true" and violations(page) == []
    # Of what comes faster than it is played no more waits than a listener would mind.
    server.heard(run_id, b"\x01\x00\x02\x00" * 240_000)
    until(page, "played.length >= 2")
    server.heard(run_id, b"\x03\x00\x04\x00" * 6_000)
    page.keyboard.press("Enter")
    until(page, "document.getElementById('listen').getAttribute('aria-pressed') == 'false'")
    server.until(lambda: not server.services.dispatcher.is_listened_to(run_id))
    played = page.evaluate("played")
    assert sum(length for *_, length, _ in played) < 6_000 + 240_000 + 6_000
    assert all(0 < ahead_s <= 1.2 for *_, ahead_s in played)
    context.close()


def test_sound_plays_from_where_it_is_asked_to(browser: Browser, server: PageServer) -> None:
    context = visitor(browser, server)
    page = context.new_page()
    page.goto(f"{server.url}/runs/1")
    until(page, "document.getElementById('audio').readyState >= 1")
    page.locator(".at").first.click()
    until(page, "!document.getElementById('audio').paused")
    context.close()


def test_a_link_is_opened_by_a_guest(browser: Browser, server: PageServer) -> None:
    context = visitor(browser, server)
    page = context.new_page()
    page.goto(f"{server.url}/results/1")
    page.get_by_text("Make a link to share").click()
    link = page.input_value("#made-link")
    context.close()
    guest = browser.new_context()
    opened = guest.new_page()
    opened.goto(link)
    opened.wait_for_url("**/results/1")
    assert "Failed" in opened.inner_text("h1")
    opened.goto(f"{server.url}/runs")
    assert "/sign-in" in opened.url
    guest.close()


def test_lists_narrow_down_while_typing(browser: Browser, server: PageServer) -> None:
    context = visitor(browser, server)
    page = context.new_page()
    page.goto(f"{server.url}/runs")
    page.fill("[name=search]", "no such scenario")
    until(page, "document.body.textContent.includes('No run is like that')")
    assert "search=no" in page.url
    context.close()


def test_a_second_click_makes_no_second_schedule(browser: Browser, server: PageServer) -> None:
    context = visitor(browser, server)
    page = context.new_page()
    page.goto(f"{server.url}/schedules/new")
    name = f"Once only, in {browser.browser_type.name}"
    page.fill("#name", name)
    page.fill("#crontab_expression", "30 2 * * *")
    page.locator("[name=scenarios]").first.check()
    page.check("[name=way][value=room]")
    page.fill("#room_url", ROOM)
    page.evaluate("for (const _ of [1, 2]) document.querySelector('form.launching').requestSubmit()")
    page.wait_for_url(re.compile(r"/schedules/\d+$"))
    page.goto(f"{server.url}/schedules")
    assert page.get_by_text(name).count() == 1
    context.close()


def test_a_form_that_was_stopped_is_sent_once_changed(browser: Browser, server: PageServer) -> None:
    context = visitor(browser, server)
    page = context.new_page()
    page.goto(f"{server.url}/scenarios/new")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    # The browser stays where it is, as it does for whoever stops it.
    page.route("**/scenarios/new", lambda route: route.abort("aborted"))
    for name in ("first", "second"):
        page.fill("#name", name)
        for _ in range(2):
            page.get_by_role("button", name="Save", exact=True).click()
            page.wait_for_timeout(100)
    assert len(sent) == 2
    context.close()


def test_the_description_works_without_a_network(browser: Browser, server: PageServer) -> None:
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith(server.url) else None)
    page.goto(f"{server.url}/docs")
    until(page, "document.querySelectorAll('.opblock-tag').length > 10", within_s=120)
    assert [line for line in said if not line.startswith("data:")] == []
    page.close()


def test_another_sites_page_cannot_frame_it(browser: Browser, server: PageServer) -> None:
    context = visitor(browser, server)
    page = context.new_page()
    page.set_content(f'<iframe src="{server.url}/"></iframe>')
    page.wait_for_timeout(500)
    assert "Results" not in page.frames[-1].evaluate("document.body ? document.body.textContent : ''")
    context.close()
