"""Makes reports of what is on disk: a run's folder, or a suite's with all its runs."""

import os.path
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from bots.caller.script import AGENT_SPEAKS
from bots.timeline import TimelineEvent
from runner.calls import recording as recordings
from runner.calls import run_file, suite_file
from runner.calls import timeline as timelines
from runner.calls.recording import AGENT, CALLER, read_recording
from runner.calls.run_file import Run, read_run
from runner.calls.suite_file import SuiteResult, SuiteRun, read_suite
from runner.calls.timeline import read_timeline
from runner.comparison.changes import Comparison
from runner.errors import RunnerError, UsageError
from runner.files import write_atomically
from runner.reports.html.audio import opus_data_uri, write_snippet
from runner.reports.html.changes import compared_with, gates_of, listed_changes, scenario_changes
from runner.reports.html.comparison_page import comparison_page
from runner.reports.html.render import render_comparison, render_run, render_suite
from runner.reports.html.run_page import Link, RunPage, Sound, Surroundings, run_page, started
from runner.reports.html.suite_page import About, suite_page
from runner.reports.html.suite_runs import RunLink, scenarios_of
from runner.reports.html.waveform import waveform

FILE_NAME = "report.html"
SNIPPET_NAME = "failing_moment.wav"

MAX_RECORDING_BYTES = 200_000_000
"""Half an hour: the page of a longer call would be too large to be opened with comfort."""


@dataclass(frozen=True)
class RunFiles:
    """The report of a run.

    Attributes:
        reason: Why the run did not pass, as it says; empty for one that passed.
        snippet: The sound of the failing moment; None where there is none.
    """

    report: Path
    reason: str = ""
    snippet: Path | None = None


def write_run_report(folder: Path, path: Path | None = None) -> RunFiles:
    """Make the report of a run from its folder; of one that did not pass also the sound of its failing moment.

    Args:
        path: The HTML file; ``report.html`` in the folder if None.

    Raises:
        UsageError: There is no run in the folder.
        RunnerError: A file can't be written.
    """
    target = path or folder / FILE_NAME
    suite = _suite_around(folder)
    return _write_run(folder, target, () if suite is None else _crumbs(suite, folder, target.parent))


def write_suite_report(
    folder: Path, path: Path | None = None, *, done: Callable[[int, int], None] | None = None
) -> tuple[Path, dict[str, RunFiles]]:
    """Make the report of a suite from its folder, and that of each of its runs.

    Args:
        path: The suite's HTML file; ``report.html`` in the folder if None.
        done: Is called after each run, with how many are done, and of how many.

    Returns:
        The suite's file, and the files of its runs by their folder.

    Raises:
        UsageError: There is no suite in the folder.
        RunnerError: A file can't be written.
    """
    target = path or folder / FILE_NAME
    result = read_suite(folder)
    made = [run.folder for run in result.runs if run.folder is not None]
    files: dict[str, RunFiles] = {}
    missing: list[str] = []
    for number, name in enumerate(made, start=1):
        run_folder = folder / name
        try:
            files[name] = _write_run(run_folder, run_folder / FILE_NAME, _crumbs(folder, run_folder, run_folder))
        except UsageError as error:
            missing.append(f"a run has no report: {error}")
        if done is not None:
            done(number, len(made))
    pages = {name: RunLink(_href(run.report, target.parent), run.reason) for name, run in files.items()}
    changes, compared = {}, result.comparison
    if compared is not None:
        changes = scenario_changes(compared)
    about = About(
        name=result.suite,
        success={0: True, 1: False}.get(result.exit_code),
        started=started(result.started_at),
        stopped=result.stopped,
        warnings=[*missing[:20], *result.warnings, *(compared.warnings if compared is not None else ())],
        gates=gates_of(result.gates),
        changes=[] if compared is None else listed_changes(compared),
        changes_note="" if compared is None else compared_with(compared),
        around=Surroundings(
            crumbs=(Link(result.suite),),
            files=(Link(suite_file.FILE_NAME, _href(folder / suite_file.FILE_NAME, target.parent)),),
        ),
        version=_version(),
    )
    scenarios = scenarios_of(result, pages, _limits_ms(result, folder), changes)
    _write(target, render_suite(suite_page(about, scenarios)))
    return target, files


def write_comparison_report(path: Path, comparison: Comparison, *, base: str, current: str) -> None:
    """Make the report of a comparison.

    Raises:
        RunnerError: The file can't be written.
    """
    page = comparison_page(comparison, base, current, version=_version())
    _write(path, render_comparison(page))


