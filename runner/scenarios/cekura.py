"""Scenarios as Cekura holds them, turned into scripts.

Conditional actions come in two shapes. In the older one conditions are a list of ``{id, condition, action, type,
fixed_message}``, the first of which is ``FIRST_MESSAGE``; in the newer one of ``{when, say, then}`` beside a
``first_message``. Here they are played in the order written, one step after each turn of the agent. Whether the
condition of a step had come true by then is told once the call is over: from the words where it is
``contains "word"``, else by the judge. Where it had not, the run is inconclusive. ``pipecat_eval`` is ours: the text
of a file as :mod:`runner.scenarios.evals` reads it, with one scenario.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from pydantic import ValidationError

from bots.caller.script import (
    KEYS,
    Action,
    AfterAgentTurn,
    AfterEvent,
    Pause,
    PressKeys,
    Script,
    Speak,
    StaySilent,
    Trigger,
    Turn,
    Words,
)
from runner.errors import UsageError
from runner.evaluation import asked
from runner.scenarios.evals import MAX_TURNS, load_text
from runner.scenarios.markup import unknown_markup
from runner.scenarios.model import Scenario
from runner.settings import Settings

PIPECAT_EVAL = "pipecat_eval"
CONDITIONAL_ACTIONS = "conditional_actions"
INSTRUCTION = "instruction"

FIRST_MESSAGE = "FIRST_MESSAGE"
GREETING_WAIT_MS = 30_000
"""How long a caller without a first message waits for the agent's greeting before it speaks all the same."""

MAX_STEP_CHARACTERS = 5_000

_IMPROVISES = "needs a caller that improvises, which is not there yet"
_ROW_KEYS = ("id", "condition", "action", "type", "fixed_message")
_CONDITION_KEYS = ("when", "say", "then")
_FIRST_KEYS = ("say", "then")
_TOP_KEYS = ("role", "first_message", "functions", "conditions")
_GENERATED = re.compile(r"<\s*/?\s*ai_generated\b[^>]*>")
_WHOLLY_GENERATED = re.compile(r"<ai_generated>(?P<step>.*)</ai_generated>", re.DOTALL)
_TAG = re.compile(r"<(?P<close>/?)(?P<name>[a-z_]+)(?P<attributes>(?:\s[^<>]*)?)(?P<empty>/?)>")
_ATTRIBUTE = re.compile(r"""(?P<name>[a-z_]+)\s*=\s*(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)')""")
_PLACEHOLDER = re.compile(r"\{\{\s*(?P<path>[^{}]*?)\s*\}\}")
_PROFILE = re.compile(r"test_profile(?P<rest>(?:\.[^.\[\]]+|\[[^\[\]]+\])+)")
_PART = re.compile(r"\.([^.\[\]]+)|\[\s*['\"]?([^\[\]'\"]+)['\"]?\s*\]")
_PLAYED_TAGS: dict[str, tuple[str, ...]] = {"silence": ("time",), "dtmf": ("digits",), "endcall": ()}
"""The tags that are played, and their attributes."""
_PLAYED = '<silence time="2s"/>, <dtmf digits="123#"/> and <endcall/> are played'
_SECONDS = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ms|s)?")
_KEY_FORMATTING = re.compile(r"[\s().+-]")
_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FUNCTION_TAG = re.compile(r"""<function\s+name\s*=\s*["'](?P<name>[^"']*)["']\s*/?>""")
_FUNCTION_OUTPUT = re.compile(r"function\.(?P<name>[A-Za-z0-9_-]+)\.(?P<output>.+)")


class ConditionalActionsError(UsageError):
    """Conditional actions are wrong.

    Args:
        errors: What is wrong, each with where it stands.
    """

    def __init__(self, errors: tuple[str, ...]):
        super().__init__("; ".join(errors))
        self.errors = errors


@dataclass(frozen=True)
class Step:
    """Something the caller says or does.

    Attributes:
        text: Its words and tags.
        verbatim: Whether they are said word for word; otherwise they tell a model what to say.
    """

    text: str
    verbatim: bool = True


@dataclass(frozen=True)
class Condition:
    """What the caller does when the agent has done something.

    Attributes:
        when: What the agent has done; for a follow-up of the older shape, whatever it has.
        steps: One at a time, each after a turn of the agent.
        where: The field it stands in.
    """

    when: str
    steps: tuple[Step, ...]
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class ConditionalActions:
    """A caller's conditional actions.

    Attributes:
        role: Who the caller is.
        first: Said as the call begins, then after each turn of the agent; empty where the agent speaks first.
        conditions: In the order written.
        functions: The names of functions that are called.
    """

    role: str
    first: tuple[Step, ...]
    conditions: tuple[Condition, ...]
    functions: tuple[str, ...] = ()


