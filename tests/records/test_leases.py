"""Signs of life: what polls change of workers and runs, and who is gone, with what."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import anyio
import anyio.from_thread
import pytest
from sqlalchemy import event, insert, select, text, update
from sqlalchemy.orm import Session

from runner.dispatch import dispatcher as dispatching
from runner.protocol.messages import Kept, Load, Poll, RunNow, WorkerInfo, WorkerState
from runner.records import assignments, leases
from runner.records.database import Database
from runner.records.leases import (
    Had,
    Renewed,
    forget,
    lose,
    may_forget,
    note_kept,
    orphans,
    renew,
    silent_workers,
    takers,
)
from runner.records.runs import request_cancel
from runner.records.tables import ResultRow, RunRow, WorkerRow, utc_now
from tests.records.giving import add, give, worker
from tests.records.test_runs import launched, row, status_of_result

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

A_SECOND = timedelta(seconds=1)


def poll(executor: str = "w", number: int = 1, *runs: RunNow, **said: Any) -> Poll:
    info = WorkerInfo(executor=executor, name=f"name of {executor}", version="1.0", rooms=("daily",), calls=3)
    return Poll(protocol=3, worker=info, number=number, runs=runs, **said)


async def renewed(database: Database, *polls: Poll) -> Renewed:
    return await database.run(lambda session: renew(session, polls))


async def row_of(database: Database, executor: str = "w") -> WorkerRow:
    async with database.reading() as session:
        return await session.get_one(WorkerRow, executor)


async def set_worker(database: Database, executor: str = "w", **values: Any) -> None:
    async with database.session() as session:
        await session.execute(update(WorkerRow).where(WorkerRow.executor == executor).values(**values))


async def had(database: Database, *run_ids: int, executor: str = "w") -> None:
    """Let a worker have runs that it has begun."""
    await give(database, *run_ids, executor=executor)
    async with database.session() as session:
        await session.execute(update(RunRow).where(RunRow.id.in_(run_ids)).values(status="running"))


async def test_a_first_poll_adds_a_worker_and_later_ones_its_load(database: Database) -> None:
    first = await renewed(database, poll(), poll("v", 4))
    assert (first.new, first.late, first.gone, first.runs) == ({"w", "v"}, frozenset(), frozenset(), {})
    before = await row_of(database)
    assert (before.name, before.version, before.rooms, before.calls) == ("name of w", "1.0", ["daily"], 3)
    assert (before.state, before.why, before.gone_at, before.number) == ("taking", "", None, 1)
    assert abs(utc_now() - before.seen_at) < 60 * A_SECOND
    said = poll(
        "w",
        2,
        state=WorkerState.PAUSED,
        why="its disk is full",
        kept=(Kept(run_id=7, attempt=2, may_end=True),),
        load=Load(loop_lag_ms=1.5, underruns=2, calls_made=3),
    )
    assert (await renewed(database, said)).new == frozenset()
    after = await row_of(database)
    assert (after.state, after.why, after.number) == ("paused", "its disk is full", 2)
    assert after.runs == {"live": [], "kept": [[7, 2, True]]}
    assert after.load == {"loop_lag_ms": 1.5, "underruns": 2, "calls_made": 3}
    assert after.seen_at > before.seen_at and after.started_at == before.started_at


async def test_what_comes_late_changes_nothing(database: Database) -> None:
    (run_id,) = await launched(database)
    await had(database, run_id)
    await renewed(database, poll("w", 5, RunNow(run_id=run_id, attempt=1)))
    before = await row_of(database)
    late = await renewed(database, poll("w", 4, state=WorkerState.DRAINING))
    assert late.late == {"w"} and [run.id for run in late.runs["w"]] == [run_id]
    told = RunNow(run_id=run_id, attempt=1, joined=True, said=True)
    assert (await renewed(database, poll("w", 5, told))).late == {"w"}
    after = await row_of(database)
    assert (after.state, after.seen_at, after.number) == ("taking", before.seen_at, 5)
    assert (await row(database, run_id)).said_at is None


async def test_who_was_given_up_stays_so(database: Database) -> None:
    (run_id,) = await launched(database)
    await give(database, run_id, executor="w")
    await renewed(database, poll(), poll("v"))
    assert await database.run(lambda session: lose(session, ["w", "unknown"])) == ["w"]
    assert await database.run(lambda session: lose(session, ["w"])) == []
    gone = await renewed(database, poll("w", 2, RunNow(run_id=run_id, attempt=1)), poll("v", 2))
    assert gone.gone == {"w"} and "w" not in gone.runs
    assert (await row_of(database)).state == "lost" and (await row(database, run_id)).status == "pending"
    await renewed(database, poll("v", 3, state=WorkerState.STOPPED))
    assert (await renewed(database, poll("v", 4))).gone == {"v"}
    assert (await row_of(database, "v")).state == "stopped"


async def test_a_run_told_of_has_begun_and_each_step_is_noted_once(database: Database) -> None:
    (run_id,) = await launched(database)
    await give(database, run_id, executor="w")
    steps: list[dict[str, bool]] = [{}, {"joined": True}, {"said": True}, {"is_evaluating": True}]
    seen: list[Had] = []
    now: dict[str, bool] = {}
    for number, step in enumerate(steps, 1):
        now |= step
        [run] = (await renewed(database, poll("w", number, RunNow(run_id=run_id, attempt=1, **now)))).runs["w"]
        seen.append(run)
    assert [(run.has_begun, run.joined, run.said, run.is_evaluating) for run in seen] == [
        (True, False, False, False),
        (True, True, False, False),
        (True, True, True, False),
        (True, True, True, True),
    ]
    before = await row(database, run_id)
    assert await status_of_result(database, run_id) == "running"
    # A step back is none, and what is known costs no writing.
    await renewed(database, poll("w", 9, RunNow(run_id=run_id, attempt=1)))
    assert (await row(database, run_id)).updated_at == before.updated_at


async def test_news_of_runs_of_others_changes_nothing(database: Database) -> None:
    waits, another_s, other_attempt, ended = await launched(database, 4)
    await give(database, another_s, executor="another")
    await give(database, other_attempt, ended, executor="w")
    await database.run(lambda session: request_cancel(session, [ended]))
    told = [RunNow(run_id=run_id, attempt=1, joined=True, said=True) for run_id in (waits, another_s, ended, 999)]
    told.append(RunNow(run_id=other_attempt, attempt=2, joined=True, said=True))
    [run] = (await renewed(database, poll("w", 1, *told))).runs["w"]
    assert (run.id, run.attempt, run.has_begun) == (other_attempt, 1, False)
    rows = [await row(database, run_id) for run_id in (waits, another_s, other_attempt)]
    assert [(run.status, run.joined_at, run.said_at) for run in rows] == [("pending", None, None)] * 3


async def test_of_some_workers_those_take_runs_that_said_so_last(database: Database) -> None:
    await renewed(database, poll("a"), poll("b", state=WorkerState.PAUSED), poll("c", state=WorkerState.DRAINING))
    await renewed(database, poll("d"), poll("e", state=WorkerState.STOPPED))
    await database.run(lambda session: lose(session, ["d"]))
    assert await database.look(lambda session: takers(session, ["a", "b", "c", "d", "e", "f"])) == {"a"}


async def test_who_is_silent_is_seen_by_the_records_clock(database: Database) -> None:
    await renewed(database, poll("here"), poll("silent"), poll("gone"))
    for executor in ("silent", "gone"):
        await set_worker(database, executor, seen_at=utc_now() - 30 * A_SECOND)
    await set_worker(database, "gone", gone_at=utc_now())
    assert await database.look(lambda session: silent_workers(session, longer_than_s=25)) == ["silent"]
    assert await database.look(lambda session: silent_workers(session, longer_than_s=60)) == []
    assert await database.run(lambda session: lose(session, ["silent", "here"], longer_than_s=25)) == ["silent"]


@pytest.mark.parametrize("off", [-timedelta(hours=1), timedelta(hours=1)])
async def test_the_servers_clock_counts_and_not_this_machines(
    database: Database, monkeypatch: pytest.MonkeyPatch, off: timedelta
) -> None:
    if database.url.startswith("sqlite"):
        pytest.skip("there is no other clock")
    monkeypatch.setattr(leases, "utc_now", lambda: utc_now() + off)
    await renewed(database, poll())
    assert abs((await row_of(database)).seen_at - utc_now()) < 60 * A_SECOND
    assert await database.look(lambda session: silent_workers(session, longer_than_s=30)) == []


async def test_runs_of_lost_workers_are_found_with_what_is_known(database: Database) -> None:
    now = utc_now()
    gone = {
        "lost": {"state": "lost", "seen_at": now - 25 * A_SECOND},
        "dead": {"state": "lost", "seen_at": now - A_SECOND},
        "stopped": {
            "state": "stopped",
            "seen_at": now,
            "runs": {"live": [], "kept": [[5, 1, True], [6, 1, False], [4, 2, True]]},
        },
    }
    await add(database, [worker("here"), *(worker(name, **{"gone_at": now, **more}) for name, more in gone.items())])
    ids = await launched(database, 8)
    assert ids == [1, 2, 3, 4, 5, 6, 7, 8]
    await had(database, 1, executor="here")
    await had(database, 2, executor="lost")
    await had(database, 3, executor="dead")
    await had(database, 4, 5, 6, executor="stopped")
    await give(database, 7, executor="stopped")
    await had(database, 8, executor="unknown")

    async def found(*, unknown_too: bool) -> list[tuple[int, str | None, float | None]]:
        left = await database.look(lambda session: orphans(session, unknown_too=unknown_too))
        assert {run.attempt for run in left} == {1}
        return [(run.id, run.state, run.state and (run.gone_at - run.seen_at) / A_SECOND) for run in left]

    expected = [(2, "lost", 25), (3, "lost", 1), (4, "stopped", 0), (6, "stopped", 0), (7, "stopped", 0)]
    # The fifth lies on a disk from which it may still end.
    assert await found(unknown_too=False) == expected
    assert await found(unknown_too=True) == [*expected, (8, None, None)]


async def test_outcomes_on_a_dead_workers_disk_are_noted(
    database: Database,
) -> None:
    kept = (Kept(run_id=7, attempt=2, may_end=True),)
    await renewed(database, poll(), poll("gone"))
    await database.run(lambda session: lose(session, ["gone"]))
    for executor in ("w", "gone", "unknown"):
        await database.run(lambda session, executor=executor: note_kept(session, executor, kept))
    assert (await row_of(database)).runs == {"live": [], "kept": [[7, 2, True]]}
    assert (await row_of(database, "gone")).runs == {"live": [], "kept": []}


async def test_who_went_long_ago_is_forgotten(database: Database) -> None:
    old = utc_now() - leases.REMEMBERED - A_SECOND
    await add(database, [worker("here", seen_at=old), worker("lately", gone_at=utc_now())])
    assert not await database.look(may_forget)
    await add(database, [worker("old", gone_at=old)])
    assert await database.look(may_forget)
    await database.run(forget)
    async with database.reading() as session:
        assert set(await session.scalars(select(WorkerRow.executor))) == {"here", "lately"}


async def test_polls_and_cancellations_of_lost_workers_wait_in_turn(database: Database, database_url: str) -> None:
    """In whichever order they come: on PostgreSQL one of two that wait for each other would be broken off."""
    other = Database(database_url)
    workers = [f"w{number}" for number in range(6)]
    for turn in range(4):
        ids = await launched(database, 12)
        for place, executor in enumerate(workers):
            # Some have begun, and of those there are news; the others begin now, in the other order.
            await had(database, ids[place], executor=executor)
            await give(database, ids[-1 - place], executor=executor)
        polls = [
            poll(
                executor,
                10 * turn + 1,
                RunNow(run_id=ids[-1 - place], attempt=1),
                RunNow(run_id=ids[place], attempt=1, joined=True),
            )
            for place, executor in enumerate(workers)
        ]
        again = [told.model_copy(update={"number": told.number + 1}) for told in reversed(polls)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(database.run, lambda session, polls=polls: renew(session, polls))
            if turn:
                tasks.start_soon(other.run, lambda session, polls=again: renew(session, polls))
                tasks.start_soon(other.run, lambda session: lose(session, workers[::-1], longer_than_s=60))
            tasks.start_soon(other.run, lambda session, ids=ids: request_cancel(session, ids))
    await other.close()


async def test_a_run_begins_while_it_is_cancelled_without_a_deadlock(database: Database, database_url: str) -> None:
    """A later run must not begin before an earlier one is locked, for cancelling goes by their order."""
    if database_url.startswith("sqlite"):
        pytest.skip("writers take turns there")
    first, last = await launched(database, 2)
    await had(database, first)
    await give(database, last, executor="w")
    async with database.session() as session:
        await session.execute(update(ResultRow).values(status="running"))
    other = Database(database_url)
    cancelling = anyio.Event()

    def cancel(session: Session) -> None:
        session.execute(select(RunRow.id).where(RunRow.id == first).with_for_update())
        anyio.from_thread.run_sync(cancelling.set)
        session.execute(text("SELECT pg_sleep(0.2)"))
        request_cancel(session, [first, last])

    told = poll("w", 1, RunNow(run_id=last, attempt=1), RunNow(run_id=first, attempt=1, joined=True))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other.run, cancel)
        await cancelling.wait()
        await renewed(database, told)
    await other.close()


# What is asked many times a second goes through no run that has ended, and none that waits, however many there are.

ENDED = 20_000
WAITING = 1_000
HOT: Sequence[tuple[str, Any, Mapping[str, Any]]] = (
    ("had", leases._HAD, {"of_workers": ["w1", "w2"]}),
    ("orphans", leases._ORPHANS, {}),
    ("waiting", dispatching._WAITING, {"now": utc_now()}),
    ("taken", assignments._TAKEN_RUNS, {}),
    ("to be given", assignments._WAITING_RUNS.where(assignments.waiting()).limit(100), {}),
)


async def fill(database: Database, is_sqlite: bool) -> None:
    """Add so many runs that have ended, some that wait, and some that workers have."""
    async with database.session() as session:
        session.add(ResultRow(id=1, project_id=1, run_type="pipecat"))
        await session.flush()
        connection = await session.connection()
        common = {"result_id": 1, "project_id": 1, "scenario_name": "s", "snapshot": {}}
        await connection.execute(insert(RunRow), [{**common, "id": 1}])
        columns = [column.name for column in RunRow.__table__.columns if column.name != "id"]
        values = {
            "status": "'completed'",
            "executor": "'w' || (n % 500)",
            "ended_at": "created_at",
        }
        numbers = (
            "WITH RECURSIVE s(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM s WHERE n < :most)"
            if is_sqlite
            else "WITH s AS (SELECT generate_series(2, :most) AS n)"
        )
        copied = ", ".join(values.get(name, f"runs.{name}") for name in columns)
        await connection.execute(
            text(f"INSERT INTO runs (id, {', '.join(columns)}) {numbers} SELECT n, {copied} FROM runs, s"),
            {"most": ENDED},
        )
        open_ones = [{**common, "id": ENDED + number} for number in range(1, WAITING + 1)]
        taken = [
            {**common, "id": ENDED + WAITING + number, "status": "running", "executor": f"w{number}"}
            for number in range(1, 51)
        ]
        await connection.execute(insert(RunRow), open_ones)
        await connection.execute(insert(RunRow), taken)
        session.add_all([worker(f"w{number}") for number in range(1, 51)])
        await session.flush()
        if not is_sqlite:
            # It does so by itself, sooner or later; SQLite never does.
            await session.execute(text("ANALYZE"))


def plan_of(session: Session, statement: Any, parameters: Mapping[str, Any], is_sqlite: bool) -> str:
    """Return how the database goes about a statement, as it is sent."""
    sent: list[tuple[str, Any]] = []

    def note(*called: Any) -> None:
        sent.append((called[2], called[3]))

    connection = session.connection()
    event.listen(connection, "before_cursor_execute", note)
    session.execute(statement, dict(parameters)).all()
    event.remove(connection, "before_cursor_execute", note)
    [(written, bound)] = sent
    rows = connection.exec_driver_sql(f"EXPLAIN {'QUERY PLAN ' if is_sqlite else ''}{written}", bound).all()
    return "\n".join(str(row[-1]) for row in rows)


async def test_frequent_queries_do_not_go_through_ended_runs(seeded: Database) -> None:
    is_sqlite = seeded.url.startswith("sqlite")
    await fill(seeded, is_sqlite)
    plans = await seeded.run(
        lambda session: {name: plan_of(session, said, bound, is_sqlite) for name, said, bound in HOT}
    )
    for name, plan in plans.items():
        index = "ix_runs_waiting" if name in ("waiting", "to be given") else "ix_runs_taken"
        assert index in plan, (name, plan)
        past_it = [line for line in plan.splitlines() if "SCAN runs" in line or "Seq Scan on runs" in line]
        assert all(index in line for line in past_it), (name, plan)
