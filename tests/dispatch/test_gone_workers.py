"""Workers that are gone: nothing is lost of what they had, and nobody is given up who is only late."""

from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from runner.dispatch.dispatcher import RecordAway, WorkerGone
from runner.protocol.messages import Gone, Kept
from runner.records import leases
from runner.records.runs import MAX_LOST, end_run
from runner.records.tables import RunRow, utc_now
from tests.dispatch.scene import CAUSE, LEASE_S, LOST_S, PAUSED, STOPPED, VAULT, Scene, Worker, asking, away

pytestmark = pytest.mark.anyio


async def test_a_silent_worker_is_lost_by_the_databases_clock(scene: Scene) -> None:
    lost, there = Worker(scene, "lost", calls=9), Worker(scene, "there")
    await scene.judging(lost, there)
    said, safe_to_retry = await scene.begun(lost, said_at=utc_now()), await scene.begun(lost)
    session = await scene.begun(lost, 2, said_at=utc_now())
    given = await scene.run(executor="lost", room_token=VAULT.seal("{}"))
    await lost.polls()
    await scene.look(LOST_S - 1, there)
    assert await scene.state("lost") == "taking"
    await scene.look(2, there)
    assert (await scene.state("lost"), await scene.state("there")) == ("lost", "taking")
    # What was said in a room is not said again there, and nobody knows what the worker said since it polled last.
    for row in await scene.rows(said, safe_to_retry):
        assert (row.status, row.cause, row.error_message) == ("failed", "harness", "worker lost")
    rows = await scene.rows(session, given)
    assert [(row.status, row.attempt, row.lost) for row in rows] == [("pending", 2, 1), ("pending", 2, 0)]
    # It comes back, and says how its call went.
    with pytest.raises(WorkerGone):
        await lost.polls()
    with pytest.raises(WorkerGone):
        await lost.waits()
    receipt = await scene.database.run(lambda record: end_run(record, session, 1, CAUSE, executor="lost"))
    assert not receipt.accepted and (await scene.row(session)).status == "pending"


async def test_a_new_dispatcher_judges_nobody_for_a_whole_lease(scene: Scene) -> None:
    worker = Worker(scene)
    run_id = await scene.begun(worker)
    await worker.polls()
    await scene.set_worker("w", seen_at=utc_now() - timedelta(hours=1))
    unknown = await scene.run(status="running", executor="of another time")
    await scene.look(LOST_S - 1)
    assert [row.status for row in await scene.rows(run_id, unknown)] == ["running", "running"]
    await scene.look(2)
    assert [row.status for row in await scene.rows(run_id, unknown)] == ["failed", "failed"]
    assert await scene.state("w") == "lost"


@pytest.mark.parametrize("away_s", [3.0, 30.0, 3_600.0])
async def test_a_halted_dispatcher_judges_nobody_for_a_whole_lease(scene: Scene, away_s: float) -> None:
    worker = Worker(scene)
    run_id = await scene.begun(worker)
    await scene.judging(worker)
    scene.clock.ahead_s += away_s
    await scene.look(LOST_S - 1)
    assert await scene.state("w") == "taking"
    assert (await worker.polls()).orders[0].counts
    await scene.look(LOST_S - 1)
    assert (await scene.row(run_id)).status == "running"
    await scene.look(2)
    assert await scene.state("w") == "lost"


