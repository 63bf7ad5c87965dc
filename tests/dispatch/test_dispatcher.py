"""Polls: every run is one worker's at a time, and what happens reaches it at once."""

import threading
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from loguru import logger
from sqlalchemy.orm import Session

import runner.rooms.allowed
from runner.dispatch import dispatcher as dispatching
from runner.dispatch.dispatcher import RecordAway
from runner.protocol.messages import Answer, Order, Poll
from runner.records import leases
from runner.records.database import Database
from runner.records.runs import end_run, request_cancel
from runner.records.tables import WorkerRow, utc_now
from tests.dispatch.scene import (
    CAUSE,
    DRAINING,
    LEASE_S,
    OTHER_VAULT,
    PAUSED,
    ROOM,
    STOPPED,
    VAULT,
    Asking,
    Clock,
    Scene,
    Worker,
    asking,
    away,
)
from tests.patience import until

pytestmark = pytest.mark.anyio


# What reaches a worker.


async def test_a_waiting_run_goes_to_a_worker_with_all_it_needs(scene: Scene) -> None:
    token = VAULT.seal('{"token": "t"}')
    first, second, third = [await scene.run(room_token=token, session_data={"a": 1}) for _ in range(3)]
    worker = Worker(scene)
    answer = await worker.waits()
    assert [(job.run_id, job.attempt) for job in answer.jobs] == [(first, 1), (second, 1)]
    assert answer.lease_s == LEASE_S and answer.orders == ()
    [job, _] = answer.jobs
    assert (job.room_url, job.session, job.session_data) == (ROOM, None, {"a": 1, "cekura_run_id": first})
    assert job.token is not None and job.token.get_secret_value() == "t"
    row = await scene.row(first)
    # It has begun once the worker tells of it.
    assert (row.status, row.executor) == ("pending", "w")
    worker.has(first)
    assert (await worker.polls()).orders == (Order(run_id=first, attempt=1, counts=True),)
    assert [row.status for row in await scene.rows(first, second, third)] == ["running", "pending", "pending"]
    assert (await scene.row(third)).executor is None


@pytest.mark.both_databases
async def test_a_launch_reaches_a_poll_that_is_held_at_once(prompt: Scene, elsewhere: Database) -> None:
    async with asking(prompt, Worker(prompt)) as asked:
        run_id = await prompt.run(database=elsewhere)
        assert [job.run_id for job in (await asked.at_once()).jobs] == [run_id]


