"""``timeline.jsonl``: the facts of a call on disk, one typed event a line, written as they happen."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from bots.timeline import EVENT_ADAPTER, TimelineEvent
from runner.errors import UsageError

FILE_NAME = "timeline.jsonl"


class TimelineStamp(BaseModel):
    """Which facts something was judged by.

    Attributes:
        facts: How many they were, from the first line on.
        sha256: Digest of these lines.
    """

    model_config = ConfigDict(frozen=True)

    facts: int
    sha256: str


@dataclass(frozen=True)
class StoredTimeline:
    """The facts of a file."""

    events: list[TimelineEvent]
    lines: list[bytes]

    @property
    def stamp(self) -> TimelineStamp:
        """Which facts these are."""
        return _stamp(self.lines)

    def begins_with(self, stamp: TimelineStamp) -> bool:
        """Whether the facts a stamp is of are all there, unchanged and in order; others may follow."""
        return _stamp(self.lines[: stamp.facts]) == stamp

    @property
    def text(self) -> str:
        """What a file holds that holds these facts."""
        return "".join(line.decode() + "\n" for line in self.lines)

    def followed_by(self, added: Sequence[TimelineEvent]) -> "StoredTimeline":
        """Return these facts with others after them."""
        lines = [*self.lines, *(EVENT_ADAPTER.dump_json(event) for event in added)]
        return StoredTimeline([*self.events, *added], lines)


class TimelineWriter:
    """Appends events to a file; each is on its way to the disk when :meth:`write` returns.

    Args:
        path: The file, which must not exist yet.
    """

    def __init__(self, path: Path):
        # Unbuffered: what was written survives the end of this process, however it ends.
        self._file = path.open("xb", buffering=0)
        self._facts = 0
        self._digest = hashlib.sha256()

    @property
    def stamp(self) -> TimelineStamp:
        """Which facts were written so far."""
        return TimelineStamp(facts=self._facts, sha256=self._digest.hexdigest())

    def write(self, event: TimelineEvent) -> None:
        """Append an event."""
        line = EVENT_ADAPTER.dump_json(event) + b"\n"
        self._file.write(line)
        self._facts += 1
        self._digest.update(line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


def read_timeline(path: Path) -> list[TimelineEvent]:
    """Return the events of a file, in the order they were written.

    A last line that was cut off (its writer was killed) is left out.

    Raises:
        UsageError: The file can't be read, or a line before the last is no event.
    """
    return read_stored(path).events


def read_stored(path: Path) -> StoredTimeline:
    """Return the facts of a file, with what tells whether they are all there.

    Raises:
        UsageError: The file can't be read, or a line before the last is no event.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror})") from error
    return parse_stored(data, str(path))


def parse_stored(data: bytes, name: str) -> StoredTimeline:
    """Return the facts that a file holds, with what tells whether they are all there.

    Args:
        data: What the file holds.
        name: What it is called in errors.

    Raises:
        UsageError: A line before the last is no event.
    """
    lines = data.splitlines()
    events: list[TimelineEvent] = []
    for number, line in enumerate(lines, start=1):
        try:
            events.append(EVENT_ADAPTER.validate_json(line))
        except ValidationError as error:
            if number == len(lines):
                return StoredTimeline(events, lines[:-1])
            problem = error.errors()[0]
            raise UsageError(f"{name}:{number}: no event of a timeline ({problem['msg']})") from error
    return StoredTimeline(events, lines)


def _stamp(lines: Iterable[bytes]) -> TimelineStamp:
    digest = hashlib.sha256()
    facts = 0
    for line in lines:
        digest.update(line + b"\n")
        facts += 1
    return TimelineStamp(facts=facts, sha256=digest.hexdigest())
