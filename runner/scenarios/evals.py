"""Scenario files in the format of Pipecat Evals, with our own keys in the same mappings.

A scenario of ``pipecat eval`` plays here in a real room, by voice. Keys of our own, which Pipecat passes over: of a
scenario ``description``, ``tags``, ``hang_up``, ``max_duration_s``, ``turn_taking`` and ``agent_never_talks_over``;
of a turn ``silence_ms``, ``interrupt_after_ms``, ``after_silence_ms``, ``agent_speaks_within_ms``,
``agent_stops_within_ms``, ``agent_never_talks_over`` and ``agent_hangs_up``; of an expectation ``text_matches``.

Stricter than Pipecat's loader on purpose, since each of these makes a test that tests nothing, or another thing than
it says:

- an unknown key or event; a key that stands twice; a key that belongs to another kind of scenario or event (Pipecat
  passes over ``calls`` on a ``response``, and over ``name`` beside ``calls``);
- a scenario without turns; an empty text; an empty file that is included; arguments of a call that are no mapping or
  have keys that are no texts;
- a value of the wrong type where Pipecat takes any (``within_ms: soon``, ``stop_on_failure: "no"``), or out of bounds
  (an hour, 500 turns, 64 keys, texts of 5,000 characters and what is looked for in them of 1,000); ``dtmf`` as a
  number with a sign or underscores; two ``<<`` in one mapping;
- tags that JSON has no value for (``!!set``, ``!!binary``);
- a recording that is not there, and files outside of the folder that files may come from.

A key without a value is as good as not there, except that ``expect`` needs its list; ``stop_on_failure`` without a
value is true here, and false in Pipecat.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

from pydantic import ValidationError

from bots.caller.event_names import EVENT_NAMES
from bots.caller.script import (
    AGENT_HANGS_UP,
    AGENT_NEVER_TALKS_OVER,
    AGENT_SPEAKS,
    AGENT_STOPS,
    KEYS,
    Action,
    AfterAgentTurn,
    AfterEvent,
    AfterSilence,
    AgentHeardFor,
    Expectation,
    FunctionCall,
    Listen,
    MarkerKind,
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
    compile_pattern,
)
from runner.errors import UsageError
from runner.scenarios.markup import unknown_markup
from runner.scenarios.model import Scenario
from runner.scenarios.nodes import Mapping, Node, read_yaml, read_yaml_text
from runner.settings import Settings

MAX_TURNS = 500
MAX_MS = 3_600_000
MAX_PATTERN_CHARACTERS = 1_000
MAX_TEXT_CHARACTERS = 5_000
MAX_TAGS = 50

_TAG = re.compile(r"\w[\w:+./-]{0,99}")
_NO_TAGS = ("and", "or", "not")

_IMAGE = "image"
_CALL_EVENTS = ("function_call", "function_call_stopped")

_PERSONA_KEYS = ("persona", "goal", "success", "metrics", "max_turns", "max_silence_s", "runs", "simulator")
"""Keys of a simulated scenario: known, so that one is told apart from a typing error."""

_SCENARIO_KEYS = (
    "name",
    "description",
    "tags",
    "turns",
    "stop_on_failure",
    "hang_up",
    "max_duration_s",
    "turn_taking",
    "agent_never_talks_over",
    "user",
    "judge",
    "context",
    "trigger_disconnect",
    *_PERSONA_KEYS,
)
_TURN_KEYS = (
    "user",
    "audio",
    "dtmf",
    "image",
    "silence_ms",
    "send_after",
    "interrupt_after_ms",
    "after_silence_ms",
    "agent_speaks_within_ms",
    "agent_stops_within_ms",
    "agent_never_talks_over",
    "agent_hangs_up",
    "expect",
)
_MARKER_KEYS = ("marker", "marker_first", "markers", "text_after")
_CONTENT_KEYS = ("text_contains", "text_excludes", "text_matches", "eval", "calls", "name", "args", *_MARKER_KEYS)
_EXPECTATION_KEYS = ("event", "within_ms", *_CONTENT_KEYS, "check_from", "absent")
_USER_KEYS = ("modality", "speech")
_JUDGE_KEYS = ("modality", "eval", "transcription")

_NOTE_USER = "user: the caller speaks with the service of the settings (speech.tts)"
_NOTE_JUDGE = (
    "judge: by voice, recognised with the service of the settings (speech.stt), judged by theirs (the setting judge)"
)


def load_file(path: Path, settings: Settings) -> list[Scenario]:
    """Return the scenarios of a file, in its order.

    Args:
        path: The file.
        settings: Give what a scenario does not say itself.

    Raises:
        UsageError: Something in the file is wrong; names file and line, and how to mend it.
    """
    return _scenarios(read_yaml(path, settings.scenarios_dir), settings)


def load_text(text: str, name: str, settings: Settings) -> list[Scenario]:
    """Return the scenarios of a text that is written as a file is, in its order. It takes in no files.

    Args:
        text: The text.
        name: What it is called in errors: ``name: line N: …``.
        settings: Give what a scenario does not say itself.

    Raises:
        UsageError: Something in the text is wrong; names the line, and how to mend it.
    """
    return _scenarios(read_yaml_text(text, name), settings)


def _scenarios(document: Node, settings: Settings) -> list[Scenario]:
    if document.has_keys("agent", "scenarios"):
        raise document.place.error("this is a suite, and no scenario file: run it with scenario-runner run")
    top = document.mapping((*_SCENARIO_KEYS, "scenarios"))
    file_name = top["name"].text()
    if "scenarios" not in top:
        return [_scenario(top, file_name, settings)]
    defaults = top.without("scenarios", "name")
    for_scripts = defaults.without(*_PERSONA_KEYS)
    entries = top["scenarios"].items()
    if not entries:
        raise top["scenarios"].place.error("scenarios must hold at least one")
    scenarios: dict[str, Scenario] = {}
    for entry in entries:
        mapping = entry.mapping((*_SCENARIO_KEYS, "scenarios"))
        if "scenarios" in mapping:
            raise mapping["scenarios"].place.error("a scenario can't hold scenarios of its own")
        name = f"{file_name}/{mapping['name'].text()}"
        if name in scenarios:
            raise mapping["name"].place.error(f"there are two scenarios called {name!r}")
        # A file may hold both kinds: what it says of simulations at its top does not concern the scripts.
        simulated = "persona" in mapping or "persona" in defaults
        scenarios[name] = _scenario(mapping.over(defaults if simulated else for_scripts), name, settings)
    if all(scenario.script is not None for scenario in scenarios.values()):
        _refuse_persona_keys(defaults)
    return list(scenarios.values())


def load_scenario(spec: str, settings: Settings) -> Scenario:
    """Return the scenario that ``FILE`` or ``FILE:NAME`` names.

    Args:
        spec: A file that holds one scenario, or a file and the name of one (with or without the file's own name).
        settings: Give what a scenario does not say itself.

    Raises:
        UsageError: The file is wrong, or holds no such scenario.
    """
    file, name = split_spec(spec)
    scenarios = load_file(file, settings)
    if name:
        return scenario_named(name, scenarios, file)
    if len(scenarios) == 1:
        return scenarios[0]
    names = ", ".join(s.short_name for s in scenarios)
    raise UsageError(f"{file}: holds {len(scenarios)} scenarios; name one: {file}:NAME with NAME of {names}")


def split_spec(spec: str, folder: Path = Path()) -> tuple[Path, str]:
    """Return file and name of ``FILE[:NAME]``, of which either may hold colons.

    Args:
        spec: What names a file, or one of its scenarios.
        folder: What the file is relative to.

    Returns:
        The file, which need not be there, and the name; empty where all of the file is meant.
    """
    ends = [len(spec), *(i for i in range(len(spec) - 1, 0, -1) if spec[i] == ":")]
    for end in ends:
        if os.path.isfile(folder / spec[:end]):  # noqa: PTH113 - unlike pathlib's, never an error
            return folder / spec[:end], spec[end + 1 :]
    return (folder / spec, "") if len(ends) == 1 else (folder / spec[: ends[1]], spec[ends[1] + 1 :])


def scenario_named(name: str, scenarios: Sequence[Scenario], file: Path) -> Scenario:
    """Return the one scenario of a file that has a name, written with or without the file's own.

    Raises:
        UsageError: There is none, or several could be meant.
    """
    # A name may hold slashes of its own: the whole of it comes first, then whatever it ends with.
    found = [s for s in scenarios if s.name == name] or [s for s in scenarios if s.name.endswith(f"/{name}")]
    if not found:
        names = ", ".join(s.short_name for s in scenarios)
        raise UsageError(f"{file}: no scenario called {name!r}; there are: {names}")
    if len(found) > 1:
        raise UsageError(f"{file}: {name!r} can be {' or '.join(s.name for s in found)}; give the whole name")
    return found[0]


def _scenario(mapping: Mapping, name: str, settings: Settings) -> Scenario:
    place = mapping.place
    tags = mapping.get("tags", _tags) or ()
    if "persona" in mapping:
        if "turns" in mapping:
            raise mapping["persona"].place.error("a scenario has turns (scripted) or a persona (simulated), not both")
        refusal = "it is a simulation (persona:); only scripted scenarios (turns:) are played so far"
        # Of a simulation's name, unlike a script's, Pipecat takes off the white space around it.
        return Scenario(name=name.strip(), path=place.path, line=place.line, script=None, refusal=refusal, tags=tags)
    _refuse_persona_keys(mapping)
    if "turns" not in mapping:
        raise place.error(f"{name!r} needs turns: what the caller does")
    turn_nodes = mapping["turns"].items()
    if not turn_nodes:
        raise mapping["turns"].place.error("turns must hold at least one")
    if len(turn_nodes) > MAX_TURNS:
        raise mapping["turns"].place.error(f"more than {MAX_TURNS} turns; no call goes on for so long")
    notes = _notes(mapping)
    refusals = _Refusals()
    if "context" in mapping:
        messages = mapping["context"].items()
        if messages:
            refusals.add("it sets the agent's context, which a deployed agent keeps to itself", "context")
    never_over = mapping.get("agent_never_talks_over", Node.flag)
    limit_s = mapping.get("max_duration_s", lambda node: node.number(1, 7_200))
    stop = mapping.get("stop_on_failure", Node.flag)
    hang_up = mapping.get("hang_up", Node.flag)
    script = Script(
        name=name,
        turns=tuple(_turn(node, never_over is True, refusals) for node in turn_nodes),
        stop_on_failure=True if stop is None else stop,
        hang_up=True if hang_up is None else hang_up,
        max_duration_s=settings.max_duration_s if limit_s is None else limit_s,
        turn_taking=mapping.get("turn_taking", lambda node: _turn_taking(node, settings)) or settings.turn_taking,
        may_be_talked_over=never_over is False,
    )
    return Scenario(
        name=name,
        path=place.path,
        line=place.line,
        script=script,
        refusal=refusals.text,
        notes=notes,
        tags=tags,
    )


def _tags(node: Node) -> tuple[str, ...]:
    tags = tuple(item.text() for item in node.items())
    if len(tags) > MAX_TAGS:
        raise node.place.error(f"more than {MAX_TAGS} tags")
    for item, tag in zip(node.items(), tags, strict=True):
        if tag in _NO_TAGS or not _TAG.fullmatch(tag):
            raise item.place.error(
                "a tag is a word of letters, digits and _ : + . / - (up to 100), and not and, or, not"
            )
    return tuple(dict.fromkeys(tags))


def _refuse_persona_keys(mapping: Mapping) -> None:
    for key in _PERSONA_KEYS:
        if key in mapping:
            raise mapping[key].place.error(f"{key} belongs to a simulated scenario, which has a persona")


class _Refusals:
    """Collects what a deployed room can't offer."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def add(self, reason: str, key: str) -> None:
        self._reasons.setdefault(key, f"{reason} ({key}:)")

    @property
    def text(self) -> str | None:
        return "; ".join(self._reasons.values()) or None


def _notes(mapping: Mapping) -> tuple[str, ...]:
    """Check the blocks that say how Pipecat's own harness speaks and judges, and say what stands for them here."""
    notes: list[str] = []
    for key, known, note in (("user", _USER_KEYS, _NOTE_USER), ("judge", _JUDGE_KEYS, _NOTE_JUDGE)):
        if key not in mapping:
            continue
        block = mapping[key].mapping(known)
        modality = block.get("modality", lambda node: node.one_of(("audio", "text")))
        for service in known:
            if service != "modality" and service in block and not block[service].is_mapping():
                raise block[service].place.error(f"{service} must be a mapping: which service, and its settings")
        notes.append(f"{note}; the file asks for text" if modality == "text" else note)
    if "trigger_disconnect" in mapping:
        notes.append("trigger_disconnect: the caller always leaves the room at the end")
    return tuple(notes)


def _turn_taking(node: Node, settings: Settings) -> TurnTaking:
    mapping = node.mapping(TurnTaking.model_fields)
    given = {key: mapping[key].plain() for key in mapping if key in mapping}
    try:
        return TurnTaking.model_validate({**settings.turn_taking.model_dump(), **given})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = str(problem["loc"][0])
        raise mapping[key].place.error(f"{key}: {problem['msg']}") from error


def _turn(node: Node, never_over: bool, refusals: _Refusals) -> Turn:
    mapping = node.mapping(_TURN_KEYS)
    if _IMAGE in mapping:
        mapping[_IMAGE].text()
        refusals.add("it shows the agent an image", _IMAGE)
    action = _action(mapping)
    if "expect" not in mapping and "expect" in list(mapping):
        raise mapping.place_of("expect").error("expect is empty; indent its list below it, or leave it out")
    expect = mapping.get("expect", lambda n: tuple(_expectation(e, refusals) for e in n.items())) or ()
    return Turn(
        action=action, start=_trigger(mapping, refusals), expect=(*expect, *_behaviours(mapping, action, never_over))
    )


def _behaviours(mapping: Mapping, action: Action, never_over: bool) -> list[Expectation]:
    """Return what a turn expects of how the agent behaves."""
    found: list[Expectation] = []
    speaks = isinstance(action, Speak | Play)
    if "agent_speaks_within_ms" in mapping:
        limit_ms = mapping["agent_speaks_within_ms"].integer(0, MAX_MS)
        found.append(Expectation(event=AGENT_SPEAKS, within_ms=limit_ms))
    if "agent_stops_within_ms" in mapping:
        limit = mapping["agent_stops_within_ms"]
        if not speaks or not ("interrupt_after_ms" in mapping or "send_after" in mapping):
            raise limit.place.error("agent_stops_within_ms belongs to a barge-in: user with interrupt_after_ms")
        found.append(Expectation(event=AGENT_STOPS, within_ms=limit.integer(0, MAX_MS)))
    own = mapping.get("agent_never_talks_over", Node.flag)
    if own and not speaks:
        raise mapping["agent_never_talks_over"].place.error(
            "agent_never_talks_over belongs to a turn in which the caller speaks (user)"
        )
    if speaks and (never_over if own is None else own):
        found.append(Expectation(event=AGENT_NEVER_TALKS_OVER))
    if mapping.get("agent_hangs_up", Node.flag):
        found.append(Expectation(event=AGENT_HANGS_UP))
    return found


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
                f"dtmf must be up to 64 keys of {KEYS} (quote it: an unquoted # begins a comment)"
            )
        return PressKeys(keys=keys)
    if "silence_ms" in mapping:
        return StaySilent(duration_ms=mapping["silence_ms"].integer(0, MAX_MS))
    return Listen()


