"""Scenario files in the format of Pipecat Evals, with our own keys in the same mappings.

A scenario of ``pipecat eval`` plays here in a real room. Keys of our own are ``text_matches``,
``interrupt_after_ms``, ``after_silence_ms``, ``silence_ms``, ``hang_up``, ``max_duration_s`` and ``turn_taking``.
"""

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bots.caller.event_names import EVENT_NAMES
from bots.caller.script import (
    KEYS,
    Action,
    AfterAgentTurn,
    AfterEvent,
    AfterSilence,
    AgentHeardFor,
    Expectation,
    FunctionCall,
    Listen,
    Pause,
    Play,
    PressKeys,
    Script,
    Speak,
    StaySilent,
    Trigger,
    Turn,
    TurnTaking,
    Words,
)
from runner.errors import UsageError
from runner.scenarios.model import Scenario
from runner.scenarios.nodes import Mapping, Node, read_yaml
from runner.settings import Settings

MAX_TURNS = 500
MAX_MS = 3_600_000
MAX_PATTERN_CHARACTERS = 200

_SCENARIO_KEYS = (
    "name",
    "description",
    "turns",
    "stop_on_failure",
    "hang_up",
    "max_duration_s",
    "turn_taking",
    "user",
    "judge",
)
_TURN_KEYS = (
    "user",
    "audio",
    "dtmf",
    "silence_ms",
    "send_after",
    "interrupt_after_ms",
    "after_silence_ms",
    "expect",
)
_EXPECTATION_KEYS = (
    "event",
    "within_ms",
    "text_contains",
    "text_excludes",
    "text_matches",
    "calls",
    "name",
    "args",
    "absent",
)


def load_file(path: Path, settings: Settings) -> list[Scenario]:
    """Return the scenarios of a file, in its order.

    Args:
        path: The file.
        settings: Give what a scenario does not say itself.

    Raises:
        UsageError: Something in the file is wrong; names file and line, and how to mend it.
    """
    top = read_yaml(path).mapping((*_SCENARIO_KEYS, "scenarios"))
    file_name = top["name"].text()
    if "scenarios" not in top:
        return [_scenario(top, file_name, settings)]
    defaults = top.without("scenarios", "name")
    scenarios: list[Scenario] = []
    entries = top["scenarios"].items()
    if not entries:
        raise top["scenarios"].place.error("scenarios must hold at least one")
    for entry in entries:
        mapping = entry.mapping(_SCENARIO_KEYS)
        name = f"{file_name}/{mapping['name'].text()}"
        if any(scenario.name == name for scenario in scenarios):
            raise mapping["name"].place.error(f"there are two scenarios called {name!r}")
        scenarios.append(_scenario(mapping.over(defaults), name, settings))
    return scenarios


def load_scenario(spec: str, settings: Settings) -> Scenario:
    """Return the scenario that ``FILE`` or ``FILE:NAME`` names.

    Args:
        spec: A file that holds one scenario, or a file and the name of one (with or without the file's own name).
        settings: Give what a scenario does not say itself.

    Raises:
        UsageError: The file is wrong, or holds no such scenario.
    """
    file, _, name = spec, "", ""
    if not Path(spec).is_file() and ":" in spec:
        file, _, name = spec.rpartition(":")
    scenarios = load_file(Path(file), settings)
    if not name:
        if len(scenarios) == 1:
            return scenarios[0]
        names = ", ".join(_short(s) for s in scenarios)
        raise UsageError(f"{file}: holds {len(scenarios)} scenarios; name one: {file}:NAME with NAME of {names}")
    for scenario in scenarios:
        if name in (scenario.name, _short(scenario)):
            return scenario
    raise UsageError(f"{file}: no scenario called {name!r}; there are: {', '.join(_short(s) for s in scenarios)}")


def _short(scenario: Scenario) -> str:
    return scenario.name.rpartition("/")[2]


def _scenario(mapping: Mapping, name: str, settings: Settings) -> Scenario:
    turn_nodes = mapping["turns"].items()
    if not turn_nodes:
        raise mapping["turns"].place.error("turns must hold at least one")
    if len(turn_nodes) > MAX_TURNS:
        raise mapping["turns"].place.error(f"more than {MAX_TURNS} turns; no call goes on for so long")
    limit_s = mapping.get("max_duration_s", lambda node: node.number(1, 7_200))
    stop = mapping.get("stop_on_failure", Node.flag)
    hang_up = mapping.get("hang_up", Node.flag)
    script = Script(
        name=name,
        turns=tuple(_turn(node) for node in turn_nodes),
        stop_on_failure=True if stop is None else stop,
        hang_up=True if hang_up is None else hang_up,
        max_duration_s=settings.max_duration_s if limit_s is None else limit_s,
        turn_taking=mapping.get("turn_taking", lambda node: _turn_taking(node, settings)) or settings.turn_taking,
    )
    return Scenario(name=name, path=mapping.place.path, script=script)


def _turn_taking(node: Node, settings: Settings) -> TurnTaking:
    given: dict[str, Any] = {}
    mapping = node.mapping(TurnTaking.model_fields)
    for key in mapping:
        given[key] = mapping[key].plain()
    try:
        return TurnTaking.model_validate({**settings.turn_taking.model_dump(), **given})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = str(problem["loc"][0])
        raise mapping[key].place.error(f"{key}: {problem['msg']}") from error


def _turn(node: Node) -> Turn:
    mapping = node.mapping(_TURN_KEYS)
    expect = mapping.get("expect", lambda n: tuple(_expectation(e) for e in n.items())) or ()
    return Turn(action=_action(mapping), start=_trigger(mapping), expect=expect)


