"""Placeholders in what a caller says: ``{{test_profile.key}}``."""

import re
from collections.abc import Mapping
from typing import Any, cast

from pydantic import ValidationError

from bots.caller.script import Script
from runner.errors import UsageError

PLACEHOLDER = re.compile(r"\{\{\s*(?P<path>[^{}]*?)\s*\}\}")
PROFILE = re.compile(r"test_profile(?P<rest>(?:\.[^.\[\]]+|\[[^\[\]]+\])+)")
"""The path of a placeholder that is known here."""

_PART = re.compile(r"\.([^.\[\]]+)|\[\s*['\"]?([^\[\]'\"]+)['\"]?\s*\]")


def substitute(text: str, variables: Mapping[str, Any]) -> str:
    """Return a text with the values that ``{{test_profile.key}}`` stands for; nothing where there is none.

    Paths have dots and brackets: ``{{test_profile.address.city}}``, ``{{test_profile["name"]}}``.

    Raises:
        UsageError: It has a placeholder of another kind.
    """

    def value(placeholder: re.Match[str]) -> str:
        path = PROFILE.fullmatch(placeholder["path"])
        if path is None:
            raise UsageError(unknown_placeholder(placeholder[0]))
        found: Any = variables
        for part in _PART.finditer(path["rest"]):
            found = _within(found, (part[1] or part[2]).strip())
        if found is None or isinstance(found, dict | list):
            return ""
        return ("true" if found else "false") if isinstance(found, bool) else str(found)

    return PLACEHOLDER.sub(value, text)


def unknown_placeholder(placeholder: str) -> str:
    return f"the placeholder {placeholder[:80]} is not known here; {{{{test_profile.…}}}} is"


def _within(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return cast(Mapping[str, Any], value).get(key)
    if isinstance(value, list) and key.isascii() and key.isdigit():
        return next(iter(cast(list[Any], value)[int(key[:9]) :]), None)
    return None


def substituted(script: Script, variables: Mapping[str, Any]) -> Script:
    """Return a script with the values of its placeholders, wherever it has texts.

    Raises UsageError: without the value something in it is empty that must not be, or no regular expression.
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