def _play(mapping: Mapping) -> Play:
    place = mapping["audio"].place
    if "dtmf" in mapping:
        raise place.error("a turn has audio or dtmf, not both")
    if "user" not in mapping:
        raise place.error("a turn with audio needs user as well: what the recording says")
    if mapping["user"].is_list():
        raise place.error("a recording has its own pauses: with audio, user is one text")
    path = mapping["audio"].path()
    if not os.path.isfile(path):  # noqa: PTH113 - unlike pathlib's, never an error
        raise place.error(f"audio: there is no file {path}")
    text = " ".join(part.text for part in _parts(mapping["user"]) if isinstance(part, Words))
    return Play(path=path, text=text)


def _words(node: Node, text: str) -> Words:
    if (problem := unknown_markup(text)) is not None:
        raise node.place.error(f"user: {problem}")
    return Words(text=text)


def _parts(node: Node) -> tuple[Words | Pause, ...]:
    if not node.is_list():
        return (_words(node, node.text(MAX_TEXT_CHARACTERS)),)
    parts: list[Words | Pause] = []
    for item in node.items():
        if item.is_mapping():
            parts.append(Pause(pause_ms=item.mapping(("pause_ms",))["pause_ms"].integer(1, 60_000)))
        else:
            parts.append(_words(item, item.text(MAX_TEXT_CHARACTERS).strip()))
    if not any(isinstance(part, Words) for part in parts):
        raise node.place.error("user must hold words, not pauses alone; to say nothing use silence_ms")
    return tuple(parts)


