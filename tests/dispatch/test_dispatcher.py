"""Giving and taking back: every run is one worker's at a time, and of one that is gone nothing gets lost."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection, delete, select, update

from bots.timeline import EndedReason
from runner.dispatch import dispatcher as dispatching
from runner.dispatch.dbos_queue import DbosQueue, DbosWorker
from runner.dispatch.dispatcher import Dispatcher
from runner.dispatch.engines import lease_engine
from runner.dispatch.lease import PROTOCOL
from runner.dispatch.watch import Watch
from runner.records.assignments import Assignment, Limits
from runner.records.database import Database
from runner.records.endings import RunProblem
from runner.records.runs import end_run
from runner.records.tables import RunRow, WorkerRow, utc_now

pytestmark = pytest.mark.anyio


class Clock:
    """Stands for the monotonic clock that the dispatcher goes by."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s


class QueueDouble:
    """Remembers what it is given."""

    def __init__(self) -> None:
        self.handed: list[Assignment] = []
        self.retired: list[str] = []

    def hand_over(self, connection: Connection, assignments: Sequence[Assignment]) -> None:
        self.handed += assignments

    async def retire(self, executor: str) -> None:
        self.retired.append(executor)

    async def prune(self, *, older_than: Any) -> int:
        return 0

    async def close(self) -> None:
        pass


