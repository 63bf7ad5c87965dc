"""Values of a YAML file that know their places, so that every error can name file and line.

``!include PATH`` stands for the value of another file. As in Pipecat Evals every path is relative to the file that is
read, also where it stands in an included one.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from runner.errors import UsageError
from runner.scenarios.composing import (
    MAX_DEPTH,
    MAX_NODES,
    NULL_TAG,
    PLAIN_TAGS,
    STANDARD_TAGS,
    Composer,
    FileError,
    Place,
    meant,
    problem,
    scalar,
    short,
    shortened,
)

MAX_INCLUDED_FILES = 100

MAX_PATH_CHARACTERS = 1_000

INCLUDE_TAG = "!include"

_MERGE_TAG = STANDARD_TAGS + "merge"

_INCLUDE_COSTS = 5
"""Following a path takes as long as looking at so many values."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Folder:
    """What paths in a file are relative to (None: no files are taken in), and the folder all must lie in."""

    path: Path | None
    root: Path


@dataclass(frozen=True, eq=False)
class Node:
    """A YAML value and its place. What it must be is said by the method it is read with.

    A method raises :class:`FileError` where the value is of another kind, or out of bounds.

    Attributes:
        label: What it is called in errors, such as ``within_ms``.
        folder: Where the files may come from that it names.
        value: The values it holds, by their keys or in order; or itself, if it holds none.
    """

    place: Place
    label: str
    key_place: Place
    folder: Folder
    value: "dict[Any, Node] | list[Node] | yaml.ScalarNode"

    def __contains__(self, key: str) -> bool:
        """Whether a mapping has a key, and not as nothing."""
        entries = self.entries()
        return key in entries and not entries[key].is_null()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.entries())

    def __getitem__(self, key: str) -> "Node":
        if key not in self:
            raise self.place.error(f"{self.label} needs {key!r}")
        return self.entries()[key]

    def get(self, key: str, read: "Callable[[Node], _T]") -> _T | None:
        """Return the value of a key as ``read`` reads it; None where it is not given."""
        return read(self[key]) if key in self else None

    def over(self, defaults: "Node") -> "Node":
        return replace(self, value={**defaults.entries(), **self.entries()})

    def only(self, keys: Iterable[str]) -> "Node":
        return replace(self, value={key: self.entries()[key] for key in keys if key in self.entries()})

    def without(self, *keys: str) -> "Node":
        return replace(self, value={k: v for k, v in self.entries().items() if k not in keys})

    def entries(self) -> "dict[Any, Node]":
        if not isinstance(self.value, dict):
            raise self.place.error(f"{self.label} must be a mapping (key: value), not {self._kind()}")
        return self.value

    def unknown(self, known: Sequence[str]) -> list[FileError]:
        """Return an error for each key of a mapping that is not known; it names the nearest known one."""
        return [
            node.key_place.error(f"unknown key {short(node.label)} in {self.label}{meant(node.label, known)}")
            for key, node in self.entries().items()
            if key not in known
        ]

    def mapping(self, known: Iterable[str]) -> "Node":
        """Return the value, which is a mapping that has no other keys than ``known``."""
        for error in self.unknown(tuple(known)):
            raise error
        return self

    def items(self) -> "list[Node]":
        if not isinstance(self.value, list):
            raise self.place.error(f"{self.label} must be a list (- …), not {self._kind()}")
        return self.value

    def some(self) -> "list[Node]":
        if not self.items():
            raise self.place.error(f"{self.label} must hold at least one")
        return self.items()

    def has_keys(self, *keys: str) -> bool:
        return isinstance(self.value, dict) and {*keys} <= {*self.value}

    def is_list(self) -> bool:
        return isinstance(self.value, list)

    def is_mapping(self) -> bool:
        return isinstance(self.value, dict)

    def is_null(self) -> bool:
        return isinstance(self.value, yaml.ScalarNode) and self.value.tag == NULL_TAG

    def text(self, max_characters: int = 1_000) -> str:
        """Return a text; a number that stands where a text belongs is taken as it is written."""
        if self.is_null() or not (text := self._written()).strip():
            raise self.place.error(f"{self.label} must be a text, not {self._kind()}")
        if len(text) > max_characters:
            raise self.place.error(f"{self.label} is longer than {max_characters} characters")
        return text

    def one_of(self, known: Sequence[str]) -> str:
        word = self.text()
        if word not in known:
            raise self.place.error(f"{self.label}: there is no {short(word)}{meant(word, known)}")
        return word

    def path(self) -> Path:
        """Return the path a text names, relative to the file that is read."""
        written = self._written()
        if not written.strip():
            raise self.place.error(f"{self.label} must be the path of a file, not {self._kind()}")
        if len(written) > MAX_PATH_CHARACTERS:
            raise self.place.error(f"{self.label} is longer than {MAX_PATH_CHARACTERS} characters")
        if self.folder.path is None:
            raise self.place.error(f"{self.label}: files can't be taken in here; this is a text of its own")
        path = self.folder.path / written
        try:
            inside = path.resolve().is_relative_to(self.folder.root)
        except (OSError, ValueError, RuntimeError) as error:
            raise self.place.error(f"{self.label} is no path: {problem(error)}") from error
        if not inside:
            raise self.place.error(
                f"{self.label}: {path} is outside of {self.folder.root}; start the runner in a folder above both, "
                "or name that folder with the setting scenarios_dir"
            )
        return path

    def integer(self, low: int, high: int) -> int:
        value = self.plain()
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.place.error(f"{self.label} must be a whole number, not {self._kind()}")
        return self._within(value, low, high)

    def number(self, low: float, high: float) -> float:
        value = self.plain()
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or (isinstance(value, float) and not math.isfinite(value)):
            raise self.place.error(f"{self.label} must be a number, not {self._kind()}")
        return float(self._within(value, low, high))

    def flag(self) -> bool:
        value = self.plain()
        if not isinstance(value, bool):
            raise self.place.error(f"{self.label} must be true or false, not {self._kind()}")
        return value

    def plain(self) -> Any:
        """Return the value as plain Python data; a date stays the text it is written as."""
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        if isinstance(self.value, dict):
            return {key: value.plain() for key, value in self.value.items()}
        return scalar(self.value, self.label, self.place)

    def _within(self, value: _T, low: Any, high: Any) -> _T:
        if not low <= value <= high:
            raise self.place.error(f"{self.label} must be from {low} to {high}, not {shortened(self._written())}")
        return value

    def _written(self) -> str:
        return str(self.value.value) if isinstance(self.value, yaml.ScalarNode) else ""

    def _kind(self) -> str:
        if self.is_list() or self.is_mapping():
            return "a list" if self.is_list() else "a mapping"
        return "nothing" if self.is_null() else short(self._written())


