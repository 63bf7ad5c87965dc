"""Structured logs: a JSON object a line."""

import json
import logging
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TextIO, cast

from loguru import logger

from runner.errors import RunnerError

AGAIN_S = 60.0
"""How soon the same is told again that comes again and again: while a database is away every request fails, and the
queue's engine says so every second."""

_BEGINNING = 50
"""So many characters say what a message of its is about."""

_REMEMBERED = 100

_FIELDS = ("request_id", "key_id", "run_id", "attempt", "result_id")


def log_as_json(level: str, stream: TextIO | None = None) -> int:
    """Let everything that is logged, by loguru or by the standard library, go out as JSON lines.

    A line has ``time``, ``level``, ``message`` and, where they are known, ``request_id``, ``key_id``, ``run_id``,
    ``attempt`` and ``result_id``. Of an exception it has the type and where it was raised; its words only if they are
    this project's own, for those of libraries can quote what was sent. For the same reason libraries that use the
    standard library's logging are heard from warnings on: below, some write down SQL with its values, and addresses
    with their queries.

    Args:
        level: The lowest level that is logged.
        stream: Where to; standard error by default.

    Returns:
        The sink's id, for ``logger.remove``.
    """
    target = stream or sys.stderr

    def write(message: Any) -> None:
        target.write(_line(cast(Mapping[str, Any], message.record)) + "\n")
        target.flush()

    logger.remove()
    sink = logger.add(write, level=level, format="{message}", backtrace=False, diagnose=False)
    lowest = max(logging.getLevelNamesMapping().get(level, 0), logging.WARNING)
    logging.basicConfig(handlers=[_ToLoguru()], level=lowest, force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        standard = logging.getLogger(name)
        standard.handlers = []
        standard.propagate = name != "uvicorn.access"
    return sink


def _line(record: Mapping[str, Any]) -> str:
    entry: dict[str, Any] = {
        "time": record["time"].astimezone().isoformat(timespec="milliseconds"),
        "level": record["level"].name,
        "message": record["message"],
    }
    entry.update({name: record["extra"][name] for name in _FIELDS if record["extra"].get(name) is not None})
    if (raised := record["exception"]) is not None and raised.value is not None:
        error: BaseException = raised.value
        entry["error"] = type(error).__name__
        if isinstance(error, RunnerError):
            entry["reason"] = str(error)
        frames = traceback.extract_tb(raised.traceback)
        entry["raised_at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-20:]]
    return json.dumps(entry, default=str)


class Lately:
    """Remembers what was said within the last minute."""

    def __init__(self) -> None:
        self._said_s: OrderedDict[str, float] = OrderedDict()

    def was_said(self, text: str) -> bool:
        """Return whether a text was said lately; from now on it was."""
        now_s = time.monotonic()
        said_s = self._said_s.get(text)
        if said_s is not None and now_s - said_s < AGAIN_S:
            return True
        self._said_s[text] = now_s
        self._said_s.move_to_end(text)
        while len(self._said_s) > _REMEMBERED:
            self._said_s.popitem(last=False)
        return False


class _ToLoguru(logging.Handler):
    """Hands on what the standard library logs."""

    def __init__(self) -> None:
        super().__init__()
        self._lately = Lately()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        text = record.getMessage()
        if record.name == "dbos":
            # Every thread of its says every second that the database is away, with a traceback in its words.
            text = text.partition("\n")[0].removesuffix("Traceback (most recent call last):").rstrip(": ")
            raised = record.exc_info[0] if record.exc_info else None
            # Cancelling what a worker left behind is no error.
            if self._lately.was_said(text[:_BEGINNING]) or (raised is not None and "Cancelled" in raised.__name__):
                level = "DEBUG"
        logger.opt(exception=record.exc_info).log(level, "{}", text)
