"""What a worker's process and its supervisor say to each other: orders, and how it fares, a line each."""

from runner.protocol.messages import Load, WorkerState

DRAIN = "drain"
"""An order: take nothing more; let calls that are on finish, release what is left in the end, and end."""

FORCE_STOP = "force-stop"
"""An order: do the same, without waiting for calls."""

STARTING = "starting"
"""The state of a process that is no worker yet, or no more. The others are those of workers."""

SILENT = "silent"
"""The state of a process that is not there, or says nothing: it may stand still."""

STATES = (STARTING, SILENT, *(state.value for state in WorkerState if state is not WorkerState.STOPPED))


class WorkerStatus(Load):
    """How a worker's process fares: a JSON object a line. What is counted is counted from its start.

    Attributes:
        why: Why it takes no runs, if it takes none for now.
        executor: Its id; None where it is no worker yet.
        live: How many runs it works on.
        calls: How many calls it makes at once.
        kept: How many outcomes it has on disk that the record has not taken.
        rooms_entered: How many calls came into their room.
        setting_up_s: How long that took from when the run was taken, all together.
    """

    state: str = STARTING
    why: str = ""
    executor: str | None = None
    live: int = 0
    calls: int = 0
    kept: int = 0
    rooms_entered: int = 0
    setting_up_s: float = 0.0
