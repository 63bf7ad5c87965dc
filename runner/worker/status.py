"""How a worker's process fares, as it tells whoever supervises it: a JSON object a line."""

from pydantic import BaseModel, ConfigDict

from runner.protocol.states import WorkerState

STARTING = "starting"
"""The state of a process that is no worker yet, or no more. The others are those of workers."""

SILENT = "silent"
"""The state of a process that is not there, or says nothing: it may stand still."""

STATES = (STARTING, SILENT, *(state.value for state in WorkerState if state is not WorkerState.STOPPED))


class WorkerStatus(BaseModel):
    """How a worker's process fares. What is counted is counted from its start.

    Attributes:
        state: What it is ready for.
        why: Why it takes no runs, if it takes none for now.
        executor: Its id; None where it is no worker yet.
        live: How many runs it works on.
        calls: How many calls it makes at once.
        kept: How many outcomes it has on disk that the record has not taken.
        loop_lag_ms: The longest its event loop was late within the last seconds.
        underruns: How often a call had no audio to send.
        calls_made: How many calls it began.
        rooms_entered: How many of them came into their room.
        setting_up_s: How long that took from when the run was taken, all together.
    """

    model_config = ConfigDict(frozen=True)

    state: str = STARTING
    why: str = ""
    executor: str | None = None
    live: int = 0
    calls: int = 0
    kept: int = 0
    loop_lag_ms: float = 0.0
    underruns: int = 0
    calls_made: int = 0
    rooms_entered: int = 0
    setting_up_s: float = 0.0
