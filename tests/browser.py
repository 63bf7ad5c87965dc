"""A real browser for pages: Debian's Chromium, which Playwright drives."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = shutil.which("chromium")
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)")
AXE = Path(__file__).parent / "reports" / "html" / "axe.min.js"
"""axe-core 4.14.1 of the npm registry (MPL-2.0)."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser that plays sound without being asked to."""
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield started
        started.close()
