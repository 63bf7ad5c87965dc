"""Which waiting run goes to which worker, and that no limit is ever exceeded, whoever decides at the same time."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from runner.protocol.messages import Problem, WorkerInfo
from runner.records import assignments
from runner.records.assignments import MAX_CALLS, assign, taken
from runner.records.database import Database
from runner.records.runs import end_run, release, request_cancel
from runner.records.tables import Agent, Project, ResultRow, RunRow, utc_now
from runner.settings import ServerSettings
from tests.examples import examples
from tests.records.giving import ROOMS
from tests.records.giving import able_worker as worker

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

NO_LIMITS = ServerSettings()
OVER = Problem(cause="harness", reason="runner-error", detail="over")


async def launched(
    database: Database, *runs: dict[str, Any], limit: int | None = None, agent: dict[str, Any] | None = None
) -> list[int]:
    """Launch runs and return their ids.

    Args:
        database: The record.
        runs: What is particular about each.
        limit: How many of them may be on at once.
        agent: The ``session`` of the agent they call; without it they call nobody that is known.
    """
    async with database.session() as session:
        if await session.get(Project, 1) is None:
            session.add(Project(id=1, name="default"))
            await session.flush()
        agent_id = None
        if agent is not None:
            session.add(row := Agent(project_id=1, name="a", provider={}, session=agent))
            await session.flush()
            agent_id = row.id
        session.add(result := ResultRow(project_id=1, run_type="pipecat", run_settings={}, concurrency_limit=limit))
        await session.flush()
        common: dict[str, Any] = {"result_id": result.id, "project_id": 1, "agent_id": agent_id}
        rows = [RunRow(**{**common, "scenario_name": "s", "snapshot": {}, **run}) for run in runs]
        # One by one: their ids go up in this order.
        for row in rows:
            session.add(row)
            await session.flush()
        return [row.id for row in rows]


async def assigned(
    database: Database, *workers: WorkerInfo, limits: ServerSettings = NO_LIMITS
) -> list[tuple[int, int, str]]:
    async with database.session() as session:
        return [tuple(run) for run in await session.run_sync(assign, workers, limits)]


async def ids(database: Database, *workers: WorkerInfo, limits: ServerSettings = NO_LIMITS) -> list[int]:
    return [run[0] for run in await assigned(database, *workers, limits=limits)]


async def end(database: Database, *run_ids: int) -> None:
    for run_id in run_ids:
        async with database.session() as session:
            values = {"status": "failed", "ended_at": utc_now()}
            await session.execute(update(RunRow).where(RunRow.id == run_id).values(**values))


async def test_a_run_is_given_once_with_its_attempt(database: Database) -> None:
    (run_id,) = await launched(database, {})
    assert await assigned(database, worker()) == [(run_id, 1, "w")]
    assert await assigned(database, worker()) == []
    async with database.session() as session:
        run = await session.get_one(RunRow, run_id)
        assert (run.executor, run.status) == ("w", "pending")
        assert await session.run_sync(release, run_id, 1, detail="it stops", safe_to_retry=True)
    assert await assigned(database, worker("v")) == [(run_id, 2, "v")]
    await end(database, run_id)
    assert await assigned(database, worker()) == []


async def test_nothing_is_given_where_nobody_takes_anything(database: Database) -> None:
    await launched(database, {})
    assert await assigned(database) == []
    assert await assigned(database, worker(calls=0)) == []
    assert await assigned(database, worker(), limits=ServerSettings.model_construct(max_calls=0)) == []


async def test_lower_priorities_go_first_and_then_older_runs(database: Database) -> None:
    a, b, c, d, e = await launched(database, {}, {"priority": 1}, {"priority": 200}, {}, {"priority": 1})
    order = [await ids(database, worker(calls=number)) for number in range(1, 6)]
    assert order == [[b], [e], [a], [d], [c]]


async def test_what_is_delayed_waits_for_its_time(database: Database) -> None:
    now = utc_now()
    later, at_once = now + timedelta(hours=1), now - timedelta(hours=1)
    delayed, _, _ = await launched(database, {"not_before": later, "priority": 1}, {"not_before": at_once}, {})
    assert delayed not in await ids(database, worker())
    async with database.session() as session:
        await session.execute(update(RunRow).where(RunRow.id == delayed).values(not_before=utc_now()))
    assert await ids(database, worker()) == [delayed]


async def test_the_worker_with_most_room_gets_the_next_run(
    database: Database,
) -> None:
    runs = await launched(database, *[{}] * 7)
    given = await assigned(database, worker("small", 1), worker("large", 4))
    assert Counter(executor for *_, executor in given) == {"small": 1, "large": 4}
    assert [executor for *_, executor in given[:3]] == ["large"] * 3
    assert await assigned(database, worker("small", 1), worker("large", 4)) == []
    await end(database, next(run_id for run_id, _, executor in given if executor == "small"))
    assert await assigned(database, worker("small", 1), worker("large", 4)) == [(runs[5], 1, "small")]


async def test_a_launch_has_no_more_on_at_once_than_it_asked_for(database: Database) -> None:
    limited = await launched(database, *[{"priority": 1}] * 5, limit=2)
    (other,) = await launched(database, {})
    assert await ids(database, worker()) == [*limited[:2], other]
    assert await ids(database, worker()) == []
    await end(database, limited[0])
    assert await ids(database, worker()) == [limited[2]]


async def test_an_agent_has_no_more_calls_at_once_than_it_takes(database: Database) -> None:
    own = await launched(database, *[{}] * 3, agent={MAX_CALLS: 2})
    plain = await launched(database, *[{}] * 3, agent={})
    nobody = await launched(database, *[{}] * 3)
    given = await ids(database, worker(), limits=ServerSettings(max_calls_per_agent=1))
    assert given == [*own[:2], plain[0], *nobody]
    await end(database, own[0])
    assert await ids(database, worker(), limits=ServerSettings(max_calls_per_agent=1)) == [own[2]]
    # Its own limit holds where it is the higher one, and null is none of its own.
    async with database.session() as session:
        await session.execute(update(Agent).values(session={MAX_CALLS: None}))
    assert await ids(database, worker(), limits=ServerSettings(max_calls_per_agent=2)) == [plain[1]]


async def test_no_more_calls_are_on_than_may_be_in_all(database: Database) -> None:
    runs = await launched(database, *[{}] * 5)
    both = (worker("a", 3), worker("b", 3))
    assert await ids(database, *both, limits=ServerSettings(max_calls=4)) == runs[:4]
    assert await ids(database, *both, limits=ServerSettings(max_calls=4)) == []
    await end(database, runs[1])
    assert await ids(database, *both, limits=ServerSettings(max_calls=4)) == [runs[4]]


async def test_runs_of_lost_workers_count_until_they_are_taken_back(database: Database) -> None:
    first, second = await launched(database, {}, {}, limit=1)
    assert await ids(database, worker("gone")) == [first]
    assert await ids(database, worker("new")) == []
    async with database.session() as session:
        await session.run_sync(release, first, 1, detail="worker lost", safe_to_retry=True, was_lost=True)
    assert await ids(database, worker("new")) == [first]
    await end(database, first)
    assert await ids(database, worker("new")) == [second]


async def test_a_room_holds_one_call_at_a_time(database: Database) -> None:
    shared = {"room_key": "https://acme.daily.co/r1"}
    one, two, three, other = await launched(database, shared, shared, {**shared, "priority": 1}, {"room_key": "x"})
    assert await ids(database, worker()) == [three, other]
    assert await ids(database, worker()) == []
    await end(database, three)
    assert await ids(database, worker()) == [one]
    async with database.session() as session:
        assert await session.run_sync(request_cancel, [one]) == [one]
    assert await ids(database, worker()) == [two]


async def test_a_worker_gets_what_it_can_enter(database: Database) -> None:
    kinds: list[dict[str, Any]] = [{"room_kind": "daily"}, {"room_kind": "smallwebrtc"}, {}]
    daily, small, any_kind = await launched(database, *kinds)
    assert await ids(database, worker("none", rooms=())) == [any_kind]
    assert await assigned(database, worker("d", 1, ("daily",)), worker("s", 1, ("smallwebrtc",))) == [
        (daily, 1, "d"),
        (small, 1, "s"),
    ]
    (waits,) = await launched(database, {"room_kind": "daily", "priority": 1})
    (goes,) = await launched(database, {"room_kind": "smallwebrtc"})
    # Who could take it is full: others don't wait behind it.
    assert await ids(database, worker("d", 1, ("daily",)), worker("s", 5, ("smallwebrtc",))) == [goes]
    assert await ids(database, worker("d", 2, ("daily",))) == [waits]


async def test_what_cannot_go_keeps_nothing_behind_it(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignments, "BATCH", 3)
    limited = await launched(database, *[{"priority": 1}] * 10, limit=1)
    in_a_room = await launched(database, *[{"priority": 2, "room_key": "r"}] * 10)
    free = await launched(database, *[{}] * 8)
    assert await ids(database, worker()) == [limited[0], in_a_room[0], *free]


async def test_a_run_being_cancelled_is_not_given_or_waited_for(database: Database) -> None:
    one, two = await launched(database, {}, {})
    is_postgres = database.url.startswith("postgresql")
    async with database.session() as session:
        await session.run_sync(request_cancel, [one])
        if is_postgres:
            with anyio.fail_after(20):
                assert await ids(database, worker()) == [two]
    assert await ids(database, worker()) == ([] if is_postgres else [two])


async def test_who_decides_waits_for_whoever_decides_just_now(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that the first one has no lock on the second run.
    monkeypatch.setattr(assignments, "BATCH", 1)
    one, two = await launched(database, {}, {})
    other = Database(database_url)
    given: list[int] = []

    async def decide() -> None:
        given.extend(await ids(other, worker(), limits=ServerSettings(max_calls=1)))

    async with anyio.create_task_group() as tasks, database.session() as session:
        assert [run.id for run in await session.run_sync(assign, [worker()], ServerSettings(max_calls=1))] == [one]
        tasks.start_soon(decide)
        await anyio.sleep(0.3)
    assert given == []
    await end(database, one)
    assert await ids(other, worker(), limits=ServerSettings(max_calls=1)) == [two]
    await other.close()


@dataclass
class Launched:
    """A run, for :class:`Model`."""

    id: int
    priority: int
    result: int
    agent: int | None
    room: str | None
    kind: str | None


@dataclass
class Model:
    """Gives runs out one after the other, as anybody would who has all of them before him."""

    limits: ServerSettings
    workers: Sequence[WorkerInfo]
    result_limits: dict[int, int | None]
    agent_limits: dict[int, int | None]
    on: dict[int, tuple[Launched, str]] = field(default_factory=dict[int, tuple[Launched, str]])

    def give(self, runs: Sequence[Launched]) -> set[int]:
        return {run.id for run in sorted(runs, key=lambda run: (run.priority, run.id)) if self._give(run)}

    def _give(self, run: Launched) -> bool:
        on = [other for other, _ in self.on.values()]
        load = Counter(executor for _, executor in self.on.values())
        agent_limit = None if run.agent is None else self.agent_limits[run.agent] or self.limits.max_calls_per_agent
        within = [
            (len(on), self.limits.max_calls),
            (sum(other.result == run.result for other in on), self.result_limits[run.result]),
            (sum(other.agent == run.agent for other in on), agent_limit),
            (sum(other.room == run.room for other in on), None if run.room is None else 1),
        ]
        able = [w for w in self.workers if w.calls > load[w.executor] and (run.kind is None or run.kind in w.rooms)]
        if not able or any(limit is not None and count >= limit for count, limit in within):
            return False
        self.on[run.id] = (run, max(able, key=lambda w: w.calls - load[w.executor]).executor)
        return True


maybe = st.none() | st.integers(1, 3)
RUNS = st.lists(
    st.tuples(
        st.integers(1, 3), st.integers(0, 1), st.sampled_from([None, "r1", "r2"]), st.sampled_from([None, *ROOMS])
    ),
    min_size=1,
    max_size=12,
)
WORKERS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([(), ("daily",), ROOMS])), max_size=3)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runs=RUNS,
    able=WORKERS,
    limits=st.builds(ServerSettings, max_calls=maybe, max_calls_per_agent=maybe),
    of_launches=st.tuples(maybe, maybe),
    of_agents=st.tuples(maybe, maybe),
    batch=st.integers(1, 4),
)
def test_every_run_goes_that_can_in_order_and_no_other(
    record: tuple[asyncio.Runner, Database],
    runs: list[tuple[int, int, str | None, str | None]],
    able: list[tuple[int, frozenset[str]]],
    limits: ServerSettings,
    of_launches: tuple[int | None, int | None],
    of_agents: tuple[int | None, int | None],
    batch: int,
) -> None:
    loop, database = record
    workers = [worker(f"w{number}", calls, rooms) for number, (calls, rooms) in enumerate(able)]

    async def play() -> None:
        there: list[Launched] = []
        for place in (0, 1):
            mine = [run for run in runs if run[1] == place]
            rows = [{"priority": run[0], "room_key": run[2], "room_kind": run[3]} for run in mine]
            run_ids = await launched(database, *rows, limit=of_launches[place], agent={MAX_CALLS: of_agents[place]})
            there += [
                Launched(run_id, run[0], place, place, run[2], run[3])
                for run_id, run in zip(run_ids, mine, strict=True)
            ]
        model = Model(limits, workers, dict(enumerate(of_launches)), dict(enumerate(of_agents)))
        assert set(await ids(database, *workers, limits=limits)) == model.give(there)
        for run_id in list(model.on)[::2]:
            del model.on[run_id]
            there = [run for run in there if run.id != run_id]
            await end(database, run_id)
        waiting = [run for run in there if run.id not in model.on]
        assert set(await ids(database, *workers, limits=limits)) == model.give(waiting)
        await end(database, *(run.id for run in there))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignments, "BATCH", batch)
        loop.run(play())


WORKERS_OF_ALL = (worker("a", 3), worker("b", 2), worker("c", 4, ("daily",)))
LIMITS_OF_ALL = ServerSettings(max_calls=7, max_calls_per_agent=4)


class Dispatching:
    """What several dispatchers do at once, each in a thread and a loop of its own."""

    def __init__(self, url: str):
        self._url = url
        self.given: list[tuple[int, int]] = []
        self.problems: list[str] = []
        self.peak = 0
        self._lock = threading.Lock()

    def run(self, seed: int, until: datetime) -> None:
        """Dispatch in this thread."""
        try:
            anyio.run(self.dispatch, seed, until)
        except Exception as error:
            self.problems.append(repr(error))

    async def dispatch(self, seed: int, until: datetime) -> None:
        """Give and end runs until all have ended."""
        dice = random.Random(seed)
        database = Database(self._url)
        while utc_now() < until:
            async with database.session() as session:
                given = await session.run_sync(assign, WORKERS_OF_ALL, LIMITS_OF_ALL)
                on = (await session.scalars(select(RunRow).where(taken()))).all()
                limits = {result.id: result.concurrency_limit for result in await session.scalars(select(ResultRow))}
            with self._lock:
                self.given += [(run.id, run.attempt) for run in given]
                self.peak = max(self.peak, len(on))
                self.problems += self._exceeded(on, limits)
            if not on and not given:
                break
            for run in dice.sample(on, min(2, len(on))):
                async with database.session() as session:
                    if dice.random() < 0.2:
                        await session.run_sync(release, run.id, run.attempt, detail="it stops", safe_to_retry=True)
                    elif dice.random() < 0.3:
                        await session.run_sync(request_cancel, [other.id for other in dice.sample(on, len(on))])
                    else:
                        await session.run_sync(end_run, run.id, run.attempt, OVER)
        await database.close()

    @staticmethod
    def _exceeded(on: Sequence[RunRow], limits: dict[int, int | None]) -> list[str]:
        counts = [
            *(
                (f"worker {w.executor}", sum(run.executor == w.executor for run in on), w.calls)
                for w in WORKERS_OF_ALL
            ),
            *((f"launch {id}", sum(run.result_id == id for run in on), limit) for id, limit in limits.items()),
            *((f"agent {id}", sum(run.agent_id == id for run in on), 4) for id in {run.agent_id for run in on}),
            *(
                (f"room {key}", count, 1)
                for key, count in Counter(run.room_key for run in on if run.room_key).items()
            ),
            ("all", len(on), 7),
        ]
        return [f"{what}: {count} of {limit}" for what, count, limit in counts if limit is not None and count > limit]


async def test_parallel_dispatchers_keep_limits_and_give_nothing_twice(database: Database, database_url: str) -> None:
    for limit, agent in ((3, {}), (None, {MAX_CALLS: 4}), (2, {})):
        kinds = [{"room_kind": "daily", "room_key": "r"}, {"room_kind": "smallwebrtc"}, {}, {"room_kind": "daily"}]
        await launched(database, *kinds * 4, limit=limit, agent=agent)
    both = Dispatching(database_url)
    until = utc_now() + timedelta(seconds=60)
    threads = [threading.Thread(target=both.run, args=(seed, until)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert both.problems == []
    assert both.peak == 7
    assert len(set(both.given)) == len(both.given)
    async with database.reading() as session:
        assert (await session.scalars(select(RunRow.id).where(RunRow.ended_at.is_(None)))).all() == []
