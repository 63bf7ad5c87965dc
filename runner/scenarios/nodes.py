"""Values of a YAML file that know their places, so that every error can name file and line."""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from runner.errors import UsageError
from runner.text import one_line

MAX_PATH_CHARACTERS = 1_000

STANDARD_TAGS = "tag:yaml.org,2002:"
NULL_TAG = STANDARD_TAGS + "null"
_TEXT_TAGS = tuple(STANDARD_TAGS + name for name in ("str", "timestamp", "value", "merge"))
PLAIN_TAGS = frozenset(
    {*_TEXT_TAGS, *(STANDARD_TAGS + name for name in ("null", "bool", "int", "float", "map", "seq"))}
)
"""What a value can be: what JSON knows. A date, for one, is the text it is written as."""

_SHORT = 40

_T = TypeVar("_T")

# libyaml's parser where PyYAML was built with it: a megabyte takes seconds without.
_Base: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Loader(_Base):
    """Reads only plain decimal numbers as integers: a DTMF ``012`` keeps its digits, as in Pipecat Evals."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != STANDARD_TAGS + "int"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(STANDARD_TAGS + "int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789"))


@dataclass(frozen=True)
class Place:
    """Where a value stands.

    Attributes:
        path: The file, or what a text is called that is no file.
        line: The line, from 1.
        in_text: Whether it is a text that is no file.
    """

    path: Path
    line: int
    in_text: bool = False

    def __str__(self) -> str:
        """Return ``file:line``, or ``name: line N`` of a text."""
        return f"{self.path}: line {self.line}" if self.in_text else f"{self.path}:{self.line}"

    def error(self, message: str) -> "FileError":
        """Return an error about what stands here, in one line."""
        return FileError([(self, f"{self}: {one_line(message)}")])


class FileError(UsageError, ValueError):
    """Mistakes in a file. Its text is the first of them.

    Args:
        mistakes: What is wrong, each with its place.
    """

    def __init__(self, mistakes: Iterable[tuple[Place, str]]):
        # What a file says for all of its scenarios is found wrong in each of them.
        self.mistakes = tuple(dict.fromkeys(mistakes))
        super().__init__(self.mistakes[0][1])

    def by_line(self) -> list[str]:
        """Return every mistake, by file and line."""
        return [text for _, text in sorted(self.mistakes, key=lambda found: (found[0].path, found[0].line))]


class Mistakes:
    """Collects the mistakes of a file, so that all of them are told at once."""

    def __init__(self) -> None:
        self._found: list[tuple[Place, str]] = []

    def add(self, error: FileError) -> None:
        """Take the mistakes of an error."""
        self._found += error.mistakes

    def read(self, read: Callable[[], _T]) -> _T | None:
        """Return what ``read`` returns; None, and its mistakes are kept, if it fails."""
        try:
            return read()
        except FileError as error:
            self.add(error)
            return None

    def check(self) -> None:
        """Raise if there are any.

        Raises:
            FileError: With all of them, in the order they were found.
        """
        if self._found:
            raise FileError(self._found)


@dataclass(frozen=True)
class Folder:
    """Where the files may come from that a file names.

    Attributes:
        path: What paths are relative to; None where no files are taken in.
        root: The folder that nothing is taken from outside of.
    """

    path: Path | None
    root: Path


@dataclass(frozen=True, eq=False)
class Node:
    """A YAML value and its place. What it must be is said by the method it is read with.

    A method raises :class:`FileError` where the value is of another kind, or out of bounds.

    Attributes:
        place: Where it stands.
        label: What it is called in errors, such as ``within_ms``.
        key_place: Where its key stands, if it has one.
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
        """Iterate over the keys of a mapping."""
        return iter(self.entries())

    def __getitem__(self, key: str) -> "Node":
        """Return the value of a key."""
        if key not in self:
            raise self.place.error(f"{self.label} needs {key!r}")
        return self.entries()[key]

    def get(self, key: str, read: "Callable[[Node], _T]") -> _T | None:
        """Return the value of a key as ``read`` reads it; None where it is not given."""
        return read(self[key]) if key in self else None

    def over(self, defaults: "Node") -> "Node":
        """Return this mapping, with the keys of another where it has none of its own."""
        return replace(self, value={**defaults.entries(), **self.entries()})

    def only(self, keys: Iterable[str]) -> "Node":
        """Return the mapping with some of its keys."""
        return replace(self, value={key: self.entries()[key] for key in keys if key in self.entries()})

    def without(self, *keys: str) -> "Node":
        """Return the mapping without some keys."""
        return replace(self, value={k: v for k, v in self.entries().items() if k not in keys})

    def entries(self) -> "dict[Any, Node]":
        """Return the values of a mapping by their keys."""
        if not isinstance(self.value, dict):
            raise self.place.error(f"{self.label} must be a mapping (key: value), not {self._kind()}")
        return self.value

    def unknown(self, known: Sequence[str]) -> list[FileError]:
        """Return an error for each key of a mapping that is not known; it names the nearest known one."""
        return [
            node.key_place.error(f"unknown key {short(node.label)} in {self.label}{_meant(node.label, known)}")
            for key, node in self.entries().items()
            if key not in known
        ]

    def mapping(self, known: Iterable[str]) -> "Node":
        """Return the value, which is a mapping that has no other keys than ``known``."""
        for error in self.unknown(tuple(known)):
            raise error
        return self

    def items(self) -> "list[Node]":
        """Return the values of a list."""
        if not isinstance(self.value, list):
            raise self.place.error(f"{self.label} must be a list (- …), not {self._kind()}")
        return self.value

    def some(self) -> "list[Node]":
        """Return the values of a list that holds at least one."""
        if not self.items():
            raise self.place.error(f"{self.label} must hold at least one")
        return self.items()

    def has_keys(self, *keys: str) -> bool:
        """Whether the value is a mapping that holds these keys, and whatever others."""
        return isinstance(self.value, dict) and {*keys} <= {*self.value}

    def is_list(self) -> bool:
        """Whether the value is a list."""
        return isinstance(self.value, list)

    def is_mapping(self) -> bool:
        """Whether the value is a mapping."""
        return isinstance(self.value, dict)

    def is_null(self) -> bool:
        """Whether nothing is given."""
        return isinstance(self.value, yaml.ScalarNode) and self.value.tag == NULL_TAG

    def text(self, max_characters: int = 1_000) -> str:
        """Return a text; a number that stands where a text belongs is taken as it is written."""
        if self.is_null() or not (text := self._written()).strip():
            raise self.place.error(f"{self.label} must be a text, not {self._kind()}")
        if len(text) > max_characters:
            raise self.place.error(f"{self.label} is longer than {max_characters} characters")
        return text

    def one_of(self, known: Sequence[str]) -> str:
        """Return a word that is one of ``known``."""
        word = self.text()
        if word not in known:
            raise self.place.error(f"{self.label}: there is no {short(word)}{_meant(word, known)}")
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
        """Return a whole number within bounds."""
        value = self.plain()
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.place.error(f"{self.label} must be a whole number, not {self._kind()}")
        return self._within(value, low, high)

    def number(self, low: float, high: float) -> float:
        """Return a number within bounds."""
        value = self.plain()
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or (isinstance(value, float) and not math.isfinite(value)):
            raise self.place.error(f"{self.label} must be a number, not {self._kind()}")
        return float(self._within(value, low, high))

    def flag(self) -> bool:
        """Return true or false."""
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


def scalar(node: yaml.ScalarNode, label: str, place: Place) -> Any:
    """Return a plain value.

    Raises:
        FileError: It does not fit the tag it has.
    """
    if node.tag in _TEXT_TAGS:
        return str(node.value)
    loader = Loader("")
    try:
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:
        # A tag that does not fit what it stands before: PyYAML fails in as many ways as there are types.
        kind = node.tag.removeprefix(STANDARD_TAGS)
        raise place.error(f"{label}: {short(str(node.value))} is no {kind}") from error
    finally:
        loader.dispose()


def shortened(text: str) -> str:
    """Return a text, or its beginning if it is long."""
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}…"


def short(text: str) -> str:
    """Return a text in quotation marks, or its beginning if it is long."""
    return repr(shortened(text))


def problem(error: Exception) -> str:
    """Return what an error says, in one line."""
    return str(getattr(error, "problem", None) or getattr(error, "reason", None) or error).splitlines()[0]


def _meant(word: str, known: Sequence[str]) -> str:
    # Compared with everything known in turn: a long word would take long, and is no typing error.
    near = difflib.get_close_matches(word[:60], known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known are: {', '.join(known)}"
