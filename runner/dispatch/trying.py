"""What is tried again and again, and complained of once."""

from collections.abc import Awaitable, Callable

from loguru import logger


class Trying:
    """Tries something. While it fails, as it does every time while the database is away, that is warned of once."""

    def __init__(self, complaint: str):
        self._complaint = complaint
        self.is_failing = False

    async def succeeds(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Try it once, and return whether it succeeds."""
        try:
            await work()
        except Exception as error:
            said = logger.opt(exception=not self.is_failing)
            said.log("DEBUG" if self.is_failing else "WARNING", "{}: {}", self._complaint, type(error).__name__)
            self.is_failing = True
            return False
        self.is_failing = False
        return True
