"""Counts and verdicts of results, and what runs are found by."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, func, insert, select, text

from runner.records.database import Database
from runner.records.results import (
    Counts,
    Distribution,
    count_runs,
    read_marks,
    run_ids_of,
    select_runs,
    share,
    shared_result,
    short_runs,
)
from runner.records.runs import request_cancel
from runner.records.tables import ResultRow, RunRow, utc_now
from tests.records.outcomes import agent_failed, cancelled, no_call, outcome, reported, undecided
from tests.records.test_runs import accepts, begun, do, launched, row

pytestmark = pytest.mark.anyio


async def ended(database: Database) -> list[int]:
    """Launch six runs that end in all ways there are, but for the last."""
    ids = await launched(database, 6)
    for run_id, run in zip(ids, (outcome(), agent_failed(), undecided(), no_call(), cancelled()), strict=False):
        await begun(database, run_id)
        await accepts(database, run_id, 1, run)
    return ids


async def found(database: Database, **wanted: object) -> list[int]:
    async with database.reading() as session:
        return sorted(run.id for run in await session.scalars(select_runs(1, **wanted)))  # type: ignore[arg-type]


def counted(runs: Sequence[RunRow]) -> Counts:
    """Count runs one by one."""
    scores = [run.score for run in runs]
    return Counts(
        total=len(runs),
        ended=sum(run.has_ended for run in runs),
        success=sum(run.passed is True for run in runs),
        met=scores.count(100),
        expected=len(scores) - scores.count(None),
        inconclusive=sum(run.is_inconclusive for run in runs),
    )


async def test_counts_are_the_same_whether_counted_there_or_here(database: Database) -> None:
    ids = await ended(database)
    result_id = (await row(database, ids[0])).result_id
    async with database.session() as session:
        run = await session.get_one(RunRow, ids[2])
        run.snapshot = {**run.snapshot, "expected_outcome_prompt": "The agent is polite."}
        run.expects = True
    async with database.reading() as session:
        here = counted(await session.run_sync(short_runs, await run_ids_of(session, result_id)))
        assert await session.run_sync(count_runs, [result_id, 999]) == {result_id: here, 999: Counts()}
    assert here == Counts(total=6, ended=5, success=1, met=1, expected=3, inconclusive=3)
    # One passed of three: the inconclusive, the one without a call and the cancelled one say nothing of the agent.
    assert here.failed == 4 and here.success_rate == 33.33
    await do(database, request_cancel, ids)
    async with database.reading() as session:
        at_the_end = (await session.run_sync(count_runs, [result_id]))[result_id]
    assert at_the_end.success + at_the_end.failed == at_the_end.total


async def test_runs_of_a_result_are_read_without_what_is_long_about_them(database: Database) -> None:
    ids = await ended(database)
    whole = [await row(database, run_id) for run_id in ids]
    async with database.reading() as session:
        short = await session.run_sync(short_runs, [*ids, 999])
    assert [run.id for run in short] == ids
    for run, of in zip(short, whole, strict=True):
        assert run.snapshot.keys() == {"expected_outcome_prompt", "personality", "test_profile", "agent", "tags"}
        assert all(value == of.snapshot.get(name) for name, value in run.snapshot.items())
        assert all(value == of.came_to.get(name) for name, value in run.came_to.items())
        for name in ("status", "score", "passed", "latencies_ms", "detail", "updated_at"):
            assert getattr(run, name) == getattr(of, name)
    assert short[0].latencies_ms == [800.0, 1200.0] and short[1].detail == agent_failed().detail


async def test_runs_of_which_nothing_was_expected_have_no_score(database: Database) -> None:
    ids = await launched(database, 3)
    for run_id, run in zip(ids, (outcome(), agent_failed(), undecided()), strict=True):
        await begun(database, run_id)
        await accepts(database, run_id, 1, run.model_copy(update={"expectations": []}))
    result_id = (await row(database, ids[0])).result_id
    async with database.reading() as session:
        runs = await session.run_sync(short_runs, await run_ids_of(session, result_id))
        assert (await session.run_sync(count_runs, [result_id]))[result_id] == counted(runs)
    assert [(run.passed, run.score) for run in runs] == [(True, None), (False, 0), (False, 50)]


async def test_a_result_without_a_verdict_has_no_rate_that_passes(database: Database) -> None:
    ids = await launched(database, 2)
    for run_id in ids:
        await begun(database, run_id)
        await accepts(database, run_id, 1, undecided())
    result_id = (await row(database, ids[0])).result_id
    async with database.reading() as session:
        counts = (await session.run_sync(count_runs, [result_id]))[result_id]
    assert (counts.inconclusive, counts.success, counts.failed, counts.success_rate) == (2, 0, 2, 0.0)


async def test_runs_are_found_by_what_is_asked_for_alone(database: Database) -> None:
    ids = await ended(database)
    passed, missed, open_question, without, broken_off, waiting = ids
    assert await found(database) == ids
    assert await found(database, success=True) == [passed]
    assert await found(database, success=False) == [missed, open_question, without, broken_off]
    assert await found(database, statuses=["pending", "failed"]) == [without, waiting]
    assert await found(database, ids=[passed, waiting, 999]) == [passed, waiting]
    assert await found(database, ended_reasons=["Testing agent-did-not-connect"]) == [without]
    assert await found(database, ended_reason_holds="TESTING") == [passed, missed, open_question, without]
    assert await found(database, shortest_s=41.0, longest_s=41.0) == ids[:5]
    assert await found(database, shortest_s=41.5) == []
    assert await found(database, search="7860") == [without]
    assert await found(database, search=str(missed)) == [missed]
    assert await found(database, search="%") == []
    assert await found(database, since=utc_now() - timedelta(minutes=5)) == ids
    assert await found(database, until=utc_now() - timedelta(minutes=5)) == []
    result_id = (await row(database, passed)).result_id
    assert await found(database, result_id=result_id) == ids and await found(database, result_id=999) == []
    assert await found(database, agent_id=9) == [] == await found(database, scenario_id=9)
    async with database.session() as session:
        run = await session.get_one(RunRow, missed)
        run.snapshot = {**run.snapshot, "personality": {"id": 693, "name": "n"}}
    assert await found(database, personality_id=693) == [missed]


async def test_a_link_opens_its_result_until_it_expires(database: Database) -> None:
    (run_id,) = await launched(database)
    result_id = (await row(database, run_id)).result_id
    async with database.session() as session:
        forever = await share(session, result_id, None)
        past = await share(session, result_id, utc_now() - timedelta(seconds=1))
        ahead = await share(session, result_id, utc_now() + timedelta(hours=1))
    async with database.reading() as session:
        assert await shared_result(session, forever) == (1, result_id) == await shared_result(session, ahead)
        for token in (past, "", "x", forever[:-1], "\ud800"):
            assert await shared_result(session, token) is None


def test_percentiles_lie_between_the_values_around_them() -> None:
    spread = Distribution.of([100.0, 200.0, 300.0, 400.0])
    assert spread is not None and (spread.count, spread.mean) == (4, 250.0)
    assert spread.percentiles == {25: 175.0, 50: 250.0, 75: 325.0, 90: 370.0, 95: 385.0, 99: 397.0}
    alone = Distribution.of([5.0])
    assert alone is not None and set(alone.percentiles.values()) == {5.0}
    assert Distribution.of([]) is None


async def test_large_results_are_counted_by_indexes_alone(database: Database) -> None:
    await launched(database, 2)
    ended_run = {
        "project_id": 1,
        "scenario_name": "s",
        "snapshot": {},
        "status": "completed",
        "success": True,
        "outcome": reported(outcome()),
        "expects": True,
    }
    async with database.session() as session:
        connection = await session.connection()
        session.add_all(ResultRow(project_id=1, run_type="pipecat", run_settings={}) for _ in range(9))
        await session.flush()
        runs = [{**ended_run, "result_id": 2 + number % 9} for number in range(3_000)]
        await connection.execute(insert(RunRow), runs)
    is_sqlite = database.url.startswith("sqlite")
    if not is_sqlite:
        # It does so by itself, sooner or later.
        engine = create_engine(database.url.replace("postgresql", "postgresql+psycopg"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            # The tests' server does not wait until a commit is on disk. Until it is, not all are known to see it.
            connection.execute(text("CHECKPOINT"))
            connection.execute(text("VACUUM ANALYZE runs"))
        engine.dispose()
    plans: dict[str, str] = {}

    def explain(connection: Connection, _: Any, statement: str, parameters: Any, *__: Any) -> None:
        if "FROM runs" in statement and not statement.startswith("EXPLAIN"):
            said = connection.exec_driver_sql(f"EXPLAIN {'QUERY PLAN' if is_sqlite else ''} {statement}", parameters)
            plans[statement] = "; ".join(str(row[-1]) for row in said)

    event.listen(Engine, "before_cursor_execute", explain)
    try:
        # As a list of runs does: how many there are, and the ids of a page far behind.
        ids = select_runs(1, result_id=2).with_only_columns(RunRow.id)
        counting = select(func.count()).select_from(ids.order_by(None).subquery())
        page = ids.offset(200).limit(50)
        counted = await database.browse(lambda session: count_runs(session, [2, 3]))
        assert await database.browse(lambda session: session.scalar(counting)) == 334 == counted[2].met
        assert len(await database.browse(lambda session: session.scalars(page).all())) == 50
        assert len(await database.browse(lambda session: read_marks(session, 2))) == 334
    finally:
        event.remove(Engine, "before_cursor_execute", explain)
    assert len(plans) == 4
    for statement, plan in plans.items():
        is_of_marks = "updated_at" in statement
        assert "ix_runs_result" in plan, (statement, plan)
        if not is_of_marks:
            assert "TEMP B-TREE" not in plan and "Sort" not in plan, (statement, plan)
            assert "COVERING INDEX" in plan or "Index Only Scan" in plan, (statement, plan)
