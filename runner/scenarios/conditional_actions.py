"""Cekura's conditional actions, as they are written.

They come in two shapes. In the older one conditions are a list of ``{id, condition, action, type, fixed_message}``,
the first of which is ``FIRST_MESSAGE``; in the newer one of ``{when, say, then}`` beside a ``first_message``.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from runner.errors import UsageError
from runner.scenarios.markup import TAG, pieces
from runner.scenarios.placeholders import PLACEHOLDER, PROFILE, unknown_placeholder

FIRST_MESSAGE = "FIRST_MESSAGE"

MAX_STEP_CHARACTERS = 5_000

_GENERATED = re.compile(r"<\s*/?\s*ai_generated\b[^>]*>")
_WHOLLY_GENERATED = re.compile(r"<ai_generated>(?P<step>.*)</ai_generated>", re.DOTALL)
_FUNCTION_TAG = re.compile(r"""<function\s+name\s*=\s*["'](?P<name>[^"']*)["']\s*/?>""")
_FUNCTION_OUTPUT = re.compile(r"function\.(?P<name>[A-Za-z0-9_-]+)\.(?P<output>.+)")

_SAID = {
    "missing": "is required.",
    "model_type": "must be an object.",
    "dict_type": "must be an object.",
    "list_type": "must be a list.",
    "string_type": "must be a text.",
    "int_type": "must be a whole number.",
    "bool_type": "must be true or false.",
    "literal_error": "must be standard or action_followup.",
    "string_pattern_mismatch": "must be up to 64 letters, digits, _ and -.",
}
"""What is wrong, by Pydantic's type of error; in Cekura's words where it has some."""


class ConditionalActionsError(UsageError):
    """Conditional actions are wrong; ``errors`` says what, each with where it stands."""

    def __init__(self, errors: tuple[str, ...]):
        super().__init__("; ".join(errors))
        self.errors = errors


@dataclass(frozen=True)
class Step:
    """Something the caller says or does: words and tags. Those that are not verbatim tell a model what to say."""

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
        first: Said as the call begins, then after each turn of the agent; empty where the agent speaks first.
        functions: The names of functions that are called.
    """

    role: str
    first: tuple[Step, ...]
    conditions: tuple[Condition, ...]
    functions: tuple[str, ...] = ()


class _Written(BaseModel):
    # What is not known is told together with what else is wrong.
    model_config = ConfigDict(strict=True, extra="allow")


class _FunctionConfig(BaseModel):
    response_mapping: dict[str, Any] | None = None


class _Function(BaseModel):
    name: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")]
    config: _FunctionConfig | None = None


class _OlderRow(_Written):
    id: int
    condition: Any = None
    action: str
    type: Literal["standard", "action_followup"] = "standard"
    fixed_message: bool = False


class _NewerRow(_Written):
    when: str
    say: str
    then: list[str] = []


class _First(_Written):
    say: str | None = None
    then: list[str] = []


def _as_object(value: Any) -> Any:
    if value is None or isinstance(value, dict):
        return cast(Any, value)
    if isinstance(value, str):
        return {"say": value}
    raise PydanticCustomError("first", "must be a text, or an object with say and then.")


class _Actions(_Written):
    role: str = ""
    first_message: Annotated[_First | None, BeforeValidator(_as_object)] = None
    functions: list[_Function] | None = None


class _Older(_Actions):
    conditions: list[_OlderRow]


class _Newer(_Actions):
    conditions: list[_NewerRow]


def read_conditional_actions(value: Any) -> ConditionalActions:
    """Return conditional actions of either shape.

    Raises:
        ConditionalActionsError: Something in them is wrong; names all that is wrong with their shape, or else with
            what they say.
    """
    if not isinstance(value, dict):
        raise ConditionalActionsError(("must be an object with role and conditions.",))
    actions = cast(dict[str, Any], value)
    rows: Any = actions.get("conditions")
    has_older = isinstance(rows, list) and any("condition" in row for row in cast(Any, rows) if isinstance(row, dict))
    model = _Older if has_older and "first_message" not in actions else _Newer
    try:
        given = model.model_validate(actions)
    except ValidationError as error:
        raise ConditionalActionsError(tuple(_told(error))) from None
    return _Reader(given).read()


def _told(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False, include_input=False):
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
        yield f"{where.removeprefix('.')}: {_SAID.get(problem['type'], problem['msg'])}"


