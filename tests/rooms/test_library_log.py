"""The log of Daily's library: its reasons are read off standard error, and nobody else's words are lost."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.rooms.daily import library_log
from runner.rooms.daily.library_log import LibraryLog
from tests.patience import wait_until


def line(message: str, target: str = "daily_core::soup::signalling") -> bytes:
    told = {"timestamp": "2026-01-01T00:00:00Z", "level": "ERROR", "fields": {"message": message}, "target": target}
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


REFUSED = 'signalling retry attempt failed, 4 left: JoinForSigFailed(ErrorMeeting {{ error: String("{why}") }})'


@contextmanager
def standard_error(folder: Path) -> Iterator[Path]:
    """Put a file in the place of standard error. Within a test: between it and its set-up pytest does so itself."""
    file = folder / "stderr"
    saved = os.dup(2)
    with file.open("wb") as replaced:
        os.dup2(replaced.fileno(), 2)
        try:
            yield file
        finally:
            os.dup2(saved, 2)
            os.close(saved)


@pytest.fixture
def log() -> LibraryLog:
    log = LibraryLog()
    log.shows_all = False
    return log


def test_a_reason_is_read_and_everything_else_goes_on_as_it_was(tmp_path: Path, log: LibraryLog) -> None:
    with standard_error(tmp_path) as errors:
        mark = log.open()
        os.write(2, b"a warning of ours\n" + line(REFUSED.format(why="full")) + b"a prompt: ")
        wait_until(lambda: log.refusal_since(mark) is not None, timeout_s=5)
        os.write(2, b"and on\n")
        log.close(mark)
        os.write(2, b"afterwards\n")
        assert log.refusal_since(mark) == 'ErrorMeeting { error: String("full") }'
        assert errors.read_bytes() == b"a warning of ours\na prompt: and on\nafterwards\n"


def test_lines_that_come_in_pieces_are_put_together(tmp_path: Path, log: LibraryLog) -> None:
    with standard_error(tmp_path) as errors:
        mark = log.open()
        whole = line(REFUSED.format(why="full"))
        for piece in (whole[:40], whole[40:90], whole[90:]):
            os.write(2, piece)
        wait_until(lambda: log.refusal_since(mark) is not None, timeout_s=5)
        log.close(mark)
        assert errors.read_bytes() == b""


def test_with_several_joining_a_reason_belongs_to_nobody(tmp_path: Path, log: LibraryLog) -> None:
    with standard_error(tmp_path) as errors:
        first = log.open()
        os.write(2, line(REFUSED.format(why="full")))
        wait_until(lambda: log.refusal_since(first) is not None, timeout_s=5)
        second = log.open()
        assert log.refusal_since(first) is None
        assert log.refusal_since(second) is None
        log.close(first)
        os.write(2, line("something else"))
        log.close(second)
        third = log.open()
        assert log.refusal_since(third) is None
        log.close(third)
        assert errors.read_bytes() == b""


def test_whoever_asked_for_the_librarys_log_gets_it_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library_log.LIBRARY_LOG_VARIABLE, "info")
    log = LibraryLog()
    with standard_error(tmp_path) as errors:
        mark = log.open()
        os.write(2, line(REFUSED.format(why="full")))
        assert b"signalling" in errors.read_bytes()
        log.close(mark)


def test_a_process_without_standard_error_can_call() -> None:
    # It ends without flushing what it has no place for.
    code = (
        "import os; os.close(2)\n"
        "from runner.rooms.daily.library_log import library_log as log\n"
        "log.close(log.open())\n"
        "os._exit(0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("level", "shown"), [("WARNING", False), ("DEBUG", True)])
def test_the_library_logs_to_stderr_only_if_verbose(level: str, shown: bool):
    code = f"""
import asyncio, sys
from unittest.mock import Mock
from loguru import logger
logger.remove()
logger.add(sys.stderr, level="{level}")
from bots.clock import CallClock
from runner.rooms.daily.room import DailyRoom
async def main():
    room = DailyRoom("https://example.daily.co/room", None, clock=CallClock(), listener=Mock())
    room.transport.client._client.send_app_message("before the join: an error")
    await room.leave()
asyncio.run(main())
"""
    environment = {name: value for name, value in os.environ.items() if name != "RUST_LOG"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60, env=environment
    )
    assert ('"level":"ERROR"' in done.stderr) is shown
