"""Which branches of the templates were rendered: coverage of Python sees none of them.

    pytest … --template-branches

At the end of the tests, the branches that none of them rendered are named, and the exit code is 1 if there are any.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.environment import Environment

ROOT = Path(__file__).parents[1] / "runner"
OPTION = "--template-branches"
_rendered: set[str] = set()


def rendered(branch: str) -> str:
    """Count a branch as rendered."""
    _rendered.add(branch)
    return ""


class _Counting(CodeGenerator):
    """Compiles a template so that each branch says when it is rendered."""

    def visit_Template(self, node: nodes.Template, frame: Any = None) -> None:
        _mark(node, _name(Path(self.filename or "")))
        super().visit_Template(node, frame)


def _bodies(node: nodes.Node) -> list[tuple[str, list[nodes.Node]]]:
    found: list[tuple[str, list[nodes.Node]]] = []
    for at, one in enumerate(node.find_all((nodes.If, nodes.For, nodes.Macro))):
        kind = type(one).__name__.lower()
        for part in ("body", "else_"):
            body: list[nodes.Node] | None = getattr(one, part, None)
            if body:
                found.append((f"{one.lineno}:{at} {kind}{' else' if part == 'else_' else ''}", body))
    return found


def _mark(template: nodes.Node, name: str) -> None:
    for place, body in _bodies(template):
        called = nodes.Call(
            nodes.ImportedName(f"{__name__}.rendered"), [nodes.Const(f"{name}:{place}")], [], None, None
        )
        body.insert(0, nodes.ExprStmt(called, lineno=body[0].lineno))


def all_branches() -> set[str]:
    """Return every branch of every template, by template, line and place."""
    found: set[str] = set()
    for path in ROOT.rglob("templates/*.html"):
        tree = Environment(trim_blocks=True, lstrip_blocks=True).parse(path.read_text(encoding="utf-8"))
        found.update(f"{_name(path)}:{place}" for place, _ in _bodies(tree))
    return found


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, action="store_true", help="name the branches of templates that no test renders")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption(OPTION):
        Environment.code_generator_class = _Counting


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what another process rendered."""
    _rendered.update(getattr(node, "workeroutput", {}).get("template_branches", ()))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Say in a process of several what it rendered; in the one that gathers, fail where a branch is left."""
    if not session.config.getoption(OPTION):
        return
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["template_branches"] = sorted(_rendered)
    elif left() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def left() -> Sequence[str]:
    """Return the branches that no test rendered."""
    return sorted(all_branches() - _rendered)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption(OPTION):
        for branch in left():
            terminalreporter.write_line(f"no test renders {branch}", red=True)
