"""What all tests share."""

import gc
import os
import zlib
from collections import defaultdict
from pathlib import Path

import hypothesis
import pytest

from tests.examples import PROFILE
from tests.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]

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

LONGEST_ID = 200

DATABASES = {"sqlite", "postgresql", "postgres"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that make real calls: they wait long, and what is short fills the time beside them.

    Where several processes share the tests, each file is one's.
    """
    leave_one_database(items)
    long = {item.path for item in items if item.get_closest_marker("webrtc")}
    items.sort(key=lambda item: item.path not in long)
    for item in items:
        together = SHARING if item.path.parent.name == SHARING else item.path.stem
        item.add_marker(pytest.mark.xdist_group(f"{item.path.parent.name}-{together}"))


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
