"""What can go wrong with the queue.

::

    RunnerError
    └── QueueError        the queue can't be used: its tables are not there, or a worker is running already
"""

from runner.errors import RunnerError


class QueueError(RunnerError):
    """The queue can't be used."""
