"""Seeing a run through: whatever happens, the record gets its facts first and then its outcome."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from pydantic import SecretStr

from bots.timeline import (
    AgentSaid,
    AgentStartedSpeaking,
    CallerUnderrun,
    EndedReason,
    MessageReceived,
    Source,
    TimelineEvent,
)
from runner.calls.call import Call
from runner.calls.request import CallMaker
from runner.errors import RoomError, UsageError
from runner.protocol.messages import VERSION, Answer, Job, Order, Poll, WorkerInfo
from runner.records.endings import read_outcome
from runner.settings import Settings
from runner.worker import worker as workers
from runner.worker.link import Link
from runner.worker.outbox import Outbox
from runner.worker.worker import Worker
from tests.patience import until
from tests.worker.calls_double import RECORDING, StubCall, StubCalls
from tests.worker.conftest import TOKEN
from tests.worker.record_double import RecordDouble, job

pytestmark = pytest.mark.anyio

CONFIRMED = Answer(lease_s=20, orders=(Order(run_id=7, attempt=1, counts=True),))
SESSION = {"start_url": "http://127.0.0.1:7860/start", "transport": "webrtc"}


@asynccontextmanager
async def working(
    record: RecordDouble,
    folder: Path,
    calls: CallMaker = Call,
    executor: str = "executor",
    settings: Settings | None = None,
) -> AsyncGenerator[Worker]:
    """Be a worker that takes what the record has for it, and an outbox that delivers."""
    client = record.client()
    outbox = Outbox(folder / "outbox", client)
    worker = Worker(settings or Settings(), client, outbox.open(executor), calls)
    info = WorkerInfo(executor=executor, name="w", version="1", rooms=("smallwebrtc",), calls=4)

    def said() -> Poll:
        return Poll(protocol=VERSION, worker=info, number=1, runs=tuple(worker.runs), kept=outbox.kept)

    link = Link(client, record.lease_s, said, worker.take_in, worker.give_up)
    worker.changed = link.news
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outbox.run)
        tasks.start_soon(worker.run)
        tasks.start_soon(link.run)
        yield worker
        tasks.cancel_scope.cancel()
    outbox.close()


async def until_done(record: RecordDouble, worker: Worker) -> None:
    """Wait until the record has all outcomes."""
    await until(lambda: record.jobs.keys() <= record.ended and not worker.runs)


@pytest.fixture
def see(record: RecordDouble, tmp_path: Path) -> Callable[..., Any]:
    """See the record's runs through."""

    async def see_through(calls: CallMaker = Call) -> None:
        async with working(record, tmp_path, calls) as worker:
            await until_done(record, worker)

    return see_through


def kept(folder: Path) -> list[str]:
    """Return the files in the outbox; folders may go while it is looked through."""
    return [name for _, _, names in os.walk(folder / "outbox") for name in names]


async def test_a_call_is_made_as_told_and_reported_with_all_files(
    record: RecordDouble, see: Callable[..., Any], tmp_path: Path
) -> None:
    calls = StubCalls(lasts_s=0.3)
    record.watched.add(7)
    await see(calls)
    request = calls.made[0].request
    assert request.address.url == "http://127.0.0.1:7860/api/offer"
    assert request.address.token == SecretStr(TOKEN)
    assert request.address.request_data == {"table": 4, "cekura_run_id": 7}
    assert request.data_message is not None and request.data_message.value is None
    assert request.notes == ("a note",)
    [outcome] = record.outcomes
    assert (outcome["attempt"], outcome["executor"], outcome["problem"], outcome["owed"]) == (1, "executor", None, [])
    assert outcome["run"]["id"] == "7" and outcome["run"]["status"] == "completed"
    assert "script" not in outcome["run"]
    assert record.artefacts["recording.wav"] == RECORDING
    assert json.loads(record.artefacts["run.json"])["id"] == "7"
    assert b"call_ended" in record.artefacts["timeline.jsonl"]
    assert record.told.index("report") > record.told.index("run.json")
    assert (False, True, False) in record.moves
    assert [event["type"] for event in record.events][:3] == ["call_started", "room_entered", "agent_joined"]
    assert record.taken == {7: "executor"}
    assert kept(tmp_path) == []