class Scene:
    """A record, a dispatcher, and workers that beat when a test says so."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch):
        self.database = database
        self.queue = QueueDouble()
        self.clock = Clock()
        monkeypatch.setattr(dispatching, "time", self.clock)
        self.dispatcher = Dispatcher(database, self.queue, Limits())
        self._ids = itertools.count(1)

    def begin_anew(self) -> None:
        """Start the dispatcher again: it has seen nothing."""
        self.dispatcher = Dispatcher(self.database, self.queue, Limits())

    async def worker(self, executor: str, **values: Any) -> None:
        row: dict[str, Any] = {
            "executor": executor,
            "name": executor,
            "version": "1",
            "protocol": PROTOCOL,
            "rooms": ["smallwebrtc"],
            "calls": 2,
            "state": "taking",
            "beat": 1,
            "beat_at": utc_now(),
            "started_at": utc_now(),
            "runs": {"live": [], "held": []},
            "load": {},
            **values,
        }
        async with self.database.session() as session:
            session.add(WorkerRow(**row))

    async def set_worker(self, executor: str, **values: Any) -> None:
        async with self.database.session() as session:
            await session.execute(update(WorkerRow).where(WorkerRow.executor == executor).values(**values))

    async def run(self, result_id: int = 1, **values: Any) -> int:
        run_id = next(self._ids)
        async with self.database.session() as session:
            session.add(
                RunRow(
                    id=run_id, result_id=result_id, project_id=1, scenario_name="s", snapshot={"script": {}}, **values
                )
            )
        return run_id

    async def begun(self, executor: str, result_id: int = 1, **values: Any) -> int:
        """Return a run that a worker has begun, and says so."""
        run_id = await self.run(result_id, status="running", executor=executor, started_at=utc_now(), **values)
        await self.set_worker(executor, runs={"live": [run_id], "held": []})
        return run_id

    @contextmanager
    def begun_in_between(self, run_id: int) -> Iterator[None]:
        """Let a run be begun after the dispatcher has seen what there is, and before it takes anything back."""
        living = self.dispatcher._living

        async def begin(workers: list[WorkerRow]) -> list[WorkerRow]:
            async with self.database.session() as session:
                values = {"status": "running", "started_at": utc_now()}
                await session.execute(update(RunRow).where(RunRow.id == run_id).values(**values))
            return await living(workers)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.dispatcher, "_living", begin)
            yield

    async def look(self, times: int = 1, *, beating: Sequence[str] = ()) -> None:
        """Let seconds pass, in which some workers beat and the dispatcher looks."""
        for _ in range(times):
            self.clock.now_s += 1
            for executor in beating:
                await self.set_worker(executor, beat=WorkerRow.beat + 1)
            await self.dispatcher.look()

    async def row(self, run_id: int) -> RunRow:
        async with self.database.reading() as session:
            return await session.get_one(RunRow, run_id)

    async def state(self, executor: str) -> str | None:
        async with self.database.reading() as session:
            return await session.scalar(select(WorkerRow.state).where(WorkerRow.executor == executor))


@pytest.fixture
def scene(database: Database, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(database, monkeypatch)


async def test_what_waits_goes_to_workers_that_live_and_take_runs(scene: Scene) -> None:
    for executor, values in {
        "full": {"calls": 0},
        "overloaded": {"state": "overloaded"},
        "draining": {"state": "draining"},
        "gone": {"state": "stopped", "gone_at": utc_now()},
        "foreign": {"protocol": PROTOCOL + 1},
        "silent": {},
        "able": {},
    }.items():
        await scene.worker(executor, **values)
    beating = ["full", "overloaded", "draining", "foreign", "able"]
    await scene.look(4, beating=beating)
    runs = [await scene.run() for _ in range(3)]
    await scene.look(beating=beating)
    assert scene.queue.handed == [Assignment(runs[0], 1, "able"), Assignment(runs[1], 1, "able")]
    assert (await scene.row(runs[0])).executor == "able" and (await scene.row(runs[0])).status == "pending"
    await scene.look(beating=beating)
    assert len(scene.queue.handed) == 2
    assert (await scene.row(runs[2])).executor is None


async def test_a_lost_worker_s_runs_end_or_wait_again_and_count_for_nobody(scene: Scene) -> None:
    await scene.worker("lost", calls=9)
    await scene.look(2, beating=["lost"])
    said = await scene.begun("lost", said_at=utc_now())
    unsaid = await scene.begun("lost", joined_at=utc_now())
    session = await scene.begun("lost", result_id=2, said_at=utc_now())
    given = await scene.run(executor="lost")
    await scene.look(6)
    assert await scene.state("lost") == "taking"
    await scene.look()
    assert await scene.state("lost") == "lost"
    ended = await scene.row(said)
    assert (ended.status, ended.cause, ended.ended_reason) == ("failed", "harness", "runner-error")
    assert ended.error_message == "worker lost" and ended.success is None
    for run_id in (unsaid, session, given):
        row = await scene.row(run_id)
        assert (row.status, row.executor, row.attempt) == ("pending", None, 2), run_id
        assert row.started_at is row.joined_at is row.said_at is None
    assert [(await scene.row(run_id)).lost for run_id in (unsaid, session, given)] == [1, 1, 0]
    assert scene.queue.retired == ["lost"]
    # It comes back, and says how its call went.
    problem = RunProblem(cause="agent", reason=EndedReason.AGENT_FROZE.value)
    for run_id in (said, session):
        taken = await scene.database.run(lambda records, run_id=run_id: end_run(records, run_id, 1, problem))
        assert not taken.accepted
    assert (await scene.row(session)).status == "pending"
    await scene.worker("other")
    await scene.look(beating=["other"])
    assert {(run.run_id, run.attempt) for run in scene.queue.handed} == {(unsaid, 2), (session, 2)}


async def test_whoever_knows_only_what_a_worker_left_behind_repeats_no_call_in_a_given_room(scene: Scene) -> None:
    await scene.worker("lost")
    await scene.look(2, beating=["lost"])
    unsaid = await scene.begun("lost")
    await scene.begun("lost", result_id=2)
    scene.begin_anew()
    await scene.look(8)
    assert (await scene.row(unsaid)).status == "failed"
    assert (await scene.row(unsaid + 1)).status == "pending"


async def test_a_run_that_workers_are_lost_of_again_and_again_ends(scene: Scene) -> None:
    run_id = await scene.run(result_id=2)
    for number in range(3):
        worker = f"w{number}"
        await scene.worker(worker)
        await scene.look(2, beating=[worker])
        assert (await scene.row(run_id)).executor == worker
        await scene.set_worker(worker, runs={"live": [run_id], "held": []})
        async with scene.database.session() as session:
            await session.execute(update(RunRow).values(status="running"))
        await scene.look(8)
    row = await scene.row(run_id)
    assert (row.status, row.error_message, row.lost) == ("failed", "worker lost", 2)


async def test_nobody_is_lost_while_the_database_or_the_dispatcher_is_away(scene: Scene) -> None:
    await scene.worker("w")
    run_id = await scene.begun("w")
    await scene.look(3, beating=["w"])
    scene.clock.now_s += 30
    await scene.look(5)
    assert await scene.state("w") == "taking"
    await scene.look(beating=["w"])
    assert (await scene.row(run_id)).status == "running"


async def test_a_sign_of_life_in_the_last_moment_counts(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    await scene.worker("w")
    engine = lease_engine(scene.database.url)

    def beats_meanwhile(self: Watch, beats: dict[str, int], now_s: float) -> list[str]:
        with engine.begin() as connection:
            connection.execute(update(WorkerRow).values(beat=WorkerRow.beat + 1))
        return ["w"]

    monkeypatch.setattr(Watch, "look", beats_meanwhile)
    await scene.look()
    engine.dispose()
    assert await scene.state("w") == "taking"


async def test_cancelling_goes_before_trying_again(scene: Scene) -> None:
    await scene.worker("lost")
    await scene.look(2, beating=["lost"])
    run_id = await scene.begun("lost", result_id=2, cancel_requested=True)
    await scene.look(8)
    assert (await scene.row(run_id)).status == "cancelled"


async def test_a_stopped_worker_s_runs_go_on_at_once_and_are_not_held_against_them(scene: Scene) -> None:
    await scene.worker("stops")
    await scene.look(2, beating=["stops"])
    given, session = await scene.run(executor="stops"), await scene.begun("stops", result_id=2)
    said = await scene.begun("stops", said_at=utc_now())
    await scene.set_worker("stops", state="stopped", gone_at=utc_now())
    await scene.look()
    assert [(await scene.row(run_id)).status for run_id in (given, session)] == ["pending", "pending"]
    assert [(await scene.row(run_id)).lost for run_id in (given, session)] == [0, 0]
    row = await scene.row(said)
    assert (row.status, row.error_message) == ("failed", "its worker was stopped")


async def test_a_draining_worker_keeps_what_it_has_begun_and_gives_back_what_it_has_not(scene: Scene) -> None:
    await scene.worker("drains")
    begun = await scene.begun("drains")
    given = await scene.run(executor="drains")
    # Begun a moment ago: it has not said so yet.
    fresh = await scene.run(executor="drains", status="running")
    await scene.set_worker("drains", state="draining")
    await scene.look(2, beating=["drains"])
    assert (await scene.row(begun)).executor == (await scene.row(fresh)).executor == "drains"
    assert (await scene.row(given)).executor is None


async def test_an_outcome_on_a_disk_is_waited_for_but_not_for_ever(scene: Scene) -> None:
    await scene.worker("lost")
    await scene.look(2, beating=["lost"])
    run_id = await scene.begun("lost", said_at=utc_now())
    await scene.set_worker("lost", runs={"live": [], "held": [run_id], "outcomes": [[run_id, 1]]})
    await scene.look(9)
    assert await scene.state("lost") == "lost" and (await scene.row(run_id)).status == "running"
    await scene.set_worker("lost", gone_at=utc_now() - dispatching.HELD_LIMIT)
    await scene.look()
    assert (await scene.row(run_id)).status == "failed"


async def test_an_outcome_on_a_disk_says_nothing_of_another_attempt(scene: Scene) -> None:
    for worker in ("first", "second"):
        await scene.worker(worker)
    await scene.look(2, beating=["first", "second"])
    run_id = await scene.begun("second", attempt=2, said_at=utc_now())
    await scene.set_worker("first", runs={"live": [], "held": [run_id], "outcomes": [[run_id, 1]]})
    await scene.look(9, beating=["first"])
    assert await scene.state("second") == "lost" and (await scene.row(run_id)).status == "failed"


async def test_a_run_that_its_worker_never_begins_is_another_s_after_a_while(scene: Scene) -> None:
    await scene.worker("deaf", calls=4)
    run_id = await scene.run(executor="deaf")
    await scene.set_worker("deaf", runs={"live": [run_id], "held": []})
    await scene.worker("other", calls=1)
    beating = ["deaf", "other"]
    await scene.look(int(dispatching.UNBEGUN_LIMIT_S), beating=beating)
    fresh = await scene.run(executor="deaf")
    await scene.set_worker("deaf", runs={"live": [run_id, fresh], "held": []})
    await scene.look(beating=beating)
    assert ((await scene.row(run_id)).executor, (await scene.row(run_id)).attempt) == ("deaf", 1)
    await scene.look(beating=beating)
    row = await scene.row(run_id)
    # Although the other one has less room for it.
    assert (row.status, row.executor, row.attempt, row.lost) == ("pending", "other", 2, 0)
    assert (await scene.row(fresh)).executor == "deaf"


async def test_who_does_not_begin_what_it_has_is_given_nothing_for_a_while(scene: Scene) -> None:
    await scene.worker("deaf")
    run_id = await scene.run(executor="deaf")
    await scene.set_worker("deaf", runs={"live": [run_id], "held": []})
    await scene.look(int(dispatching.UNBEGUN_LIMIT_S) + 2, beating=["deaf"])
    assert ((await scene.row(run_id)).executor, (await scene.row(run_id)).attempt) == (None, 2)
    await scene.look(int(dispatching.PASSED_OVER_S) - 1, beating=["deaf"])
    assert (await scene.row(run_id)).executor is None
    await scene.look(beating=["deaf"])
    assert (await scene.row(run_id)).executor == "deaf"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_who_knows_that_it_is_cut_off_is_given_runs_as_soon_as_it_says_that_it_takes_them(
    scene: Scene, when: str
) -> None:
    await scene.worker("far", state="cut-off" if when == "before" else "taking")
    run_id = await scene.run(executor="far")
    await scene.set_worker("far", runs={"live": [run_id], "held": []})
    await scene.look(int(dispatching.UNBEGUN_LIMIT_S) + 2, beating=["far"])
    await scene.set_worker("far", state="cut-off")
    await scene.look(beating=["far"])
    assert ((await scene.row(run_id)).executor, (await scene.row(run_id)).attempt) == (None, 2)
    await scene.set_worker("far", state="taking")
    await scene.look(beating=["far"])
    assert (await scene.row(run_id)).executor == "far"


async def test_time_in_which_nobody_looks_is_none_in_which_a_worker_is_late(scene: Scene) -> None:
    await scene.worker("w")
    run_id = await scene.run(executor="w")
    await scene.set_worker("w", runs={"live": [run_id], "held": []})
    await scene.look(2, beating=["w"])
    for _ in range(3):
        scene.clock.now_s += 3_600
        await scene.look(beating=["w"])
    assert (await scene.row(run_id)).attempt == 1
    # But the rest does.
    await scene.look(int(dispatching.UNBEGUN_LIMIT_S), beating=["w"])
    assert (await scene.row(run_id)).attempt == 2


async def test_who_does_not_even_take_what_it_is_given_is_given_nothing_for_a_while(scene: Scene) -> None:
    await scene.worker("hangs", calls=8)
    run_id = await scene.run(executor="hangs")
    await scene.worker("other", calls=1)
    await scene.look(int(dispatching.UNKNOWN_LIMIT_S) + 2, beating=["hangs", "other"])
    row = await scene.row(run_id)
    assert (row.status, row.executor, row.attempt, row.lost) == ("pending", "other", 2, 0)


async def test_who_begins_a_run_after_all_is_given_others(scene: Scene) -> None:
    await scene.worker("slow")
    late, begun = await scene.run(executor="slow"), await scene.run(executor="slow")
    await scene.set_worker("slow", runs={"live": [late, begun], "held": []})
    await scene.look(int(dispatching.UNBEGUN_LIMIT_S) + 1, beating=["slow"])
    # The one is taken from it a moment before it begins the other.
    with scene.begun_in_between(begun):
        await scene.look(beating=["slow"])
    assert (await scene.row(late)).executor is None and (await scene.row(begun)).status == "running"
    await scene.look(beating=["slow"])
    assert ((await scene.row(late)).executor, (await scene.row(late)).attempt) == ("slow", 2)


async def test_what_was_said_by_a_worker_that_was_cut_off_and_then_lost_nobody_knows(scene: Scene) -> None:
    for worker in ("cut-off", "heard"):
        await scene.worker(worker)
    beating = ["cut-off", "heard"]
    await scene.look(2, beating=beating)
    unknown, silent = await scene.begun("cut-off"), await scene.begun("heard")
    await scene.set_worker("cut-off", state="cut-off")
    await scene.look(beating=beating)
    await scene.look(9)
    assert [await scene.state(worker) for worker in beating] == ["lost", "lost"]
    assert (await scene.row(unknown)).status == "failed" and (await scene.row(silent)).status == "pending"


async def test_of_a_worker_of_an_older_version_every_report_is_waited_for(scene: Scene) -> None:
    await scene.worker("old")
    await scene.look(2, beating=["old"])
    run_id = await scene.begun("old", said_at=utc_now())
    await scene.set_worker("old", runs={"live": [], "held": [run_id]})
    await scene.look(9)
    assert await scene.state("old") == "lost" and (await scene.row(run_id)).status == "running"


@pytest.mark.parametrize(
    ("state", "says", "waits_s"),
    [
        ("taking", True, dispatching.UNBEGUN_LIMIT_S),
        ("taking", False, dispatching.UNKNOWN_LIMIT_S),
        ("draining", False, 1),
    ],
)
async def test_a_run_that_is_begun_in_the_last_moment_stays_where_it_is(
    scene: Scene, state: str, says: bool, waits_s: float
) -> None:
    await scene.worker("slow", calls=0)
    run_id = await scene.run(executor="slow")
    await scene.set_worker("slow", runs={"live": [run_id] if says else [], "held": []})
    await scene.look(int(waits_s) + 1, beating=["slow"])
    await scene.set_worker("slow", state=state)
    with scene.begun_in_between(run_id):
        await scene.look(beating=["slow"])
    row = await scene.row(run_id)
    assert (row.status, row.executor, row.attempt) == ("running", "slow", 1)


async def test_what_a_gone_worker_has_on_its_disk_of_a_run_it_never_began_holds_nothing_up(scene: Scene) -> None:
    await scene.worker("stopped", state="stopped", gone_at=utc_now())
    run_id = await scene.run(executor="stopped")
    await scene.set_worker("stopped", runs={"live": [], "held": [run_id], "outcomes": [[run_id, 1]]})
    await scene.look()
    assert ((await scene.row(run_id)).executor, (await scene.row(run_id)).attempt) == (None, 2)


async def test_a_run_that_its_living_worker_does_not_know_of_is_taken_from_it(scene: Scene) -> None:
    await scene.worker("w")
    known, unknown, never = await scene.begun("w"), await scene.begun("w"), await scene.run(executor="w")
    await scene.set_worker("w", runs={"live": [known], "held": []}, calls=0)
    await scene.look(int(dispatching.UNKNOWN_LIMIT_S), beating=["w"])
    fresh = await scene.run(executor="w")
    await scene.look(beating=["w"])
    assert (await scene.row(unknown)).status == "running"
    await scene.look(beating=["w"])
    assert (await scene.row(known)).status == "running"
    row = await scene.row(unknown)
    assert (row.status, row.error_message) == ("failed", "worker lost: it does not know of this run")
    assert (await scene.row(fresh)).executor == "w"
    assert (await scene.row(never)).executor is None and (await scene.row(never)).attempt == 2


async def test_a_run_of_a_worker_nobody_knows_is_taken_for_lost(scene: Scene) -> None:
    run_id = await scene.run(status="running", executor="of another time")
    await scene.look()
    assert (await scene.row(run_id)).status == "failed"


async def test_workers_that_are_gone_are_forgotten_after_a_while(scene: Scene) -> None:
    await scene.worker("old", state="lost", gone_at=utc_now() - dispatching.REMEMBERED - timedelta(seconds=1))
    await scene.worker("lately", state="lost", gone_at=utc_now())
    await scene.look(2)
    assert await scene.state("old") is None and await scene.state("lately") == "lost"
    assert sorted(scene.queue.retired) == ["lately", "old"]


async def test_it_goes_on_after_what_went_wrong_and_gives_when_it_is_woken(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatching, "INTERVAL_S", 0.2)
    look = scene.dispatcher.look
    looked: list[bool] = []

    async def fail_once() -> None:
        looked.append(True)
        if len(looked) == 1:
            raise OSError("on purpose")
        monkeypatch.setattr(dispatching, "INTERVAL_S", 60)
        await look()

    monkeypatch.setattr(scene.dispatcher, "look", fail_once)
    await look()
    await scene.worker("able")
    await look()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scene.dispatcher.run)
        with anyio.fail_after(20):
            while len(looked) < 2:
                await anyio.sleep(0.01)
            await anyio.sleep(0.3)
            for count in (1, 2):
                await scene.run()
                await anyio.sleep(0.2)
                assert len(scene.queue.handed) == count - 1
                scene.dispatcher.wake()
                while len(scene.queue.handed) < count:
                    await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert len(looked) == 2


async def test_a_run_goes_through_dbos_to_a_real_worker_and_back_when_that_is_gone(
    database: Database, queue: DbosQueue
) -> None:
    dispatcher = Dispatcher(database, queue, Limits())
    begun: list[tuple[str, int, int]] = []
    scene = Scene.__new__(Scene)
    scene.database, scene._ids = database, itertools.count(1)
    await dispatcher.look()
    await scene.worker("a", calls=1)
    for _ in range(2):
        await scene.run()

    async def handler(run_id: int, attempt: int) -> None:
        begun.append((worker.executor, run_id, attempt))

    async def until(count: int) -> None:
        with anyio.fail_after(10):
            while len(begun) < count:
                await dispatcher.look()
                await anyio.sleep(0.05)

    worker = DbosWorker(database.url, executor="a")
    await worker.start(handler)
    await until(1)
    await worker.stop(timeout_s=1)
    await scene.set_worker("a", state="stopped", gone_at=utc_now())
    await scene.worker("b", calls=2)
    worker = DbosWorker(database.url, executor="b")
    await worker.start(handler)
    await until(3)
    await worker.stop(timeout_s=1)
    assert begun[0] == ("a", 1, 1)
    assert sorted(begun[1:]) == [("b", 1, 2), ("b", 2, 1)]


async def test_what_another_process_removed_is_not_kept_in_mind(scene: Scene) -> None:
    await scene.worker("w", state="stopped", gone_at=utc_now())
    await scene.look()
    async with scene.database.session() as session:
        await session.execute(delete(WorkerRow))
    await scene.look()
    await scene.worker("w", state="stopped", gone_at=utc_now())
    await scene.look()
    assert scene.queue.retired == ["w", "w"]


async def test_a_worker_that_goes_while_the_database_is_away_may_have_said_something(scene: Scene) -> None:
    await scene.worker("w")
    await scene.look(2, beating=["w"])
    run_id = await scene.begun("w")
    await scene.look(1, beating=["w"])
    scene.clock.now_s += 20
    await scene.look(8)
    run = await scene.row(run_id)
    assert (run.status, run.error_message) == ("failed", "worker lost")
