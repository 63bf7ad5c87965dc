"""A worker whose calls are empty: it does all that a worker does beside a call, and nothing of the call.

    python -m benchmarks.empty_calls NAME

For what the record's side costs while more calls are on than this machine could make. Its settings come by the
environment, as those of any worker. A call lasts as long as the silences of its script.
"""

import sys
from pathlib import Path
from typing import Any

import anyio
import httpx
from loguru import logger

from bots.caller.script import StaySilent
from bots.timeline import AgentStartedSpeaking, CallEnded, CallStarted, EndedReason, RoomEntered
from runner.calls.request import CallRequest, CallWatcher
from runner.calls.run_file import Run
from runner.protocol.messages import WorkerState
from runner.settings import Settings, load_settings
from runner.worker.process import WorkerProcess
from tests.records.outcomes import cancelled, outcome

UNTIL_WORDS_S = 0.6
EVALUATING_S = 0.5
CHANGES = ("given to a worker", "taken by it", "in the room", "first word", "over", "ended")
"""What the record takes in of each run."""


class EmptyCall:
    """A call without anybody in it (see :class:`runner.worker.worker.LiveCall`)."""

    def __init__(self, request: CallRequest, settings: Settings, folder: Path, run_id: str, watcher: CallWatcher):
        self._request = request
        self._run_id = run_id
        self._watcher = watcher
        self._cancelled = anyio.Event()
        turns = [turn.action for turn in request.script.turns]
        self._lasts_s = sum(action.duration_ms for action in turns if isinstance(action, StaySilent)) / 1_000

    async def make(self) -> Run:
        """Let the time pass, and tell the watcher what would have happened."""
        started: dict[str, Any] = {"run_id": self._run_id, "scenario": "empty", "room": "", "wall_time": ""}
        self._watcher.fact(CallStarted(at_ns=0, monotonic_ns=0, **started))
        self._watcher.fact(RoomEntered(at_ns=0))
        await anyio.sleep(UNTIL_WORDS_S)
        self._watcher.fact(AgentStartedSpeaking(at_ns=0))
        with anyio.move_on_after(self._lasts_s - UNTIL_WORDS_S - EVALUATING_S):
            await self._cancelled.wait()
        is_cancelled = self._cancelled.is_set()
        reason = EndedReason.CANCELLED if is_cancelled else EndedReason.CALLER_HUNG_UP
        self._watcher.fact(CallEnded(at_ns=0, reason=reason))
        await anyio.sleep(EVALUATING_S)
        made = cancelled() if is_cancelled else outcome()
        return made.model_copy(update={"id": self._run_id, "script": self._request.script})

    def cancel(self, detail: str | None = None) -> None:
        """End it."""
        self._cancelled.set()


async def run(name: str) -> None:
    """Be a worker, until this process is killed."""
    settings = load_settings()
    worker = settings.worker
    assert worker.record_url is not None and worker.key is not None

    ready = anyio.Event()

    def changed() -> None:
        if process.status.state == WorkerState.TAKING:
            ready.set()

    async with httpx.AsyncClient(base_url=worker.record_url) as http:
        process = WorkerProcess(settings, http, worker.key, name, on_change=changed, make_call=EmptyCall)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(process.run)
            await ready.wait()
            print(f"worker {name}: ready", flush=True)


if __name__ == "__main__":
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    anyio.run(run, sys.argv[1], backend_options={"use_uvloop": True})