def read_yaml(path: Path, root: Path | None = None) -> Node:
    """Return the one document of a YAML file, which includes files of ``root``, by default :func:`default_root`.

    Raises UsageError: it can't be read, is too large, or is not valid YAML.
    """
    reader = _Reader(Folder(path.parent, (root or default_root(path)).resolve()))
    try:
        node = reader.composer.file(path)
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror})") from error
    place = Place(path, node.start_mark.line + 1)
    return reader.value(node, _Spot(place, "the file", (path.resolve(),), place))


def read_yaml_text(text: str, name: str) -> Node:
    """Return the one document of a YAML text, which takes in no files, and is called ``name`` in errors.

    Raises UsageError: it is too large, or is not valid YAML.
    """
    reader = _Reader(Folder(None, Path()))
    place = Place(Path(name), 1, in_text=True)
    node = reader.composer.text(text.encode("utf-8", "surrogatepass"), place)
    place = replace(place, line=node.start_mark.line + 1)
    return reader.value(node, _Spot(place, "the text", (), place))


def default_root(path: Path) -> Path:
    """Return where a file may refer to others: below the working directory, or beside it if it lies elsewhere."""
    return Path.cwd() if path.resolve().is_relative_to(Path.cwd()) else path.resolve().parent


@dataclass(frozen=True)
class _Spot:
    """Where a value is read: ``chain`` are the files it came through, ``depth`` is how many others it stands in."""

    place: Place
    label: str
    chain: tuple[Path, ...]
    key_place: Place
    depth: int = 0

    def place_of(self, node: yaml.Node) -> Place:
        return replace(self.place, line=node.start_mark.line + 1)

    def inner(self, node: yaml.Node, label: str, key_place: Place | None = None) -> "_Spot":
        place = self.place_of(node)
        return _Spot(place, label, self.chain, key_place or place, self.depth + 1)


