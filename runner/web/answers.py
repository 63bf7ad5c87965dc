"""Pages as answers: rendered, with the headers that keep a browser from running or loading anything of others."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader
from starlette.responses import HTMLResponse

from runner.reports.html.render import TEMPLATES as REPORT_TEMPLATES
from runner.reports.html.render import make_environment
from runner.web import files
from runner.web.words import day_and_time, duration

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # With no-referrer browsers would hide the origin of a form.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "private, no-store",
}


@cache
def environment() -> Environment:
    """Return what pages are rendered with. A page's template may extend those of the reports."""
    reports = FileSystemLoader(REPORT_TEMPLATES)
    own = FileSystemLoader(Path(__file__).parent / "templates")
    found = make_environment(ChoiceLoader([own, reports, PrefixLoader({"report": reports})]))
    filters: dict[str, Any] = {"day_and_time": day_and_time, "duration": duration}
    found.filters.update(filters)
    shared: dict[str, Any] = {"static": files.address}
    found.globals.update(shared)
    return found


def render(template: str, **values: Any) -> str:
    """Return a template as text."""
    return environment().get_template(template).render(**values)


def answer(template: str, status: int = 200, headers: dict[str, str] | None = None, **values: Any) -> HTMLResponse:
    """Return a page as an answer.

    Args:
        template: Its template.
        status: The status of the answer.
        headers: Headers besides those of every page.
        values: What the template is given.
    """
    return HTMLResponse(render(template, **values), status, headers={**HEADERS, **(headers or {})})
