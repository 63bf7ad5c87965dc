"""What waits, what is on, how workers fare, and what is stuck."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from runner.records import leases
from runner.records.database import Database
from runner.records.tables import ResultRow, RunRow, WorkerRow, utc_now
from runner.records.workers import (
    MAX_NAMED,
    OVERTIME_S,
    QueueState,
    Stuck,
    TakenRun,
    WorkerView,
    find_stuck,
    read_overview,
)
from tests.records.giving import add, worker

pytestmark = pytest.mark.anyio

A_MINUTE = timedelta(minutes=1)


async def runs(database: Database, *rows: dict[str, Any]) -> list[int]:
    """Add runs and return their ids."""
    async with database.session() as session:
        session.add(result := ResultRow(project_id=1, run_type="pipecat", run_settings={}))
        await session.flush()
        common = {"result_id": result.id, "project_id": 1, "scenario_name": "s", "snapshot": {}}
        made = [RunRow(**{**common, **row}) for row in rows]
        for run in made:
            session.add(run)
            await session.flush()
        return [run.id for run in made]


async def test_the_queue_is_read_as_it_is(seeded: Database) -> None:
    assert (await read_overview(seeded, max_duration_s=300, lease_s=20)).queue == QueueState()
    now = utc_now()
    await add(seeded, [worker("w")])
    await runs(
        seeded,
        {"created_at": now - 2 * A_MINUTE},
        # Could begin for a minute: not since it was launched.
        {"created_at": now - 60 * A_MINUTE, "not_before": now - A_MINUTE},
        {"not_before": now + A_MINUTE, "created_at": now - 60 * A_MINUTE},
        {"executor": "w"},
        {"executor": "w", "status": "running", "started_at": now},
        {"executor": "w", "status": "evaluating", "started_at": now},
        {"executor": "w", "status": "completed", "ended_at": now},
        {"status": "cancelled", "ended_at": now},
    )
    queue = (await read_overview(seeded, max_duration_s=300, lease_s=20)).queue
    assert queue.oldest_waiting_s is not None and 119 < queue.oldest_waiting_s < 150
    assert replace(queue, oldest_waiting_s=None) == QueueState(
        waiting=2, delayed=1, handed_over=1, running=1, evaluating=1
    )


async def test_workers_are_read_as_they_say(seeded: Database) -> None:
    now = utc_now()
    await add(
        seeded,
        [
            worker(
                "b-1",
                calls=7,
                state="paused",
                why="its disk is full",
                runs={"live": [1, 2], "kept": [[3, 1, False], [4, 2, True]]},
                load={"loop_lag_ms": 12.5, "underruns": 4},
            ),
            worker(
                "a-1",
                state="lost",
                gone_at=now - A_MINUTE,
                seen_at=now - 2 * A_MINUTE,
                started_at=now - 5 * A_MINUTE,
                load={},
                runs={},
            ),
        ],
    )
    gone, there = (await read_overview(seeded, max_duration_s=300, lease_s=20)).workers
    assert (there.name, there.limit, there.live, there.state) == ("b", 7, (1, 2), "paused")
    assert (there.why, there.kept) == ("its disk is full", ((3, 1), (4, 2)))
    assert (there.loop_lag_ms, there.underruns, there.calls_made) == (12.5, 4, 0)
    assert not there.is_gone and 0 <= there.seen_s < 30
    assert gone.is_gone and gone.up_s == 180 and gone.live == ()


async def test_what_is_stuck_is_found_in_the_record(seeded: Database) -> None:
    now = utc_now()
    script = {"script": {"max_duration_s": 60}}
    too_long = timedelta(seconds=60 + OVERTIME_S + 60)
    await add(seeded, [worker("here-1", rooms=["daily"]), worker("gone-1", gone_at=now, state="lost")])
    ids = await runs(
        seeded,
        {"executor": "here-1", "status": "running", "started_at": now - too_long, "snapshot": script},
        # The settings' limit, where the script has none.
        {"executor": "here-1", "status": "running", "started_at": now - too_long},
        {"executor": "gone-1", "status": "running", "started_at": now, "snapshot": script},
        {"executor": "who-1"},
        {"room_kind": "smallwebrtc"},
        {"room_kind": "smallwebrtc", "not_before": now + A_MINUTE},
        {"room_kind": "daily"},
        {},
    )
    overview = await read_overview(seeded, max_duration_s=1_000, lease_s=20)
    assert overview.stuck == [
        Stuck("on for 7 min, where the script allows 1", 1, (ids[0],)),
        Stuck("worker gone is gone", 1, (ids[2],)),
        Stuck("worker who-1 is unknown", 1, (ids[3],)),
        Stuck("no worker that takes runs can enter a smallwebrtc room", 1, (ids[4],)),
    ]
    async with seeded.session() as session:
        await session.execute(update(WorkerRow).values(state="draining"))
    stuck = (await read_overview(seeded, max_duration_s=1_000, lease_s=20)).stuck
    nobody = "there is no worker that takes runs"
    assert {s.run_ids for s in stuck if s.why == nobody} == {(ids[4],), (ids[6],), (ids[7],)}


async def test_of_many_stuck_runs_some_are_named(seeded: Database) -> None:
    ids = await runs(seeded, *[{}] * (MAX_NAMED + 5), *[{"executor": "gone"}] * (MAX_NAMED + 5))
    unknown, waiting = (await read_overview(seeded, max_duration_s=300, lease_s=20)).stuck
    assert (unknown.count, waiting.count) == (MAX_NAMED + 5, MAX_NAMED + 5)
    assert waiting.run_ids == tuple(ids[:MAX_NAMED])
    assert len(unknown.run_ids) == MAX_NAMED


async def test_a_silent_worker_is_seen_by_the_databases_clock(
    seeded: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = utc_now()
    await add(seeded, [worker("fine-1"), worker("silent-1", seen_at=now - A_MINUTE)])
    ids = await runs(seeded, {"executor": "fine-1"}, {"executor": "silent-1"}, {})
    if seeded.url.startswith("postgresql"):
        # This machine's means nothing.
        monkeypatch.setattr(leases, "utc_now", lambda: now + 60 * A_MINUTE)
    overview = await read_overview(seeded, max_duration_s=300, lease_s=20)
    assert overview.stuck == [Stuck("worker silent does not poll", 1, (ids[1],))]
    assert (await read_overview(seeded, max_duration_s=300, lease_s=90)).stuck == []


def view(executor: str = "w", state: str = "taking", *, is_gone: bool = False, kept: Any = ()) -> WorkerView:
    rooms = ("daily", "smallwebrtc")
    return WorkerView(executor, executor, "0.1.0", state, "", is_gone, rooms, 4, (), kept, 0.0, 0, 0, 0.0, 0.0)


def on(run_id: int = 1, executor: str = "w", begun_s: float | None = 10.0, attempt: int = 1) -> TakenRun:
    return TakenRun(run_id, attempt, executor, begun_s, limit_s=300.0)


def whys(*live: TakenRun, workers: list[WorkerView], silent: str = "") -> list[str]:
    return [stuck.why for stuck in find_stuck(live, [], workers, {silent})]


def test_a_living_workers_run_is_stuck_only_after_far_too_long() -> None:
    assert whys(on(), on(2, begun_s=None), on(3, begun_s=300 + OVERTIME_S), workers=[view()]) == []
    assert whys(on(begun_s=300 + OVERTIME_S + 1), workers=[view()]) == ["on for 10 min, where the script allows 5"]


def test_an_outcome_on_a_disk_is_told_unless_it_is_reported() -> None:
    gone = view(is_gone=True, state="lost", kept=((1, 1),))
    assert whys(on(1), on(2), workers=[gone]) == [
        "worker w is gone, with what it has to report on its disk",
        "worker w is gone",
    ]
    found = view("next", kept=((1, 1),))
    assert whys(on(1), workers=[gone, found]) == []
    assert whys(on(1), workers=[gone, found], silent="next") != []
    assert whys(on(1, attempt=2), workers=[gone, found]) == ["worker w is gone"]


@pytest.mark.parametrize(
    ("workers", "is_stuck"),
    [
        ([view()], False),
        # It takes runs again as soon as its calls are on time.
        ([view(state="paused")], False),
        ([view(state="draining")], True),
        ([view(state="stopped", is_gone=True)], True),
        ([view(state="taking", is_gone=True)], True),
        ([view("silent")], True),
        ([view("silent"), view()], False),
        ([], True),
    ],
)
def test_a_run_that_waits_is_stuck_where_nobody_will_take_it(workers: list[WorkerView], is_stuck: bool) -> None:
    found = find_stuck([], [(None, 2, (1, 2))], workers, {"silent"})
    assert found == ([Stuck("there is no worker that takes runs", 2, (1, 2))] if is_stuck else [])
