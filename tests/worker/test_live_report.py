"""What the record is told while a call is on."""

import json
from collections.abc import Sequence

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
from runner.calls.recording import CALLER
from runner.protocol.messages import Job, Order
from runner.worker import live_report
from runner.worker.live_report import LiveReport
from runner.worker.record_client import RecordClient
from tests.patience import until
from tests.worker.record_double import RecordDouble, job

pytestmark = pytest.mark.anyio


class Call:
    """A call that is watched for a record."""

    def __init__(self, record: RecordDouble):
        self.cancels = 0
        self.moves: list[tuple[bool, bool, bool]] = []
        self.report = LiveReport(record.client(), Job.model_validate(job()), self.moved, self.cancel)

    def moved(self) -> None:
        now = self.report.now
        self.moves.append((now.is_evaluating, now.joined, now.said))

    def cancel(self) -> None:
        self.cancels += 1

    def told(self, **order: bool) -> None:
        """Be told what to do."""
        self.report.obey(Order.model_validate({"run_id": 7, "attempt": 1, "counts": True, **order}))


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
def test_that_something_was_said_is_news_once(record: RecordDouble, fact: TimelineEvent) -> None:
    call = Call(record)
    call.report.fact(RoomEntered(at_ns=1))
    call.report.fact(AgentJoined(at_ns=1))
    call.report.fact(MessageReceived(at_ns=1, message={"type": "bot-llm-started"}))
    assert call.moves == [(False, True, False)]
    call.report.fact(fact)
    call.report.fact(fact)
    assert call.moves == [(False, True, False), (False, True, True)]


def test_that_a_call_is_over_is_news_and_a_retry_takes_it_back(
    record: RecordDouble,
) -> None:
    call = Call(record)
    for fact in (RoomEntered(at_ns=1), AgentStartedSpeaking(at_ns=2)):
        call.report.fact(fact)
    call.report.fact(CallEnded(at_ns=3, reason=EndedReason.AGENT_LEFT))
    assert call.moves[-1] == (True, True, True)
    call.report.begin_again()
    now = call.report.now
    assert (now.is_evaluating, now.joined, now.said, call.report.has_begun) == (False, True, True, False)


@pytest.mark.parametrize("order", [{"is_cancelled": True}, {"counts": False}])
def test_an_unwanted_call_is_ended_once_and_says_so(record: RecordDouble, order: dict[str, bool]) -> None:
    call = Call(record)
    call.told()
    assert (call.cancels, call.report.now.is_ending) == (0, False)
    call.told(**order)
    call.told(**order)
    assert (call.cancels, call.report.now.is_ending) == (1, True)


def test_one_that_is_watched_says_that_it_knows(record: RecordDouble) -> None:
    call = Call(record)
    call.told(is_watched=True)
    assert call.report.now.is_watched
    call.told(is_watched=True, counts=False)
    assert not call.report.now.is_watched


async def test_what_does_not_reach_the_server_is_told_again(record: RecordDouble) -> None:
    record.watched.add(7)
    record.refusals["events"] = [500, 409, 503]
    call = Call(record)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call.report.run)
        call.told(is_watched=True)
        call.report.fact(AgentStartedSpeaking(at_ns=1))
        await until(lambda: len(record.events) == 1)
        tasks.cancel_scope.cancel()
    assert record.told.count("events") == 4 and call.cancels == 0


async def test_sound_is_passed_on_while_somebody_listens(record: RecordDouble) -> None:
    call = Call(record)

    def sounds(from_ms: int) -> None:
        for at_ms in range(from_ms, from_ms + 500, 20):
            call.report.audio(CALLER, at_ms * 1_000_000, b"\x01\x00" * 480)

    record.refusals["sound"] = [503]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call.report.run)
        sounds(0)
        assert call.report.now.is_listened_to is False
        call.told(is_listened_to=True)
        assert call.report.now.is_listened_to is True
        sounds(500)
        await until(lambda: record.told == ["sound"])
        # What was not taken is lost; the next is passed on.
        sounds(1_000)
        await until(lambda: record.sound)
        call.told(is_listened_to=False)
        sounds(1_500)
        call.report.begin_again()
        call.told(is_listened_to=True, counts=False)
        assert call.report.now.is_listened_to is False
        tasks.cancel_scope.cancel()
    assert record.told == ["sound", "sound"]
    assert record.sound == b"\x01\x00\x00\x00" * (500 * 24)


async def test_of_a_long_call_the_latest_facts_are_kept(
    record: RecordDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_report, "MAX_KEPT", 10)
    call = Call(record)
    firsts: list[int] = []
    told: list[str] = []

    async def events(run_id: int, attempt: int, events: Sequence[str], *, call: int, first: int) -> int | None:
        firsts.append(first)
        told.extend(events)
        return first + len(events)

    monkeypatch.setattr(call.report._record, "events", events)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call.report.run)
        for at_ns in range(25):
            call.report.fact(AgentStartedSpeaking(at_ns=at_ns))
        call.told(is_watched=True)
        await until(lambda: told)
        tasks.cancel_scope.cancel()
    assert firsts == [15] and [json.loads(event)["at_ns"] for event in told] == list(range(15, 25))


async def test_who_comes_and_what_begins_while_facts_are_sent_counts(
    record: RecordDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Call(record)
    sent: list[tuple[int, int, int]] = []

    async def events(_: object, run_id: int, attempt: int, batch: Sequence[str], **place: int) -> int:
        sent.append((place["call"], place["first"], len(batch)))
        if len(sent) == 1:
            call.told(is_watched=False)
            call.told(is_watched=True)
        elif len(sent) == 2:
            call.report.begin_again()
            call.report.fact(AgentStartedSpeaking(at_ns=4))
        return place["first"] + len(batch)

    monkeypatch.setattr(RecordClient, "events", events)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call.report.run)
        for number in range(3):
            call.report.fact(AgentStartedSpeaking(at_ns=number))
        call.told(is_watched=True)
        await until(lambda: len(sent) == 3)
        tasks.cancel_scope.cancel()
    assert sent == [(1, 0, 3), (1, 0, 3), (2, 0, 1)]


async def test_facts_are_told_from_the_beginning_once_somebody_watches(record: RecordDouble) -> None:
    call = Call(record)

    def happens(*numbers: int) -> None:
        for number in numbers:
            call.report.fact(AgentStartedSpeaking(at_ns=number))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call.report.run)
        happens(0, 1, 2)
        await anyio.sleep(0.1)
        assert record.told == []
        record.watched.add(7)
        call.told(is_watched=True)
        await until(lambda: len(record.events) == 3)
        happens(3)
        await until(lambda: len(record.events) == 4)
        # The record was started anew, and knows of none.
        record.events.clear()
        call.told(is_watched=False)
        call.told(is_watched=True)
        await until(lambda: len(record.events) == 4)
        call.told(is_watched=False)
        record.told.clear()
        happens(4)
        await anyio.sleep(0.1)
        assert record.told == []
        tasks.cancel_scope.cancel()
    assert [event["at_ns"] for event in record.events] == [0, 1, 2, 3]
