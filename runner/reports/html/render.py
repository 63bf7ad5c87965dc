"""Puts a view model into its template, with everything a page needs inside it."""

import base64
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import BaseLoader, Environment, FileSystemLoader, StrictUndefined

from runner.reports.html.comparison_page import ComparisonPage
from runner.reports.html.run_page import RunPage
from runner.reports.html.shown import clock, words
from runner.reports.html.suite_page import SuitePage
from runner.text import count

ASSETS = Path(__file__).parent / "assets"
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class _Assets:
    """What lies within a page, and the policy that lets the browser use this and nothing else."""

    style: str
    script: str
    policy: str


def render_run(page: RunPage) -> str:
    """Return the page of a run as HTML. The same view model gives the same text."""
    return _render("run.html", "run.js", page=page, data=script_data(page))


def script_data(page: RunPage) -> dict[str, Any]:
    """Return what the script of a run's page is given."""
    return {
        "length": page.length_s,
        "hear": page.case.hear_s,
        "from": max(page.case.hear_s - 0.5, 0.0),
        "to": page.case.until_s,
        "text": page.text,
    }


def render_suite(page: SuitePage) -> str:
    """Return the page of a suite or a result as HTML. The same view model gives the same text."""
    return _render("suite.html", "suite.js", page=page)


def render_comparison(page: ComparisonPage) -> str:
    """Return the page of a comparison as HTML. The same view model gives the same text."""
    return _render("comparison.html", "suite.js", page=page)


def _render(template: str, script: str, **values: Any) -> str:
    return _environment().get_template(template).render(assets=_assets(script), **values)


@cache
def _environment() -> Environment:
    return make_environment(FileSystemLoader(TEMPLATES))


def make_environment(loader: BaseLoader) -> Environment:
    """Return what templates are rendered with: whatever they are given is escaped."""
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"clock": clock, "words": words, "counted": count, "script_json": _script_json}
    environment.filters.update(filters)
    return environment


def _script_json(value: Any) -> str:
    """Return JSON that can't end the element it stands in."""
    text = json.dumps(value, sort_keys=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _assets(script_name: str) -> _Assets:
    font = base64.b64encode((ASSETS / "inter.woff2").read_bytes()).decode("ascii")
    style = (ASSETS / "report.css").read_text(encoding="utf-8").replace("FONT", font)
    parts = ("common.js", script_name)
    script = "'use strict';\n" + "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in parts)
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "img-src data:; font-src data:; media-src data:; base-uri 'none'; form-action 'none'"
    )
    return _Assets(style, script, policy)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
