"""What the record is told while a call is on."""

from pathlib import Path

import anyio
import pytest

from bots.timeline import (
    AgentJoined,
    AgentSaid,
    AgentStartedSpeaking,
    CallEnded,
    CallerHeardAs,
    CallerPressedKeys,
    CallerStartedSpeaking,
    DataMessagePublished,
    EndedReason,
    MessageReceived,
    RoomEntered,
    Source,
    TimelineEvent,
)
from runner.worker.live_report import LiveReport
from runner.worker.progress import Progress
from runner.worker.record_client import Job
from tests.worker.conftest import until
from tests.worker.record_double import RecordDouble, job

pytestmark = pytest.mark.anyio


class Call:
    def __init__(self, record: RecordDouble, run_id: int = 7, progress: Progress | None = None):
        self.cancels = 0
        client = record.client()
        self.report = LiveReport(client, Job.model_validate(job(run_id)), progress or Progress(client), self.cancel)

    def cancel(self) -> None:
        self.cancels += 1


@pytest.mark.parametrize(
    "fact",
    [
        DataMessagePublished(at_ns=2, message=1),
        CallerStartedSpeaking(at_ns=2, turn=0, text="hello"),
        CallerPressedKeys(at_ns=2, turn=0, keys="1"),
        CallerHeardAs(at_ns=2, text="hello"),
        AgentStartedSpeaking(at_ns=2),
        AgentSaid(at_ns=2, text="hello", source=Source.TOLD),
    ],
)
async def test_that_something_was_said_is_told_at_once_and_once(record: RecordDouble, fact: TimelineEvent) -> None:
    call = Call(record)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call.report.run)
        call.report.fact(RoomEntered(at_ns=1))
        call.report.fact(AgentJoined(at_ns=1))
        call.report.fact(MessageReceived(at_ns=1, message={"type": "bot-llm-started"}))
        await until(lambda: record.moves == [("running", True, False)])
        call.report.fact(fact)
        await until(lambda: record.moves[1:] == [("running", True, True)])
        call.report.fact(fact)
        await anyio.sleep(0.1)
        tasks.cancel_scope.cancel()
    assert len(record.moves) == 2


async def test_the_latest_move_is_told_until_it_is_taken(record: RecordDouble) -> None:
    record.refusals["progress"] = [503] * 1_000
    call = Call(record)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call.report.run)
        call.report.fact(RoomEntered(at_ns=1))
        await until(lambda: record.told.count("progress") > 2)
        call.report.fact(AgentStartedSpeaking(at_ns=2))
        call.report.fact(CallEnded(at_ns=3, reason=EndedReason.AGENT_LEFT))
        await until(lambda: record.told.count("progress") > 5)
        record.refusals.clear()
        await until(lambda: record.moves)
        await anyio.sleep(0.1)
        tasks.cancel_scope.cancel()
    assert record.moves == [("evaluating", True, True)]


async def test_a_call_whose_attempt_is_void_is_ended_once(record: RecordDouble, tmp_path: Path) -> None:
    call = Call(record)
    record.attempts[7] = 2
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call.report.run)
        call.report.fact(RoomEntered(at_ns=1))
        await until(lambda: call.cancels and record.told.count("progress") > 2)
        tasks.cancel_scope.cancel()
    assert call.cancels == 1


async def test_one_request_tells_of_all_runs_and_another_one_goes_on_when_a_run_is_over(record: RecordDouble) -> None:
    record.jobs[8] = job(8)
    progress = Progress(record.client())
    first, second = Call(record, 7, progress), Call(record, 8, progress)
    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as of_first:
            of_first.start_soon(first.report.run)
            await anyio.sleep(0.02)
            tasks.start_soon(second.report.run)
            await anyio.sleep(0.5)
            # Twenty times a second for both together.
            assert 2 <= record.told.count("progress") <= 12
            of_first.cancel_scope.cancel()
        record.cancelled |= {7, 8}
        await until(lambda: second.cancels)
        tasks.cancel_scope.cancel()
    assert first.cancels == 0


async def test_facts_are_told_from_the_beginning_once_somebody_watches(record: RecordDouble) -> None:
    call = Call(record)

    def happens(*numbers: int) -> None:
        for number in numbers:
            call.report.fact(AgentStartedSpeaking(at_ns=number))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call.report.run)
        happens(0, 1, 2)
        await until(lambda: record.told.count("progress") > 2)
        assert "events" not in record.told
        record.watched[7] = 0
        await until(lambda: len(record.events) == 3)
        happens(3)
        await until(lambda: len(record.events) == 4)
        # The record was started anew, and knows of none.
        record.events.clear()
        record.watched[7] = 0
        await until(lambda: len(record.events) == 4)
        del record.watched[7]
        await anyio.sleep(0.2)
        record.told.clear()
        happens(4)
        await until(lambda: record.told.count("progress") > 2)
        assert "events" not in record.told
        tasks.cancel_scope.cancel()
    assert [event["at_ns"] for event in record.events] == [0, 1, 2, 3]