async def test_a_call_waits_until_the_record_knows_who_makes_it(record: RecordDouble, tmp_path: Path) -> None:
    calls = StubCalls()
    async with working(record, tmp_path, calls) as worker:
        record.is_down = True
        await anyio.sleep(0.05)
        worker.take(Job.model_validate(record.jobs[7]))
        await anyio.sleep(0.2)
        assert calls.made == [] and [run.run_id for run in worker.runs] == [7]
        record.is_down = False
        await until_done(record, worker)
    assert len(calls.made) == 1


async def test_a_run_that_is_somebody_else_s_by_then_is_not_made(record: RecordDouble, tmp_path: Path) -> None:
    record.taken[7] = "another"
    calls = StubCalls()
    async with working(record, tmp_path, calls) as worker:
        worker.take(Job.model_validate(record.jobs[7]))
        await until(lambda: not worker.runs)
        assert calls.made == [] and kept(tmp_path) == ["executor.lock"]
    assert record.told.count("report") == 0


async def test_cancelling_ends_the_call_in_good_order(record: RecordDouble, see: Callable[..., Any]) -> None:
    calls = StubCalls(lasts_s=30)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(see, calls)
            await until(lambda: record.moves)
            record.cancelled.add(7)
    assert record.outcomes[0]["run"]["ended_reason"] == "cancelled"
    assert record.polls[-1]["runs"] == [] or record.polls[-1]["runs"][0]["is_ending"]
    assert "recording.wav" in record.artefacts


async def test_cancelling_before_the_call_cuts_off_its_preparation(
    record: RecordDouble, see: Callable[..., Any]
) -> None:
    record.cancelled.add(7)
    with anyio.fail_after(20):
        await see(StubCalls(prepares_s=30))
    assert record.outcomes[0]["problem"]["reason"] == "cancelled"


async def test_a_broken_off_run_is_released_after_leaving_its_room(record: RecordDouble, tmp_path: Path) -> None:
    record.waits_again.add(7)
    calls = StubCalls(lasts_s=30)
    async with working(record, tmp_path, calls) as worker:
        await until(lambda: record.moves)
        await worker.finish(0.05)
        assert calls.left == ["7"] and worker.runs == []
    assert [(told["attempt"], told["release"]) for told in record.released] == [
        (1, {"detail": "its worker was stopped", "said": False, "may_end": False})
    ]
    # Somebody else makes the call: what there is of this one is worth nothing.
    assert record.artefacts == {} and record.outcomes == [] and kept(tmp_path) == []


@pytest.mark.parametrize(("session", "is_kept"), [(None, True), (SESSION, False)])
async def test_facts_are_kept_of_a_run_that_may_end_by_a_release(
    record: RecordDouble,
    tmp_path: Path,
    session: dict[str, Any] | None,
    is_kept: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if session is not None:
        monkeypatch.setattr(workers, "room_of", room_without_session)
    record.jobs[7] = job(session=session, room_url=None if session else "http://127.0.0.1:7860/api/offer")
    calls = StubCalls(lasts_s=30)
    calls.facts = [AgentStartedSpeaking(at_ns=3)]
    async with working(record, tmp_path, calls) as worker:
        await until(lambda: any(said for _, _, said in record.moves))
        await worker.finish(0)
    assert record.released[0]["release"]["said"] is True
    assert ("recording.wav" in record.artefacts) is is_kept
    if is_kept:
        assert record.told.index("run.json") < record.told.index("report")


@asynccontextmanager
async def room_without_session(*_: Any) -> AsyncGenerator[Any]:
    from runner.rooms.open import RoomAddress
    from runner.sessions.start import Session

    yield Session(RoomAddress("http://127.0.0.1:7860/api/offer"))


class Rooms:
    """Rooms that are entered one after the other."""

    def __init__(self, before_second: Callable[[], Awaitable[None]] | None = None):
        self.entered = 0
        self._before_second = before_second

    @asynccontextmanager
    async def enter(self, *_: Any) -> AsyncGenerator[Any]:
        self.entered += 1
        if self.entered == 2 and self._before_second is not None:
            await self._before_second()
        async with room_without_session() as session:
            yield session


async def test_a_run_broken_off_before_it_began_is_released(record: RecordDouble, tmp_path: Path) -> None:
    calls = StubCalls()
    async with working(record, tmp_path, calls) as worker:
        record.refusals["poll"] = [503] * 1_000
        await until(lambda: "poll" in record.told)
        worker.take(Job.model_validate(record.jobs[7]))
        await worker.finish(0.1)
        record.refusals.clear()
    assert [told["release"]["said"] for told in record.released] == [False] and calls.made == []


async def test_a_worker_that_ends_takes_nothing_more(record: RecordDouble, tmp_path: Path) -> None:
    record.jobs[8] = job(8)
    calls = StubCalls(lasts_s=0.3)
    async with working(record, tmp_path, calls) as worker:
        await until(lambda: len(calls.made) == 2)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.finish, 20)
            await anyio.sleep(0.05)
            worker.take(Job.model_validate(job(9)))
        assert worker.runs == []
    assert len(calls.made) == 2 and len(record.outcomes) == 2 and record.released == []


