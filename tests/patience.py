"""Waiting for what is to happen, and a second and a third try for what is measured in real time."""

import functools
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import anyio

_T = TypeVar("_T")
P = ParamSpec("P")

TRIES = 3


def best_of_three(body: Callable[P, Awaitable[None]]) -> Callable[P, Coroutine[Any, Any, None]]:
    """Try what a body asserts, or waits for, up to three times, and let only the third failure through.

    What is measured in real time, on a machine that does other things, may be measured late; a product that is
    steadily wrong still fails three times. A ``tmp_path`` is a fresh folder each time.
    """

    @functools.wraps(body)
    async def patient(*args: P.args, **kwargs: P.kwargs) -> None:
        fresh: dict[str, Any] = dict(kwargs)
        for number in range(1, TRIES + 1):
            if "tmp_path" in kwargs:
                fresh["tmp_path"] = kwargs["tmp_path"] / f"try-{number}"
                fresh["tmp_path"].mkdir()
            try:
                await body(*args, **fresh)
            except (AssertionError, TimeoutError):
                if number == TRIES:
                    raise
            else:
                break

    return patient


async def until(wanted: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until a function returns something true."""
    with anyio.fail_after(timeout_s):
        while not wanted():
            await anyio.sleep(0.01)


def wait_until(
    wanted: Callable[[], _T],
    what: str | Callable[[], object] = "it is so",
    timeout_s: float = 60.0,
    every_s: float = 0.05,
) -> _T:
    """Return what a function returns, once that is true; after so long say what was waited for, and fail."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := wanted()):
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {timeout_s:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(every_s)
    return found
