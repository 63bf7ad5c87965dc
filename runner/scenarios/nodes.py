"""YAML with places: every value knows its file and line, so that every error can name them.

``!include PATH`` stands for the value of another file. As in Pipecat Evals every path is relative to the file that is
read, also where it stands in an included one.
"""

import difflib
import errno
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from runner.errors import UsageError
from runner.text import one_line

MAX_FILE_BYTES = 1_000_000
"""A scenario file is written by people: a megabyte is thousands of turns."""

MAX_NODES = 200_000
"""Bounds what a file may hold with all it includes, and what aliases can expand that to."""

MAX_DEPTH = 40

MAX_INCLUDED_FILES = 100

MAX_PATH_CHARACTERS = 1_000

INCLUDE_TAG = "!include"

_STANDARD_TAGS = "tag:yaml.org,2002:"
_MERGE_TAG = _STANDARD_TAGS + "merge"
_TEXT_TAGS = tuple(_STANDARD_TAGS + name for name in ("str", "timestamp", "value", "merge"))
_PLAIN_TAGS = frozenset(
    {*_TEXT_TAGS, *(_STANDARD_TAGS + name for name in ("null", "bool", "int", "float", "map", "seq"))}
)
"""What a value can be: what JSON knows. A date, for one, is the text it is written as."""

_INCLUDE_COSTS = 5
"""Following a path takes as long as looking at so many values."""

_SHORT = 40

_T = TypeVar("_T")

# libyaml's parser where PyYAML was built with it: a megabyte takes seconds without.
_Base: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):
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
        """Return an error about what stands here, in one line."""
        return UsageError(f"{self}: {one_line(message)}")