@pytest.mark.parametrize("is_given_up", [False, True])
async def test_a_call_over_when_broken_off_is_reported_as_it_was(
    record: RecordDouble, tmp_path: Path, is_given_up: bool
) -> None:
    calls = StubCalls(evaluates_s=30)
    async with working(record, tmp_path, calls) as worker:
        await until(lambda: any(is_evaluating for is_evaluating, _, _ in record.moves))
        if is_given_up:
            # The record may have been away, and nobody else has it.
            worker.give_up("worker lost: the server did not answer the worker for 20 s")
        await worker.finish(0)
        await until(lambda: record.outcomes)
    assert record.released == []
    assert record.outcomes[0]["run"]["ended_reason"] == "caller-hung-up"


async def test_a_call_cancelled_when_broken_off_is_reported_as_that(record: RecordDouble, tmp_path: Path) -> None:
    calls = StubCalls(prepares_s=30)
    record.cancelled.add(7)
    async with working(record, tmp_path, calls) as worker:
        record.refusals["report"] = [503] * 5
        await until(lambda: "report" in record.told)
        await worker.finish(0)
    assert record.released == []
    assert record.outcomes[0]["problem"]["reason"] == "cancelled"


async def test_what_can_t_be_released_in_time_waits_for_the_next_start(
    record: RecordDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "STOPPED_REPORT_LIMIT_S", 0.2)
    calls = StubCalls(lasts_s=30)
    async with working(record, tmp_path, calls) as worker:
        await until(lambda: record.moves)
        record.is_down = True
        await worker.finish(0)
        assert worker.runs == []
    assert "report.json" in kept(tmp_path)
    record.is_down = False
    async with working(record, tmp_path, calls, "another"):
        await until(lambda: kept(tmp_path) == ["another.lock"])
    (released,) = record.released
    assert released["release"]["detail"] == "its worker was stopped" and released["executor"] == "executor"
    assert kept(tmp_path) == []


async def test_a_worker_that_gives_up_hangs_up_everywhere(record: RecordDouble, tmp_path: Path) -> None:
    record.jobs[8] = job(8)
    calls = StubCalls(lasts_s=30)
    async with working(record, tmp_path, calls) as worker:
        # Of both: one alone may have made two moves meanwhile.
        await until(lambda: record.latest.keys() == {7, 8} and len(calls.made) == 2)
        assert sorted(run.run_id for run in worker.runs) == [7, 8]
        # Somebody else has been given one of them.
        record.taken[8] = "another"
        worker.give_up("worker lost: it stood still")
        await until(lambda: not worker.runs)
        assert sorted(calls.left) == ["7", "8"]
        worker.take(Job.model_validate(job(9)))
        assert worker.runs == []
        await until(lambda: kept(tmp_path) == ["executor.lock"])
    assert len(calls.made) == 2
    # Of the other one nothing counts any more.
    [released] = record.released
    assert released["run_id"] == 7 and released["release"]["detail"] == "worker lost: it stood still"
    assert record.outcomes == []


