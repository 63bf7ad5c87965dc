"""What a suite is held against when it ends: read and checked before anybody is called."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from runner.cli.running import needing
from runner.cli.sources import read_source
from runner.errors import RunnerError, UsageError
from runner.text import count

if TYPE_CHECKING:
    from runner.calls.suite_file import SuiteResult
    from runner.comparison.facts import RunSet
    from runner.scenarios.suites import Suite
    from runner.settings import Settings

_SUITE_FILES = (".yaml", ".yml")


@dataclass(frozen=True)
class Weighing:
    """What a suite is held against.

    Attributes:
        base: The baseline's runs; None without one.
        save: Where its own runs are added to a baseline.
        against: The suite that is run in turns with it, in place of a baseline.
    """

    suite: "Suite"
    base: "RunSet | None" = None
    save: Path | None = None
    against: "Suite | None" = None

    @classmethod
    async def read(
        cls, suite: "Suite", baseline: str | None, save: Path | None, against: "Suite | None" = None
    ) -> "Weighing":
        """Return what a suite is held against.

        Raises:
            UsageError: The baseline can't be read, or its own runs could not be saved.
            MissingExtra: The statistics libraries are missing.
        """
        if baseline is not None and against is not None:
            raise UsageError("--baseline and --against: a suite is compared with one of them")
        if baseline is not None or against is not None or suite.gates != type(suite.gates)():
            with needing("compare"):
                import_module("runner.comparison.compare")
        if save is not None:
            _check_can_be_saved(save)
        base = None if baseline is None else await read_source(baseline)
        others = None if base is None else {run.scenario for run in base.runs}
        others = others if against is None else {run.compared_as for run in against.runs}
        if others is not None and others.isdisjoint(run.compared_as for run in suite.runs):
            raise UsageError(f"{against.path if against else baseline}: has no scenario in common with {suite.path}")
        return cls(suite, base, save, against)

    def weigh(
        self,
        folder: Path,
        result: "SuiteResult",
        base: "RunSet | None",
        keep: Callable[["SuiteResult"], None],
    ) -> "SuiteResult":
        """Return a suite's result with what it was held against; also on disk. Blocks.

        Args:
            base: What it is compared with, in place of the baseline.
            keep: Writes the result wherever else it is kept; may raise :class:`OSError`.

        Raises:
            RunnerError: It can't be written.
        """
        from runner.calls.suite_file import write_suite
        from runner.calls.suite_gates import weigh_suite

        try:
            result = weigh_suite(folder, result, self.suite.gates, self.base if base is None else base)
        except UsageError as error:
            # The runs were made all the same, and are shown.
            warnings = [*result.warnings, f"not judged as a whole: {error}"]
            result = result.model_copy(update={"warnings": warnings, "unweighed": True})
        try:
            write_suite(folder, result)
            keep(result)
        except OSError as error:
            raise RunnerError(f"{error.filename}: can't be written ({error.strerror})") from error
        return result

    def save_baseline(self, folder: Path, result: "SuiteResult") -> str | None:
        """Add a suite's runs to the baseline they are to be saved in, and return what to say of it. Blocks.

        Raises:
            RunnerError: It can't be written.
        """
        if self.save is None:
            return None
        if not result.finished:
            return f"{self.save}: not saved, because the suite did not get to its end"
        if result.comparison is not None and result.comparison.exit_code == 1:
            return f"{self.save}: not saved, because the agent regressed"
        from runner.calls.suite_facts import runs_of_suite
        from runner.comparison.baseline import read_baseline, with_session, write_baseline

        saved, dropped = runs_of_suite(folder, result), 0
        if self.save.exists():
            saved, dropped = with_session(read_baseline(self.save), saved)
        try:
            write_baseline(self.save, saved)
        except OSError as error:
            raise RunnerError(f"{error.filename}: can't be written ({error.strerror})") from error
        gone = f"; the oldest {dropped} went" if dropped else ""
        sessions = len(saved.sessions)
        return f"{self.save}: saved; {count(sessions, 'session')}, {len(saved.runs)} runs{gone}"


def _check_can_be_saved(path: Path) -> None:
    from runner.comparison.baseline import read_baseline

    if path.exists():
        read_baseline(path)
    elif not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}")


def load_against(
    against: str, suite: "Suite", settings: "Settings", repeat: int | None, retry_inconclusive: int | None
) -> "Suite":
    """Return the suite that is run in turns with another: that of a file, or the same one with an agent elsewhere.

    Raises:
        UsageError: It is neither, or wrong.
    """
    from runner.rooms.urls import RoomKind, room_kind
    from runner.scenarios.suites import AUTO, load_suite
    from runner.scenarios.targets import AgentAtUrl

    if against.endswith(_SUITE_FILES):
        # Both sides are run together, and as many at once as the suite says.
        at_a_time = suite.concurrency or AUTO
        return load_suite(
            Path(against), settings, repeat=repeat, concurrency=at_a_time, retry_inconclusive=retry_inconclusive
        )
    if "://" not in against:
        raise UsageError(f"--against {against}: neither a suite file ({', '.join(_SUITE_FILES)}) nor an address")
    if room_kind(against, settings.room.daily_domains) is RoomKind.DAILY:
        raise UsageError("--against: a Daily room holds one call; name a suite file whose agent has a start_url")
    # The token is for the suite's own agent.
    return replace(suite, agent=AgentAtUrl(against), token=None)
