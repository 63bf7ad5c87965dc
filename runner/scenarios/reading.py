"""Reading YAML: files and texts, with what they include, within bounds.

``!include PATH`` stands for the value of another file. As in Pipecat Evals every path is relative to the file that is
read, also where it stands in an included one.
"""

import errno
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from runner.errors import UsageError
from runner.scenarios.nodes import (
    PLAIN_TAGS,
    STANDARD_TAGS,
    Folder,
    Loader,
    Node,
    Place,
    problem,
    scalar,
    short,
    shortened,
)

MAX_FILE_BYTES = 1_000_000
"""A scenario file is written by people: a megabyte is thousands of turns."""

MAX_NODES = 200_000
"""Bounds what a file may hold with all it includes, and what aliases can expand that to."""

MAX_DEPTH = 40

MAX_INCLUDED_FILES = 100

INCLUDE_TAG = "!include"

_MERGE_TAG = STANDARD_TAGS + "merge"

_INCLUDE_COSTS = 5
"""Following a path takes as long as looking at so many values."""


def read_yaml(path: Path, root: Path | None = None) -> Node:
    """Return the one document of a YAML file.

    Args:
        path: The file.
        root: The folder that files are included from at most; by default :func:`default_root`.

    Raises:
        UsageError: It can't be read, is too large, or is not valid YAML.
    """
    reader = _Reader(Folder(path.parent, (root or default_root(path)).resolve()))
    try:
        node = reader.compose_file(path)
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror})") from error
    place = Place(path, node.start_mark.line + 1)
    return reader.value(node, _Spot(place, "the file", (path.resolve(),), place))


def read_yaml_text(text: str, name: str) -> Node:
    """Return the one document of a YAML text, which takes in no files.

    Args:
        text: The text.
        name: What it is called in errors: ``name: line N: …``.

    Raises:
        UsageError: It is too large, or is not valid YAML.
    """
    reader = _Reader(Folder(None, Path()))
    place = Place(Path(name), 1, in_text=True)
    node = reader.compose(text.encode("utf-8", "surrogatepass"), place)
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

    It counts values, so that a file whose aliases or includes multiply ends in an error and not in memory: how many
    stand in the files, and how many were looked at, those of an alias each time.

    Args:
        folder: Where the files may come from that are named.
    """

    def __init__(self, folder: Folder):
        self._folder = folder
        self._files: dict[Path, yaml.Node] = {}
        self._paths: dict[str, tuple[Path, Path]] = {}
        """Paths as they are written, and where they lead."""
        self._read = 0
        self._spent = 0

    def value(self, node: yaml.Node, spot: _Spot) -> Node:
        """Return a value with all it holds, read from the file it stands for if it is an ``!include``."""
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
                self._files[file] = self.compose_file(path)
            except OSError as error:
                raise spot.place.error(f"!include {path}: can't be read ({error.strerror})") from error
        included = self._files[file]
        place = Place(path, included.start_mark.line + 1)
        self._spend(place, _INCLUDE_COSTS)
        return included, replace(spot, place=place, chain=(*spot.chain, file))

    def _count(self, place: Place) -> None:
        self._read += 1
        if self._read > MAX_NODES:
            raise place.error(f"holds more than {MAX_NODES} values, with what it includes")

    def _spend(self, place: Place, values: int = 1) -> None:
        self._spent += values
        if self._spent > MAX_NODES:
            raise place.error(f"expands to more than {MAX_NODES} values")

    def compose_file(self, path: Path) -> yaml.Node:
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
        return self.compose(content, Place(path, 1))

    def compose(self, content: bytes, start: Place) -> yaml.Node:
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


def _line(content: bytes, position: int) -> int:
    return content[:position].count(b"\n") + 1
