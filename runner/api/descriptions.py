"""What fields and parameters of the API mean, for its description: from the docstrings of its classes."""

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise, takewhile
from textwrap import dedent
from typing import Any

from pydantic import BaseModel

from runner.api.words import EXAMPLES, FIELDS, PARAMETERS, TAGS
from runner.records.written import WrittenBody

WRITTEN = "runner.records.fields"
"""What is said there of a field holds wherever nothing else is said of one of that name."""

_ATTRIBUTE = re.compile(r"^(?P<names>\w+(?:, \w+)*): (?P<text>.*)$")
_CODE = re.compile(r"``(.*?)``")
_ROLE = re.compile(r":\w+:`~?(?:[\w.]*\.)?(\w+)`")


def describe(document: dict[str, Any]) -> None:
    """Put into an OpenAPI document what its fields, parameters and tags mean, where it does not say that yet."""
    examples = EXAMPLES | {
        name: field.examples
        for model in _below(WrittenBody)
        for name, field in model.model_fields.items()
        if field.examples
    }
    written = {name: text for of in _below_fields(WRITTEN).values() for name, text in of.items()}
    for name, schema in document["components"]["schemas"].items():
        known = _attributes(name, frozenset(schema.get("properties", ())))
        for field, shown in schema.get("properties", {}).items():
            text = FIELDS.get(f"{name}.{field}") or known.get(field) or FIELDS.get(field) or written.get(field)
            if text and "description" not in shown:
                shown["description"] = text
            if field in examples and "examples" not in shown:
                shown["examples"] = examples[field]
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                text = PARAMETERS.get(parameter["name"])
                if text and "description" not in parameter:
                    parameter["description"] = text
    document["tags"] = [{"name": name, "description": text} for name, text in TAGS.items()]


def _attributes(name: str, fields: frozenset[str]) -> Mapping[str, str]:
    """Return what the docstrings of a class and of those it is made of say of its fields."""
    plain = name.partition("_")[0]
    known: dict[str, str] = {}
    # What is answered is described by what is written, where both have the same field.
    for written in (f"{plain}Fields", f"{plain}Body", plain):
        for model in _models().get(written, ()):
            if written != plain or fields <= set(model.model_fields):
                known |= {k: v for base in reversed(model.__mro__) for k, v in attributes_of(base).items()}
                break
    return known


def attributes_of(described: type) -> dict[str, str]:
    """Return what one class says of its attributes: in its docstring, or in one below the attribute."""
    found = dict(_below_fields(described.__module__).get(described.__qualname__, {}))
    section = inspect.cleandoc(described.__dict__.get("__doc__") or "").partition("\nAttributes:\n")[2]
    indented = takewhile(lambda line: line.startswith(" "), section.splitlines())
    names: list[str] = []
    for line in dedent("\n".join(indented)).splitlines():
        begun = _ATTRIBUTE.match(line)
        if begun:
            names = begun["names"].split(", ")
        text = begun["text"] if begun else line.strip()
        for attribute in names:
            found[attribute] = f"{found[attribute]} {text}" if attribute in found and not begun else text
    return {attribute: _ROLE.sub(r"`\1`", _CODE.sub(r"`\1`", text)).strip() for attribute, text in found.items()}


@cache
def _below_fields(module: str) -> dict[str, dict[str, str]]:
    """Return what stands below the fields of the classes of a module; nothing of what is not ours."""
    if not module.startswith(("runner.", "bots.", "tests.")):
        return {}
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(node, ast.ClassDef):
            for field, text in pairwise(node.body):
                match field, text:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                        found.setdefault(node.name, {})[name] = " ".join(words.split()).replace("``", "`")
                    case _:
                        pass
    return found


@cache
def _models() -> dict[str, list[type[BaseModel]]]:
    """Return the models of this project by their names, those of the API first."""
    found: dict[str, list[type[BaseModel]]] = {}
    ours = [model for model in _below(BaseModel) if model.__module__.startswith("runner.")]
    for model in sorted(ours, key=lambda model: (not model.__module__.startswith("runner.api."), model.__module__)):
        found.setdefault(model.__name__.partition("[")[0], []).append(model)
    return found


def _below(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from _below(model)
