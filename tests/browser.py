"""Real browsers for pages: Debian's Chromium and Firefox, which Playwright drives."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

PROGRAMS = {"chromium": "chromium", "firefox": "firefox-esr"}
"""What Debian calls them. Playwright has no Firefox of its own where nothing can be downloaded."""

AXE = Path(__file__).parent / "reports" / "html" / "axe.min.js"
"""axe-core 4.14.1 of the npm registry (MPL-2.0)."""

RULES = "{runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']}"


@contextmanager
def started(name: str = "chromium") -> Iterator["Browser"]:
    """Start a browser that plays sound without being asked to."""
    from playwright.sync_api import sync_playwright

    program = shutil.which(PROGRAMS[name])
    with sync_playwright() as playwright:
        if name == "chromium":
            options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
            browser = playwright.chromium.launch(executable_path=program, args=options)
        else:
            # This channel is WebDriver BiDi, which a Firefox speaks that nobody has patched.
            # Where there is no sound card, it plays to a made-up one.
            plays: dict[str, Any] = {
                "media.autoplay.default": 0,
                "media.autoplay.block-webaudio": False,
                "media.cubeb.force_mock_context": True,
            }
            browser = playwright.firefox.launch(
                executable_path=program, channel="moz-firefox", firefox_user_prefs=plays
            )
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=PROGRAMS)
def browser(request: pytest.FixtureRequest) -> Iterator["Browser"]:
    """Each browser that pages are to work in."""
    if shutil.which(PROGRAMS[request.param]) is None:
        pytest.skip(f"needs {PROGRAMS[request.param]} (apt-get install {PROGRAMS[request.param]})")
    with started(request.param) as found:
        yield found


def _is_firefox(browser: "Browser | None") -> bool:
    return browser is not None and browser.browser_type.name == "firefox"


def looking(browser: "Browser", width: int = 1280, theme: Any = "light", **options: Any) -> "BrowserContext":
    """Return a window on pages, so wide and in such a theme."""
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=theme, **options)
    if _is_firefox(browser):
        # It can't be told what its user prefers: the page's own switch is set.
        context.add_init_script(f"try {{ localStorage.setItem('theme', '{theme}') }} catch {{}}")
    return context


def until(page: "Page", condition: str, within_s: float = 5.0) -> float:
    """Wait for a condition; return how long that took, in seconds. Pages' policy forbids Playwright's own way."""
    begun_s = time.monotonic()
    while not page.evaluate(condition):
        assert time.monotonic() - begun_s < within_s, f"not so within {within_s} s: {condition}"
        page.wait_for_timeout(10)
    return time.monotonic() - begun_s


def violations(page: "Page") -> list[Any]:
    """Return what axe finds wrong with a page."""
    axe = AXE.read_text(encoding="utf-8")
    if _is_firefox(page.context.browser):
        page.evaluate(axe)
    else:
        # The page's policy lets nothing in by the way that Playwright has for it.
        page.context.new_cdp_session(page).send("Runtime.evaluate", {"expression": axe})
    found = page.evaluate(f"axe.run(document, {RULES})")["violations"]
    return [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in found]
