"""What all tests share."""

import gc
import json
import os
import zlib
from collections import defaultdict
from pathlib import Path

import hypothesis
import pytest

from tests.examples import PROFILE
from tests.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]

pytest_plugins = ["tests.browser", "tests.template_branches"]

# The same examples in every run: what a change breaks is the change's, and no matter of luck. HYPOTHESIS_PROFILE=wide
# looks for more. How long an example takes says more of the machine than of the product.
hypothesis.settings.register_profile(
    "steady",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("whole", hypothesis.settings.get_profile("steady"))
hypothesis.settings.register_profile("wide", max_examples=2_000, deadline=None)
hypothesis.settings.load_profile(PROFILE)


SHARING = "compat"
"""The folder whose files share a server and an agent that are dear to start: one process has all of them."""

SECONDS = Path(__file__).with_name("seconds.json")
"""How long the files take that take long: `make test-times` measures it anew."""

WORTH_KNOWING_S = 1.5

LONGEST_ID = 200

DATABASES = {"sqlite", "postgresql", "postgres"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, by the times that were measured: what is short fills the time beside it.

    Where several processes share the tests, each file is one's. A file that nobody measured comes after those that
    were.
    """
    leave_one_database(items)
    seconds: dict[str, float] = json.loads(SECONDS.read_text(encoding="utf-8")) if SECONDS.exists() else {}
    items.sort(key=lambda item: -seconds.get(together(item), 0))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(together(item)))


def together(item: pytest.Item) -> str:
    """Return the name of what has to run in one process: a file, or a folder whose files share a server."""
    folder = item.path.parent.name
    return f"{folder}-{SHARING if folder == SHARING else item.path.stem}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--measure-times", action="store_true", help=f"write how long each file takes to {SECONDS.name}")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Write down how long each file took, where that was asked for."""
    if not config.getoption("--measure-times"):
        return
    seconds: defaultdict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                folder, name = Path(report.nodeid.partition("::")[0]).parts[-2:]
                seconds[f"{folder}-{SHARING if folder == SHARING else Path(name).stem}"] += report.duration
    long = {name: round(took) for name, took in seconds.items() if took >= WORTH_KNOWING_S}
    by_time = dict(sorted(long.items(), key=lambda pair: (-pair[1], pair[0])))
    SECONDS.write_text(json.dumps(by_time, indent=1) + "\n", encoding="utf-8")


def leave_one_database(items: list[pytest.Item]) -> None:
    """Make slow, of each test that runs on both kinds of database, one of the two: by its name, so always the same.

    Both are run at once where a module is marked ``both_databases``: there the databases differ most.
    """
    same: defaultdict[tuple[str, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        spec = getattr(item, "callspec", None)
        kinds = DATABASES.intersection(map(str, spec.params.values())) if spec is not None else ()
        if kinds and item.get_closest_marker("both_databases") is None:
            others = item.nodeid
            for kind in kinds:
                others = others.replace(kind, "")
            same[others, str(item.path)].append(item)
    for (name, _), of_both in same.items():
        if len(of_both) > 1:
            left = zlib.crc32(name.encode()) % len(of_both)
            for place, item in enumerate(sorted(of_both, key=lambda item: item.nodeid)):
                if place != left:
                    item.add_marker("slow")


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name an example that is long on purpose by how it begins: each process tells the others the names of all."""
    if isinstance(val, (str, bytes)) and len(val) > LONGEST_ID:
        return f"{ascii(val[:20])[:40]}...{len(val)}"
    if isinstance(val, int) and val.bit_length() > LONGEST_ID:
        return f"{val.bit_length()}-bits"
    return None


def pytest_collection_finish() -> None:
    """Leave out of each search for garbage what lives as long as the tests: it would take a sixth of their time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def bare_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, and no setting in the environment."""
    for name in list(os.environ):
        if name.upper().startswith("SCENARIO_RUNNER_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path