async def test_foreign_cancellations_don_t_keep_a_call_in_its_room(record: RecordDouble, tmp_path: Path) -> None:
    record.waits_again.add(7)
    calls = StubCalls(lasts_s=30, leaves_s=0.3)
    client = record.client()
    outbox = Outbox(tmp_path / "outbox", client)
    worker = Worker(Settings(), client, outbox.open("me"), calls)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outbox.run)
        task = asyncio.create_task(worker.run())
        await anyio.lowlevel.checkpoint()
        worker.take(Job.model_validate(record.jobs[7]))
        worker.take_in(CONFIRMED)
        await until(lambda: calls.made and calls.made[0].facts)
        for _ in range(3):
            task.cancel()
            await anyio.sleep(0.05)
        assert calls.left == [] and len(worker.runs) == 1
        await asyncio.wait([task])
        assert task.cancelled() and calls.left == ["7"]
        tasks.cancel_scope.cancel()
    outbox.close()
    assert len(record.released) == 1 and kept(tmp_path) == []


async def test_the_same_run_is_made_once_however_often_it_comes(record: RecordDouble, tmp_path: Path) -> None:
    calls = StubCalls(lasts_s=0.1)
    async with working(record, tmp_path, calls) as worker:
        again = Job.model_validate(record.jobs[7])
        worker.take(again)
        worker.take(again)
        await until_done(record, worker)
        # Of an answer that was long on its way, with an order that was.
        worker.take(again)
        worker.take_in(CONFIRMED)
        await anyio.sleep(0.1)
    assert len(calls.made) == 1 and len(record.outcomes) == 1


async def test_an_attempt_that_does_not_count_any_more_ends_its_call(record: RecordDouble, tmp_path: Path) -> None:
    calls = StubCalls(lasts_s=30)
    async with working(record, tmp_path, calls) as worker:
        await until(lambda: record.moves)
        record.taken[7] = "another"
        await until(lambda: not worker.runs)
    assert calls.left == ["7"] and record.outcomes == []


async def test_a_run_that_comes_back_is_another_attempt(record: RecordDouble, tmp_path: Path) -> None:
    record.waits_again.add(7)
    calls = StubCalls(lasts_s=30)
    async with working(record, tmp_path, calls) as worker:
        await until(lambda: record.moves)
        worker.give_up("worker lost")
        await until(lambda: record.released)
    calls.lasts_s = 0
    async with working(record, tmp_path, calls, "next") as worker:
        await until_done(record, worker)
    assert [(told["attempt"], told["executor"]) for told in record.outcomes] == [(2, "next")]


# Calls that are made again.

SPOILT = [EndedReason.RUNNER_ERROR, EndedReason.ICE_FAILED]
SAID: list[TimelineEvent] = [AgentStartedSpeaking(at_ns=3)]


@pytest.mark.parametrize("spoilt", SPOILT)
async def test_a_call_spoilt_by_us_is_made_again_in_the_same_attempt(
    record: RecordDouble, see: Callable[..., Any], spoilt: EndedReason
) -> None:
    calls = StubCalls(reasons=[spoilt])
    calls.facts = SAID
    await see(calls)
    assert len(calls.made) == 2
    (outcome,) = record.outcomes
    assert outcome["run"]["ended_reason"] == "caller-hung-up" and outcome["run"]["success"] is not None
    (attempt,) = outcome["run"]["earlier_attempts"]
    assert (attempt["success"], attempt["ended_reason"]) == (None, spoilt)
    assert attempt["repeated_because"].startswith("inconclusive (cause: ")
    assert json.loads(record.artefacts["run.json"])["earlier_attempts"] == [attempt]
    assert record.artefacts["timeline.jsonl"].count(b"call_started") == 1, "it is the second call's"
    assert read_outcome(outcome["run"]).earlier_attempts[0].ended_reason is spoilt


@pytest.mark.parametrize(("retries", "made"), [(0, 1), (1, 2), (2, 3)])
async def test_a_call_is_made_again_as_often_as_the_settings_say(
    record: RecordDouble, tmp_path: Path, retries: int, made: int
) -> None:
    calls = StubCalls(reasons=SPOILT * 5)
    settings = Settings()
    settings = settings.model_copy(
        update={"worker": settings.worker.model_copy(update={"retry_inconclusive": retries})}
    )
    async with working(record, tmp_path, calls, settings=settings) as worker:
        await until_done(record, worker)
    assert len(calls.made) == made
    assert len(record.outcomes[0]["run"]["earlier_attempts"]) == made - 1
    assert record.outcomes[0]["run"]["success"] is None


