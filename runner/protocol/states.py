"""The states of workers."""

from enum import StrEnum

WORKER_LOST = "worker lost"
"""How the reason begins why a run ended that went with its worker."""


class WorkerState(StrEnum):
    """What a worker is ready for."""

    TAKING = "taking"
    """It takes runs, as many as it says."""
    PAUSED = "paused"
    """It sees its calls through, and takes no more for now: it says why."""
    DRAINING = "draining"
    """It was told to stop: it sees its calls through, and takes no more."""
    STOPPED = "stopped"
    """It ended in good order."""
    LOST = "lost"
    """It did not poll for longer than its lease, or its process died."""
