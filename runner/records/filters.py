"""What SQLite and PostgreSQL write differently of statements, and how much goes into one."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Boolean, ColumnElement, Text, func, or_, select, type_coerce
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import literal
from sqlalchemy.sql.functions import GenericFunction

from runner.records.columns import JsonValue

AT_ONCE = 500
"""How many ids go into one statement."""

_T = TypeVar("_T")


def chunks(items: Sequence[_T]) -> Iterable[Sequence[_T]]:
    """Return items in parts, each of which goes into one statement."""
    return (items[begin : begin + AT_ONCE] for begin in range(0, len(items), AT_ONCE))


class _HoldsAny(ColumnElement[bool]):
    """Whether a JSON list holds one of several texts. However many: they are one parameter."""

    inherit_cache = False
    type = Boolean()

    def __init__(self, column: InstrumentedAttribute[Any], texts: Sequence[str]):
        self.column = column
        self.texts = list(dict.fromkeys(texts))


@compiles(_HoldsAny)
def _on_sqlite(element: _HoldsAny, compiler: SQLCompiler, **options: Any) -> str:
    held = func.json_each(element.column).table_valued("value", name="held")
    wanted = func.json_each(json.dumps(element.texts)).table_valued("value", name="wanted")
    found = select(held.c.value).where(held.c.value.in_(select(wanted.c.value)))
    return compiler.process(found.exists(), **options)


@compiles(_HoldsAny, "postgresql")
def _on_postgresql(element: _HoldsAny, compiler: SQLCompiler, **options: Any) -> str:
    wanted = literal(element.texts, ARRAY(Text()))
    return compiler.process(type_coerce(element.column, JSONB).has_any(wanted), **options)


class _JsonObject(GenericFunction[Any]):
    """A JSON object of names and JSON values, one after the other."""

    inherit_cache = True
    type = JsonValue
    name = "json_object"


@compiles(_JsonObject, "postgresql")
def _object_on_postgresql(element: _JsonObject, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(func.jsonb_build_object(*element.clauses), **options)


def members(column: InstrumentedAttribute[Any], names: Sequence[str]) -> ColumnElement[Any]:
    """Return some members of a JSON object as an object; null where there are none."""
    return _JsonObject(*(part for name in names for part in (name, column[name])))


def holds_any(column: InstrumentedAttribute[Any], texts: Sequence[str]) -> ColumnElement[bool]:
    """Return the condition that a JSON list of texts holds one of several."""
    return _HoldsAny(column, texts)


def in_folder(column: InstrumentedAttribute[Any], path: str) -> ColumnElement[bool]:
    """Return the condition that a dotted path is a folder, or lies within it."""
    return or_(column == path, column.startswith(f"{path}.", autoescape=True))


def words_of(text: str | None) -> list[str]:
    """Return what a comma separated text holds."""
    return [word for part in (text or "").split(",") if (word := part.strip())]