class _Reader:
    """Reads what conditional actions say, and collects what is wrong with it."""

    def __init__(self, given: _Older | _Newer):
        self._given = given
        self._errors: list[str] = []
        self._outputs: dict[str, set[str]] = {}
        """What each declared function puts out."""

    def read(self) -> ConditionalActions:
        given = self._given
        self._check_fields(given)
        for index, function in enumerate(given.functions or []):
            if function.name in self._outputs:
                self._errors.append(f"functions[{index}].name: there are two functions {function.name!r}.")
            config = function.config or _FunctionConfig()
            self._outputs[function.name] = {*(config.response_mapping or {})}
        first, conditions = self._older(given) if isinstance(given, _Older) else self._newer(given)
        if not self._errors and not first and not any(condition.steps for condition in conditions):
            self._errors.append("conditions: the caller does nothing at all.")
        if self._errors:
            raise ConditionalActionsError(tuple(self._errors))
        return ConditionalActions(given.role, first, tuple(conditions), tuple(self._outputs))

    def _older(self, given: _Older) -> tuple[tuple[Step, ...], list[Condition]]:
        first: tuple[Step, ...] = ()
        conditions: list[Condition] = []
        known = {row.id for row in given.conditions}
        ids: set[int] = set()
        of_first: set[int] = {0}
        for index, row in enumerate(given.conditions):
            place = f"conditions[{index}]"
            self._check_fields(row, f"{place}: ")
            if row.id in ids:
                self._errors.append(f"{place}.id: {row.id} stands twice.")
            ids.add(row.id)
            is_first = index == 0
            if is_first and (row.id, row.condition, row.fixed_message) != (0, FIRST_MESSAGE, True):
                self._errors.append(
                    f"{place}: the first must have id 0, condition {FIRST_MESSAGE!r} and fixed_message true."
                )
            if not is_first and not row.action.strip():
                self._errors.append(f"{place}.action: only that of the first message may be empty.")
            action = f"{place}.action"
            steps = self._steps(row.action, action, verbatim=row.fixed_message, may_be_empty=True, first=is_first)
            if is_first:
                first += steps
            elif row.type == "standard":
                if isinstance(row.condition, str) and row.condition.strip():
                    conditions.append(Condition(row.condition, steps, f"{place}.condition"))
                else:
                    self._errors.append(f"{place}.condition: is required.")
            elif type(row.condition) is not int or row.condition not in known:
                self._errors.append(f"{place}.condition: a follow-up names the id of a condition.")
            elif row.condition in of_first and not conditions:
                of_first.add(row.id)
                first += steps
            else:
                conditions.append(Condition("", steps))
        return first, conditions

    def _newer(self, given: _Newer) -> tuple[tuple[Step, ...], list[Condition]]:
        conditions: list[Condition] = []
        for index, row in enumerate(given.conditions):
            place = f"conditions[{index}]"
            self._check_fields(row, f"{place}: ")
            if not row.when.strip():
                self._errors.append(f"{place}.when: is required.")
            steps = self._steps(row.say, f"{place}.say") + self._then(row.then, place)
            conditions.append(Condition(row.when, steps, f"{place}.when"))
        first = given.first_message or _First()
        self._check_fields(first, "first_message: ")
        said = self._steps(first.say or "", "first_message", may_be_empty=True, first=True)
        return said + self._then(first.then, "first_message"), conditions

    def _then(self, steps: list[str], place: str) -> tuple[Step, ...]:
        return tuple(step for i, text in enumerate(steps) for step in self._steps(text, f"{place}.then[{i}]"))

    def _steps(
        self, text: str, place: str, *, verbatim: bool = True, may_be_empty: bool = False, first: bool = False
    ) -> tuple[Step, ...]:
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

    def _check_fields(self, written: _Written, where: str = "") -> None:
        unknown = sorted(repr(name[:40]) for name in written.model_extra or {})
        if unknown:
            known = ", ".join(type(written).model_fields)
            self._errors.append(f"{where}unknown field(s) {', '.join(unknown[:10])}. Allowed: {known}.")

    def _check_functions(self, text: str, place: str, *, verbatim: bool) -> None:
        for tag in _FUNCTION_TAG.finditer(text):
            if tag["name"] not in self._outputs:
                self._errors.append(f"{place}: references an undefined function {tag['name'][:64]!r}.")
        for placeholder in PLACEHOLDER.finditer(text):
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
            for tag in TAG.finditer(text):
                if tag["name"] != "function":
                    self._errors.append(f"{place}: <{tag['name'][:40]}> is not allowed in a generated step.")

    def _check_markup(self, text: str, place: str) -> None:
        """Refuse what is not played here. Of a placeholder it is not known yet what it stands for."""
        for placeholder in PLACEHOLDER.finditer(text):
            if not PROFILE.fullmatch(placeholder["path"]) and not _FUNCTION_OUTPUT.fullmatch(placeholder["path"]):
                self._errors.append(f"{place}: {unknown_placeholder(placeholder[0])}")
        without_functions = _FUNCTION_TAG.sub(" ", text)
        try:
            for _ in pieces(PLACEHOLDER.sub("1", without_functions)):
                pass
        except UsageError as error:
            self._errors.append(f"{place}: {error}")