async def test_who_asks_just_as_a_run_is_found_is_given_it_at_once(
    prompt: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, enough = threading.Event(), threading.Event()
    anything_waits = dispatching._anything_waits

    def slowly(session: Session) -> bool:
        looking.set()
        enough.wait(10)
        return anything_waits(session)

    monkeypatch.setattr(dispatching, "_anything_waits", slowly)
    run_id = await prompt.run()
    await anyio.to_thread.run_sync(looking.wait)
    async with asking(prompt, Worker(prompt), is_held=False) as asked:
        await anyio.lowlevel.checkpoint()
        enough.set()
        assert [job.run_id for job in (await asked.at_once()).jobs] == [run_id]


async def test_a_place_that_becomes_free_is_taken_at_once(prompt: Scene, elsewhere: Database) -> None:
    worker = Worker(prompt, calls=1)
    over = await prompt.begun(worker)
    next_one = await prompt.run()
    async with asking(prompt, worker) as asked:
        await elsewhere.run(lambda session: end_run(session, over, 1, CAUSE, executor="w"))
        answer = await asked.at_once()
    assert [job.run_id for job in answer.jobs] == [next_one]
    assert answer.orders == (Order(run_id=over, attempt=1, counts=False),)


async def test_a_cancelled_run_is_told_of_at_once_and_once(prompt: Scene, elsewhere: Database) -> None:
    worker = Worker(prompt)
    run_id = await prompt.begun(worker)
    async with asking(prompt, worker) as asked:
        await elsewhere.run(lambda session: request_cancel(session, [run_id]))
        assert (await asked.at_once()).orders == (Order(run_id=run_id, attempt=1, counts=True, is_cancelled=True),)
    worker.has(run_id, is_ending=True)
    async with asking(prompt, worker) as asked:
        await anyio.sleep(0.05)
        assert not asked.answered.is_set()


async def test_beginning_and_ceasing_to_watch_are_told_at_once(prompt: Scene) -> None:
    worker = Worker(prompt)
    run_id = await prompt.begun(worker)
    async with asking(prompt, worker) as asked:
        prompt.dispatcher.is_watched = lambda run: run == run_id
        prompt.dispatcher.wake()
        assert (await asked.at_once()).orders == (Order(run_id=run_id, attempt=1, counts=True, is_watched=True),)
    worker.has(run_id, is_watched=True)
    async with asking(prompt, worker) as asked:
        prompt.dispatcher.is_watched = lambda run: False
        prompt.dispatcher.wake()
        assert (await asked.at_once()).orders == (Order(run_id=run_id, attempt=1, counts=True),)


async def test_beginning_and_ceasing_to_listen_are_told_at_once(prompt: Scene) -> None:
    worker = Worker(prompt)
    run_id = await prompt.begun(worker)
    worker.has(run_id, is_listened_to=False)
    async with asking(prompt, worker) as asked:
        prompt.dispatcher.is_listened_to = lambda run: run == run_id
        prompt.dispatcher.wake()
        told = (await asked.at_once()).orders
        assert told == (Order(run_id=run_id, attempt=1, counts=True, is_listened_to=True),)
    # A worker of a release that can't pass on sound is not told so again and again.
    worker.has(run_id)
    async with asking(prompt, worker) as asked:
        await anyio.sleep(0.05)
        assert not asked.answered.is_set()
    worker.has(run_id, is_listened_to=True)
    async with asking(prompt, worker) as asked:
        prompt.dispatcher.is_listened_to = lambda run: False
        prompt.dispatcher.wake()
        assert (await asked.at_once()).orders == (Order(run_id=run_id, attempt=1, counts=True),)


async def test_a_run_that_was_taken_away_is_told_of_at_once(prompt: Scene, elsewhere: Database) -> None:
    worker = Worker(prompt)
    run_id = await prompt.begun(worker)
    async with asking(prompt, worker) as asked:
        await elsewhere.run(
            lambda session: dispatching.release(session, run_id, 1, detail="x", safe_to_retry=True, was_lost=False)
        )
        assert (await asked.at_once()).orders == (Order(run_id=run_id, attempt=1, counts=False),)


async def test_nothing_to_tell_is_told_when_its_time_is_over(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "hold_s", lambda lease_s, has_runs: 0.8)
    idle, busy = Worker(scene, "idle"), Worker(scene, "busy")
    run_id = await scene.begun(busy)
    async with asking(scene, idle) as first, asking(scene, busy) as second:
        for asked in (first, second):
            await asked.answered.wait()
    assert first.answer == Answer(lease_s=LEASE_S)
    assert second.answer == Answer(lease_s=LEASE_S, orders=(Order(run_id=run_id, attempt=1, counts=True),))
    assert scene.dispatcher._held == {}


async def test_news_are_answered_while_another_poll_waits(prompt: Scene) -> None:
    worker = Worker(prompt)
    async with asking(prompt, worker) as asked:
        run_id = await prompt.begun(worker)
        assert [order.counts for order in (await worker.polls()).orders] == [True]
        assert not asked.answered.is_set()
        await prompt.database.run(lambda session: request_cancel(session, [run_id]))
        assert [order.is_cancelled for order in (await asked.at_once()).orders] == [True]


async def test_of_two_polls_that_wait_the_later_one_is_held(prompt: Scene) -> None:
    worker = Worker(prompt)
    async with asking(prompt, worker) as first, asking(prompt, worker) as second:
        prompt.dispatcher.wake()
        assert await first.at_once() == Answer(lease_s=240.0)
        run_id = await prompt.run()
        assert [job.run_id for job in (await second.at_once()).jobs] == [run_id]


async def test_a_poll_that_comes_late_is_answered_and_given_nothing(prompt: Scene) -> None:
    worker = Worker(prompt)
    late = worker.says(waits=True)
    async with asking(prompt, worker) as asked, anyio.create_task_group() as tasks:
        overtaken = Asking()
        tasks.start_soon(overtaken.ask, prompt.dispatcher.poll(late))
        await anyio.lowlevel.checkpoint()
        prompt.dispatcher.wake()
        assert await overtaken.at_once() == Answer(lease_s=240.0)
        assert not asked.answered.is_set()
        await prompt.run()
        assert len((await asked.at_once()).jobs) == 1


# Given once, and again until it is known.


async def test_a_job_whose_answer_was_lost_comes_again(scene: Scene) -> None:
    run_id = await scene.run()
    worker = Worker(scene)
    for _ in range(3):
        assert [(job.run_id, job.attempt) for job in (await worker.waits()).jobs] == [(run_id, 1)]
    # Also with an answer to news.
    assert [job.run_id for job in (await worker.polls()).jobs] == [run_id]
    worker.has(run_id)
    assert (await worker.polls()).jobs == ()
    assert (await scene.row(run_id)).attempt == 1


async def test_who_hangs_up_frees_its_poll_and_is_given_nothing(prompt: Scene) -> None:
    async with asking(prompt, Worker(prompt)) as asked:
        asked.scope.cancel()
        await asked.answered.wait()
    assert prompt.dispatcher._held == {} and prompt.dispatcher._arrived == []
    run_id = await prompt.run()
    assert [job.run_id for job in (await Worker(prompt, "other").waits()).jobs] == [run_id]


async def test_who_hangs_up_during_its_poll_is_not_held_for(prompt: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, enough = threading.Event(), threading.Event()
    renew = leases.renew

    def slowly(session: Session, polls: Sequence[Poll]) -> Any:
        entered.set()
        enough.wait(10)
        return renew(session, polls)

    monkeypatch.setattr(leases, "renew", slowly)
    worker = Worker(prompt)
    await prompt.run()
    async with asking(prompt, worker, is_held=False) as asked:
        await anyio.to_thread.run_sync(entered.wait)
        asked.scope.cancel()
        await asked.answered.wait()
    enough.set()
    await worker.polls()
    assert prompt.dispatcher._held == {}
    assert (await prompt.row(1)).executor is None


@pytest.mark.both_databases
async def test_every_run_is_one_workers_whoever_asks_whichever_process(scene: Scene, database_url: str) -> None:
    other = Database(database_url)
    second = scene.new_dispatcher(other)
    run_ids = [await scene.run() for _ in range(24)]
    begun: list[tuple[int, str]] = []

    async def work(worker: Worker) -> None:
        while len(begun) < len(run_ids):
            for job in await worker.takes():
                begun.append((job.run_id, worker.executor))
                assert (await scene.row(job.run_id)).executor == worker.executor
                await other.run(lambda session, job=job: end_run(session, job.run_id, 1, CAUSE))
                del worker.runs[job.run_id, job.attempt]
        working.cancel_scope.cancel()

    with anyio.fail_after(90):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(second.run)
            async with anyio.create_task_group() as working:
                for number in range(6):
                    dispatcher = (scene.dispatcher, second)[number % 2]
                    working.start_soon(work, Worker(scene, f"w{number}", dispatcher=dispatcher))
            tasks.cancel_scope.cancel()
    await other.close()
    assert sorted(run_id for run_id, _ in begun) == run_ids


async def test_of_many_polls_at_once_each_is_answered(scene: Scene) -> None:
    run_ids = [await scene.run() for _ in range(40)]
    given: list[int] = []

    async def ask(worker: Worker) -> None:
        given.extend(job.run_id for job in (await worker.waits()).jobs)

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(ask, Worker(scene, f"w{number}"))
    assert sorted(given) == run_ids


# Who takes none.


async def test_a_paused_worker_is_given_no_more_but_what_it_was_given(scene: Scene) -> None:
    worker = Worker(scene)
    run_id = await scene.run(executor="w")
    waits = await scene.run()
    worker.state = PAUSED
    assert [job.run_id for job in (await worker.waits(why="its disk is full")).jobs] == [run_id]
    async with scene.database.reading() as session:
        assert (await session.get_one(WorkerRow, "w")).why == "its disk is full"
    worker.has(run_id)
    async with asking(scene, worker):
        await scene.look()
        assert (await scene.row(waits)).executor is None


async def test_a_draining_worker_keeps_begun_runs_and_the_rest_go_on(scene: Scene) -> None:
    worker = Worker(scene)
    begun, given = await scene.begun(worker), await scene.run(executor="w")
    waits = await scene.run()
    worker.state = DRAINING
    assert (await worker.polls()).jobs == ()
    async with asking(scene, worker):
        await scene.look(2)
        rows = await scene.rows(begun, given, waits)
    assert [(row.status, row.executor, row.attempt, row.lost) for row in rows] == [
        ("running", "w", 1, 0),
        ("pending", None, 2, 0),
        ("pending", None, 1, 0),
    ]
    other = Worker(scene, "other")
    assert {job.run_id for job in (await other.waits()).jobs} == {given, waits}


async def test_what_a_worker_told_another_process_last_holds_here_too(prompt: Scene) -> None:
    worker = Worker(prompt)
    async with asking(prompt, worker):
        # What the poll that is held here says is out of date.
        await prompt.database.run(lambda session: leases.renew(session, [worker.says(state=PAUSED)]))
        run_id = await prompt.run()
        await Worker(prompt, "another").polls()
        assert (await prompt.row(run_id)).executor is None


async def test_a_stopped_workers_runs_go_on_at_once_without_a_mark(prompt: Scene) -> None:
    worker = Worker(prompt)
    safe_to_retry, session = await prompt.begun(worker), await prompt.begun(worker, 2, said_at=utc_now())
    said, given = await prompt.begun(worker, said_at=utc_now()), await prompt.run(executor="w")
    await worker.polls()
    worker.state = STOPPED
    async with asking(prompt, Worker(prompt, "other", calls=9)) as asked:
        await worker.polls()
        taken = {(job.run_id, job.attempt) for job in (await asked.at_once()).jobs}
    assert taken <= {(safe_to_retry, 2), (session, 2), (given, 2)} and taken
    await Worker(prompt, "other", calls=9).polls(number=9)
    rows = await prompt.rows(safe_to_retry, session, given)
    assert [(row.status, row.attempt, row.lost) for row in rows] == [("pending", 2, 0)] * 3
    row = await prompt.row(said)
    assert (row.status, row.error_message) == ("failed", "its worker was stopped")
    assert await prompt.state("w") == "stopped"


# What can go wrong.


async def test_a_poll_that_was_not_taken_is_not_answered(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(scene)
    with away(monkeypatch, scene):
        for waits in (False, True):
            with pytest.raises(RecordAway):
                await worker.polls(waits=waits)
    assert await scene.state("w") is None
    await worker.polls()
    assert await scene.state("w") == "taking"


async def test_a_poll_taken_too_slowly_is_not_answered(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    enough = threading.Event()
    monkeypatch.setattr(dispatching, "hold_s", lambda lease_s, has_runs: 0.1)
    monkeypatch.setattr(leases, "renew", lambda session, polls: enough.wait(10))
    with pytest.raises(RecordAway):
        await Worker(scene).polls()
    enough.set()


async def test_it_goes_on_after_what_went_wrong_and_says_so_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    sink = logger.add(lambda message: said.append(message.record["message"]), level="INFO")
    try:
        with away(monkeypatch, scene):
            for _ in range(4):
                with pytest.raises(RecordAway):
                    await Worker(scene).polls()
        await Worker(scene).polls()
    finally:
        logger.remove(sink)
    told = [line for line in said if "given to workers" in line]
    assert told == ["no runs are given to workers: OperationalError", "runs are given to workers again"]


async def test_whoever_polls_while_the_server_stops_asks_somebody_else(database: Database, clock: Clock) -> None:
    scene = Scene(database, clock)
    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as dispatching_tasks:
            dispatching_tasks.start_soon(scene.dispatcher.run)
            asked = Asking()
            tasks.start_soon(asked.ask, Worker(scene).waits())
            await until(lambda: scene.dispatcher._held)
            dispatching_tasks.cancel_scope.cancel()
        with anyio.fail_after(1.5):
            await asked.answered.wait()
    assert isinstance(asked.error, RecordAway)


async def test_what_no_worker_can_do_ends_and_blocks_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = await scene.run(room_token=OTHER_VAULT.seal("{}"))
    unreadable = await scene.run(snapshot={})
    refused = await scene.run(room_url="http://moved.test/api/offer")
    good = await scene.run()
    check_room = runner.rooms.allowed.RoomGuard.check_room

    async def check(guard: Any, url: str) -> Any:
        if "moved" in url:
            raise runner.rooms.allowed.RoomRefused("leads elsewhere now")
        return await check_room(guard, url)

    monkeypatch.setattr(runner.rooms.allowed.RoomGuard, "check_room", check)
    answer = await Worker(scene, calls=4).waits()
    assert [job.run_id for job in answer.jobs] == [good]
    rows = await scene.rows(sealed, unreadable, refused)
    assert [(row.status, row.cause, row.started_at) for row in rows] == [
        ("failed", "harness", None),
        ("failed", "harness", None),
        ("failed", "room", None),
    ]
    assert rows[1].error_message == "what the record holds of it can't be read (KeyError)"
    assert rows[2].error_message == "leads elsewhere now"


async def test_the_names_of_several_rooms_are_looked_up_at_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ids = [await scene.run(room_url=f"http://bot-{number % 2}.test/api/offer") for number in range(4)]
    asked: list[str] = []
    all_asked = anyio.Event()

    async def resolve(host: str) -> list[str]:
        asked.append(host)
        if len(asked) == 2:
            all_asked.set()
        await all_asked.wait()
        return ["127.0.0.1"]

    monkeypatch.setattr(runner.rooms.allowed, "resolve", resolve)
    monkeypatch.setattr(scene.dispatcher._settings.server, "allowed_rooms", ["*.test"])
    with anyio.fail_after(10):
        answer = await Worker(scene, calls=4).waits()
    assert [job.run_id for job in answer.jobs] == run_ids
    assert sorted(asked) == ["bot-0.test", "bot-1.test"]


async def test_runs_with_slow_name_lookups_reach_their_worker(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(host: str) -> list[str]:
        await anyio.sleep(2)
        return ["127.0.0.1"]

    monkeypatch.setattr(runner.rooms.allowed, "resolve", resolve)
    monkeypatch.setattr(scene.dispatcher._settings.server, "allowed_rooms", ["*.test"])
    monkeypatch.setattr(dispatching, "hold_s", lambda lease_s, has_runs: 1.5)
    await scene.run(room_url="http://slow.test/api/offer")
    assert len((await Worker(scene).waits()).jobs) == 1


async def test_a_short_lease_is_looked_after_as_often_as_it_needs(database: Database) -> None:
    scene = Scene(database, Clock())
    scene.dispatcher = scene.new_dispatcher(lease_s=1.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scene.dispatcher.run)
        idle = Worker(scene)
        await idle.polls()
        # It is held for less than a second, and its sign of life is in the record by then.
        for _ in range(2):
            assert await idle.waits() == Answer(lease_s=1.0)
        tasks.cancel_scope.cancel()
