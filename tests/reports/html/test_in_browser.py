"""Reports in real browsers, at two widths and in both themes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from runner.calls.suite_file import SuiteResult, write_suite
from runner.reports.html.write import write_run_report, write_suite_report
from tests.browser import looking, until, violations
from tests.reports.html.calls import WRONG_CALL, call_facts, in_suite, kept
from tests.reports.html.test_render import HOSTILE, hostile_facts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("suite")
    made = kept(folder / "one", WRONG_CALL, call_facts())
    hostile = kept(folder / "two", WRONG_CALL, hostile_facts(HOSTILE.replace("\ud800", "")))
    runs = [in_suite(made, "one"), in_suite(hostile, "two", repeat=2), in_suite(None, None, repeat=3)]
    result = SuiteResult(suite="night", file="n", started_at="x", finished=True, runs=runs, open=[])
    write_suite(folder, result)
    path, files = write_suite_report(folder)
    silent = folder / "silent"
    kept(silent, WRONG_CALL, call_facts())
    (silent / "recording.wav").unlink()
    return {
        "suite": path,
        "run": files["one"].report,
        "hostile": files["two"].report,
        "silent": write_run_report(silent).report,
    }


@pytest.fixture
def page(browser: Browser, reports: dict[str, Path]) -> Iterator[Page]:
    context = looking(browser)
    opened = context.new_page()
    opened.goto(reports["run"].as_uri())
    until(opened, "document.getElementById('audio').readyState >= 2")
    yield opened
    context.close()


@pytest.mark.parametrize("name", ["run", "suite", "hostile", "silent"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_page_is_quiet_accessible_and_fits(
    browser: Browser, reports: dict[str, Path], name: str, width: int, theme: Any
) -> None:
    context = looking(browser, width, theme)
    page = context.new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("dialog", lambda dialog: heard.append(dialog.message))
    own = ("data:", reports[name].as_uri())
    page.on("request", lambda request: None if request.url.startswith(own) else heard.append(request.url))
    page.goto(reports[name].as_uri())
    assert violations(page) == []
    assert heard == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()


def test_the_policy_blocks_nothing_of_the_page(browser: Browser, reports: dict[str, Path]) -> None:
    page = browser.new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.goto(reports["run"].as_uri())
    until(page, "document.getElementById('audio').readyState >= 2")
    assert heard == []
    assert page.evaluate("document.fonts.check('15px \"Inter R\"')")
    page.close()


def test_it_opens_at_the_failing_moment(page: Page) -> None:
    assert page.locator("h1").text_content() == (
        "Failed in turn 2: check_availability was called with people = 5; 4 was expected."
    )
    assert page.evaluate("document.getElementById('audio').currentTime") == pytest.approx(5.0, abs=0.02)
    assert page.locator("#time").text_content() == "0:05.0"


@pytest.mark.parametrize("at_s", [0.5, 4.2, 8.51, 14.3])
def test_a_click_plays_from_its_place_within_20_ms(page: Page, at_s: float) -> None:
    box = page.locator("#inner").bounding_box()
    assert box is not None
    page.evaluate(
        "document.getElementById('audio').addEventListener('seeking', e => window.at ??= e.target.currentTime)"
    )
    page.mouse.click(box["x"] + box["width"] * at_s / 15.0, box["y"] + 80)
    until(page, "window.at !== undefined")
    # A pixel is 14 ms here.
    assert page.evaluate("window.at") == pytest.approx(at_s, abs=0.02)
    until(page, f"document.getElementById('audio').currentTime > {at_s + 0.2}")


def test_what_is_heard_after_a_seek_is_what_lies_there(page: Page) -> None:
    """The caller's tone ends at 6 s: how long it is still heard tells where the sound really began."""
    page.evaluate(
        """() => {
            const audio = document.getElementById('audio'), context = new AudioContext();
            const tap = context.createScriptProcessor(256, 2, 2);
            let frame = 0;
            tap.onaudioprocess = event => {
              for (const sample of event.inputBuffer.getChannelData(0)) {
                frame += 1;
                if (Math.abs(sample) > .02) { window.first ??= frame; window.last = frame; }
              }
            };
            context.createMediaElementSource(audio).connect(tap);
            tap.connect(context.destination);
            window.rate = context.sampleRate;
        }"""
    )
    heard_s: list[float] = []
    # A busy machine loses samples on their way to the tap; a seek that goes wrong does so every time.
    for _ in range(4):
        page.evaluate("() => { delete window.first; document.getElementById('audio').currentTime = 5.7; }")
        until(page, "!document.getElementById('audio').seeking")
        page.evaluate("document.getElementById('audio').play()")
        until(page, "document.getElementById('audio').currentTime > 6.3")
        page.evaluate("document.getElementById('audio').pause()")
        heard_s.append(page.evaluate("(window.last - window.first + 1) / window.rate"))
        if heard_s[-1] == pytest.approx(0.3, abs=0.02):
            return
    pytest.fail(f"0.3 s of the tone are left at 5.7 s, but heard were {heard_s}")


def test_the_waveform_lies_where_the_timeline_says(page: Page) -> None:
    """The caller speaks from 4 to 6 s, the agent from 8.5 to 10 s; the call lasts 15 s."""
    inner = page.locator("#inner").bounding_box()
    assert inner is not None
    drawn: dict[str, list[float]] = page.evaluate(
        """Object.fromEntries(['c', 'a'].map(side => {
            const path = document.getElementById('peaks-' + side), places = [];
            let x = 0;
            for (const [, height, until] of path.getAttribute('d').matchAll(/V(-?\\d+)H(\\d+)/g)) {
              if (+height) places.push(x, +until);
              x = +until;
            }
            const box = path.getScreenCTM();
            return [side, [Math.min(...places), Math.max(...places)].map(column => box.a * column + box.e)];
        }))"""
    )
    for side, begin_s, end_s in (("c", 4.0, 6.0), ("a", 8.5, 10.0)):
        places = [(x - inner["x"]) / inner["width"] * 15.0 for x in drawn[side]]
        assert places == pytest.approx([begin_s, end_s], abs=0.03)


def test_keys_work_and_can_be_switched_off(page: Page) -> None:
    position = "document.getElementById('audio').currentTime"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(position) == pytest.approx(6.0, abs=0.02)
    page.keyboard.press("?")
    page.locator("#keys-on").uncheck()
    page.locator("#help button").click()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(position) == pytest.approx(6.0, abs=0.02)
    page.locator("#slider").focus()
    page.keyboard.press("End")
    assert page.locator("#slider").get_attribute("aria-valuenow") == "15.0"
    page.locator("#slider").press("f")
    assert page.evaluate(position) == pytest.approx(5.0, abs=0.02)


def test_a_cell_of_the_matrix_leads_to_its_call(browser: Browser, reports: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(reports["suite"].as_uri())
    page.locator("a.cell.fail").first.click()
    assert page.url == reports["run"].as_uri()
    page.locator(".crumbs a").click()
    assert page.url == reports["suite"].as_uri()
    page.locator("label", has_text="Inconclusive").click()
    assert page.locator(".mx tbody tr:visible").count() == 1
    page.close()


def test_without_javascript_all_is_there_but_the_controls(browser: Browser, reports: dict[str, Path]) -> None:
    if browser.browser_type.name == "firefox":
        pytest.skip("it has no way to be told so")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(reports["run"].as_uri())
    assert page.locator("audio").is_visible()
    assert page.locator(".lanes").is_visible() and page.locator(".said").count() == 4
    assert not page.locator(".bar").is_visible() and not page.locator("#hear").is_visible()
    context.close()
