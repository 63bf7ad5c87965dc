"""``timeline.jsonl``: the facts of a call on disk, one typed event a line, written as they happen."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from bots.timeline import EVENT_ADAPTER, TimelineEvent
from runner.errors import UsageError

FILE_NAME = "timeline.jsonl"


class TimelineWriter:
    """Appends events to a file; each is on its way to the disk when :meth:`write` returns.

    Args:
        path: The file, which must not exist yet.
    """

    def __init__(self, path: Path):
        # Unbuffered: what was written survives the end of this process, however it ends.
        self._file = path.open("xb", buffering=0)

    def write(self, event: TimelineEvent) -> None:
        """Append an event."""
        self._file.write(EVENT_ADAPTER.dump_json(event) + b"\n")

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
    return list(_read(path))


def _read(path: Path) -> Iterator[TimelineEvent]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror})") from error
    for number, line in enumerate(lines, start=1):
        try:
            yield EVENT_ADAPTER.validate_json(line)
        except ValidationError as error:
            if number == len(lines):
                return
            problem = error.errors()[0]
            raise UsageError(f"{path}:{number}: no event of a timeline ({problem['msg']})") from error
