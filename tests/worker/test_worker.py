"""Seeing a run through: whatever happens, the record gets its facts first and then its outcome."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import SecretStr

from bots.timeline import (
    AgentJoined,
    AgentSaid,
    CallEnded,
    CallStarted,
    EndedReason,
    MessageReceived,
    RoomEntered,
    Source,
    TimelineEvent,
)
from runner.calls.request import CallRequest, CallWatcher
from runner.calls.run_file import Run, judge_run, write_run
from runner.errors import RoomError, UsageError
from runner.settings import Settings
from runner.worker import live_report, worker
from runner.worker.worker import Worker
from tests.worker.record_double import RecordDouble, job

pytestmark = pytest.mark.anyio

TOKEN = "planted-token"


class StubCall:
    """A call that goes as it is told to, and leaves behind what a call leaves behind."""

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
        self.folder.mkdir(parents=True)
        (self.folder / "recording.wav").write_bytes(b"RIFF" * 1_000)
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
            reason = EndedReason.CALLER_HUNG_UP if waiting.cancelled_caught else reason
        finally:
            self.fact(CallEnded(at_ns=1_000_000_000, reason=reason))
            (self.folder / "timeline.jsonl").write_text("\n".join(e.model_dump_json() for e in self.facts))
            run = judge_run(self.request.script, self.facts)
            write_run(self.folder, run)
        return run

    def cancel(self, detail: str | None = None) -> None:
        self.over.set()

    def fact(self, event: TimelineEvent) -> None:
        self.facts.append(event)
        self.watcher.fact(event)


class StubCalls:
    def __init__(self, lasts_s: float = 0.0, prepares_s: float = 0.0, raises: Exception | None = None):
        self.lasts_s = lasts_s
        self.prepares_s = prepares_s
        self.raises = raises
        self.facts: list[TimelineEvent] = []
        self.made: list[StubCall] = []

    def __call__(
        self, request: CallRequest, settings: Settings, folder: Path, run_id: str, watcher: CallWatcher
    ) -> StubCall:
        return StubCall(self, request, folder, run_id, watcher)


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> RecordDouble:
    monkeypatch.setattr(worker, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(live_report, "POLL_INTERVAL_S", 0.05)
    monkeypatch.setattr(live_report, "BATCH_INTERVAL_S", 0.02)
    return RecordDouble(jobs={7: job(token=TOKEN, data_message={"value": None}, session_data={"table": 4})})


@pytest.fixture
def made(record: RecordDouble, tmp_path: Path) -> Callable[[StubCalls], Worker]:
    def make(calls: StubCalls) -> Worker:
        return Worker(Settings(), record.client(), tmp_path / "work", "executor", make_call=calls)

    return make


async def test_a_call_is_made_as_the_record_says_and_reported_with_everything_it_left(
    record: RecordDouble, made: Callable[[StubCalls], Worker], tmp_path: Path
) -> None:
    calls = StubCalls(lasts_s=0.2)
    await made(calls).see_through(7)
    request = calls.made[0].request
    assert request.address.url == "http://127.0.0.1:7860/api/offer"
    assert request.address.token == SecretStr(TOKEN)
    assert request.address.request_data == {"table": 4, "cekura_run_id": 7}
    assert request.data_message is not None and request.data_message.value is None
    assert request.notes == ("a note",)
    [outcome] = record.outcomes
    assert outcome["attempt"] == 1 and outcome["error"] is None
    assert outcome["run"]["id"] == "7" and outcome["run"]["status"] == "completed"
    assert "script" not in outcome["run"]
    assert record.artefacts["recording.wav"] == b"RIFF" * 1_000
    assert json.loads(record.artefacts["run.json"])["id"] == "7"
    assert b"call_ended" in record.artefacts["timeline.jsonl"]
    assert record.told.index("outcome") > record.told.index("run.json")
    assert record.moves[:1] == [("running", True)]
    assert [event["type"] for event in record.events][:3] == ["call_started", "room_entered", "agent_joined"]
    assert not list((tmp_path / "work").iterdir())


async def test_a_run_nobody_wants_is_not_made(record: RecordDouble, made: Callable[[StubCalls], Worker]) -> None:
    calls = StubCalls()
    await made(calls).see_through(8)
    assert calls.made == [] and record.outcomes == []


async def test_cancelling_ends_the_call_in_good_order(
    record: RecordDouble, made: Callable[[StubCalls], Worker]
) -> None:
    calls = StubCalls(lasts_s=30)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(made(calls).see_through, 7)
            await anyio.sleep(0.1)
            record.cancelled.add(7)
    assert record.outcomes[0]["run"]["ended_reason"] == "cancelled"
    assert "recording.wav" in record.artefacts


async def test_cancelling_before_the_call_has_begun_cuts_off_what_prepares_it(
    record: RecordDouble, made: Callable[[StubCalls], Worker]
) -> None:
    record.cancelled.add(7)
    with anyio.fail_after(5):
        await made(StubCalls(prepares_s=30)).see_through(7)
    assert record.outcomes[0]["error"]["reason"] == "cancelled"


async def test_a_worker_that_is_stopped_still_reports(
    record: RecordDouble, made: Callable[[StubCalls], Worker]
) -> None:
    with anyio.move_on_after(0.2):
        await made(StubCalls(lasts_s=30)).see_through(7)
    assert record.outcomes[0]["run"]["ended_reason"] == "cancelled"
    assert "timeline.jsonl" in record.artefacts


@pytest.mark.parametrize(
    ("error", "cause", "reason", "says"),
    [
        (UsageError("the caller's lines can't be spoken"), "harness", "runner-error", "can't be spoken"),
        (RoomError(EndedReason.TOKEN_REFUSED, f"no: {TOKEN}"), "room", "token-refused", "no: ***"),
        (RuntimeError(f"boom\n{TOKEN}"), "harness", "runner-error", "RuntimeError: boom ***"),
    ],
)
async def test_every_error_is_an_outcome_without_secrets(
    record: RecordDouble,
    made: Callable[[StubCalls], Worker],
    error: Exception,
    cause: str,
    reason: str,
    says: str,
) -> None:
    await made(StubCalls(raises=error)).see_through(7)
    told = record.outcomes[0]["error"]
    assert (told["cause"], told["reason"]) == (cause, reason)
    assert says in told["detail"] and TOKEN not in told["detail"]


@pytest.mark.parametrize(
    "job_", [job(script={"name": "x", "turns": "none"}), job(room_url=None), job(room_url="ftp://x")]
)
async def test_a_job_that_can_t_be_made_is_an_outcome(
    record: RecordDouble, tmp_path: Path, job_: dict[str, Any]
) -> None:
    record.jobs[7] = job_
    await Worker(Settings(), record.client(), tmp_path / "work", "executor").see_through(7)
    assert record.outcomes[0]["error"]["cause"] == "harness"


async def test_the_outcome_gets_through_whatever_the_record_answers_at_first(
    record: RecordDouble, made: Callable[[StubCalls], Worker]
) -> None:
    record.refusals = {
        "claim": [503, 500],
        "recording.wav": [502],
        "events": [500] * 99,
        "progress": [500] * 99,
        "7": [500] * 99,
        "outcome": [503, 429, 401, 500],
    }
    await made(StubCalls(lasts_s=0.1)).see_through(7)
    assert [outcome["run"]["status"] for outcome in record.outcomes] == ["completed"]
    assert set(record.artefacts) == {"recording.wav", "timeline.jsonl", "run.json"}


async def test_artefacts_that_are_refused_do_not_keep_the_outcome_back(
    record: RecordDouble, made: Callable[[StubCalls], Worker]
) -> None:
    record.refusals = {"recording.wav": [413], "timeline.jsonl": [500] * 4}
    await made(StubCalls()).see_through(7)
    assert record.outcomes[0]["run"]["status"] == "completed"
    assert set(record.artefacts) == {"run.json"}


async def test_an_outcome_that_is_refused_for_good_is_reported_as_our_failure(
    record: RecordDouble, made: Callable[[StubCalls], Worker]
) -> None:
    record.refusals = {"outcome": [400]}
    await made(StubCalls()).see_through(7)
    assert record.outcomes[0]["error"]["cause"] == "harness"


async def test_facts_go_out_in_batches_of_a_size_and_huge_ones_not_at_all(
    record: RecordDouble, made: Callable[[StubCalls], Worker]
) -> None:
    calls = StubCalls(lasts_s=0.5)
    calls.facts = [AgentSaid(at_ns=i, text=f"word {i} ü", source=Source.TOLD) for i in range(500)]
    calls.facts.append(MessageReceived(at_ns=500, message={"much": "x" * 200_000}))
    await made(calls).see_through(7)
    assert [e["text"] for e in record.events if e["type"] == "agent_said"] == [f"word {i} ü" for i in range(500)]
    assert not any(e["type"] == "message_received" for e in record.events)
    assert 3 <= record.told.count("events") <= 6
