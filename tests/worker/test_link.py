"""How a worker polls, and when it gives its runs up: by a virtual clock, against a record that takes its time."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import anyio
import httpx
import pytest
from pydantic import SecretStr

from runner.protocol.messages import VERSION, Answer, Order, Poll, RunNow, WorkerInfo, WorkerState, hold_s, leaving_s
from runner.worker import link as links
from runner.worker.link import Link
from runner.worker.record_client import LONGEST_WAIT_S, QUICK_TIMEOUT_S, RecordClient
from tests.simulated.virtual_time import VIRTUAL_TIME
from tests.worker.record_double import job

pytestmark = pytest.mark.anyio

LEASE_S = 20.0
INFO = WorkerInfo(executor="me", name="w-1", version="1", rooms=("daily",), calls=4)
RUN = RunNow(run_id=7, attempt=1)


@pytest.fixture
def anyio_backend() -> Any:
    return VIRTUAL_TIME


@dataclass
class Hands:
    """A worker that does as it is told, and notes it."""

    state: tuple[WorkerState, str] = (WorkerState.TAKING, "")
    runs: list[RunNow] = field(default_factory=list[RunNow])
    taken: list[int] = field(default_factory=list[int])
    orders: list[Order] = field(default_factory=list[Order])
    lost: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    """When, and why."""

    def said(self) -> Poll:
        state, why = self.state
        return Poll(protocol=VERSION, worker=INFO, number=1, state=state, why=why, runs=tuple(self.runs))

    def take_in(self, answer: Answer) -> None:
        self.taken += [job.run_id for job in answer.jobs]
        self.orders += answer.orders

    def lose(self, reason: str) -> None:
        self.lost.append((anyio.current_time(), reason))


@dataclass
class Polled:
    """A poll, when it came, and when it was answered."""

    at_s: float
    body: dict[str, Any]
    answered_s: float | None = None


class Record(httpx.AsyncBaseTransport):
    """A record that holds polls as the real one does."""

    def __init__(self) -> None:
        self.status = 200
        self.is_down = self.is_mute = False
        self.late_s = 0.0
        self.jobs: list[dict[str, Any]] = []
        self.orders: list[dict[str, Any]] = []
        self.lease_s = LEASE_S
        self.polls: list[Polled] = []
        self.woken = anyio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.is_down:
            self.polls.append(Polled(anyio.current_time(), {}))
            raise httpx.ConnectError("nobody listens", request=request)
        body = json.loads(await request.aread())
        polled = Polled(anyio.current_time(), body)
        self.polls.append(polled)
        if self.is_mute:
            await anyio.sleep_forever()
        if body["waits"] and self.status == 200 and not self.jobs:
            with anyio.move_on_after(hold_s(self.lease_s, has_runs=bool(body["runs"]))):
                await self.woken.wait()
        jobs, self.jobs = self.jobs, []
        await anyio.sleep(self.late_s)
        polled.answered_s = anyio.current_time()
        return httpx.Response(self.status, json={"lease_s": self.lease_s, "jobs": jobs, "orders": self.orders})

    def wake(self) -> None:
        self.woken.set()
        self.woken = anyio.Event()

    def between(self, from_s: float, to_s: float) -> list[Polled]:
        return [polled for polled in self.polls if from_s <= polled.at_s < to_s]


@dataclass
class Linked:
    record: Record
    hands: Hands
    changes: list[bool]
    link: Link = field(init=False)
    frozen_s: float = 0.0
    """How long the process stood still, as its clock has it."""

    @property
    def lost_s(self) -> float:
        ((at_s, _),) = self.hands.lost
        return at_s


@asynccontextmanager
async def linked(record: Record | None = None, **hands: Any) -> AsyncGenerator[Linked]:
    record = record or Record()
    changes: list[bool] = []
    worker = Hands(**hands)
    async with httpx.AsyncClient(transport=record, base_url="http://record") as http:
        client = RecordClient(http, SecretStr("psw_x"))
        made = Linked(record, worker, changes)
        made.link = Link(
            client,
            record.lease_s,
            worker.said,
            worker.take_in,
            worker.lose,
            changed=lambda: changes.append(made.link.is_answered),
            clock=lambda: anyio.current_time() + made.frozen_s,
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(made.link.run)
            yield made
            tasks.cancel_scope.cancel()


async def test_the_first_poll_does_not_wait_and_says_who_it_is() -> None:
    async with linked() as made:
        await anyio.sleep(1)
        first, second = made.record.polls
    assert first.body["waits"] is False and first.body["worker"]["executor"] == "me"
    assert (first.body["state"], first.body["runs"]) == ("taking", [])
    assert second.body["waits"] is True and second.answered_s is None
    assert [first.body["number"], second.body["number"]] == [1, 2]


async def test_a_poll_is_held_and_the_next_one_follows_its_answer() -> None:
    async with linked() as made:
        await anyio.sleep(60)
    waiting = [polled for polled in made.record.polls if polled.body["waits"]]
    # Nine seconds each: as much as the record holds them for one without runs.
    assert len(waiting) == 7 and made.hands.lost == []
    assert all(later.at_s - polled.at_s >= hold_s(LEASE_S, has_runs=False) for polled, later in pairwise(waiting))


async def test_what_an_answer_brings_is_taken_and_obeyed() -> None:
    record = Record()
    record.orders = [{"run_id": 7, "attempt": 1, "counts": True, "is_cancelled": True}]
    async with linked(record, runs=[RUN]) as made:
        await anyio.sleep(1)
        record.jobs = [job(8), job(9)]
        record.wake()
        await anyio.sleep(0.1)
    assert made.hands.taken == [8, 9]
    assert made.hands.orders[0] == Order(run_id=7, attempt=1, counts=True, is_cancelled=True)


async def test_news_is_told_at_once_though_a_poll_is_held() -> None:
    async with linked() as made:
        await anyio.sleep(1)
        (held,) = [polled for polled in made.record.polls if polled.body["waits"]]
        made.hands.runs.append(RUN)
        made.hands.state = (WorkerState.PAUSED, "its disk is full")
        made.link.news()
        made.link.news()
        await anyio.sleep(links.GATHERING_S + 0.01)
        told = made.record.polls[-1]
        assert held.answered_s is None and told.answered_s is not None
    assert told.body["waits"] is False and [run["run_id"] for run in told.body["runs"]] == [7]
    assert (told.body["state"], told.body["why"]) == ("paused", "its disk is full")
    assert told.body["number"] > held.body["number"]
    assert len(made.record.polls) == 3, "one for all that came at the same moment"


async def test_news_that_come_while_others_are_told_are_told_as_well() -> None:
    record = Record()
    async with linked(record) as made:
        await anyio.sleep(1)
        record.late_s = 2.0
        made.link.news()
        await anyio.sleep(1)
        made.hands.runs.append(RUN)
        made.link.news()
        await anyio.sleep(3)
    assert [len(polled.body["runs"]) for polled in record.polls[2:]] == [0, 1]


async def test_news_are_told_until_they_are_taken() -> None:
    record = Record()
    async with linked(record) as made:
        await anyio.sleep(1)
        record.status = 503
        made.hands.runs.append(RUN)
        made.link.news()
        await anyio.sleep(5)
        record.status = 200
        await anyio.sleep(LONGEST_WAIT_S + 0.1)
    assert any(polled.answered_s and polled.body["runs"] for polled in record.polls if polled.at_s > 6)


async def test_a_record_that_is_away_is_asked_more_and_more_rarely() -> None:
    record = Record()
    async with linked(record) as made:
        await anyio.sleep(1)
        record.is_down = True
        record.wake()
        made.link.news()
        await anyio.sleep(59)
        record.is_down = False
        await anyio.sleep(LONGEST_WAIT_S + 0.1)
        assert made.link.is_answered
    # Two that ask, every three seconds in the end.
    assert 30 <= len(record.between(1, 60)) <= 50
    assert len(record.between(30, 60)) <= 20
    # The first one after a failure does not wait: it shows whether it is answered.
    back = record.between(60, 70)
    assert back[0].body["waits"] is False
    assert made.changes == [False, True] and made.hands.lost == []


async def test_an_unanswered_lease_ends_here_before_it_ends_there() -> None:
    record = Record()
    async with linked(record, runs=[RUN]) as made:
        await anyio.sleep(30)
        record.is_mute = True
        await anyio.sleep(60)
        last = [polled for polled in record.polls if polled.answered_s is not None][-1]
        # From when it was sent: that is before the record took it in.
        assert made.lost_s - last.at_s == pytest.approx(LEASE_S)
        assert made.lost_s < last.at_s + LEASE_S + leaving_s(LEASE_S)
        assert made.hands.lost[0][1] == "the server did not answer the worker for 20 s"
        # Nothing more is told: whatever would be given to it now, nobody has.
        assert record.between(made.lost_s + 0.001, 1_000) == []


async def test_a_lease_counts_from_the_sending_and_not_the_answer() -> None:
    record = Record()
    record.late_s = 4.0
    async with linked(record, runs=[RUN]) as made:
        await anyio.sleep(10)
        record.is_mute = True
        await anyio.sleep(60)
    answered = [polled for polled in record.polls if polled.answered_s is not None]
    assert answered[-1].answered_s == answered[-1].at_s + hold_s(LEASE_S, has_runs=True) + 4.0
    assert made.lost_s == pytest.approx(answered[-1].at_s + LEASE_S)


async def test_outages_shorter_than_the_lease_end_nothing() -> None:
    record = Record()
    async with linked(record, runs=[RUN]) as made:
        for _ in range(3):
            await anyio.sleep(10)
            record.is_down = True
            record.wake()
            await anyio.sleep(LEASE_S - hold_s(LEASE_S, has_runs=True) - LONGEST_WAIT_S - 1)
            record.is_down = False
        await anyio.sleep(10)
    assert made.hands.lost == []


async def test_a_few_hanging_requests_end_nothing() -> None:
    record = Record()
    async with linked(record, runs=[RUN]) as made:
        await anyio.sleep(10)
        record.is_mute = True
        await anyio.sleep(QUICK_TIMEOUT_S + hold_s(LEASE_S, has_runs=True) + 1)
        record.is_mute = False
        await anyio.sleep(60)
    assert made.hands.lost == []


async def test_one_that_was_frozen_gives_up_before_anything_else() -> None:
    record = Record()
    async with linked(record, runs=[RUN]) as made:
        await anyio.sleep(5)
        # While it stood still an answer came in: by now it says nothing that is true.
        record.jobs = [job(8)]
        record.orders = [{"run_id": 7, "attempt": 1, "counts": True}]
        before = len(made.hands.orders)
        made.frozen_s = LEASE_S + 1
        record.wake()
        await anyio.sleep(0.1)
    assert [why for _, why in made.hands.lost] == ["the server did not answer the worker for 23 s"]
    assert made.hands.taken == [] and len(made.hands.orders) == before


async def test_an_answer_too_late_brings_nothing_even_without_runs() -> None:
    record = Record()
    async with linked(record) as made:
        await anyio.sleep(5)
        record.jobs = [job(8)]
        made.frozen_s = LEASE_S + 1
        record.wake()
        await anyio.sleep(0.1)
        assert made.hands.taken == [] and made.hands.lost == []
        # The record gives it again, if it still wants to.
        record.jobs = [job(8)]
        await anyio.sleep(1)
        assert made.hands.taken == [8]
        made.hands.runs.append(RUN)
        await anyio.sleep(30)
    assert made.hands.lost == []


async def test_runs_after_a_long_outage_have_a_lease_of_their_own() -> None:
    record = Record()
    async with linked(record) as made:
        record.is_down = True
        await anyio.sleep(100)
        assert made.hands.lost == []
        record.is_down = False
        await anyio.sleep(LONGEST_WAIT_S + 0.1)
        made.hands.runs.append(RUN)
        record.is_mute = True
        await anyio.sleep(60)
    last = [polled for polled in record.polls if polled.answered_s is not None][-1]
    assert made.lost_s <= last.at_s + LEASE_S + leaving_s(LEASE_S) / 2


async def test_one_that_was_given_up_says_so_and_tells_nothing_more() -> None:
    record = Record()
    async with linked(record, runs=[RUN]) as made:
        await anyio.sleep(5)
        record.status = 410
        record.wake()
        made.link.news()
        await anyio.sleep(60)
    assert made.hands.lost[0][1] == "the server gave this worker up for lost" and made.lost_s < 5.1
    assert record.between(made.lost_s + 0.001, 1_000) == []


async def test_the_lease_is_the_one_that_was_named_last() -> None:
    record = Record()
    async with linked(record, runs=[RUN]) as made:
        record.lease_s = 4.0
        await anyio.sleep(30)
        assert len(record.between(20, 30)) > 10, "half a second each"
        record.is_mute = True
        await anyio.sleep(30)
    assert made.lost_s <= 30 + 4.0


async def test_that_it_ended_is_its_last_word_and_does_not_wait() -> None:
    record = Record()
    async with linked(record) as made:
        await anyio.sleep(1)
        record.late_s = 1.0
        made.link.news()
        await made.link.say_stopped()
        record.wake()
        await anyio.sleep(60)
    last = record.polls[-1].body
    assert (last["state"], last["waits"], last["number"]) == ("stopped", False, len(record.polls))
