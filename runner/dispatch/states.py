"""The states of workers. By itself, for whoever has no database."""

from enum import StrEnum

WORKER_LOST = "worker lost"
"""How the reason begins why a run ended that went with its worker."""


class WorkerState(StrEnum):
    """What a worker is ready for."""

    TAKING = "taking"
    """It takes runs, as many as it says."""
    OVERLOADED = "overloaded"
    """It sees its calls through, and takes no more until they are on time again."""
    CUT_OFF = "cut-off"
    """The record's API does not answer it, or with errors of its own: it sees its calls through, and takes no more
    until it can be used."""
    DRAINING = "draining"
    """It was told to stop: it sees its calls through, and takes no more."""
    STOPPED = "stopped"
    """It ended in good order."""
    LOST = "lost"
    """It showed no sign of life, and was given up."""
