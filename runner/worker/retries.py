"""Telling the record something until it takes it, with waits that grow."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from loguru import logger
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, retry_if_result, wait_exponential
from tenacity.retry import retry_base

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

    def is_retried(error: BaseException) -> bool:
        return isinstance(error, RecordError) and error.transient and not gives_up(error)

    return await _retried(tell, retry_if_exception(is_retried), _log)


async def retried_until_true(tell: Callable[[], Awaitable[bool]]) -> None:
    """Tell the record something until that returns True."""
    await _retried(tell, retry_if_result(lambda told: not told), lambda state: None)


async def _retried(
    tell: Callable[[], Awaitable[_T]], retry: retry_base, before_wait: Callable[[RetryCallState], None]
) -> _T:
    wait = wait_exponential(FIRST_WAIT_S, LONGEST_WAIT_S)

    async def once() -> _T:
        return await tell()

    return await AsyncRetrying(sleep=anyio.sleep, wait=wait, retry=retry, before_sleep=before_wait)(once)


def _log(state: RetryCallState) -> None:
    error = state.outcome and state.outcome.exception()
    logger.log("WARNING" if state.attempt_number in _WARNED_AT else "DEBUG", "{}; tried again", error)