DAILY = "https://acme.daily.co/room"
OF_A_SESSION = "http://127.0.0.1:7860/sessions/abc/api/offer"
OFFER = "http://127.0.0.1:7860/api/offer"


@pytest.mark.parametrize(
    ("room_url", "said", "made"),
    [
        (DAILY, True, 1),
        (DAILY, False, 2),
        (OF_A_SESSION, True, 1),
        (OF_A_SESSION, False, 2),
        (OFFER, True, 2),
        ("http://127.0.0.1:7860", True, 2),
    ],
)
async def test_an_agent_that_has_met_the_caller_does_not_meet_it_again(
    record: RecordDouble, see: Callable[..., Any], room_url: str, said: bool, made: int
) -> None:
    record.jobs[7] = job(room_url=room_url)
    calls = StubCalls(reasons=SPOILT[:1])
    calls.facts = SAID if said else []
    await see(calls)
    assert len(calls.made) == made


async def test_each_call_of_a_run_gets_a_session_of_its_own(
    record: RecordDouble, see: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = Rooms()
    monkeypatch.setattr(workers, "room_of", rooms.enter)
    record.jobs[7] = job(session=SESSION, room_url=None)
    calls = StubCalls(reasons=SPOILT)
    calls.facts = SAID
    await see(calls)
    assert (rooms.entered, len(calls.made)) == (2, 2)


async def test_where_a_second_call_has_no_room_the_first_one_counts(
    record: RecordDouble, see: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> None:
        raise RoomError(EndedReason.ROOM_UNREACHABLE, "the room is away")

    rooms = Rooms(before_second=away)
    monkeypatch.setattr(workers, "room_of", rooms.enter)
    calls = StubCalls(reasons=SPOILT[:1])
    await see(calls)
    (outcome,) = record.outcomes
    assert (rooms.entered, len(calls.made), outcome["problem"]) == (2, 1, None)
    assert (outcome["run"]["ended_reason"], outcome["run"]["earlier_attempts"]) == (SPOILT[0], [])
    assert record.artefacts["recording.wav"] == RECORDING


async def test_cancelling_reaches_the_second_call(record: RecordDouble, tmp_path: Path) -> None:
    class SecondLasts(StubCalls):
        def __call__(self, *args: Any, **kwargs: Any) -> StubCall:
            self.lasts_s = 30 if self.made else 0
            return super().__call__(*args, **kwargs)

    calls = SecondLasts(reasons=SPOILT[:1])
    async with working(record, tmp_path, calls) as worker:
        await until(lambda: len(calls.made) == 2)
        record.cancelled.add(7)
        await until_done(record, worker)
    assert record.outcomes[0]["run"]["ended_reason"] == "cancelled"
    assert len(record.outcomes[0]["run"]["earlier_attempts"]) == 1


async def test_cancelling_cuts_off_what_prepares_the_second_call(
    record: RecordDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = Rooms(before_second=anyio.sleep_forever)
    monkeypatch.setattr(workers, "room_of", rooms.enter)
    calls = StubCalls(reasons=SPOILT)
    with anyio.fail_after(20):
        async with working(record, tmp_path, calls) as worker:
            await until(lambda: rooms.entered == 2)
            record.cancelled.add(7)
            await until_done(record, worker)
    assert len(calls.made) == 1 and record.outcomes[0]["problem"]["reason"] == "cancelled"


async def test_cancelling_cuts_off_a_second_call_that_has_not_begun(record: RecordDouble, tmp_path: Path) -> None:
    class SecondPrepares(StubCalls):
        def __call__(self, *args: Any, **kwargs: Any) -> StubCall:
            self.prepares_s = 60 if self.made else 0
            return super().__call__(*args, **kwargs)

    calls = SecondPrepares(reasons=SPOILT)
    with anyio.fail_after(30):
        async with working(record, tmp_path, calls) as worker:
            await until(lambda: len(calls.made) == 2)
            record.cancelled.add(7)
            await until_done(record, worker)
    assert record.outcomes[0]["problem"]["reason"] == "cancelled"


async def test_a_worker_that_is_told_to_stop_makes_no_call_again(record: RecordDouble, tmp_path: Path) -> None:
    calls = StubCalls(reasons=SPOILT, lasts_s=0.2)
    async with working(record, tmp_path, calls) as worker:
        await until(lambda: calls.made)
        await worker.finish(20)
    assert len(calls.made) == 1 and record.outcomes[0]["run"]["earlier_attempts"] == []


async def test_calls_are_counted_and_what_they_had_no_audio_for(record: RecordDouble, tmp_path: Path) -> None:
    calls = StubCalls()
    calls.facts = [CallerUnderrun(at_ns=3, turn=0, duration_ms=40)]
    async with working(record, tmp_path, calls) as worker:
        await until_done(record, worker)
    assert (worker.counts.calls_made, worker.counts.rooms_entered) == (1, 1)
    assert worker.watch.underruns == 1 and worker.watch.is_overloaded


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
    see: Callable[..., Any],
    error: Exception,
    cause: str,
    reason: str,
    says: str,
) -> None:
    await see(StubCalls(raises=error))
    told = record.outcomes[0]["problem"]
    assert (told["cause"], told["reason"]) == (cause, reason)
    assert says in told["detail"] and TOKEN not in told["detail"]


async def test_words_that_merely_hold_the_token_stay_as_they_are(
    record: RecordDouble, see: Callable[..., Any]
) -> None:
    record.jobs[7] = job(token="x")
    await see(StubCalls(raises=UsageError("the outbox: x is refused")))
    assert record.outcomes[0]["problem"]["detail"] == "the outbox: *** is refused"


async def test_what_the_server_hides_of_a_data_message_is_not_shown(
    record: RecordDouble, see: Callable[..., Any]
) -> None:
    record.jobs[7] = job(data_message={"value": {"type": "x", "plan": "gold"}, "shown": {"type": "x", "plan": "***"}})
    calls = StubCalls()
    await see(calls)
    message = calls.made[0].request.data_message
    assert message is not None
    assert (message.value["plan"], message.redacted([])["plan"]) == ("gold", "***")


@pytest.mark.parametrize(
    "job_", [job(script={"name": "x", "turns": "none"}), job(room_url=None), job(room_url="ftp://x")]
)
async def test_a_job_that_can_t_be_made_is_an_outcome(
    record: RecordDouble, see: Callable[..., Any], job_: dict[str, Any]
) -> None:
    record.jobs[7] = job_
    await see()
    assert record.outcomes[0]["problem"]["cause"] == "harness"


async def test_the_outcome_gets_through_whatever_is_answered_first(
    record: RecordDouble, see: Callable[..., Any]
) -> None:
    record.refusals = {
        "poll": [503, 500],
        "recording.wav?": [502],
        "recording.wav": [502],
        "events": [500] * 99,
        "report": [503, 429, 401, 500],
    }
    await see(StubCalls(lasts_s=0.1))
    assert [outcome["run"]["status"] for outcome in record.outcomes] == ["completed"]
    assert set(record.artefacts) == {"recording.wav", "timeline.jsonl", "run.json"}


async def test_facts_go_in_bounded_batches_and_huge_ones_are_counted(
    record: RecordDouble, see: Callable[..., Any]
) -> None:
    calls = StubCalls(lasts_s=0.8)
    record.watched.add(7)
    calls.facts = [AgentSaid(at_ns=i, text=f"word {i} ü", source=Source.TOLD) for i in range(500)]
    calls.facts.append(MessageReceived(at_ns=500, message={"much": "x" * 200_000}))
    await see(calls)
    assert [e["text"] for e in record.events if e["type"] == "agent_said"] == [f"word {i} ü" for i in range(500)]
    [huge] = [e for e in record.events if e["type"] == "message_received"]
    assert huge["at_ns"] == 500 and huge["left_out_characters"] > 200_000 and "message" not in huge
    assert 3 <= record.told.count("events") <= 6