def _action(mapping: Mapping) -> Action:
    given = [key for key in ("user", "dtmf", "silence_ms") if key in mapping]
    if len(given) > 1:
        raise mapping[given[1]].place.error(f"a turn has one of user, dtmf and silence_ms, not {' and '.join(given)}")
    if "audio" in mapping:
        return _play(mapping)
    if "user" in mapping:
        return Speak(parts=_parts(mapping["user"]))
    if "dtmf" in mapping:
        keys = mapping["dtmf"].text().strip()
        if not keys or set(keys) - set(KEYS) or len(keys) > 64:
            raise mapping["dtmf"].place.error(
                f"dtmf must be up to 64 keys of {KEYS}, not {keys!r} (quote it: an unquoted # begins a comment)"
            )
        return PressKeys(keys=keys)
    if "silence_ms" in mapping:
        return StaySilent(duration_ms=mapping["silence_ms"].integer(0, MAX_MS))
    return Listen()


def _play(mapping: Mapping) -> Play:
    place = mapping["audio"].place
    if "user" not in mapping:
        raise place.error("a turn with audio needs user as well: what the recording says")
    path = place.path.parent / mapping["audio"].text()
    if not path.is_file():
        raise place.error(f"audio: there is no file {path}")
    text = " ".join(part.text for part in _parts(mapping["user"]) if isinstance(part, Words))
    return Play(path=path, text=text)


def _parts(node: Node) -> tuple[Words | Pause, ...]:
    if not node.is_list():
        return (Words(text=node.text()),)
    parts: list[Words | Pause] = []
    for item in node.items():
        if item.is_mapping():
            parts.append(Pause(pause_ms=item.mapping(("pause_ms",))["pause_ms"].integer(0, 60_000)))
        else:
            parts.append(Words(text=item.text()))
    if not any(isinstance(part, Words) for part in parts):
        raise node.place.error("user must hold words, not pauses alone; to say nothing use silence_ms")
    return tuple(parts)


def _trigger(mapping: Mapping) -> Trigger:
    given = [key for key in ("send_after", "interrupt_after_ms", "after_silence_ms") if key in mapping]
    if len(given) > 1:
        raise mapping[given[1]].place.error(f"a turn starts in one way, not by {' and '.join(given)}")
    if "interrupt_after_ms" in mapping:
        return AgentHeardFor(duration_ms=mapping["interrupt_after_ms"].integer(0, 600_000))
    if "after_silence_ms" in mapping:
        return AfterSilence(duration_ms=mapping["after_silence_ms"].integer(0, MAX_MS))
    if "send_after" not in mapping:
        return AfterAgentTurn()
    after = mapping["send_after"].mapping(("event", "delay_ms"))
    delay_ms = after.get("delay_ms", lambda n: n.integer(0, MAX_MS))
    event = after.get("event", _event_name)
    if event is None and delay_ms is None:
        raise after.place.error("send_after needs event, delay_ms or both")
    return AfterEvent(event=event, delay_ms=delay_ms or 0)


def _event_name(node: Node) -> str:
    name = node.text()
    if name not in EVENT_NAMES:
        # Through a mapping's own error, to name the nearest.
        raise node.place.error(f"event: there is no event {name!r}; known are: {', '.join(sorted(EVENT_NAMES))}")
    return name


def _expectation(node: Node) -> Expectation:
    mapping = node.mapping(_EXPECTATION_KEYS)
    event = mapping.get("event", _event_name)
    if event is None:
        raise mapping.place.error("an expectation needs event")
    absent = mapping.get("absent", Node.flag) or False
    checks = [key for key in ("text_contains", "text_excludes", "text_matches", "calls", "name") if key in mapping]
    if absent and checks:
        raise mapping[checks[0]].place.error(f"absent goes by the event alone; it can't be combined with {checks[0]}")
    return Expectation(
        event=event,
        within_ms=mapping.get("within_ms", lambda n: n.integer(0, MAX_MS)),
        text_contains=mapping.get("text_contains", Node.text),
        text_excludes=mapping.get("text_excludes", Node.text),
        text_matches=mapping.get("text_matches", _pattern),
        calls=_calls(mapping, event),
        absent=absent,
    )


def _pattern(node: Node) -> str:
    pattern = node.text()
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise node.place.error(f"text_matches is longer than {MAX_PATTERN_CHARACTERS} characters")
    try:
        re.compile(pattern)
    except re.error as error:
        raise node.place.error(f"text_matches is no regular expression: {error}") from error
    return pattern


def _calls(mapping: Mapping, event: str) -> tuple[FunctionCall, ...] | None:
    given = [key for key in ("calls", "name", "args") if key in mapping]
    if not given:
        return None
    if event not in ("function_call", "function_call_stopped"):
        raise mapping[given[0]].place.error(
            f"{given[0]} belongs to the events function_call and function_call_stopped"
        )
    if "calls" in mapping:
        if len(given) > 1:
            raise mapping[given[1]].place.error(f"an expectation has calls or {given[1]}, not both")
        return tuple(_call(n.mapping(("name", "args"))) for n in mapping["calls"].items())
    return (_call(mapping),)


def _call(mapping: Mapping) -> FunctionCall:
    args = mapping.get("args", Node.plain)
    if args is not None and not isinstance(args, dict):
        raise mapping["args"].place.error("args must be a mapping")
    return FunctionCall(name=mapping.get("name", Node.text), args=args)
