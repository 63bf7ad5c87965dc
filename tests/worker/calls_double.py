"""Calls that go as they are told to, and leave behind what a call leaves behind."""

from collections.abc import Sequence
from pathlib import Path

import anyio

from bots.timeline import AgentJoined, CallEnded, CallStarted, EndedReason, RoomEntered, TimelineEvent
from runner.calls.request import CallRequest, CallWatcher
from runner.calls.run_file import Circumstances, Run, judge_run, write_run
from runner.settings import Settings

RECORDING = b"RIFF" * 1_000


class StubCall:
    def __init__(self, calls: "StubCalls", request: CallRequest, folder: Path, run_id: str, watcher: CallWatcher):
        self.calls = calls
        self.request = request
        self.folder = folder
        self.run_id = run_id
        self.watcher = watcher
        self.over = anyio.Event()
        self.facts: list[TimelineEvent] = []

    async def make(self) -> Run:
        self.calls.made.append(self)
        if self.calls.raises is not None:
            raise self.calls.raises
        await anyio.sleep(self.calls.prepares_s)
        self.folder.mkdir()
        (self.folder / "recording.wav").write_bytes(RECORDING)
        self.fact(
            CallStarted(at_ns=0, run_id=self.run_id, scenario="greeting", room="r", wall_time="now", monotonic_ns=1)
        )
        self.fact(RoomEntered(at_ns=1))
        self.fact(AgentJoined(at_ns=2))
        for event in self.calls.facts:
            self.fact(event)
        reason = EndedReason.CANCELLED
        try:
            with anyio.move_on_after(self.calls.lasts_s) as waiting:
                await self.over.wait()
            if waiting.cancelled_caught:
                reason = self.calls.reasons.pop(0) if self.calls.reasons else EndedReason.CALLER_HUNG_UP
            if self.calls.evaluates_s:
                self.fact(CallEnded(at_ns=1_000_000_000, reason=reason))
                await anyio.sleep(self.calls.evaluates_s)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(self.calls.leaves_s)
            self.calls.left.append(self.run_id)
            if not any(isinstance(event, CallEnded) for event in self.facts):
                self.fact(CallEnded(at_ns=1_000_000_000, reason=reason))
            (self.folder / "timeline.jsonl").write_text("\n".join(e.model_dump_json() for e in self.facts))
            run = judge_run(self.request.script, self.facts, Circumstances(asked=self.request.asked))
            write_run(self.folder, run)
        return run

    def cancel(self, detail: str | None = None) -> None:
        self.over.set()

    def fact(self, event: TimelineEvent) -> None:
        self.facts.append(event)
        self.watcher.fact(event)


class StubCalls:
    """Makes them."""

    def __init__(
        self,
        lasts_s: float = 0.0,
        prepares_s: float = 0.0,
        evaluates_s: float = 0.0,
        leaves_s: float = 0.0,
        raises: Exception | None = None,
        reasons: Sequence[EndedReason] = (),
    ):
        self.lasts_s = lasts_s
        self.prepares_s = prepares_s
        self.evaluates_s = evaluates_s
        self.leaves_s = leaves_s
        self.raises = raises
        self.reasons = list(reasons)
        self.facts: list[TimelineEvent] = []
        self.made: list[StubCall] = []
        self.left: list[str] = []

    def __call__(
        self, request: CallRequest, settings: Settings, folder: Path, run_id: str, watcher: CallWatcher
    ) -> StubCall:
        return StubCall(self, request, folder, run_id, watcher)
