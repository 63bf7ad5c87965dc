"""The runs of a suite that did not pass the last time it was run."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from loguru import logger

from runner.calls.suite_file import FILE_NAME, SuiteResult, read_suite
from runner.errors import UsageError
from runner.scenarios.selection import with_runs
from runner.scenarios.suites import Suite


class NothingFailed(Exception):
    """Every run passed the last time."""

    def __init__(self, folder: Path):
        super().__init__(f"nothing to run: every run in {folder} passed")


def select_last_failed(suite: Suite, places: Iterable[Path]) -> Suite:
    """Return a suite with the runs that did not pass the last time: failed, inconclusive, or not made.

    Args:
        places: Folders that hold the folders of suites.

    Raises:
        UsageError: This suite was not run before, or no longer has the runs that did not pass.
        NothingFailed: All of them passed.
    """
    places = list(dict.fromkeys(places))
    found = next((found for folder in _newest_first(places) if (found := _of_suite(suite, folder))), None)
    if found is None:
        where = " and ".join(map(str, places))
        raise UsageError(f"--last-failed: no earlier run of {suite.path} in {where}; run it once without")
    folder, result = found
    wanted = {(run.scenario, run.file, run.repeat) for run in (*result.runs, *result.open)}
    wanted -= {(run.scenario, run.file, run.repeat) for run in result.runs if run.success}
    if not wanted:
        raise NothingFailed(folder)
    runs = [
        run for run in suite.runs if (run.scenario.name, os.path.normpath(run.scenario.path), run.repeat) in wanted
    ]
    if not runs:
        names = ", ".join(sorted({name for name, _, _ in wanted}))
        raise UsageError(f"--last-failed: {suite.path} no longer has what did not pass in {folder}: {names}")
    return with_runs(suite, runs)


def _newest_first(places: Iterable[Path]) -> Iterator[Path]:
    written: dict[Path, float] = {}
    for place in places:
        for path in place.glob(f"*/{FILE_NAME}"):
            written[path.parent] = path.stat().st_mtime
    yield from sorted(written, key=lambda folder: (written[folder], folder.name), reverse=True)


def _of_suite(suite: Suite, folder: Path) -> tuple[Path, SuiteResult] | None:
    try:
        result = read_suite(folder)
    except UsageError as error:
        logger.warning("--last-failed passes over a folder: {}", error)
        return None
    same = result.suite == suite.name and Path(result.file).resolve() == suite.path.resolve()
    return (folder, result) if same else None
