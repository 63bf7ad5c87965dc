"""YAML as it is written: texts into nodes with their lines, within bounds; and errors that name file and line."""

import difflib
import errno
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
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
    """Where a value stands: a file and its line, from 1. A text that is no file has a name in place of a path."""

    path: Path
    line: int
    in_text: bool = False

    def __str__(self) -> str:
        return f"{self.path}: line {self.line}" if self.in_text else f"{self.path}:{self.line}"

    def error(self, message: str) -> "FileError":
        return FileError([(self, f"{self}: {one_line(message)}")])


class FileError(UsageError, ValueError):
    """Mistakes in a file, each with its place. Its text is the first of them."""

    def __init__(self, mistakes: Iterable[tuple[Place, str]]):
        # What a file says for all of its scenarios is found wrong in each of them.
        self.mistakes = tuple(dict.fromkeys(mistakes))
        super().__init__(self.mistakes[0][1])

    def by_line(self) -> list[str]:
        return [text for _, text in sorted(self.mistakes, key=lambda found: (found[0].path, found[0].line))]


class Mistakes:
    def __init__(self, errors: Iterable[FileError] = ()) -> None:
        self._found = [mistake for error in errors for mistake in error.mistakes]

    def add(self, error: FileError) -> None:
        self._found += error.mistakes

    def read(self, read: Callable[[], _T]) -> _T | None:
        """Return what ``read`` returns; None, and its mistakes are kept, if it fails."""
        try:
            return read()
        except FileError as error:
            self.add(error)
            return None

    def check(self) -> None:
        """Raise a :class:`FileError` with all of them, in the order they were found, if there are any."""
        if self._found:
            raise FileError(self._found)


class Composer:
    """Makes nodes of texts, and counts their values: all that one file includes are bounded together."""

    def __init__(self) -> None:
        self._values = 0

    def file(self, path: Path) -> yaml.Node:
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
        return self.text(content, Place(path, 1))

    def text(self, content: bytes, start: Place) -> yaml.Node:
        """Return the document of what a file holds, or a text.

        Raises UsageError: it is too large, or is not valid YAML.
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
            for event in yaml.parse(text, Loader=Loader):
                place = replace(start, line=event.start_mark.line + 1)
                depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                if depth > MAX_DEPTH:
                    raise place.error(f"nested more than {MAX_DEPTH} deep")
                if isinstance(event, yaml.NodeEvent):
                    self._count(place)
            node = yaml.compose(text, Loader=Loader)
        except yaml.reader.ReaderError as error:
            place = replace(start, line=_line(text.encode(), error.position))
            raise UsageError(f"{place}: not valid YAML: {problem(error)}") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            place = start if mark is None else replace(start, line=mark.line + 1)
            raise UsageError(f"{place}: not valid YAML: {problem(error)}") from error
        if node is None:
            raise UsageError(f"{start}: the file is empty")
        return node

    def _count(self, place: Place) -> None:
        self._values += 1
        if self._values > MAX_NODES:
            raise place.error(f"holds more than {MAX_NODES} values, with what it includes")


def scalar(node: yaml.ScalarNode, label: str, place: Place) -> Any:
    """Return a plain value. Raises FileError: it does not fit the tag it has."""
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
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}…"


def short(text: str) -> str:
    """Return a text in quotation marks, or its beginning if it is long."""
    return repr(shortened(text))


def problem(error: Exception) -> str:
    return str(getattr(error, "problem", None) or getattr(error, "reason", None) or error).splitlines()[0]


def meant(word: str, known: Sequence[str]) -> str:
    # Compared with everything known in turn: a long word would take long, and is no typing error.
    near = difflib.get_close_matches(word[:60], known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known are: {', '.join(known)}"


def _line(content: bytes, position: int) -> int:
    return content[:position].count(b"\n") + 1
