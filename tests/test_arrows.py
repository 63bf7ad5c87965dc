"""Which package may import which: arrows run one way, and no modules import each other in a circle.

Imports inside functions and for types alone count as well: they say just as much about what belongs where.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGES = ("bots", "runner")

BASE = {
    "runner.errors": set[str](),
    "runner.load": set[str](),
    "runner.hosts": {"runner.errors"},
    "runner.text": set[str](),
    "runner.files": {"runner.errors"},
    "runner.json_log": {"runner.errors"},
    "runner.settings": {"runner.errors"},
    "runner.serving": {"runner.errors"},
    "runner.http": {"runner.errors", "runner.text"},
}
"""Small modules without a package of their own: everything in ``runner`` but ``evaluation`` may import them."""

EVALUATION = "runner.evaluation"
"""Pure functions of a call's facts, which need no more than the language of those facts, in ``bots``."""

LAYERS: dict[str, set[str]] = {
    # What a worker and the API say to each other; a job says what is asked of a run besides its script.
    "runner.protocol": {EVALUATION},
    # Pure functions of what became of runs: whether an agent changed.
    "runner.comparison": {EVALUATION, "runner.metrics"},
    # What is told of a run in figures.
    "runner.metrics": {EVALUATION},
    "runner.judge": {EVALUATION},
    "runner.rooms": set(),
    # A session comes with a room.
    "runner.sessions": {"runner.rooms"},
    # A suite names rooms and the commands that start agents.
    "runner.scenarios": {"runner.comparison", "runner.rooms", "runner.sessions", EVALUATION},
    "runner.calls": {
        EVALUATION,
        "runner.metrics",
        "runner.comparison",
        "runner.judge",
        "runner.rooms",
        "runner.scenarios",
        "runner.sessions",
    },
    "runner.reports": {EVALUATION, "runner.calls", "runner.comparison", "runner.scenarios"},
    "runner.records": {
        EVALUATION,
        "runner.metrics",
        "runner.calls",
        "runner.comparison",
        "runner.protocol",
        "runner.rooms",
        "runner.scenarios",
        "runner.sessions",
    },
    "runner.dispatch": {
        EVALUATION,
        "runner.calls",
        "runner.judge",
        "runner.protocol",
        "runner.records",
        "runner.rooms",
    },
    # What makes calls knows the record over HTTP alone: neither `records` nor `dispatch`.
    "runner.worker": {
        EVALUATION,
        "runner.calls",
        "runner.protocol",
        "runner.rooms",
        "runner.sessions",
    },
    "runner.api": {
        EVALUATION,
        "runner.metrics",
        "runner.dispatch",
        "runner.protocol",
        "runner.records",
        "runner.scenarios",
    },
    # What people see in a browser, over the same queries as the API.
    "runner.web": {
        EVALUATION,
        "runner.api",
        "runner.calls",
        "runner.comparison",
        "runner.records",
        "runner.reports",
        "runner.scenarios",
    },
    # One process that is all of a server: the API, the record, and the workers beside it.
    "runner.server": {"runner.web", "runner.api", "runner.dispatch", "runner.records", "runner.worker"},
    # Another way to start calls, beside the command line: it takes a token as that does.
    "runner.pytest_plugin": {"runner.calls", "runner.cli", "runner.reports", "runner.rooms", "runner.scenarios"},
    "runner.cli": {
        EVALUATION,
        "runner.calls",
        "runner.comparison",
        "runner.dispatch",
        "runner.judge",
        "runner.records",
        "runner.reports",
        "runner.rooms",
        "runner.scenarios",
        "runner.server",
        "runner.sessions",
        "runner.worker",
    },
}
"""What each package of ``runner`` may import, besides itself, the base and ``bots``: from the bottom to the top."""

BOTS: dict[str, set[str]] = {
    "bots.paths": set(),
    "bots.clock": set(),
    "bots.levels": set(),
    "bots.masking": set(),
    "bots.timeline": set(),
    "bots.daily_library": {"bots.clock"},
    "bots.caller": {"bots.clock", "bots.levels", "bots.masking", "bots.paths", "bots.timeline"},
    "bots.agents": {"bots.caller", "bots.clock", "bots.daily_library"},
}
"""What each package of ``bots`` may import: nothing of ``runner``."""

AGENTS = "bots.agents"
"""The agents that come along are started as processes; only the command that serves one imports them."""

FOREIGN_TO_EVALUATION = "pipecat aiortc daily httpx httpcore requests aiohttp websockets sqlalchemy psycopg aiosqlite"


def packages() -> set[str]:
    """Return all packages and modules right below ``bots`` and ``runner``."""
    return {
        f"{top}.{path.stem}"
        for top in PACKAGES
        for path in (PROJECT / top).iterdir()
        if path.name != "__init__.py" and (path.suffix == ".py" or (path / "__init__.py").exists())
    }


@cache
def modules() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for top in PACKAGES:
        for path in (PROJECT / top).rglob("*.py"):
            name = ".".join(path.relative_to(PROJECT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imported_by(module: str) -> Iterator[str]:
    """Yield the modules of the project that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in modules():
                    yield inner
                elif node.module in modules():
                    yield node.module


def package_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


@cache
def arrows() -> dict[tuple[str, str], list[str]]:
    """Return which package imports which, and what in it does."""
    found: dict[tuple[str, str], list[str]] = {}
    for module in modules():
        for other in imported_by(module):
            pair = package_of(module), package_of(other)
            if pair[0] != pair[1]:
                found.setdefault(pair, []).append(f"{module} imports {other}")
    return found


def allowed(package: str) -> set[str]:
    if package in BOTS:
        return BOTS[package]
    if package in BASE:
        return BASE[package] | set(BOTS) - {AGENTS}
    if package == EVALUATION:
        return set(BOTS) - {AGENTS}
    agents = {AGENTS} if package == "runner.cli" else set[str]()
    return LAYERS[package] | set(BASE) | set(BOTS) - {AGENTS} | agents


def test_every_package_has_its_place() -> None:
    assert packages() == {*BOTS, *BASE, EVALUATION, *LAYERS}


@pytest.mark.parametrize("package", sorted(packages()))
def test_a_package_imports_only_what_it_may(package: str) -> None:
    wrong = [
        line
        for (importer, other), lines in arrows().items()
        if importer == package and other not in allowed(package)
        for line in lines
    ]
    assert not wrong, "\n".join(wrong)


def test_no_arrow_that_is_allowed_is_unused() -> None:
    table = {**BOTS, **BASE, **LAYERS}
    unused = [(package, other) for package, others in table.items() for other in others]
    assert not [pair for pair in unused if pair not in arrows()]


def test_what_is_allowed_goes_round_in_no_circle() -> None:
    TopologicalSorter({package: allowed(package) for package in packages()}).prepare()


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: {other for other in imported_by(module) if other != module} for module in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_evaluation_needs_no_pipecat_no_network_and_no_database() -> None:
    of_evaluation = [name for name in modules() if package_of(name) == EVALUATION]
    code = f"""
import importlib, sys
for name in {of_evaluation}:
    importlib.import_module(name)
print(*sorted({{name.partition(".")[0] for name in sys.modules}} & set({FOREIGN_TO_EVALUATION.split()})))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=PROJECT
    )
    assert done.stdout.split() == []