def _trigger(mapping: Mapping, refusals: _Refusals) -> Trigger:
    given = [key for key in ("send_after", "interrupt_after_ms", "after_silence_ms") if key in mapping]
    if len(given) > 1:
        raise mapping[given[1]].place.error(f"a turn starts in one way, not by {' and '.join(given)}")
    if "interrupt_after_ms" in mapping:
        return AgentHeardFor(duration_ms=mapping["interrupt_after_ms"].integer(0, 600_000))
    if "after_silence_ms" in mapping:
        return AfterSilence(duration_ms=mapping["after_silence_ms"].integer(0, MAX_MS))
    if "send_after" not in mapping:
        return AfterAgentTurn()
    if "user" not in mapping and "dtmf" not in mapping:
        raise mapping["send_after"].place.error("send_after says when user or dtmf is sent; the turn has neither")
    after = mapping["send_after"].mapping(("event", "delay_ms"))
    delay_ms = after.get("delay_ms", lambda n: n.integer(0, MAX_MS)) or 0
    event = after.get("event", lambda n: _event(n, refusals))
    if event is None and delay_ms == 0:
        raise after.place.error("send_after needs an event, or a delay_ms above 0")
    return AfterEvent(event=event, delay_ms=delay_ms)


def _expectation(node: Node, refusals: _Refusals) -> Expectation:
    mapping = node.mapping(_EXPECTATION_KEYS)
    if "event" not in mapping:
        raise mapping.place.error("an expectation needs event: what to look for")
    event = _event(mapping["event"], refusals)
    absent = mapping.get("absent", Node.flag) or False
    checks = [key for key in (*_CONTENT_KEYS, "check_from") if key in mapping]
    if absent and checks:
        raise mapping[checks[0]].place.error(f"absent goes by the event alone; it can't be combined with {checks[0]}")
    for key in _MARKER_KEYS:
        if key in mapping and event != "llm_marker":
            raise mapping[key].place.error(f"{key} belongs to the event llm_marker")
    if "eval" in mapping and event == "function_call_stopped":
        raise mapping["eval"].place.error(
            "eval: the end of a call carries no arguments to judge; put it on function_call"
        )
    if "text_matches" in mapping and event in _CALL_EVENTS:
        raise mapping["text_matches"].place.error("text_matches belongs to events that carry words")
    return Expectation(
        event=event,
        within_ms=mapping.get("within_ms", lambda n: n.integer(0, MAX_MS)),
        text_contains=mapping.get("text_contains", Node.text),
        text_excludes=mapping.get("text_excludes", Node.text),
        text_matches=mapping.get("text_matches", _pattern),
        criterion=mapping.get("eval", lambda n: n.text(MAX_TEXT_CHARACTERS)),
        calls=_calls(mapping, event),
        marker=cast(MarkerKind | None, mapping.get("marker", lambda n: n.one_of(get_args(MarkerKind)))),
        marker_first=mapping.get("marker_first", Node.flag),
        markers=mapping.get("markers", lambda n: n.integer(0, 1_000)),
        text_after=mapping.get("text_after", Node.flag),
        check_from=cast(
            Literal["previous", "turn_start"],
            mapping.get("check_from", lambda n: n.one_of(("previous", "turn_start"))) or "previous",
        ),
        absent=absent,
    )


