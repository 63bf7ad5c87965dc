"""Readings that are shared by all who ask for the same at the same moment."""

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar, cast

import anyio

_T = TypeVar("_T")


class Sharing:
    """Lets those who ask for the same share one reading of it.

    Nobody is given what was read before they asked: whoever comes while it is read waits for the next reading, with
    all others who do. So there are two of the same at most, however many ask. Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._latest: dict[Hashable, _Reading] = {}

    async def read(self, key: Hashable, read: Callable[[], Awaitable[_T]]) -> _T:
        """Return what a reading comes to that begins now or later.

        Equal keys, of what is read and for whom, are answered alike.

        Raises:
            Exception: What reading raised.
        """
        while True:
            latest = self._latest.get(key)
            if latest is None or latest.has_begun:
                return await self._read(key, _Reading(after=latest), read)
            await latest.ended.wait()
            if latest.error is not None:
                raise latest.error
            if latest.values:
                return cast(_T, latest.values[0])
            # Whoever was to read it has gone.

    async def _read(self, key: Hashable, reading: "_Reading", read: Callable[[], Awaitable[_T]]) -> _T:
        self._latest[key] = reading
        try:
            if reading.after is not None:
                await reading.after.ended.wait()
                reading.after = None
            reading.has_begun = True
            value = await read()
            reading.values.append(value)
            return value
        except Exception as error:
            reading.error = error
            raise
        finally:
            reading.ended.set()
            if self._latest.get(key) is reading:
                if reading.after is None or reading.after.ended.is_set():
                    del self._latest[key]
                else:
                    # It never began: whoever comes now waits for the one before.
                    self._latest[key] = reading.after


class _Reading:
    """One reading of something, from when it was asked for."""

    def __init__(self, after: "_Reading | None"):
        self.has_begun = False
        """Whether it is too late to join."""
        self.ended = anyio.Event()
        self.values: list[Any] = []
        """What it came to, if it came to anything."""
        self.error: Exception | None = None
        self.after = after
        """The one that has to end before it may begin."""
