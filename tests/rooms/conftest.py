"""Fixtures of the tests of rooms."""

from collections.abc import Iterator

import pytest
from loguru import logger

from runner.rooms.daily import room as daily_room
from tests.doubles.daily import Meeting, fake_daily
from tests.rooms.in_daily import URL


@pytest.fixture
def log_text() -> Iterator[list[str]]:
    """Everything that is logged, at every level."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)), level="TRACE")
    yield lines
    logger.remove(sink)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that can't be sent to a Daily room is soon given up. A test may set more after it."""
    monkeypatch.setattr(daily_room, "SEND_AGAIN_FOR_S", 0.2)


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch, impatient: None) -> Iterator[Meeting]:
    """A meeting of the stand-in for Daily's library, which every Daily room joins."""
    with fake_daily(monkeypatch, Meeting(url=URL)) as meeting:
        yield meeting