def _event(node: Node, refusals: _Refusals) -> str:
    event = node.one_of(sorted({*EVENT_NAMES, _IMAGE}))
    if event == _IMAGE:
        refusals.add("it waits for an image of the agent", "event")
    return event


def _pattern(node: Node) -> str:
    pattern = node.text(MAX_PATTERN_CHARACTERS)
    try:
        compile_pattern(pattern)
    except ValueError as error:
        raise node.place.error(f"text_matches is no regular expression: {error}") from error
    return pattern


def _calls(mapping: Mapping, event: str) -> tuple[FunctionCall, ...] | None:
    given = [key for key in ("calls", "name", "args") if key in mapping]
    if not given:
        return None
    if event not in _CALL_EVENTS:
        raise mapping[given[0]].place.error(
            f"{given[0]} belongs to the events function_call and function_call_stopped"
        )
    if "calls" in mapping:
        if len(given) > 1:
            raise mapping[given[1]].place.error(f"an expectation has calls or {given[1]}, not both")
        calls = tuple(_call(n) for n in mapping["calls"].items())
        if not calls:
            raise mapping["calls"].place.error("calls must hold at least one")
        return calls
    return (_named_call(mapping),)


def _call(node: Node) -> FunctionCall:
    if not node.is_mapping():
        return FunctionCall(name=node.text())
    return _named_call(node.mapping(("name", "args")))


def _named_call(mapping: Mapping) -> FunctionCall:
    args = mapping.get("args", Node.plain)
    if args is not None and not isinstance(args, dict):
        raise mapping["args"].place.error("args must be a mapping")
    if key := _no_text_key(args):
        raise mapping["args"].place.error(f"args: the key {key} is no text, as those of a call are; quote it")
    return FunctionCall(name=mapping.get("name", Node.text), args=args)


def _no_text_key(value: Any) -> str | None:
    """Return a key somewhere in a value that is no text, as Python writes it."""
    if isinstance(value, list):
        return next(filter(None, map(_no_text_key, value)), None)
    if not isinstance(value, dict):
        return None
    for key, inner in value.items():
        if found := repr(key)[:40] if not isinstance(key, str) else _no_text_key(inner):
            return found
    return None