def _write_run(folder: Path, target: Path, crumbs: tuple[Link, ...]) -> RunFiles:
    run = read_run(folder)
    missing: list[str] = []
    facts = _facts(folder, run, missing)
    channels, rate_hz = _recording(folder / recordings.FILE_NAME, missing)
    sound = None
    if channels is not None and channels.shape[1] > 0:
        sound = Sound(
            uri=opus_data_uri(channels, rate_hz),
            length_s=round(channels.shape[1] / rate_hz, 3),
            caller=waveform(channels[CALLER], rate_hz),
            agent=waveform(channels[AGENT], rate_hz),
        )
    names = (recordings.FILE_NAME, timelines.FILE_NAME, run_file.FILE_NAME)
    around = Surroundings(
        crumbs=crumbs or (Link(run.scenario),),
        files=tuple(Link(name, _href(folder / name, target.parent)) for name in names if (folder / name).is_file()),
        missing=tuple(missing),
    )
    page = run_page(run, facts, script=run.script, sound=sound, around=around)
    _write(target, render_run(page))
    snippet = None
    if page.case.at_s is None:
        _forget_snippet(folder)
    elif channels is not None and sound is not None:
        snippet = _snippet(folder, page, channels, rate_hz)
    return RunFiles(target, page.case.reason, snippet)


def _recording(path: Path, missing: list[str]) -> tuple[npt.NDArray[np.int16] | None, int]:
    """Return a recording's samples and their rate, and say why there is none."""
    try:
        if path.stat().st_size > MAX_RECORDING_BYTES:
            missing.append(f"The call is too long for its sound to be in this page: it is in {path.name}.")
            return None, 0
        return read_recording(path)
    except (OSError, UsageError):
        missing.append(f"There is no recording: {path.name} is missing or can't be read.")
        return None, 0


def _facts(folder: Path, run: Run, missing: list[str]) -> list[TimelineEvent]:
    """Return the facts of a run's call, and say what of them is not there."""
    path = folder / timelines.FILE_NAME
    try:
        facts = read_timeline(path)
    except UsageError:
        missing.append(f"There are no facts of the call: {timelines.FILE_NAME} is missing or can't be read.")
        return []
    if facts and getattr(facts[0], "run_id", run.id) != run.id:
        missing.append(f"{timelines.FILE_NAME} is of another call, and was left out.")
        return []
    return facts


def _snippet(folder: Path, page: RunPage, channels: npt.NDArray[np.int16], rate_hz: int) -> Path:
    path = folder / SNIPPET_NAME
    try:
        write_snippet(path, channels, rate_hz, from_s=page.case.hear_s, to_s=page.case.until_s)
    except OSError as error:
        raise RunnerError(f"{path}: can't be written ({error.strerror})") from error
    return path


def _forget_snippet(folder: Path) -> None:
    """Remove what an earlier verdict left: a call that is judged again may have no failing moment any more."""
    path = folder / SNIPPET_NAME
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RunnerError(f"{path}: can't be removed ({error.strerror})") from error


def _limits_ms(result: SuiteResult, folder: Path) -> dict[tuple[str, str], float]:
    """Return within how long the agent is to answer, of each scenario that says so for every turn alike."""
    limits: dict[tuple[str, str], float] = {}
    for run in result.runs:
        if run.folder is None or (run.file, run.scenario) in limits:
            continue
        try:
            script = read_run(folder / run.folder).script
        except UsageError:
            continue
        found = {e.budget_ms for turn in script.turns for e in turn.expect if e.event == AGENT_SPEAKS}
        if len(found) == 1:
            limits[run.file, run.scenario] = float(found.pop())
    return limits


def _suite_around(folder: Path) -> Path | None:
    """Return the folder of the suite that a run belongs to; None if it belongs to none."""
    parent = folder.absolute().parent
    return parent if (parent / suite_file.FILE_NAME).is_file() else None


def _crumbs(suite: Path, folder: Path, base: Path) -> tuple[Link, ...]:
    try:
        result = read_suite(suite)
    except UsageError:
        return ()
    run = next((run for run in result.runs if run.folder == folder.name), None)
    if run is None:
        return ()
    return (Link(result.suite, _href(suite / FILE_NAME, base)), Link(run.scenario), Link(_place(run, result)))


def _place(run: SuiteRun, result: SuiteResult) -> str:
    runs = sum((r.file, r.scenario) == (run.file, run.scenario) for r in [*result.runs, *result.open])
    return f"run {run.repeat} of {runs}"


def _href(path: Path, base: Path) -> str:
    """Return a link to a file, from a page in another folder."""
    return quote(Path(os.path.relpath(path.absolute(), base.absolute())).as_posix())


def _version() -> str:
    return run_file.installed_versions().get("pipecat-scenario-runner", "")


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise RunnerError(f"{path}: can't be written ({error.strerror})") from error