class _Row(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def scenario_type(self) -> str: ...
    @property
    def pipecat_eval(self) -> str | None: ...
    @property
    def data(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class ScenarioFields:
    """What a script is made of.

    Attributes:
        name: The scenario's name.
        scenario_type: ``instruction``, ``conditional_actions`` or ``pipecat_eval``.
        pipecat_eval: The text of a scenario file; goes before everything else.
        conditional_actions: As they were written, in either shape.
        max_duration_s: The longest a call may take; None as the settings, or the text, have it.
        variables: What ``{{test_profile.key}}`` stands for.
    """

    name: str
    scenario_type: str
    pipecat_eval: str | None = None
    conditional_actions: dict[str, Any] | None = None
    max_duration_s: float | None = None
    variables: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, row: _Row, variables: Mapping[str, Any] | None = None) -> "ScenarioFields":
        """Return those of a row of the record.

        Args:
            row: The row.
            variables: The caller's variables of the test profile.
        """
        return cls(
            name=row.name,
            scenario_type=row.scenario_type,
            pipecat_eval=row.pipecat_eval,
            conditional_actions=row.data.get(CONDITIONAL_ACTIONS),
            max_duration_s=row.data.get("max_duration"),
            variables=variables or {},
        )


@dataclass(frozen=True)
class Played:
    """How a scenario is played.

    Attributes:
        script: What the caller does.
        notes: What of the scenario is played otherwise than it says.
        conditions: What must have happened before lines of the caller.
    """

    script: Script
    notes: tuple[str, ...]
    conditions: tuple[asked.Condition, ...] = ()


def as_played(scenario: ScenarioFields, settings: Settings) -> Played:
    """Return how a scenario is played.

    Args:
        scenario: The scenario.
        settings: Give what it does not say itself.

    Raises:
        UsageError: It can't be played; says why.
    """
    conditions: tuple[asked.Condition, ...] = ()
    if scenario.pipecat_eval is not None:
        found = read_pipecat_eval(scenario.pipecat_eval, settings)
        script, notes = _substituted(found.playable(), scenario.variables), found.notes
    elif scenario.scenario_type == CONDITIONAL_ACTIONS:
        if scenario.conditional_actions is None:
            raise UsageError("it has no conditional actions")
        actions = read_conditional_actions(scenario.conditional_actions)
        script, notes, conditions = _Player(scenario, settings).play(actions)
    else:
        raise UsageError(f"a scenario of the type {scenario.scenario_type!r} {_IMPROVISES}")
    changes: dict[str, Any] = {"name": scenario.name}
    if scenario.max_duration_s is not None:
        changes["max_duration_s"] = float(scenario.max_duration_s)
    return Played(script.model_copy(update=changes), notes, conditions)


def read_pipecat_eval(text: str, settings: Settings) -> Scenario:
    """Return the one scenario of a text in the format of Pipecat Evals; it has a script.

    Raises:
        UsageError: Something in it is wrong, it holds several, or can't be played: ``pipecat_eval: line N: …``.
    """
    scenarios = load_text(text, PIPECAT_EVAL, settings)
    if len(scenarios) > 1:
        names = ", ".join([*(scenario.short_name for scenario in scenarios[:3]), *("…" for _ in scenarios[3:4])])
        raise UsageError(
            f"{PIPECAT_EVAL}: line {scenarios[1].line}: holds {len(scenarios)} scenarios ({names}); give one"
        )
    found = scenarios[0]
    if found.refusal is not None or found.script is None:
        raise UsageError(f"{PIPECAT_EVAL}: line {found.line}: can't be played in a room: {found.refusal}")
    if found.tags:
        raise UsageError(f"{PIPECAT_EVAL}: line {found.line}: tags: give them as the scenario's own field")
    return found


def read_conditional_actions(value: Any) -> ConditionalActions:
    """Return conditional actions of either shape.

    Raises:
        ConditionalActionsError: Something in them is wrong; names all of it, in Cekura's words where it has some.
    """
    return _Reader().read(value)


class _Reader:
    """Reads conditional actions, and collects what is wrong with them."""

    def __init__(self) -> None:
        self._errors: list[str] = []
        self._outputs: dict[str, set[str]] = {}

    def read(self, value: Any) -> ConditionalActions:
        if not isinstance(value, dict):
            raise ConditionalActionsError(("must be an object with role and conditions.",))
        given = cast(dict[str, Any], value)
        rows: Any = given.get("conditions")
        if not isinstance(rows, list):
            raise ConditionalActionsError(("conditions: must be a list.",))
        self._unknown("", given, _TOP_KEYS)
        role = given.get("role", "")
        if not isinstance(role, str):
            self._errors.append("role: must be a text.")
        functions = self._functions(given.get("functions"))
        items = cast(list[Any], rows)
        is_older = "first_message" not in given and any(isinstance(row, dict) and "condition" in row for row in items)
        first, conditions = self._older(items) if is_older else self._newer(given.get("first_message"), items)
        if not self._errors and not first and not any(condition.steps for condition in conditions):
            self._errors.append("conditions: the caller does nothing at all.")
        if self._errors:
            raise ConditionalActionsError(tuple(self._errors))
        return ConditionalActions(str(role), first, conditions, functions)

    def _functions(self, value: Any) -> tuple[str, ...]:
        if value is None:
            return ()
        if not isinstance(value, list):
            self._errors.append("functions: must be a list.")
            return ()
        for index, item in enumerate(cast(list[Any], value)):
            function = cast(dict[str, Any], item) if isinstance(item, dict) else {}
            name = function.get("name")
            if not isinstance(name, str) or not _FUNCTION_NAME.fullmatch(name):
                self._errors.append(f"functions[{index}].name: must be up to 64 letters, digits, _ and -.")
                continue
            if name in self._outputs:
                self._errors.append(f"functions[{index}].name: there are two functions {name!r}.")
            config = function.get("config")
            mapping = cast(dict[str, Any], config).get("response_mapping") if isinstance(config, dict) else None
            self._outputs[name] = set(cast(dict[str, Any], mapping)) if isinstance(mapping, dict) else set()
        return tuple(self._outputs)

    def _older(self, rows: list[Any]) -> tuple[tuple[Step, ...], tuple[Condition, ...]]:
        first: list[Step] = []
        conditions: list[Condition] = []
        ids: set[int] = set()
        known = [cast(dict[str, Any], row).get("id") for row in rows if isinstance(row, dict)]
        of_first: set[int] = {0}
        for index, item in enumerate(rows):
            place = f"conditions[{index}]"
            if not isinstance(item, dict):
                self._errors.append(f"{place}: must be an object.")
                continue
            row = cast(dict[str, Any], item)
            self._unknown(place, row, _ROW_KEYS)
            number, condition, action = row.get("id"), row.get("condition"), row.get("action")
            kind, fixed = row.get("type", "standard"), row.get("fixed_message", False)
            if not _is_int(number):
                self._errors.append(f"{place}.id: must be a whole number.")
                continue
            if number in ids:
                self._errors.append(f"{place}.id: {number} stands twice.")
            ids.add(cast(int, number))
            if not isinstance(fixed, bool):
                self._errors.append(f"{place}.fixed_message: must be true or false.")
                continue
            if not isinstance(action, str):
                self._errors.append(f"{place}.action: must be a text.")
                continue
            is_first = index == 0
            if is_first and (number != 0 or condition != FIRST_MESSAGE or not fixed):
                self._errors.append(
                    f"{place}: the first must have id 0, condition {FIRST_MESSAGE!r} and fixed_message true."
                )
            if not is_first and not action.strip():
                self._errors.append(f"{place}.action: only that of the first message may be empty.")
            steps = self._steps(action, f"{place}.action", verbatim=fixed, may_be_empty=True, first=is_first)
            if is_first:
                first += steps
            elif kind == "action_followup":
                if not _is_int(condition) or condition not in known:
                    self._errors.append(f"{place}.condition: a follow-up names the id of a condition.")
                elif condition in of_first and not conditions:
                    of_first.add(cast(int, number))
                    first += steps
                else:
                    conditions.append(Condition("", steps))
            elif kind != "standard":
                self._errors.append(f"{place}.type: must be standard or action_followup.")
            elif not isinstance(condition, str) or not condition.strip():
                self._errors.append(f"{place}.condition: is required.")
            else:
                conditions.append(Condition(condition, steps, f"{place}.condition"))
        return tuple(first), tuple(conditions)

    def _newer(self, first: Any, rows: list[Any]) -> tuple[tuple[Step, ...], tuple[Condition, ...]]:
        conditions: list[Condition] = []
        for index, item in enumerate(rows):
            place = f"conditions[{index}]"
            if not isinstance(item, dict):
                self._errors.append(f"{place}: must be an object.")
                continue
            row = cast(dict[str, Any], item)
            self._unknown(place, row, _CONDITION_KEYS)
            when = row.get("when")
            if not isinstance(when, str) or not when.strip():
                self._errors.append(f"{place}.when: is required.")
            steps = self._said(row, place, may_be_empty=False)
            conditions.append(Condition(str(when), steps, f"{place}.when"))
        return self._first(first), tuple(conditions)

    def _first(self, value: Any) -> tuple[Step, ...]:
        if value is None:
            return ()
        if isinstance(value, str):
            return self._steps(value, "first_message", may_be_empty=True, first=True)
        if not isinstance(value, dict):
            self._errors.append("first_message: must be a text, or an object with say and then.")
            return ()
        given = cast(dict[str, Any], value)
        self._unknown("first_message", given, _FIRST_KEYS)
        return self._said(given, "first_message", may_be_empty=True)

    def _said(self, given: dict[str, Any], place: str, *, may_be_empty: bool) -> tuple[Step, ...]:
        say, then = given.get("say"), given.get("then", [])
        first = place == "first_message"
        steps: tuple[Step, ...] = ()
        if say is None and may_be_empty:
            pass
        elif not isinstance(say, str):
            self._errors.append(f"{place}.say: is required.")
        else:
            name = "first_message" if first else f"{place}.say"
            steps = self._steps(say, name, may_be_empty=may_be_empty, first=first)
        if not isinstance(then, list):
            self._errors.append(f"{place}.then: must be a list.")
            return steps
        for index, step in enumerate(cast(list[Any], then)):
            name = f"{place}.then[{index}]"
            if isinstance(step, str):
                steps += self._steps(step, name)
            else:
                self._errors.append(f"{name}: must be a text.")
        return steps

    def _steps(
        self, text: str, place: str, *, verbatim: bool = True, may_be_empty: bool = False, first: bool = False
    ) -> tuple[Step, ...]:
        """Return the step a text is; none for an empty one."""
        if not text.strip():
            if not may_be_empty:
                self._errors.append(f"{place} has an empty step")
            return ()
        if len(text) > MAX_STEP_CHARACTERS:
            self._errors.append(f"{place}: is longer than {MAX_STEP_CHARACTERS} characters.")
            return ()
        if _GENERATED.search(text):
            if first:
                self._errors.append(
                    "first_message: the first message is always said verbatim; <ai_generated> is not allowed."
                )
                return ()
            whole = _WHOLLY_GENERATED.fullmatch(text.strip())
            if whole is None or _GENERATED.search(whole["step"]):
                self._errors.append(f"{place}: <ai_generated> must wrap the whole step")
                return ()
            if not whole["step"].strip():
                self._errors.append(f"{place} has an empty step")
                return ()
            text, verbatim = whole["step"], False
        self._check_functions(text, place, verbatim=verbatim)
        if verbatim:
            self._check_markup(text, place)
        return (Step(text, verbatim),)

    def _check_functions(self, text: str, place: str, *, verbatim: bool) -> None:
        for tag in _FUNCTION_TAG.finditer(text):
            if tag["name"] not in self._outputs:
                self._errors.append(f"{place}: references an undefined function {tag['name'][:64]!r}.")
        for placeholder in _PLACEHOLDER.finditer(text):
            output = _FUNCTION_OUTPUT.fullmatch(placeholder["path"])
            if output is None:
                continue
            if not verbatim:
                self._errors.append(f"{place}: placeholders require a verbatim step.")
            elif output["name"] not in self._outputs:
                self._errors.append(f"{place}: references an undefined function {output['name'][:64]!r}.")
            elif output["output"] not in self._outputs[output["name"]]:
                names = output["output"][:64], output["name"][:64]
                self._errors.append(f"{place}: {names[0]!r} is not a declared output of function {names[1]!r}.")
        if not verbatim:
            for tag in _TAG.finditer(text):
                if tag["name"] != "function":
                    self._errors.append(f"{place}: <{tag['name'][:40]}> is not allowed in a generated step.")

    def _check_markup(self, text: str, place: str) -> None:
        """Refuse what is not played here. Of a placeholder it is not known yet what it stands for."""
        for placeholder in _PLACEHOLDER.finditer(text):
            if not _PROFILE.fullmatch(placeholder["path"]) and not _FUNCTION_OUTPUT.fullmatch(placeholder["path"]):
                self._errors.append(f"{place}: {_unknown_placeholder(placeholder[0])}")
        without_functions = _FUNCTION_TAG.sub(" ", text)
        try:
            for _ in _pieces(_PLACEHOLDER.sub("1", without_functions)):
                pass
        except UsageError as error:
            self._errors.append(f"{place}: {error}")

    def _unknown(self, place: str, given: dict[str, Any], known: tuple[str, ...]) -> None:
        unknown = sorted(repr(key[:40]) for key in given if key not in known)
        if unknown:
            where = f"{place}: " if place else ""
            self._errors.append(f"{where}unknown field(s) {', '.join(unknown[:10])}. Allowed: {', '.join(known)}.")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class _Ended(Exception):
    """The caller hangs up: what follows is not played."""


class _Player:
    """Makes a script of conditional actions."""

    def __init__(self, scenario: ScenarioFields, settings: Settings):
        self._scenario = scenario
        self._settings = settings
        self._turns: list[Turn] = []

    def play(self, actions: ConditionalActions) -> tuple[Script, tuple[str, ...], tuple[asked.Condition, ...]]:
        if actions.functions:
            raise UsageError(f"it calls functions ({', '.join(actions.functions)}), which are not called here yet")
        steps: list[tuple[Step, Condition | None]] = [(step, None) for step in actions.first]
        for condition in actions.conditions:
            # What follows the first step of a condition follows whatever the agent says.
            steps += [(step, condition if i == 0 else None) for i, step in enumerate(condition.steps)]
        if any(not step.verbatim for step, _ in steps):
            raise UsageError(f"a step that a model words (fixed_message false, or <ai_generated>) {_IMPROVISES}")
        notes = [
            "conditions: the steps are played in the order written, one after each turn of the agent; whether their "
            "conditions had come true by then is told once the call is over"
        ]
        conditions: list[asked.Condition] = []
        ended = False
        for index, (step, condition) in enumerate(steps):
            at_once = index == 0 and bool(actions.first)
            turn = len(self._turns)
            try:
                self._play(step, AfterEvent() if at_once else AfterAgentTurn())
            except _Ended:
                ended = True
            says = len(self._turns) > turn
            if condition is not None and condition.when and (says or ended):
                conditions.append(
                    asked.Condition(
                        turn=turn, where=condition.where, when=condition.when, hangs_up=ended and not says
                    )
                )
            if ended:
                break
        if ended:
            notes.append("endcall: the caller hangs up once the agent has answered its last words")
        else:
            notes.append("no <endcall/>: the caller hangs up once the agent has answered its last step")
        if not self._turns:
            raise UsageError("the caller hangs up before it has done anything")
        if len(self._turns) > MAX_TURNS:
            raise UsageError(f"more than {MAX_TURNS} steps; no call goes on for so long")
        taking = self._settings.turn_taking
        if not actions.first:
            taking = taking.model_copy(update={"greeting_wait_ms": max(GREETING_WAIT_MS, taking.greeting_wait_ms)})
        return (
            Script(
                name=self._scenario.name,
                turns=tuple(self._turns),
                max_duration_s=self._settings.max_duration_s,
                turn_taking=taking,
            ),
            tuple(notes),
            tuple(conditions),
        )

    def _play(self, step: Step, start: Trigger) -> None:
        """Add the turns that a step takes: one, or several where it presses keys or only waits."""
        text = substitute(step.text, self._scenario.variables)
        parts: list[Words | Pause] = []

        def add(action: Action) -> None:
            nonlocal start
            self._turns.append(Turn(action=action, start=start))
            start = AfterEvent()

        def flush() -> None:
            if any(isinstance(part, Words) for part in parts):
                add(Speak(parts=tuple(parts)))
            elif parts:
                add(StaySilent(duration_ms=sum(part.pause_ms for part in parts if isinstance(part, Pause))))
            parts.clear()

        for piece in _pieces(text):
            match piece:
                case Words() | Pause():
                    parts.append(piece)
                case PressKeys():
                    flush()
                    add(piece)
                case _:
                    flush()
                    raise _Ended
        flush()


def _pieces(text: str) -> Iterator[Words | Pause | PressKeys | None]:
    """Return what a step consists of, in its order; None stands for hanging up.

    Raises:
        UsageError: It has a tag that is not played here, or a wrong one.
    """
    end = 0
    for tag in _TAG.finditer(text):
        if words := text[end : tag.start()].strip():
            yield _words(words)
        end = tag.end()
        attributes = _attributes(tag)
        match tag["close"], tag["name"]:
            case "", "silence":
                yield from _pauses(attributes.get("time", ""))
            case "", "dtmf":
                keys = _KEY_FORMATTING.sub("", attributes.get("digits", ""))
                if not keys or set(keys) - set(KEYS) or len(keys) > 64:
                    raise UsageError(f"<dtmf/>: digits must be up to 64 keys of {KEYS}")
                yield PressKeys(keys=keys)
            case "", "endcall":
                yield None
            case _:
                raise UsageError(f"the tag <{tag['close']}{tag['name'][:40]}> is not played here; {_PLAYED}")
    if words := text[end:].strip():
        yield _words(words)


def _words(text: str) -> Words:
    if (problem := unknown_markup(text, _PLAYED)) is not None:
        raise UsageError(problem)
    return Words(text=text)


def _attributes(tag: re.Match[str]) -> dict[str, str]:
    """Return the attributes of a tag.

    Raises:
        UsageError: There is one that is not known, or something that is none.
    """
    given = tag["attributes"].strip().removesuffix("/")
    found = {a["name"]: a["double"] or a["single"] or "" for a in _ATTRIBUTE.finditer(given)}
    known = _PLAYED_TAGS.get(tag["name"])
    if known is None or tag["close"]:
        return found
    unknown = next((name for name in found if name not in known), None) or _ATTRIBUTE.sub("", given).strip()
    if unknown:
        may = f"it may have {', '.join(known)}" if known else "it has none"
        raise UsageError(f"<{tag['name']}/>: the attribute {unknown[:40]!r} is not known; {may}")
    return found


def _pauses(time: str) -> Iterator[Pause]:
    given = _SECONDS.fullmatch(time.strip())
    if given is None:
        raise UsageError('<silence/>: needs a time, such as time="2s"')
    left_ms = round(float(given["number"]) * (1 if given["unit"] == "ms" else 1_000))
    if not 0 < left_ms <= 600_000:
        raise UsageError("<silence/>: the time must be more than 0 and at most 600 s")
    while left_ms > 0:
        yield Pause(pause_ms=min(left_ms, 60_000))
        left_ms -= 60_000


def substitute(text: str, variables: Mapping[str, Any]) -> str:
    """Return a text with the values that ``{{test_profile.key}}`` stands for; nothing where there is none.

    Args:
        text: May hold paths with dots and brackets: ``{{test_profile.address.city}}``, ``{{test_profile["name"]}}``.
        variables: The caller's variables of the test profile.

    Raises:
        UsageError: It has a placeholder of another kind.
    """

    def value(placeholder: re.Match[str]) -> str:
        path = _PROFILE.fullmatch(placeholder["path"])
        if path is None:
            raise UsageError(_unknown_placeholder(placeholder[0]))
        found: Any = variables
        for part in _PART.finditer(path["rest"]):
            found = _within(found, (part[1] or part[2]).strip())
        if found is None or isinstance(found, dict | list):
            return ""
        return ("true" if found else "false") if isinstance(found, bool) else str(found)

    return _PLACEHOLDER.sub(value, text)


def _unknown_placeholder(placeholder: str) -> str:
    return f"the placeholder {placeholder[:80]} is not known here; {{{{test_profile.…}}}} is"


def _within(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return cast(Mapping[str, Any], value).get(key)
    if isinstance(value, list) and key.isascii() and key.isdigit():
        items = cast(list[Any], value)
        return items[int(key[:9])] if int(key[:9]) < len(items) else None
    return None


def _substituted(script: Script, variables: Mapping[str, Any]) -> Script:
    """Return a script with the values of its placeholders, wherever it has texts.

    Raises:
        UsageError: Without the value something in it is empty that must not be, or no regular expression.
    """
    dumped = script.model_dump(mode="json")
    replaced = _in_texts(dumped, variables)
    if replaced == dumped:
        return script
    try:
        return Script.model_validate(replaced)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise UsageError(
            f"with the values of the test profile it can't be played: {where}: {problem['msg']}"
        ) from None


def _in_texts(value: Any, variables: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        return substitute(value, variables)
    if isinstance(value, list):
        return [_in_texts(item, variables) for item in cast(list[Any], value)]
    if isinstance(value, dict):
        return {key: _in_texts(item, variables) for key, item in cast(dict[str, Any], value).items()}
    return value
