"""What can go wrong between a worker and the record."""

from runner.errors import RunnerError


class RecordError(RunnerError):
    """The record did not take what it was told.

    Args:
        message: What happened; holds no token.
        transient: Whether the same may be taken a little later.
        status: The HTTP status; None where there was no answer.
    """

    def __init__(self, message: str, *, transient: bool, status: int | None = None):
        super().__init__(message)
        self.transient = transient
        self.status = status


class GivenUp(RunnerError):
    """The record has given this worker up for lost: what it had is somebody else's."""