class _PlaceInText(Place):
    """Where a value stands in a text that is no file; ``path`` is what the text is called."""

    def __str__(self) -> str:
        """Return ``name: line N``."""
        return f"{self.path}: line {self.line}"


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
    _origin: "_Origin"
    _depth: int = 0

    def mapping(self, known: Iterable[str]) -> "Mapping":
        """Return the value as a mapping that has no other keys than ``known``.

        Raises:
            UsageError: It is none, a key is unknown (the nearest known one is named), or stands twice.
        """
        if not isinstance(self._node, yaml.MappingNode):
            raise self.place.error(f"{self.label} must be a mapping (key: value), not {self._kind()}")
        entries: dict[str, Node] = {}
        merged: list[Node] = []
        known = tuple(known)
        for key_node, value_node in self._node.value:
            place = self._place_of(key_node)
            if key_node.tag == _MERGE_TAG:
                if merged:
                    raise place.error(f"'<<' stands twice in {self.label}; give it a list: << : [*a, *b]")
                merged.append(self._child(value_node, "<<"))
                continue
            key = self._key(key_node)
            if key not in known:
                raise place.error(f"unknown key {_short(key)} in {self.label}{_meant(key, known)}")
            if key in entries:
                raise place.error(f"{key!r} stands twice in {self.label}")
            entries[key] = self._child(value_node, key)
        mapping = Mapping(self.place, self.label, entries)
        for node in merged:
            # What is merged in gives way to the mapping's own keys, and to what was merged in before it.
            for defaults in node.items() if node.is_list() else [node]:
                mapping = mapping.over(defaults.mapping(known))
        return mapping

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

    def has_keys(self, *keys: str) -> bool:
        """Whether the value is a mapping that holds these keys, and whatever others."""
        if not isinstance(self._node, yaml.MappingNode):
            return False
        return {*keys} <= {key.value for key, _ in self._node.value if isinstance(key, yaml.ScalarNode)}

    def is_mapping(self) -> bool:
        """Whether the value is a mapping."""
        return isinstance(self._node, yaml.MappingNode)

    def is_null(self) -> bool:
        """Whether nothing is given."""
        return self._node.tag == "tag:yaml.org,2002:null"

    def text(self, max_characters: int = 1_000) -> str:
        """Return a text; a number that stands where a text belongs is taken as it is written.

        Raises:
            UsageError: It is no text, an empty one, or too long.
        """
        if not isinstance(self._node, yaml.ScalarNode) or self.is_null() or not self._node.value.strip():
            raise self.place.error(f"{self.label} must be a text, not {self._kind()}")
        text = str(self._node.value)
        if len(text) > max_characters:
            raise self.place.error(f"{self.label} is longer than {max_characters} characters")
        return text

    def one_of(self, known: Sequence[str]) -> str:
        """Return a word that is one of ``known``.

        Raises:
            UsageError: It is none of them; names the nearest.
        """
        word = self.text()
        if word not in known:
            raise self.place.error(f"{self.label}: there is no {_short(word)}{_meant(word, known)}")
        return word

    def path(self) -> Path:
        """Return the path a text names, relative to the file that is read.

        Raises:
            UsageError: It is no text, or leads out of the folder that files may come from.
        """
        if not isinstance(self._node, yaml.ScalarNode) or not self._node.value.strip():
            raise self.place.error(f"{self.label} must be the path of a file, not {self._kind()}")
        if len(self._node.value) > MAX_PATH_CHARACTERS:
            raise self.place.error(f"{self.label} is longer than {MAX_PATH_CHARACTERS} characters")
        if self._origin.folder is None:
            raise self.place.error(f"{self.label}: files can't be taken in here; this is a text of its own")
        path = self._origin.folder / str(self._node.value)
        try:
            inside = path.resolve().is_relative_to(self._origin.root)
        except (OSError, ValueError, RuntimeError) as error:
            raise self.place.error(f"{self.label} is no path: {_problem(error)}") from error
        if not inside:
            raise self.place.error(
                f"{self.label}: {path} is outside of {self._origin.root}; start the runner in a folder above both, "
                "or name that folder with the setting scenarios_dir"
            )
        return path

    def integer(self, low: int, high: int) -> int:
        """Return a whole number within bounds.

        Raises:
            UsageError: It is no whole number, or out of bounds.
        """
        value = self.plain()
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.place.error(f"{self.label} must be a whole number, not {self._kind()}")
        if not low <= value <= high:
            raise self.place.error(f"{self.label} must be from {low} to {high}, not {self._written()}")
        return value

    def number(self, low: float, high: float) -> float:
        """Return a number within bounds.

        Raises:
            UsageError: It is no number, or out of bounds.
        """
        value = self.plain()
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or (isinstance(value, float) and not math.isfinite(value)):
            raise self.place.error(f"{self.label} must be a number, not {self._kind()}")
        if not low <= value <= high:
            raise self.place.error(f"{self.label} must be from {low:g} to {high:g}, not {self._written()}")
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
        """Return the value as plain Python data; a date stays the text it is written as.

        Raises:
            UsageError: Something in it is no plain data, or a key stands twice.
        """
        if isinstance(self._node, yaml.SequenceNode):
            return [item.plain() for item in self.items()]
        if not isinstance(self._node, yaml.MappingNode):
            return self._scalar()
        merged: dict[Any, Any] = {}
        own: dict[Any, Any] = {}
        merges = 0
        for key_node, value_node in self._node.value:
            if key_node.tag == _MERGE_TAG:
                merges += 1
                if merges > 1:
                    raise self._place_of(key_node).error(f"'<<' stands twice in {self.label}")
                value = self._child(value_node, "<<")
                for mapping in value.items() if value.is_list() else [value]:
                    for key, default in mapping._plain_mapping().items():
                        merged.setdefault(key, default)
                continue
            name = self._key(key_node)
            key = self._child(key_node, f"a key of {self.label}")._scalar()
            if key in own:
                raise self._place_of(key_node).error(f"{_short(name)} stands twice in {self.label}")
            own[key] = self._child(value_node, name if len(name) <= _SHORT else _short(name)).plain()
        return {**merged, **own}

    def _plain_mapping(self) -> dict[Any, Any]:
        if not self.is_mapping():
            raise self.place.error(f"{self.label} must be a mapping (key: value), not {self._kind()}")
        return self.plain()

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag not in _PLAIN_TAGS:
            raise self._place_of(node).error(f"a key of {self.label} must be a plain word")
        return str(node.value)

    def _scalar(self) -> Any:
        if not isinstance(self._node, yaml.ScalarNode):
            raise self.place.error(f"{self.label} must be a plain value, not {self._kind()}")
        if self._node.tag in _TEXT_TAGS:
            return str(self._node.value)
        loader = _Loader("")
        try:
            return loader.construct_document(self._node)
        except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:
            # A tag that does not fit what it stands before: PyYAML fails in as many ways as there are types.
            kind = self._node.tag.removeprefix(_STANDARD_TAGS)
            raise self.place.error(f"{self.label}: {_short(str(self._node.value))} is no {kind}") from error
        finally:
            loader.dispose()

    def _place_of(self, node: yaml.Node) -> Place:
        return replace(self.place, line=node.start_mark.line + 1)

    def _child(self, node: yaml.Node, label: str) -> "Node":
        place = self._place_of(node)
        if self._depth >= MAX_DEPTH:
            raise place.error(f"nested more than {MAX_DEPTH} deep")
        return _opened(node, place, label, self._origin, self._depth + 1)

    def _kind(self) -> str:
        if isinstance(self._node, yaml.MappingNode):
            return "a mapping"
        if isinstance(self._node, yaml.SequenceNode):
            return "a list"
        return "nothing" if self.is_null() else _short(str(self._node.value))

    def _written(self) -> str:
        text = str(self._node.value)
        return text if len(text) <= _SHORT else f"{text[:_SHORT]}…"


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

    def place_of(self, key: str) -> Place:
        """Return where the value of a key stands, also if nothing is given there."""
        return self._entries[key].place

    def get(self, key: str, read: Callable[[Node], _T]) -> _T | None:
        """Return the value of a key as ``read`` reads it; None where it is not given."""
        return read(self._entries[key]) if key in self else None

    def over(self, defaults: "Mapping") -> "Mapping":
        """Return this mapping, with the keys of another where it has none of its own."""
        return Mapping(self.place, self.label, {**defaults._entries, **self._entries})

    def without(self, *keys: str) -> "Mapping":
        """Return the mapping without some keys."""
        return Mapping(self.place, self.label, {k: v for k, v in self._entries.items() if k not in keys})


