"""Telling the record something until it takes it."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from loguru import logger

from runner.worker.errors import RecordError

FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 3.0

_WARNED_AT = (5, 50)
"""After so many tries it is worth a warning."""

_T = TypeVar("_T")


async def retried(
    tell: Callable[[], Awaitable[_T]], *, gives_up: Callable[[RecordError], bool] = lambda error: False
) -> _T:
    """Tell the record something until it takes it.

    Args:
        tell: Tells it once.
        gives_up: Whether to try no more after an error, although the same may be taken a little later.

    Raises:
        RecordError: It never will, or was given up.
    """
    tried = 0
    wait_s = FIRST_WAIT_S
    while True:
        tried += 1
        try:
            return await tell()
        except RecordError as error:
            if not error.transient or gives_up(error):
                raise
            logger.log("WARNING" if tried in _WARNED_AT else "DEBUG", "{}; tried again", error)
        await anyio.sleep(wait_s)
        wait_s = min(wait_s * 2, LONGEST_WAIT_S)
