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
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, ValidationError, model_validator

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
from runner.scenarios.composing import Mistakes
from runner.scenarios.examples import split_spec
from runner.scenarios.markup import unknown_markup
from runner.scenarios.model import Scenario, scenario_named
from runner.scenarios.nodes import Node, read_yaml, read_yaml_text
from runner.scenarios.typed import FileModel, Flag, Items, Some, Text, one_of, whole
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

_MARKER_KEYS = ("marker", "marker_first", "markers", "text_after")
_CONTENT_KEYS = ("text_contains", "text_excludes", "text_matches", "eval", "calls", "name", "args", *_MARKER_KEYS)

_NOTE_USER = "user: the caller speaks with the service of the settings (speech.tts)"
_NOTE_JUDGE = (
    "judge: by voice, recognised with the service of the settings (speech.stt), judged by theirs (the setting judge)"
)


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


def _words(node: Node, text: str) -> Words:
    if (problem := unknown_markup(text)) is not None:
        raise node.place.error(f"user: {problem}")
    return Words(text=text)


def _recording(node: Node) -> Path:
    path = node.path()
    if not os.path.isfile(path):  # noqa: PTH113 - unlike pathlib's, never an error
        raise node.place.error(f"audio: there is no file {path}")
    return path


def _pressed(node: Node) -> str:
    keys = node.text().strip()
    if set(keys) - set(KEYS) or len(keys) > 64:
        raise node.place.error(f"dtmf must be up to 64 keys of {KEYS} (quote it: an unquoted # begins a comment)")
    return keys


def _pattern(node: Node) -> str:
    pattern = node.text(MAX_PATTERN_CHARACTERS)
    try:
        compile_pattern(pattern)
    except ValueError as error:
        raise node.place.error(f"text_matches is no regular expression: {error}") from error
    return pattern


def _arguments(node: Node) -> dict[str, Any]:
    args = node.plain()
    if not isinstance(args, dict):
        raise node.place.error("args must be a mapping")
    if key := _no_text_key(args):
        raise node.place.error(f"args: the key {key} is no text, as those of a call are; quote it")
    return args


