"""What scenario files hold, in words: for somebody who wants to know before they call."""

from collections.abc import Iterator

from bots.caller.script import (
    AfterAgentTurn,
    AfterEvent,
    AfterSilence,
    AgentHeardFor,
    Pause,
    Play,
    PressKeys,
    Script,
    Speak,
    StaySilent,
    Turn,
)
from runner.evaluation.expectations import describe
from runner.scenarios.model import Scenario
from runner.text import one_line


def describe_scenario(scenario: Scenario, *, has_judge: bool) -> Iterator[str]:
    """Yield what a scenario would do, line by line; texts of several lines are put on one."""
    for line in _lines(scenario, has_judge):
        yield one_line(line)


def _lines(scenario: Scenario, has_judge: bool) -> Iterator[str]:
    yield f"{scenario.name} ({scenario.path}:{scenario.line})"
    if scenario.tags:
        yield f"  tags: {', '.join(scenario.tags)}"
    if scenario.refusal is not None:
        yield f"  can't be played in a room: {scenario.refusal}"
    if scenario.script is None:
        return
    yield from (f"  {line}" for line in _script(scenario.script))
    yield from (f"  note: {note}" for note in scenario.notes)
    if scenario.script.needs_judge and not has_judge:
        yield "  note: eval: no judge is configured (the setting judge), so these are not judged"


def _script(script: Script) -> Iterator[str]:
    for number, turn in enumerate(script.turns, start=1):
        yield f"{number}. {_start(turn)}{_action(turn)}"
        for expectation in turn.expect:
            yield f"     expects {describe(expectation)}"
    ending = "hangs up" if script.hang_up else "waits for the agent to hang up"
    yield f"Then the caller {ending}; the call ends after {script.max_duration_s:g} s at the latest."


def _start(turn: Turn) -> str:
    match turn.start:
        case AfterAgentTurn():
            return ""
        case AgentHeardFor(duration_ms=duration_ms):
            return f"{duration_ms} ms after the agent is heard to start, "
        case AfterSilence(duration_ms=duration_ms):
            return f"after {duration_ms} ms of silence, "
        case AfterEvent(event=None, delay_ms=delay_ms):
            return f"{delay_ms} ms after the turn before, "
        case AfterEvent(event=event, delay_ms=delay_ms):
            return f"{delay_ms} ms after {event}, "


def _action(turn: Turn) -> str:
    match turn.action:
        case Speak(parts=parts):
            said = (f"[{p.pause_ms} ms]" if isinstance(p, Pause) else p.text for p in parts)
            return f"says “{' '.join(said)}”"
        case Play(path=path):
            return f"plays {path}"
        case PressKeys(keys=keys):
            return f"presses {keys}"
        case StaySilent(duration_ms=duration_ms):
            return f"stays silent for {duration_ms} ms"
        case _:
            return "listens"