@dataclass
class _Budget:
    """Counts values, so that a file whose aliases or includes multiply ends in an error and not in memory.

    Attributes:
        read: How many stand in the files that were read.
        spent: How many were looked at, those of an alias each time.
    """

    read: int = 0
    spent: int = 0

    def count(self, place: Place) -> None:
        self.read += 1
        if self.read > MAX_NODES:
            raise place.error(f"holds more than {MAX_NODES} values, with what it includes")

    def spend(self, place: Place, values: int = 1) -> None:
        self.spent += values
        if self.spent > MAX_NODES:
            raise place.error(f"expands to more than {MAX_NODES} values")


@dataclass(frozen=True)
class _Origin:
    """Where values come from.

    Attributes:
        root: The folder that nothing is included from outside of.
        folder: The folder that paths are relative to; None where no files are taken in.
        chain: The files a value came through, the innermost last.
        budget: Shared by all.
        files: Every file read so far.
    """

    root: Path
    folder: Path | None
    chain: tuple[Path, ...]
    budget: _Budget = field(default_factory=_Budget)
    files: dict[Path, yaml.Node] = field(default_factory=dict[Path, yaml.Node])


def read_yaml(path: Path, root: Path | None = None) -> Node:
    """Return the one document of a YAML file.

    Args:
        path: The file.
        root: The folder that files are included from at most; by default :func:`default_root`.

    Raises:
        UsageError: It can't be read, is too large, or is not valid YAML.
    """
    budget = _Budget()
    try:
        node = _compose(path, budget)
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror})") from error
    origin = _Origin((root or default_root(path)).resolve(), path.parent, (path.resolve(),), budget)
    return _opened(node, Place(path, node.start_mark.line + 1), "the file", origin, 0)


