"""The errors this package raises, by what a caller can do about them.

::

    RunnerError
    ├── UsageError        the input is wrong: mend it and try again (exit code 2)
    ├── MissingExtra      an optional package is not installed (exit code 2)
    └── RoomError         the room could not be entered or was lost; carries the call's ended reason
"""

from bots.timeline import EndedReason

USAGE_EXIT_CODE = 2
"""What a command exits with where nothing was found out about the agent."""


class RunnerError(Exception):
    """Base of every error raised on purpose. Its text is for a person: what, where, and how to mend it."""


class UsageError(RunnerError):
    """The input is wrong."""


class MissingExtra(RunnerError):
    """Something needs an optional package that is not installed."""

    @classmethod
    def named(cls, extra: str, missing: str, what: str = "this") -> "MissingExtra":
        """Return the error that names an extra, in words that hold for pip, pipx and uv.

        Args:
            extra: The extra.
            missing: What of it is not installed.
            what: What needs it.
        """
        return cls(
            f"{what} needs the extra {extra!r} ({missing} is not installed): install the runner again with it added"
        )


class RoomError(RunnerError):
    """A room could not be entered, or was lost.

    Args:
        reason: The ended reason the call gets.
        message: What happened, for a person; holds no token.
    """

    def __init__(self, reason: EndedReason, message: str):
        super().__init__(message)
        self.reason = reason