class _Reader:
    """Reads a file with those it includes.

    It counts the values it looks at, those of an alias each time, so that a file whose aliases or includes multiply
    ends in an error and not in memory.
    """

    def __init__(self, folder: Folder):
        self.composer = Composer()
        self._folder = folder
        self._files: dict[Path, yaml.Node] = {}
        self._paths: dict[str, tuple[Path, Path]] = {}
        """Paths as they are written, and where they lead."""
        self._spent = 0

    def value(self, node: yaml.Node, spot: _Spot) -> Node:
        if spot.depth > MAX_DEPTH:
            raise spot.place.error(f"nested more than {MAX_DEPTH} deep")
        self._spend(spot.place)
        while node.tag == INCLUDE_TAG:
            node, spot = self._included(node, spot)
        if node.tag not in PLAIN_TAGS:
            tag = short(node.tag.replace(STANDARD_TAGS, "!!"))
            raise spot.place.error(f"{spot.label}: the tag {tag} is not known here")
        value: Any = node
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value, start=1)
            value = [self.value(item, spot.inner(item, f"{spot.label} #{i}")) for i, item in items]
        elif isinstance(node, yaml.MappingNode):
            value = self._entries(node, spot)
        return Node(spot.place, spot.label, spot.key_place, self._folder, value)

    def _entries(self, node: yaml.MappingNode, spot: _Spot) -> dict[Any, Node]:
        own: dict[Any, Node] = {}
        merged: dict[Any, Node] = {}
        merges = 0
        for key_node, value_node in node.value:
            place = spot.place_of(key_node)
            if key_node.tag == _MERGE_TAG:
                merges += 1
                if merges > 1:
                    raise place.error(f"'<<' stands twice in {spot.label}; give it a list: << : [*a, *b]")
                value = self.value(value_node, spot.inner(value_node, "<<"))
                # What is merged in gives way to the mapping's own keys, and to what was merged in before it.
                for defaults in value.items() if value.is_list() else [value]:
                    for key, default in defaults.entries().items():
                        merged.setdefault(key, default)
                continue
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag not in PLAIN_TAGS:
                raise place.error(f"a key of {spot.label} must be a plain word")
            name = str(key_node.value)
            key = scalar(key_node, f"a key of {spot.label}", place)
            if key in own:
                raise place.error(f"{short(name)} stands twice in {spot.label}")
            own[key] = self.value(value_node, spot.inner(value_node, shortened(name), place))
        return {**merged, **own}

    def _included(self, node: yaml.Node, spot: _Spot) -> tuple[yaml.Node, _Spot]:
        if str(node.value) not in self._paths:
            value: Any = node if isinstance(node, yaml.ScalarNode) else []
            path = Node(spot.place, INCLUDE_TAG, spot.place, self._folder, value).path()
            self._paths[str(node.value)] = path, path.resolve()
        path, file = self._paths[str(node.value)]
        if file in spot.chain:
            loop = " -> ".join(p.name for p in (*spot.chain[spot.chain.index(file) :], file))
            raise spot.place.error(f"!include goes round in a circle: {loop}")
        if file not in self._files:
            if len(self._files) >= MAX_INCLUDED_FILES:
                raise spot.place.error(f"more than {MAX_INCLUDED_FILES} files are included")
            try:
                self._files[file] = self.composer.file(path)
            except OSError as error:
                raise spot.place.error(f"!include {path}: can't be read ({error.strerror})") from error
        included = self._files[file]
        place = Place(path, included.start_mark.line + 1)
        self._spend(place, _INCLUDE_COSTS)
        return included, replace(spot, place=place, chain=(*spot.chain, file))

    def _spend(self, place: Place, values: int = 1) -> None:
        self._spent += values
        if self._spent > MAX_NODES:
            raise place.error(f"expands to more than {MAX_NODES} values")