def _no_text_key(value: Any) -> str | None:
    """Return a key somewhere in a value that is no text, as Python writes it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        if isinstance(value, dict) and not isinstance(key, str):
            return repr(key)[:40]
        if found := _no_text_key(item):
            return found
    return None


def _function_call(node: Node) -> FunctionCall:
    if not node.is_mapping():
        return FunctionCall(name=node.text())
    call = _CallKeys.read(node)
    return FunctionCall(name=call.name, args=call.args)


def _turn_taking(node: Node) -> TurnTaking:
    mistakes = Mistakes(node.unknown(tuple(TurnTaking.model_fields)))
    given = {key: node[key].plain() for key in TurnTaking.model_fields if key in node}
    try:
        taking = TurnTaking.model_validate(given)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            key = str(problem["loc"][0])
            mistakes.add(node[key].place.error(f"{key}: {problem['msg']}"))
        taking = TurnTaking()
    mistakes.check()
    return taking


def _tag(node: Node) -> str:
    tag = node.text()
    if tag in _NO_TAGS or not _TAG.fullmatch(tag):
        raise node.place.error("a tag is a word of letters, digits and _ : + . / - (up to 100), and not and, or, not")
    return tag


def _service(node: Node) -> Node:
    if not node.is_mapping():
        raise node.place.error(f"{node.label} must be a mapping: which service, and its settings")
    return node


def _at_most(count: int, items: Callable[[Node], list[Node]], why: str) -> BeforeValidator:
    def bounded(node: Node) -> list[Node]:
        found = items(node)
        if len(found) > count:
            raise node.place.error(f"more than {count} {why}")
        return found

    return BeforeValidator(bounded)


_Milliseconds = Annotated[int, whole(0, MAX_MS)]
_Event = Annotated[str, one_of(*sorted({*EVENT_NAMES, _IMAGE}))]
_Arguments = Annotated[dict[str, Any], BeforeValidator(_arguments)]
_Service = Annotated[Any, BeforeValidator(_service)]
_Modality = Annotated[str, one_of("audio", "text")]
_Tags = Annotated[tuple[Annotated[str, BeforeValidator(_tag)], ...], _at_most(MAX_TAGS, Node.items, "tags")]
_Turns = _at_most(MAX_TURNS, Node.some, "turns; no call goes on for so long")


class _CallKeys(FileModel):
    name: Text | None = None
    args: _Arguments | None = None


class _ExpectationKeys(_CallKeys):
    event: _Event = Field(description="what to look for")
    within_ms: _Milliseconds | None = None
    text_contains: Text | None = None
    text_excludes: Text | None = None
    text_matches: Annotated[str, BeforeValidator(_pattern)] | None = None
    criterion: Annotated[str, BeforeValidator(lambda node: node.text(MAX_TEXT_CHARACTERS))] | None = Field(
        default=None, alias="eval"
    )
    calls: Some[Annotated[FunctionCall, BeforeValidator(_function_call)]] | None = None
    marker: Annotated[MarkerKind, one_of(*get_args(MarkerKind))] | None = None
    marker_first: Flag | None = None
    markers: Annotated[int, whole(0, 1_000)] | None = None
    text_after: Flag | None = None
    check_from: Annotated[Literal["previous", "turn_start"], one_of("previous", "turn_start")] = "previous"
    absent: Flag = False

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        given = self.given("calls", "name", "args")
        for key in self.given(*_CONTENT_KEYS, "check_from") if self.absent else ():
            raise self.error(key, f"absent goes by the event alone; it can't be combined with {key}")
        for key in self.given(*_MARKER_KEYS) if self.event != "llm_marker" else ():
            raise self.error(key, f"{key} belongs to the event llm_marker")
        if self.criterion is not None and self.event == "function_call_stopped":
            raise self.error("eval", "eval: the end of a call carries no arguments to judge; put it on function_call")
        if self.text_matches is not None and self.event in _CALL_EVENTS:
            raise self.error("text_matches", "text_matches belongs to events that carry words")
        if given and self.event not in _CALL_EVENTS:
            raise self.error(given[0], f"{given[0]} belongs to the events function_call and function_call_stopped")
        if self.calls is not None and len(given) > 1:
            raise self.error(given[1], f"an expectation has calls or {given[1]}, not both")
        return self

    def expectation(self) -> Expectation:
        call = (FunctionCall(name=self.name, args=self.args),) if {"name", "args"} & self.model_fields_set else None
        fields = {key: getattr(self, key) for key in Expectation.model_fields}
        return Expectation.model_validate({**fields, "calls": self.calls or call})


class _SendAfterKeys(FileModel):
    event: _Event | None = None
    delay_ms: _Milliseconds = 0

    @model_validator(mode="after")
    def _waits(self) -> Self:
        if self.event is None and self.delay_ms == 0:
            raise self.node.place.error("send_after needs an event, or a delay_ms above 0")
        return self


class _TurnKeys(FileModel):
    user: Annotated[tuple[Words | Pause, ...], BeforeValidator(_parts)] | None = None
    audio: Annotated[Path, BeforeValidator(_recording)] | None = None
    dtmf: Annotated[str, BeforeValidator(_pressed)] | None = None
    image: Text | None = None
    silence_ms: _Milliseconds | None = None
    send_after: _SendAfterKeys | None = None
    interrupt_after_ms: Annotated[int, whole(0, 600_000)] | None = None
    after_silence_ms: _Milliseconds | None = None
    agent_speaks_within_ms: _Milliseconds | None = None
    agent_stops_within_ms: _Milliseconds | None = None
    agent_never_talks_over: Flag | None = None
    agent_hangs_up: Flag = False
    expect: Items[_ExpectationKeys] = ()

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        actions = self.given("user", "dtmf", "silence_ms")
        starts = self.given("send_after", "interrupt_after_ms", "after_silence_ms")
        if len(actions) > 1:
            raise self.error(actions[1], f"a turn has one of user, dtmf and silence_ms, not {' and '.join(actions)}")
        if len(starts) > 1:
            raise self.error(starts[1], f"a turn starts in one way, not by {' and '.join(starts)}")
        if self.audio is not None and self.dtmf is not None:
            raise self.error("audio", "a turn has audio or dtmf, not both")
        if self.audio is not None and self.user is None:
            raise self.error("audio", "a turn with audio needs user as well: what the recording says")
        if self.audio is not None and self.node["user"].is_list():
            raise self.error("audio", "a recording has its own pauses: with audio, user is one text")
        if self.send_after is not None and self.user is None and self.dtmf is None:
            raise self.error("send_after", "send_after says when user or dtmf is sent; the turn has neither")
        expect = self.node.entries().get("expect")
        if expect is not None and expect.is_null():
            raise expect.place.error("expect is empty; indent its list below it, or leave it out")
        barges_in = self.user is not None and (self.interrupt_after_ms is not None or self.send_after is not None)
        if self.agent_stops_within_ms is not None and not barges_in:
            key = "agent_stops_within_ms"
            raise self.error(key, f"{key} belongs to a barge-in: user with interrupt_after_ms")
        if self.agent_never_talks_over and self.user is None:
            key = "agent_never_talks_over"
            raise self.error(key, f"{key} belongs to a turn in which the caller speaks (user)")
        return self

    def turn(self, *, never_over: bool) -> Turn:
        expected = [keys.expectation() for keys in self.expect]
        if self.agent_speaks_within_ms is not None:
            expected.append(Expectation(event=AGENT_SPEAKS, within_ms=self.agent_speaks_within_ms))
        if self.agent_stops_within_ms is not None:
            expected.append(Expectation(event=AGENT_STOPS, within_ms=self.agent_stops_within_ms))
        own = self.agent_never_talks_over
        if self.user is not None and (never_over if own is None else own):
            expected.append(Expectation(event=AGENT_NEVER_TALKS_OVER))
        if self.agent_hangs_up:
            expected.append(Expectation(event=AGENT_HANGS_UP))
        return Turn(action=self._action(), start=self._start(), expect=tuple(expected))

    def waits_for_an_image(self) -> bool:
        events = [keys.event for keys in self.expect]
        return _IMAGE in events or (self.send_after is not None and self.send_after.event == _IMAGE)

    def _action(self) -> Action:
        if self.audio is not None:
            text = " ".join(part.text for part in self.user or () if isinstance(part, Words))
            return Play(path=self.audio, text=text)
        if self.user is not None:
            return Speak(parts=self.user)
        if self.dtmf is not None:
            return PressKeys(keys=self.dtmf)
        return Listen() if self.silence_ms is None else StaySilent(duration_ms=self.silence_ms)

    def _start(self) -> Trigger:
        if self.interrupt_after_ms is not None:
            return AgentHeardFor(duration_ms=self.interrupt_after_ms)
        if self.after_silence_ms is not None:
            return AfterSilence(duration_ms=self.after_silence_ms)
        if self.send_after is not None:
            return AfterEvent(event=self.send_after.event, delay_ms=self.send_after.delay_ms)
        return AfterAgentTurn()


class _UserKeys(FileModel):
    modality: _Modality | None = None
    speech: _Service = None


class _JudgeKeys(FileModel):
    modality: _Modality | None = None
    eval: _Service = None
    transcription: _Service = None


class _ScriptKeys(FileModel):
    name: Text
    turns: Annotated[tuple[_TurnKeys, ...], _Turns] = Field(description="what the caller does")
    description: Any = None
    tags: _Tags = ()
    stop_on_failure: Flag = True
    hang_up: Flag = True
    max_duration_s: Annotated[float, BeforeValidator(lambda node: node.number(1, 7_200))] | None = None
    turn_taking: Annotated[TurnTaking, BeforeValidator(_turn_taking)] | None = None
    agent_never_talks_over: Flag | None = None
    user: _UserKeys | None = None
    judge: _JudgeKeys | None = None
    context: Items[Any] = ()
    trigger_disconnect: Any = None

    def scenario(self, name: str, settings: Settings) -> Scenario:
        taking = settings.turn_taking
        if self.turn_taking is not None:
            taking = taking.model_copy(update=self.turn_taking.model_dump(exclude_unset=True))
        script = Script(
            name=name,
            turns=tuple(keys.turn(never_over=self.agent_never_talks_over is True) for keys in self.turns),
            stop_on_failure=self.stop_on_failure,
            hang_up=self.hang_up,
            max_duration_s=self.max_duration_s or settings.max_duration_s,
            turn_taking=taking,
            may_be_talked_over=self.agent_never_talks_over is False,
        )
        place = self.node.place
        tags = tuple(dict.fromkeys(self.tags))
        return Scenario(name, place.path, place.line, script, self._refusal(), tuple(self._notes()), tags)

    def _refusal(self) -> str | None:
        reasons: list[str] = []
        if self.context:
            reasons.append("it sets the agent's context, which a deployed agent keeps to itself (context:)")
        if any(turn.image is not None for turn in self.turns):
            reasons.append("it shows the agent an image (image:)")
        if any(turn.waits_for_an_image() for turn in self.turns):
            reasons.append("it waits for an image of the agent (event:)")
        return "; ".join(reasons) or None

    def _notes(self) -> list[str]:
        notes = [
            f"{note}; the file asks for text" if keys.modality == "text" else note
            for keys, note in ((self.user, _NOTE_USER), (self.judge, _NOTE_JUDGE))
            if keys is not None
        ]
        if self.trigger_disconnect is not None:
            notes.append("trigger_disconnect: the caller always leaves the room at the end")
        return notes


class _TagKeys(FileModel):
    tags: _Tags = ()


_SCENARIO_KEYS = (*_ScriptKeys.keys(), *_PERSONA_KEYS)


def load_file(path: Path, settings: Settings) -> list[Scenario]:
    """Return the scenarios of a file, in its order; the settings give what a scenario does not say itself.

    Raises UsageError: something in the file is wrong; names file and line, and how to mend it.
    """
    return _scenarios(read_yaml(path, settings.scenarios_dir), settings)


def load_text(text: str, name: str, settings: Settings) -> list[Scenario]:
    """Return the scenarios of a text that is written as a file is, but takes in no files.

    It is called ``name`` in errors: ``name: line N: …``.
    """
    return _scenarios(read_yaml_text(text, name), settings)


def _scenarios(document: Node, settings: Settings) -> list[Scenario]:
    if document.has_keys("agent", "scenarios"):
        raise document.place.error("this is a suite, and no scenario file: run it with scenario-runner run")
    mistakes = Mistakes(document.unknown((*_SCENARIO_KEYS, "scenarios")))
    top = document.only(_SCENARIO_KEYS)
    if "scenarios" not in document:
        scenario = mistakes.read(lambda: _scenario(top, settings))
        mistakes.check()
        return [scenario] if scenario else []
    file_name = mistakes.read(lambda: Node.text(document["name"])) or ""
    defaults = top.without("name")
    scenarios: dict[str, Scenario] = {}
    for entry in mistakes.read(document["scenarios"].some) or ():
        scenario = mistakes.read(lambda entry=entry: _listed(entry, defaults, file_name, settings))
        if scenario is not None and scenario.name in scenarios:
            mistakes.add(entry["name"].place.error(f"there are two scenarios called {scenario.name!r}"))
        elif scenario is not None:
            scenarios[scenario.name] = scenario
    if all(scenario.script is not None for scenario in scenarios.values()):
        mistakes.read(lambda: _refuse_persona_keys(defaults))
    mistakes.check()
    return list(scenarios.values())


def _listed(entry: Node, defaults: Node, name: str, settings: Settings) -> Scenario:
    if "scenarios" in entry:
        raise entry["scenarios"].place.error("a scenario can't hold scenarios of its own")
    # A file may hold both kinds: what it says of simulations at its top does not concern the scripts.
    simulated = "persona" in entry or "persona" in defaults
    return _scenario(entry.over(defaults if simulated else defaults.without(*_PERSONA_KEYS)), settings, f"{name}/")


def _scenario(mapping: Node, settings: Settings, prefix: str = "") -> Scenario:
    if "persona" in mapping:
        name = prefix + mapping.mapping(_SCENARIO_KEYS)["name"].text()
        if "turns" in mapping:
            raise mapping["persona"].place.error("a scenario has turns (scripted) or a persona (simulated), not both")
        refusal = "it is a simulation (persona:); only scripted scenarios (turns:) are played so far"
        # Of a simulation's name, unlike a script's, Pipecat takes off the white space around it.
        tags = _TagKeys.read(mapping.only(("tags",))).tags
        return Scenario(name.strip(), mapping.place.path, mapping.place.line, script=None, refusal=refusal, tags=tags)
    _refuse_persona_keys(mapping)
    keys = _ScriptKeys.read(mapping.without(*_PERSONA_KEYS))
    return keys.scenario(prefix + keys.name, settings)


def _refuse_persona_keys(mapping: Node) -> None:
    for key in _PERSONA_KEYS:
        if key in mapping:
            raise mapping[key].place.error(f"{key} belongs to a simulated scenario, which has a persona")


def load_scenario(spec: str, settings: Settings) -> Scenario:
    """Return the scenario that ``FILE`` or ``FILE:NAME`` names, with or without the file's own name.

    Raises UsageError: the file is wrong, or holds no such scenario.
    """
    file, name = split_spec(spec)
    scenarios = load_file(file, settings)
    if name:
        return scenario_named(name, scenarios, file)
    if len(scenarios) == 1:
        return scenarios[0]
    names = ", ".join(s.short_name for s in scenarios)
    raise UsageError(f"{file}: holds {len(scenarios)} scenarios; name one: {file}:NAME with NAME of {names}")
