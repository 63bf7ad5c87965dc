"""Judges finished calls again, from what is on disk: nobody is called, and nothing is recognised anew."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from bots.caller.script import Script
from bots.timeline import (
    AgentJoined,
    AgentSpeechMeasured,
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    CallEnded,
    CallerPressedKeys,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    CallerTurnSettled,
    CallerTurnStarted,
    CallerUnderrun,
    CallStarted,
    RecordingMeasured,
    TimelineEvent,
)
from runner.calls import recording as recordings
from runner.calls import suite_file
from runner.calls import timeline as timelines
from runner.calls.repeating import earlier_attempt
from runner.calls.run_file import FILE_NAME, Run, judge_run, read_run, run_text
from runner.calls.suite_file import SuiteResult, SuiteRun, read_suite, suite_text
from runner.calls.suite_gates import gates_of, has_statistics, weigh_suite
from runner.calls.timeline import StoredTimeline, read_stored
from runner.errors import MissingExtra, RunnerError, UsageError
from runner.files import write_together

MeasureCall = Callable[[Path, Sequence[TimelineEvent]], list[TimelineEvent]]
"""Measures a recording: its file and the facts so far in, what was measured out."""

UNCOUNTED = "its facts were not counted when it was made: if lines were missing, nothing would tell"
"""The warning of a run of an earlier version."""

_MEASURED = (AgentSpeechMeasured, RecordingMeasured)
_OF_TURNS = (
    CallerTurnStarted,
    CallerTurnSettled,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    CallerPressedKeys,
    CallerUnderrun,
)
_IN_ORDER = (CallerTurnStarted, CallerStartedSpeaking, CallerStoppedSpeaking, AgentStartedSpeaking)
"""Facts of the call itself, none of which comes after its end; each type is written in the order it happened."""


class Measuring(StrEnum):
    """When a recording is measured again."""

    NEVER = "never"
    IF_MISSING = "if_missing"
    ALWAYS = "always"


def evaluate_run(
    folder: Path,
    *,
    measure: MeasureCall | None = None,
    measuring: Measuring = Measuring.IF_MISSING,
    added: Sequence[TimelineEvent] = (),
) -> Run:
    """Judge a call again by its stored facts, and write ``run.json`` anew.

    The same facts give the same file, byte for byte. Blocks.

    Args:
        measuring: When it does.
        added: Facts that became known since; they are kept with the others.

    Raises:
        UsageError: There is no call in the folder, its files are not of one call, or what is left of it would give
            a wrong result: lines are missing, changed or out of order. Nothing is written then.
        RunnerError: The files can't be written; those that were there still are.
    """
    files: dict[Path, str] = {}
    again = _judged_again(folder, measure, measuring, added, files)
    _write(files)
    return again


def evaluate_suite(
    folder: Path, *, measure: MeasureCall | None = None, measuring: Measuring = Measuring.IF_MISSING
) -> SuiteResult:
    """Judge every call of a suite again, and write their ``run.json`` and ``suite.json`` anew, or none. Blocks.

    Raises:
        UsageError: There is no suite in the folder, or one of its calls can't be judged again. Nothing is written
            then.
        MissingExtra: It has gates or statistics, and no statistics library to make them again. Nothing is written.
        RunnerError: The files can't be written; those that were there still are.
    """
    files: dict[Path, str] = {}

    def judged(run_folder: str) -> Run:
        return _judged_again(folder / run_folder, measure, measuring, (), files)

    def again(run: SuiteRun) -> SuiteRun:
        earlier = [
            attempt
            if attempt.folder is None
            else earlier_attempt(judged(attempt.folder), attempt.repeated_because, folder=attempt.folder)
            for attempt in run.earlier_attempts
        ]
        if run.folder is not None:
            run = run.judged(judged(run.folder))
        return run.model_copy(update={"earlier_attempts": earlier})

    before = read_suite(folder)
    if (before.gates or before.statistics is not None) and not has_statistics():
        raise MissingExtra.named(
            "compare", "scipy", what=f"{folder}: has gates or statistics, and judging them again"
        )
    result = before.model_copy(
        update={
            "runs": [again(run) for run in before.runs],
            "statistics": None,
            "gates": [],
            "comparison": None,
            "warnings": list(dict.fromkeys([*before.warnings, *_not_weighed_again(before)])),
        }
    )
    files[folder / suite_file.FILE_NAME] = suite_text(result)
    _write(files)
    if has_statistics():
        result = weigh_suite(folder, result, gates_of(before.gates))
        _write({folder / suite_file.FILE_NAME: suite_text(result)})
    return result


def _not_weighed_again(before: SuiteResult) -> list[str]:
    """Return what a suite that is judged again can't be held against any more."""
    if before.comparison is None:
        return []
    return ["judged again since it was compared with a baseline: compare it again (scenario-runner compare)"]