async def test_a_halted_database_says_nothing_of_who_is_silent(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(scene)
    await scene.judging(worker)
    silent_workers = leases.silent_workers

    def slowly(session: Session, *, longer_than_s: float) -> list[str]:
        scene.clock.ahead_s += 30
        return silent_workers(session, longer_than_s=longer_than_s)

    with monkeypatch.context() as patch:
        patch.setattr(leases, "silent_workers", slowly)
        await scene.look()
    await scene.look(LOST_S - 1)
    assert await scene.state("w") == "taking"


async def test_while_its_database_was_away_nobody_is_late(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(scene)
    run_id = await scene.begun(worker)
    await scene.judging(worker)
    with away(monkeypatch, scene):
        for _ in range(3):
            scene.clock.ahead_s += 9
            with pytest.raises(RecordAway):
                await worker.polls()
    await scene.look(LOST_S - 1)
    assert (await scene.row(run_id)).status == "running"
    assert (await worker.polls()).orders[0].counts


async def test_a_sign_of_life_in_the_last_moment_counts(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(scene)
    await scene.judging(worker)
    # It polls between the look that finds it silent and what follows from that.
    monkeypatch.setattr(leases, "silent_workers", lambda session, longer_than_s: ["w"])
    await scene.look()
    assert await scene.state("w") == "taking"


async def test_a_worker_whose_parent_calls_it_dead_is_gone_at_once(prompt: Scene) -> None:
    dead = Worker(prompt, "dead", calls=9)
    said, safe_to_retry = await prompt.begun(dead, said_at=utc_now()), await prompt.begun(dead)
    session = await prompt.begun(dead, 2, said_at=utc_now())
    given = await prompt.run(executor="dead")
    await dead.polls()
    async with asking(prompt, Worker(prompt, "other", calls=9)) as asked:
        await prompt.dispatcher.report_gone(Gone(executor="dead"))
        assert (await asked.at_once()).jobs
    await Worker(prompt, "other", calls=9).polls(number=9)
    rows = await prompt.rows(safe_to_retry, session, given)
    assert [(row.executor, row.attempt, row.lost) for row in rows] == [
        ("other", 2, 1),
        ("other", 2, 1),
        ("other", 2, 0),
    ]
    row = await prompt.row(said)
    assert (row.status, row.error_message) == ("failed", "worker lost")
    await prompt.dispatcher.report_gone(Gone(executor="dead"))
    await prompt.dispatcher.report_gone(Gone(executor="never-there"))
    with pytest.raises(WorkerGone):
        await dead.polls()


async def test_a_dead_worker_is_given_nothing_though_its_poll_is_held(prompt: Scene) -> None:
    async with asking(prompt, Worker(prompt, "dead")):
        await prompt.dispatcher.report_gone(Gone(executor="dead"))
        run_id = await prompt.run()
        await Worker(prompt, "another").polls()
        row = await prompt.row(run_id)
    assert (row.executor, row.attempt) == (None, 1)


async def test_what_a_dead_worker_out_of_touch_said_is_unknown(scene: Scene) -> None:
    worker = Worker(scene)
    room, session = await scene.begun(worker), await scene.begun(worker, 2)
    await worker.polls()
    scene.clock.ahead_s += LEASE_S / 2 + 0.1
    await scene.dispatcher.report_gone(Gone(executor="w"))
    await scene.look()
    assert [row.status for row in await scene.rows(room, session)] == ["failed", "pending"]


async def test_a_run_that_workers_are_lost_of_again_and_again_ends(scene: Scene) -> None:
    run_id = await scene.run(result_id=2, status="running", executor="w0", started_at=utc_now())
    for number in range(MAX_LOST + 1):
        worker = Worker(scene, f"w{number}")
        worker.has(run_id, number + 1)
        async with scene.database.session() as session:
            values = {"status": "running", "executor": worker.executor}
            await session.execute(update(RunRow).values(**values))
        await worker.polls()
        await scene.dispatcher.report_gone(Gone(executor=worker.executor))
        await scene.look()
    row = await scene.row(run_id)
    assert (row.status, row.error_message, row.lost) == ("failed", "worker lost", MAX_LOST)


async def test_cancelling_goes_before_trying_again(scene: Scene) -> None:
    worker = Worker(scene)
    run_id = await scene.begun(worker, 2, cancel_requested=True)
    await worker.polls()
    await scene.dispatcher.report_gone(Gone(executor="w"))
    await scene.look()
    assert (await scene.row(run_id)).status == "cancelled"


async def test_a_run_its_worker_forgot_is_taken_from_it_at_once(scene: Scene) -> None:
    worker = Worker(scene)
    known, room = await scene.begun(worker), await scene.begun(worker)
    session, given = await scene.begun(worker, 2), await scene.run(executor="w")
    overtaken = worker.says(runs=())
    await worker.polls()
    for run_id in (room, session):
        del worker.runs[run_id, 1]
    # What comes late says nothing of now.
    await scene.dispatcher.poll(overtaken)
    assert [row.status for row in await scene.rows(known, room, session)] == ["running"] * 3
    worker.state = PAUSED
    answer = await worker.polls()
    assert [(order.run_id, order.counts) for order in answer.orders] == [(known, True)]
    rows = await scene.rows(known, room, session, given)
    assert [(row.status, row.executor, row.attempt) for row in rows] == [
        ("running", "w", 1),
        ("failed", "w", 1),
        ("pending", None, 2),
        ("pending", "w", 1),
    ]
    assert rows[1].error_message == "worker lost: it does not know of this run"


async def test_an_outcome_on_a_workers_disk_is_having_its_run(scene: Scene) -> None:
    worker = Worker(scene)
    run_id = await scene.begun(worker)
    await worker.polls()
    worker.runs.clear()
    worker.kept = (Kept(run_id=run_id, attempt=1, may_end=True),)
    await worker.polls()
    assert (await scene.row(run_id)).executor == "w" and (await scene.row(run_id)).status == "running"


@pytest.mark.parametrize("says", ["the worker", "its parent"])
async def test_an_outcome_on_a_lost_disk_is_waited_for_but_not_forever(scene: Scene, says: str) -> None:
    worker = Worker(scene)
    ended, broken_off = await scene.begun(worker, said_at=utc_now()), await scene.begun(worker, said_at=utc_now())
    unbegun = await scene.run(executor="w")
    await worker.polls()
    worker.runs.clear()
    worker.kept = (
        Kept(run_id=ended, attempt=1, may_end=True),
        Kept(run_id=broken_off, attempt=1, may_end=False),
        Kept(run_id=unbegun, attempt=1, may_end=True),
    )
    if says == "the worker":
        await worker.polls(state=STOPPED)
    else:
        await scene.dispatcher.report_gone(Gone(executor="w", kept=worker.kept))
    await scene.look()
    rows = await scene.rows(ended, broken_off, unbegun)
    assert [(row.status, row.attempt) for row in rows] == [("running", 1), ("failed", 1), ("pending", 2)]
    await scene.set_worker("w", gone_at=utc_now() - leases.KEPT_LIMIT - timedelta(minutes=1))
    await scene.look()
    assert (await scene.row(ended)).status == "failed"


async def test_a_found_outcome_is_waited_for_only_in_its_attempt(
    scene: Scene,
) -> None:
    dead, finder = Worker(scene, "dead"), Worker(scene, "finder")
    found = await scene.begun(dead, said_at=utc_now())
    other = await scene.begun(dead, attempt=2, said_at=utc_now())
    await dead.polls()
    finder.kept = tuple(Kept(run_id=run_id, attempt=1, may_end=True) for run_id in (found, other))
    await finder.polls()
    await scene.dispatcher.report_gone(Gone(executor="dead"))
    await scene.look()
    assert [row.status for row in await scene.rows(found, other)] == ["running", "failed"]


async def test_lost_workers_are_forgotten_after_a_while(scene: Scene) -> None:
    for executor in ("stopped", "lately"):
        await Worker(scene, executor).polls(state=STOPPED)
    await Worker(scene, "there").polls()
    await scene.set_worker("stopped", gone_at=utc_now() - leases.REMEMBERED - timedelta(minutes=1))
    await scene.look()
    assert await scene.state("stopped") is None
    assert (await scene.state("lately"), await scene.state("there")) == ("stopped", "taking")
