"""Sessions start in virtual time, and nothing secret is logged of them."""

from collections.abc import Generator
from contextlib import suppress
from typing import Any

import pytest
from loguru import logger

from tests.simulated.virtual_time import VIRTUAL_TIME


@pytest.fixture
def anyio_backend() -> Any:
    return VIRTUAL_TIME


@pytest.fixture(autouse=True)
def logged() -> Generator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), level="TRACE")
    yield lines
    with suppress(ValueError):
        logger.remove(sink)
    assert not any("s3cr3t" in line for line in lines), "a secret in the log"
