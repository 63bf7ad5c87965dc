"""What all answers have in common, and the parameters of paths and queries."""

from collections.abc import Callable
from datetime import datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, PlainSerializer, create_model
from pydantic.fields import FieldInfo

from runner.records.written import MAX_ID, kept_in

Timestamp = Annotated[
    datetime,
    PlainSerializer(lambda at: at.isoformat().replace("+00:00", "Z"), return_type=str, when_used="json"),
]
"""ISO 8601, UTC, as Cekura writes it: ``2026-01-01T10:00:00.000000Z``."""


class ResponseBody(BaseModel):
    """Base of what is answered."""

    model_config = ConfigDict(extra="forbid")


PathId = Annotated[int, Path(ge=1, le=MAX_ID)]
"""An id in a path. Whatever is none is a 404."""

QueryId = Annotated[int | None, Query(ge=1, le=MAX_ID)]
"""An id that a list is narrowed down to."""

Search = Annotated[str | None, Query(max_length=1_000, description="What the name holds, whatever the case.")]

Words = Annotated[str | None, Query(max_length=10_000, description="Separated by commas; any of them.")]

_Model = TypeVar("_Model", bound=BaseModel)


def shows(written: type[BaseModel]) -> Callable[[type[_Model]], type[_Model]]:
    """Let an answer have the fields that are kept as they were given: without limits, and a list never null."""

    def widen(model: type[_Model]) -> type[_Model]:
        more: dict[str, Any] = {
            name: (_shown_type(field), ...)
            for name, field, kept in kept_in(written)
            if kept.is_shown and name not in model.model_fields
        }
        return create_model(
            model.__name__, __base__=model, __module__=model.__module__, __doc__=model.__doc__, **more
        )

    return widen


def of_kept(row: Any, written: type[BaseModel]) -> dict[str, Any]:
    """Return the fields of a row that are kept as they were given, as they are answered."""
    shown: dict[str, Any] = {}
    for name, field, kept in kept_in(written):
        if kept.is_shown:
            value = getattr(row, kept.column) if kept.column else row.data.get(name)
            nothing = [] if get_origin(_shown_type(field)) is list else field.default
            shown[name] = nothing if value is None else value
    return shown


def of_row(row: Any, *names: str) -> dict[str, Any]:
    """Return attributes of a row, by their names."""
    return {name: getattr(row, name) for name in names}


def _shown_type(field: FieldInfo) -> Any:
    plain = _plain(field.annotation)
    something = [one for one in get_args(plain) if one is not NoneType]
    return something[0] if len(something) == 1 and get_origin(something[0]) is list else plain


def _plain(kind: Any) -> Any:
    """Return a type without its limits."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _plain(parts[0])
    if origin is Literal:
        return type(parts[0])
    if origin is list:
        return list[_plain(parts[0])]
    return Union[tuple(map(_plain, parts))] if origin in (Union, UnionType) else kind  # noqa: UP007 - made of a tuple