def read_yaml_text(text: str, name: str) -> Node:
    """Return the one document of a YAML text, which takes in no files.

    Args:
        text: The text.
        name: What it is called in errors: ``name: line N: …``.

    Raises:
        UsageError: It is too large, or is not valid YAML.
    """
    place = _PlaceInText(Path(name), 1)
    budget = _Budget()
    node = _compose_content(text.encode("utf-8", "surrogatepass"), place, budget)
    origin = _Origin(Path(), None, (), budget)
    return _opened(node, replace(place, line=node.start_mark.line + 1), "the text", origin, 0)


def default_root(path: Path) -> Path:
    """Return where a file may refer to others: below the working directory, or beside it if it lies elsewhere."""
    return Path.cwd() if path.resolve().is_relative_to(Path.cwd()) else path.resolve().parent


def _opened(node: yaml.Node, place: Place, label: str, origin: _Origin, depth: int) -> Node:
    """Return a value, read from the file it stands for if it is an ``!include``."""
    origin.budget.spend(place)
    while node.tag == INCLUDE_TAG:
        named = Node(place, INCLUDE_TAG, node, origin, depth)
        path = named.path()
        file = path.resolve()
        if file in origin.chain:
            loop = " -> ".join(p.name for p in (*origin.chain[origin.chain.index(file) :], file))
            raise place.error(f"!include goes round in a circle: {loop}")
        if file not in origin.files:
            if len(origin.files) >= MAX_INCLUDED_FILES:
                raise place.error(f"more than {MAX_INCLUDED_FILES} files are included")
            try:
                origin.files[file] = _compose(path, origin.budget)
            except OSError as error:
                raise place.error(f"!include {path}: can't be read ({error.strerror})") from error
        node = origin.files[file]
        place = Place(path, node.start_mark.line + 1)
        origin = replace(origin, chain=(*origin.chain, file))
        origin.budget.spend(place, _INCLUDE_COSTS)
    if node.tag not in _PLAIN_TAGS:
        raise place.error(f"{label}: the tag {_short(node.tag.replace(_STANDARD_TAGS, '!!'))} is not known here")
    return Node(place, label, node, origin, depth)


def _compose(path: Path, budget: _Budget) -> yaml.Node:
    """Return a file's document.

    Raises:
        OSError: It can't be read.
        UsageError: It is too large, or is not valid YAML.
    """
    if path.is_fifo():
        # Opening one waits for somebody who writes.
        raise OSError(errno.EINVAL, "a pipe is no file")
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    return _compose_content(content, Place(path, 1), budget)


def _compose_content(content: bytes, start: Place, budget: _Budget) -> yaml.Node:
    """Return the document of what a file holds, or a text.

    Raises:
        UsageError: It is too large, or is not valid YAML.
    """
    if len(content) > MAX_FILE_BYTES:
        raise UsageError(f"{start}: larger than {MAX_FILE_BYTES // 1_000_000} MB; split it into several files")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = replace(start, line=_line(error.object, error.start))
        raise UsageError(f"{place}: not UTF-8 (at byte {error.start})") from error
    try:
        # First without building anything: composing calls itself for every level, and must not run out of stack.
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            place = replace(start, line=event.start_mark.line + 1)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise place.error(f"nested more than {MAX_DEPTH} deep")
            if isinstance(event, yaml.NodeEvent):
                budget.count(place)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.reader.ReaderError as error:
        place = replace(start, line=_line(text.encode(), error.position))
        raise UsageError(f"{place}: not valid YAML: {_problem(error)}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = start if mark is None else replace(start, line=mark.line + 1)
        raise UsageError(f"{place}: not valid YAML: {_problem(error)}") from error
    if node is None:
        raise UsageError(f"{start}: the file is empty")
    return node


def _line(content: bytes, position: int) -> int:
    return content[:position].count(b"\n") + 1


def _meant(word: str, known: Sequence[str]) -> str:
    # Compared with everything known in turn: a long word would take long, and is no typing error.
    near = difflib.get_close_matches(word[:60], known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known are: {', '.join(known)}"


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHORT else text[:_SHORT] + "…")


def _problem(error: Exception) -> str:
    return str(getattr(error, "problem", None) or getattr(error, "reason", None) or error).splitlines()[0]