def _judged_again(
    folder: Path,
    measure: MeasureCall | None,
    measuring: Measuring,
    added: Sequence[TimelineEvent],
    files: dict[Path, str],
) -> Run:
    """Return a call as it is judged now, and add to ``files`` what its own are to hold."""
    run = read_run(folder)
    path = folder / timelines.FILE_NAME
    stored = read_stored(path)
    _check(path, stored, run)
    facts = [*stored.events, *added]
    if measure is not None and _is_to_be_measured(facts, measuring):
        recording = folder / recordings.FILE_NAME
        if not recording.is_file():
            raise UsageError(f"{recording}: the recording is missing; --no-measure judges the call without it")
        stored = _without_measures(stored)
        added = [*added, *measure(recording, [*stored.events, *added])]
    if added:
        stored = stored.followed_by(added)
        files[path] = stored.text
    warnings = run.warnings if run.timeline is not None else list(dict.fromkeys([*run.warnings, UNCOUNTED]))
    given = replace(run.circumstances, timeline=stored.stamp, warnings=warnings)
    again = judge_run(run.script, stored.events, given)
    files[folder / FILE_NAME] = run_text(again)
    return again


def _write(files: Mapping[Path, str]) -> None:
    try:
        write_together(files)
    except OSError as error:
        raise RunnerError(f"{error.filename}: can't be written ({error.strerror})") from error


def began_ns(folder: Path) -> int:
    """Return when the call in a folder began, on the monotonic clock of the machine it was made on.

    Raises:
        UsageError: Its timeline does not say.
    """
    path = folder / timelines.FILE_NAME
    events = read_stored(path).events
    if not events or not isinstance(events[0], CallStarted):
        raise UsageError(f"{path}: its first line is not the beginning of a call")
    return events[0].monotonic_ns


def is_suite(folder: Path) -> bool:
    """Whether a folder is that of a suite."""
    return (folder / suite_file.FILE_NAME).exists()


def _is_to_be_measured(facts: Sequence[TimelineEvent], measuring: Measuring) -> bool:
    if measuring is Measuring.IF_MISSING:
        is_measured = any(isinstance(event, RecordingMeasured) for event in facts)
        # Of an agent that never joined there is nothing to measure.
        return not is_measured and any(isinstance(event, AgentJoined) for event in facts)
    return measuring is Measuring.ALWAYS


def _without_measures(stored: StoredTimeline) -> StoredTimeline:
    kept = [pair for pair in zip(stored.events, stored.lines, strict=True) if not isinstance(pair[0], _MEASURED)]
    return StoredTimeline([event for event, _ in kept], [line for _, line in kept])


def _check(path: Path, stored: StoredTimeline, run: Run) -> None:
    """Refuse a timeline that is not whole.

    A call that has no ending is whole: its runner was killed, and it is judged as that.

    Raises:
        UsageError: It is not the timeline that the run was judged by, or can't be that of any call.
    """
    events = stored.events
    if not events or not isinstance(events[0], CallStarted):
        raise UsageError(f"{path}: its first line is not the beginning of a call: lines are missing or out of order")
    if events[0].run_id != run.id:
        raise UsageError(f"{path}: is not of the call that {FILE_NAME} is of")
    if run.timeline is not None and not stored.begins_with(run.timeline):
        missing = run.timeline.facts - len(stored.lines)
        damage = f"{missing} of {run.timeline.facts} lines are missing" if missing > 0 else "its lines are others"
        raise UsageError(f"{path}: {damage}, or out of order: it is not what the run was judged by")
    if (damage := _damage(run.script, events)) is not None:
        raise UsageError(f"{path}: {damage}: lines are missing or out of order")


def _damage(script: Script, events: Sequence[TimelineEvent]) -> str | None:
    """Return what of a timeline can't have been a call; None if it can."""
    end_ns = next((e.at_ns for e in events if isinstance(e, CallEnded)), None)
    taken_up: set[int] = set()
    speaking: int | None = None
    agent_speaks = has_ended = False
    latest_ns: dict[type[TimelineEvent], int] = {}
    for number, event in enumerate(events, start=1):
        if number > 1 and isinstance(event, CallStarted):
            return f"line {number}: the call begins again"
        if event.at_ns < 0:
            return f"line {number}: {event.type} is from before the call"
        if isinstance(event, _OF_TURNS) and not 0 <= event.turn < len(script.turns):
            return f"line {number}: there is no turn {event.turn + 1} in the script"
        is_after = has_ended or (end_ns is not None and event.at_ns > end_ns)
        if is_after and isinstance(event, _IN_ORDER):
            return f"line {number}: {event.type} comes after the end of the call"
        if isinstance(event, _IN_ORDER):
            if event.at_ns < latest_ns.get(type(event), 0):
                return f"line {number}: {event.type} is from before the one above it"
            latest_ns[type(event)] = event.at_ns
        match event:
            case CallerTurnStarted(turn=turn):
                # One that waited in vain for the agent to do something is passed over.
                if turn <= max(taken_up, default=-1):
                    return f"line {number}: turn {turn + 1} is taken up after turn {max(taken_up) + 1}"
                taken_up.add(turn)
            case CallerStartedSpeaking(turn=turn):
                if turn not in taken_up or speaking is not None:
                    return f"line {number}: the caller speaks out of turn"
                speaking = turn
            case CallerStoppedSpeaking(turn=turn):
                if turn != speaking:
                    return f"line {number}: the caller stops a line that it did not begin"
                speaking = None
            case AgentStartedSpeaking():
                if agent_speaks:
                    return f"line {number}: the agent begins to speak twice"
                agent_speaks = True
            case AgentStoppedSpeaking():
                if not agent_speaks:
                    return f"line {number}: the agent stops without having begun"
                agent_speaks = False
            case CallEnded():
                has_ended = True
            case _:
                pass
    return None
