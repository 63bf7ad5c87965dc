"""What Daily's library writes to its own log and tells nobody: why a server refused a join.

The library logs to file descriptor 2, as JSON, and offers no other way to its log. While a call joins a room, that
descriptor is a pipe: the library's lines are read here, and what anybody else writes goes on to where it was going.
"""

import json
import os
import re
import threading
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from loguru import logger

LIBRARY_LOG_VARIABLE = "RUST_LOG"
"""Read once, when the library is first used; the level that ``Daily.init`` takes is that of WebRTC below it."""

_REASONS_ONLY = "off,daily_core::soup::signalling=error"
_OURS = re.compile(rb'^\{"timestamp":.*"target":"daily')
_REFUSED = re.compile(r"JoinForSigFailed\((?P<reason>.*)\)", re.S)
_STANDARD_ERROR = 2
_REASONS_KEPT = 100
DRAIN_LIMIT_S = 0.05
"""Only a process that was started in the meantime can hold up the last of it."""
_READ_BYTES = 65_536


@dataclass(eq=False)
class LogMark:
    """A join whose log is read.

    Attributes:
        number: How many reasons were known when it began.
        is_alone: Whether no other join went on at the same time.
    """

    number: int
    is_alone: bool = True


class LibraryLog:
    """Reads the library's log while at least one call joins a room.

    Attributes:
        shows_all: Whether the library logs where it always does: whoever set ``RUST_LOG`` wants to see it.
    """

    def __init__(self) -> None:
        self.shows_all = LIBRARY_LOG_VARIABLE in os.environ
        self._lock = threading.Lock()
        self._marks: list[LogMark] = []
        self._saved: int | None = None
        self._reader: threading.Thread | None = None
        self._number = 0
        self._reasons: deque[tuple[int, str]] = deque(maxlen=_REASONS_KEPT)

    @contextmanager
    def set_up(self) -> Generator[None]:
        """Make the library log its reasons if it is used for the first time inside of this."""
        ours = LIBRARY_LOG_VARIABLE not in os.environ
        if ours and _is_verbose():
            self.shows_all, ours = True, False
        if ours:
            os.environ[LIBRARY_LOG_VARIABLE] = _REASONS_ONLY
        try:
            yield
        finally:
            if ours:
                del os.environ[LIBRARY_LOG_VARIABLE]

    def open(self) -> LogMark:
        """Begin to read for a join, or go on for one more."""
        with self._lock:
            mark = LogMark(self._number)
            self._marks.append(mark)
            if len(self._marks) > 1:
                for other in self._marks:
                    other.is_alone = False
            elif not self.shows_all:
                self._divert()
            return mark

    def close(self, mark: LogMark) -> None:
        """Stop reading for a join; standard error is as it was when the last has stopped."""
        with self._lock:
            self._marks = [other for other in self._marks if other is not mark]
            last = not self._marks and self._saved is not None
            if last and self._saved is not None:
                os.dup2(self._saved, _STANDARD_ERROR)
                os.close(self._saved)
                self._saved = None
        if last and self._reader is not None:
            # What is written from now on must not overtake what was written before.
            self._reader.join(DRAIN_LIMIT_S)

    def refusal_since(self, mark: LogMark) -> str | None:
        """Return why a server refused the join; None if none did, or if others joined at the same time.

        The library doesn't say which call a line belongs to, and what a server says may hold somebody's token.
        """
        with self._lock:
            reasons = [reason for number, reason in self._reasons if number > mark.number]
        return reasons[-1] if reasons and mark.is_alone else None

    def _divert(self) -> None:
        """Put a pipe in the place of standard error; where that can't be done it stays as it is."""
        opened: list[int] = []
        try:
            opened.append(saved := os.dup(_STANDARD_ERROR))
            opened.append(onward := os.dup(saved))
            read_end, write_end = os.pipe()
            opened += [read_end, write_end]
            # Reads for as long as anybody holds the other end: a process that was started in the meantime may.
            reader = threading.Thread(target=self._read, args=(read_end, onward), name="daily-log", daemon=True)
            reader.start()
        except (OSError, RuntimeError) as error:
            # There is no standard error, or there are no descriptors or threads left.
            logger.debug("the log of Daily's library can't be read: {}", error)
            for descriptor in opened:
                os.close(descriptor)
            return
        os.dup2(write_end, _STANDARD_ERROR)
        os.close(write_end)
        self._saved, self._reader = saved, reader

    def _read(self, read_end: int, onward: int) -> None:
        rest = b""
        while piece := os.read(read_end, _READ_BYTES):
            *lines, rest = (rest + piece).split(b"\n")
            lines = [line + b"\n" for line in lines]
            kept = [line for line in lines if not self._take(line)]
            if rest and not rest.startswith(b'{"timestamp":'):
                # A prompt, a progress bar: whoever writes no whole line wants it seen now.
                kept.append(rest)
                rest = b""
            _write(onward, b"".join(kept))
        _write(onward, rest)
        os.close(read_end)
        os.close(onward)

    def _take(self, line: bytes) -> bool:
        """Note a line if it is the library's; return whether nobody else is to see it."""
        if not _OURS.match(line):
            return False
        try:
            message = str(json.loads(line)["fields"].get("message", ""))
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
        refused = _REFUSED.search(message)
        if refused is not None:
            with self._lock:
                self._number += 1
                self._reasons.append((self._number, refused["reason"]))
        return True


def _write(onward: int, data: bytes) -> None:
    with suppress(OSError):
        while data:
            data = data[os.write(onward, data) :]


def _is_verbose() -> bool:
    told: list[str] = []
    # Loguru doesn't tell its level, but asks for a lazy argument only where the message goes somewhere.
    what = "Daily's library writes its own log to standard error"
    logger.opt(lazy=True).debug("{}", lambda: told.append(what) or what)
    return bool(told)


library_log = LibraryLog()
"""One for the process, as the library's log and standard error are."""
