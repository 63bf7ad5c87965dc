"""YAML with places: every value knows its file and line, so that every error can name them."""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from runner.errors import UsageError

MAX_FILE_BYTES = 1_000_000
"""A scenario file is written by people: a megabyte is thousands of turns."""

MAX_NODES = 200_000
"""Bounds what aliases can expand to."""

MAX_DEPTH = 40

_T = TypeVar("_T")


class _Loader(yaml.SafeLoader):
    """Reads only plain decimal numbers as integers: a DTMF ``012`` keeps its digits, as in Pipecat Evals."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:int"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789"))


@dataclass(frozen=True)
class Place:
    """Where a value stands."""

    path: Path
    line: int

    def __str__(self) -> str:
        """Return ``file:line``."""
        return f"{self.path}:{self.line}"

    def error(self, message: str) -> UsageError:
        """Return an error about what stands here."""
        return UsageError(f"{self}: {message}")


@dataclass(frozen=True)
class Node:
    """A YAML value and its place. What it must be is said by the method it is read with.

    Attributes:
        place: Where it stands.
        label: What it is called in errors, such as ``within_ms``.
    """

    place: Place
    label: str
    _node: yaml.Node
    _budget: "_Budget"
    _depth: int = 0

    def mapping(self, known: Iterable[str]) -> "Mapping":
        """Return the value as a mapping that has no other keys than ``known``.

        Raises:
            UsageError: It is none, a key is unknown (the nearest known one is named), or stands twice.
        """
        if not isinstance(self._node, yaml.MappingNode):
            raise self.place.error(f"{self.label} must be a mapping (key: value), not {self._kind()}")
        entries: dict[str, Node] = {}
        known = tuple(known)
        for key_node, value_node in self._node.value:
            place = Place(self.place.path, key_node.start_mark.line + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                raise place.error(f"a key of {self.label} must be a plain word")
            key = str(key_node.value)
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known are: {', '.join(known)}"
                raise place.error(f"unknown key {key!r} in {self.label}{hint}")
            if key in entries:
                raise place.error(f"{key!r} stands twice in {self.label}")
            entries[key] = self._child(value_node, key)
        return Mapping(self.place, self.label, entries)

    def items(self) -> list["Node"]:
        """Return the values of a list.

        Raises:
            UsageError: It is no list.
        """
        if not isinstance(self._node, yaml.SequenceNode):
            raise self.place.error(f"{self.label} must be a list (- …), not {self._kind()}")
        return [self._child(node, f"{self.label} #{i}") for i, node in enumerate(self._node.value, start=1)]

    def is_list(self) -> bool:
        """Whether the value is a list."""
        return isinstance(self._node, yaml.SequenceNode)

    def is_mapping(self) -> bool:
        """Whether the value is a mapping."""
        return isinstance(self._node, yaml.MappingNode)

    def is_null(self) -> bool:
        """Whether nothing is given."""
        return self._node.tag == "tag:yaml.org,2002:null"

    def text(self) -> str:
        """Return a text; a number that stands where a text belongs is taken as it is written.

        Raises:
            UsageError: It is no text, or an empty one.
        """
        if not isinstance(self._node, yaml.ScalarNode) or self.is_null() or not self._node.value.strip():
            raise self.place.error(f"{self.label} must be a text, not {self._kind()}")
        return str(self._node.value)

    def integer(self, low: int, high: int) -> int:
        """Return a whole number within bounds.

        Raises:
            UsageError: It is no whole number, or out of bounds.
        """
        value = self.plain()
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.place.error(f"{self.label} must be a whole number, not {self._kind()}")
        if not low <= value <= high:
            raise self.place.error(f"{self.label} must be from {low} to {high}, not {value}")
        return value

    def number(self, low: float, high: float) -> float:
        """Return a number within bounds.

        Raises:
            UsageError: It is no number, or out of bounds.
        """
        value = self.plain()
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.place.error(f"{self.label} must be a number, not {self._kind()}")
        if not low <= value <= high:
            raise self.place.error(f"{self.label} must be from {low:g} to {high:g}, not {value:g}")
        return float(value)

    def flag(self) -> bool:
        """Return true or false.

        Raises:
            UsageError: It is neither.
        """
        value = self.plain()
        if not isinstance(value, bool):
            raise self.place.error(f"{self.label} must be true or false, not {self._kind()}")
        return value

    def plain(self) -> Any:
        """Return the value as plain Python data."""
        loader = _Loader("")
        try:
            return loader.construct_document(self._node)
        except yaml.YAMLError as error:
            raise self.place.error(f"{self.label}: {_problem(error)}") from error
        finally:
            loader.dispose()

    def _child(self, node: yaml.Node, label: str) -> "Node":
        self._budget.spend(self.place)
        if self._depth >= MAX_DEPTH:
            raise self.place.error(f"nested more than {MAX_DEPTH} deep")
        place = Place(self.place.path, node.start_mark.line + 1)
        return Node(place, label, node, self._budget, self._depth + 1)

    def _kind(self) -> str:
        if isinstance(self._node, yaml.MappingNode):
            return "a mapping"
        if isinstance(self._node, yaml.SequenceNode):
            return "a list"
        if self.is_null():
            return "nothing"
        value = str(self._node.value)
        return repr(value if len(value) <= 40 else value[:40] + "…")


@dataclass(frozen=True)
class Mapping:
    """A mapping whose keys are all known.

    Attributes:
        place: Where it stands.
        label: What it is called in errors.
    """

    place: Place
    label: str
    _entries: dict[str, Node]

    def __contains__(self, key: str) -> bool:
        """Whether a key is given, and not as nothing."""
        return key in self._entries and not self._entries[key].is_null()

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys that are there."""
        return iter(self._entries)

    def __getitem__(self, key: str) -> Node:
        """Return the value of a key.

        Raises:
            UsageError: The key is not there.
        """
        if key not in self:
            raise self.place.error(f"{self.label} needs {key!r}")
        return self._entries[key]

    def get(self, key: str, read: Callable[[Node], _T]) -> _T | None:
        """Return the value of a key as ``read`` reads it; None where it is not given."""
        return read(self._entries[key]) if key in self else None

    def over(self, defaults: "Mapping") -> "Mapping":
        """Return this mapping, with the keys of another where it has none of its own."""
        return Mapping(self.place, self.label, {**defaults._entries, **self._entries})

    def without(self, *keys: str) -> "Mapping":
        """Return the mapping without some keys."""
        return Mapping(self.place, self.label, {k: v for k, v in self._entries.items() if k not in keys})


class _Budget:
    """Counts nodes, so that a file whose aliases multiply ends in an error and not in memory."""

    def __init__(self) -> None:
        self._spent = 0

    def spend(self, place: Place) -> None:
        self._spent += 1
        if self._spent > MAX_NODES:
            raise place.error(f"expands to more than {MAX_NODES} values")


def read_yaml(path: Path) -> Node:
    """Return the one document of a YAML file.

    Raises:
        UsageError: It can't be read, is too large, or is no YAML.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise UsageError(f"{path}: larger than {MAX_FILE_BYTES // 1_000_000} MB; split it into several files")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 at byte {error.start}") from error
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = 1 if mark is None else mark.line + 1
        raise UsageError(f"{path}:{line}: no YAML: {_problem(error)}") from error
    except RecursionError as error:
        raise UsageError(f"{path}:1: nested too deep") from error
    if node is None:
        raise UsageError(f"{path}:1: the file is empty")
    return Node(Place(path, node.start_mark.line + 1), "the file", node, _Budget())


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or getattr(error, "reason", None) or error).splitlines()[0]
