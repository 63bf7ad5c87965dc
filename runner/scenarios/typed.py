"""Pydantic models that are read from YAML: each field says what may stand at its key.

A key without a value is as good as not there. All mistakes are found at once, each with its place.
"""

from typing import Annotated, Any, Self, TypeVar, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    InstanceOf,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo

from runner.scenarios.composing import FileError, Mistakes
from runner.scenarios.nodes import Node

_T = TypeVar("_T")

Text = Annotated[str, BeforeValidator(lambda node: node.text())]
Flag = Annotated[bool, BeforeValidator(lambda node: node.flag())]
Items = Annotated[tuple[_T, ...], BeforeValidator(lambda node: node.items())]
Some = Annotated[tuple[_T, ...], BeforeValidator(lambda node: node.some())]


def whole(low: int, high: int) -> BeforeValidator:
    return BeforeValidator(lambda node: node.integer(low, high))


def one_of(*known: str) -> BeforeValidator:
    return BeforeValidator(lambda node: node.one_of(known))


class FileModel(BaseModel):
    """A mapping whose keys are the model's fields, with its place.

    A field that is needed is described by what it says, for the error where it is missing.
    """

    model_config = ConfigDict(frozen=True)

    node: InstanceOf[Node]

    @classmethod
    def keys(cls) -> dict[str, FieldInfo]:
        return {field.alias or name: field for name, field in cls.model_fields.items() if name != "node"}

    @classmethod
    def read(cls, node: Node) -> Self:
        """Return the model of a mapping, or raise a :class:`FileError` with all its mistakes."""
        mistakes = Mistakes()
        try:
            model = cls.model_validate(node, context=mistakes)
        except ValidationError as error:
            for problem in error.errors(include_url=False, include_input=False):
                found = problem.get("ctx", {}).get("error")
                if isinstance(found, FileError):
                    mistakes.add(found)
                elif problem["type"] != "missing":  # What is missing was found before.
                    mistakes.add(node.place.error(f"{problem['loc'][-1]}: {problem['msg']}"))
            mistakes.check()
            raise
        mistakes.check()
        return model

    def given(self, *keys: str) -> list[str]:
        return [key for key in keys if key in self.node]

    def error(self, key: str, message: str) -> FileError:
        return self.node[key].place.error(message)

    @model_validator(mode="before")
    @classmethod
    def _entries(cls, node: Node, info: ValidationInfo) -> dict[str, Any]:
        mistakes = cast(Mistakes, info.context)
        for error in node.unknown(tuple(cls.keys())):
            mistakes.add(error)
        fields = cls.keys()
        for key, field in fields.items():
            if field.is_required() and key not in node:
                says = f": {field.description}" if field.description else ""
                mistakes.add(node.place.error(f"{node.label} needs {key!r}{says}"))
        return {"node": node, **{key: node[key] for key in fields if key in node}}
