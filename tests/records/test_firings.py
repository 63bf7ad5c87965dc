"""Schedules fire: each time once, whoever else does the same, and whatever else of them is on."""

import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from pydantic import SecretStr
from sqlalchemy import select, update

from runner.dispatch import schedules
from runner.records import firings
from runner.records.database import Database
from runner.records.jobs import RoomSecrets
from runner.records.schedules import FixedRoom, seal_rooms
from runner.records.tables import Agent, CronJob, Firing, ResultRow, RunRow, ScenarioRow
from tests.records.town import MINUTE, NOON, Town, on_sqlite, town

__all__ = ["town"]

pytestmark = pytest.mark.anyio

TOKEN = "pl4nted-t0ken"


async def test_a_schedule_fires_when_it_is_due_and_not_before(town: Town) -> None:
    job = await town.add("30 12 * * *", data={"frequency": 2, "concurrency_limit": 1, "personalities": [1, 693]})
    await town.pass_by(timedelta(minutes=29))
    assert await town.history(job) == []
    await town.pass_by()
    await town.pass_by()
    (firing,) = await town.history(job)
    assert (firing.trigger, firing.state, firing.missed) == ("clock", "running", 0)
    assert firing.due_at == NOON + timedelta(minutes=30)
    async with town.record.database.reading() as session:
        result = await session.get_one(ResultRow, firing.result_id)
        assert (result.is_cronjob, result.name, result.concurrency_limit) == (True, "nightly", 1)
        assert result.run_settings["cron_job"] == job
        assert (await session.get_one(CronJob, job)).next_due_at == NOON + timedelta(days=1, minutes=30)
    assert await town.count(RunRow) == 4
    await town.end()
    await town.pass_by()
    (firing,) = await town.history(job)
    assert (firing.state, firing.reason) == ("passed", "4 of 4 runs passed")
    assert firing.ended_at is not None


@on_sqlite
@pytest.mark.parametrize(
    ("success", "state", "reason"),
    [
        (False, "failed", "0 of 1 runs passed, 1 failed"),
        (None, "inconclusive", "0 of 1 runs passed, 1 inconclusive"),
    ],
)
async def test_a_firing_is_what_its_runs_are(town: Town, success: bool | None, state: str, reason: str) -> None:
    job = await town.add()
    await town.pass_by()
    await town.end(success=success)
    await town.schedules.look()
    (firing,) = await town.history(job)
    assert (firing.state, firing.reason) == (state, reason)


@on_sqlite
async def test_a_paused_schedule_does_not_fire(town: Town) -> None:
    job = await town.add(is_active=False)
    await town.pass_by(timedelta(days=1))
    assert await town.history(job) == []


@on_sqlite
@pytest.mark.parametrize(
    ("away", "missed", "reason"),
    [
        (timedelta(seconds=90), 0, "it fired late"),
        (timedelta(minutes=5), 4, "it fired late: it makes up for this time and 4 before it"),
        (timedelta(hours=5), 100, "it fired late: it makes up for this time and at least 100 before it"),
    ],
)
async def test_what_was_missed_is_made_up_for_once(town: Town, away: timedelta, missed: int, reason: str) -> None:
    job = await town.add()
    await town.pass_by(away)
    await town.schedules.look()
    (firing,) = await town.history(job)
    assert (firing.trigger, firing.missed, firing.reason) == ("catch_up", missed, reason)
    await town.end()
    town.now = town.now.replace(second=0) + MINUTE
    await town.schedules.look()
    assert [firing.trigger for firing in await town.history(job)] == ["catch_up", "clock"]


@on_sqlite
async def test_what_is_due_does_not_wait_for_what_has_ended(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    job, seen = await town.add(data={"overlap": "both"}), list[list[str]]()
    await town.pass_by()
    await town.end()

    async def conclude(*_: Any) -> None:
        seen.append(await town.states(job))

    monkeypatch.setattr(schedules, "conclude", conclude)
    await town.pass_by()
    assert seen == [["running", "running"]]


@on_sqlite
async def test_thirty_seconds_of_downtime_lose_no_firing(town: Town) -> None:
    job = await town.add()
    await town.pass_by(timedelta(seconds=50))
    # Down from 12:00:50 to 12:01:20.
    await town.pass_by(timedelta(seconds=30))
    (firing,) = await town.history(job)
    assert (firing.trigger, firing.due_at) == ("catch_up", NOON + MINUTE)


@pytest.mark.parametrize(
    ("overlap", "states"),
    [
        ("skip", ["running", "skipped", "skipped"]),
        ("queue", ["running", "queued", "skipped"]),
        ("both", ["running", "running", "running"]),
    ],
)
async def test_overlaps_are_as_the_schedule_says(town: Town, overlap: str, states: list[str]) -> None:
    job = await town.add(data={"overlap": overlap})
    for _ in states:
        await town.pass_by()
    assert await town.states(job) == states
    first, second, third = await town.history(job)
    if overlap == "skip":
        assert second.reason == f"result {first.result_id} was still on" and second.ended_at is not None
    if overlap == "queue":
        assert second.reason == f"result {first.result_id} was still on: waits for it"
        assert third.reason == f"result {first.result_id} was still on, and a firing waited already"
        await town.end()
        await town.schedules.look()
        await town.schedules.look()
        assert await town.states(job) == ["passed", "running", "skipped"]
    assert await town.count(ResultRow) == sum(state == "running" for state in await town.states(job)) + (
        overlap == "queue"
    )


@on_sqlite
async def test_a_queued_firing_is_skipped_once_its_job_is_paused(town: Town) -> None:
    job = await town.add()
    await town.pass_by()
    await town.pass_by()
    paused = update(CronJob).values(is_active=False, next_due_at=None)
    await town.run(lambda session: session.execute(paused))
    await town.pass_by()
    assert await town.states(job) == ["running", "skipped"]


async def test_a_schedule_is_run_by_hand_beside_what_is_on(town: Town) -> None:
    job = await town.add(data={"overlap": "skip"})
    await town.pass_by()
    assert await firings.run_now(town.record, 99) is None
    made = await firings.run_now(town.record, job)
    assert made is not None and made.trigger == "manual"
    assert sorted(await town.states(job)) == ["running", "running"]
    await town.pass_by()
    assert sorted(await town.states(job)) == ["running", "running", "skipped"]


@on_sqlite
async def test_the_same_request_by_hand_is_the_same_firing(town: Town) -> None:
    job = await town.add(is_active=False)
    first, second = [await firings.run_now(town.record, job, digest="same") for _ in range(2)]
    assert first is not None and second is not None and first.id == second.id
    assert await town.count(ResultRow) == 1


async def test_tags_are_those_that_scenarios_have_when_it_fires(town: Town) -> None:
    job = await town.add(scenario_ids=[], data={"tags": ["night", "smoke"]})
    await town.pass_by()
    (firing,) = await town.history(job)
    assert (firing.state, firing.result_id) == ("failed", None)
    assert firing.reason == "nothing was launched: tags: No scenario of agent 1 has any of them."
    tagged = update(ScenarioRow).where(ScenarioRow.id == 1).values(tags=["smoke", "x"])
    await town.run(lambda session: session.execute(tagged))
    await town.pass_by()
    assert await town.states(job) == ["failed", "running"]


@on_sqlite
async def test_what_can_not_be_launched_is_a_failure_that_says_why(town: Town) -> None:
    gone = await town.add(scenario_ids=[99])
    await town.run(lambda session: session.execute(update(Agent).values(session={})))
    await town.pass_by()
    (firing,) = await town.history(gone)
    assert firing.state == "failed" and firing.ended_at is not None
    assert "scenarios[0].scenario:" in firing.reason and "agent:" in firing.reason
    # It is tried again when it is due again.
    await town.pass_by()
    assert await town.states(gone) == ["failed", "failed"]


@on_sqlite
async def test_fixed_rooms_are_entered_with_their_tokens_each_time(town: Town) -> None:
    daily, local = "https://acme.daily.co/nightly", "http://localhost:7860/api/offer"
    rooms = [
        FixedRoom(scenario=1, url=SecretStr(daily), token=SecretStr(TOKEN)),
        FixedRoom(scenario=1, url=SecretStr(daily), token=SecretStr(TOKEN)),
        FixedRoom(scenario=1, url=SecretStr(local), data_message={"type": "hello"}),
    ]
    sealed = seal_rooms(town.record.vault, rooms)
    assert sealed is not None and TOKEN.encode() not in sealed
    job = await town.add(rooms=sealed, data={"overlap": "both"})
    await town.pass_by()
    await town.pass_by()
    assert await town.states(job) == ["running", "running"]
    async with town.record.database.reading() as session:
        runs = list(await session.scalars(select(RunRow).order_by(RunRow.id)))
    assert [run.room_url for run in runs] == [daily, daily, local] * 2
    # One call at a time in each Daily room.
    assert Counter(run.room_key for run in runs) == {daily: 4, None: 2}
    tokens = [RoomSecrets.open(town.record.vault, run.room_token).token for run in runs]
    assert [token and token.get_secret_value() for token in tokens] == [TOKEN, TOKEN, None] * 2
    assert runs[2].data_message == {"value": {"type": "hello"}}


async def test_a_schedule_that_is_changed_meanwhile_is_looked_at_anew(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await town.add()
    launch = firings.launch_within

    async def paused_meanwhile(*arguments: Any) -> Any:
        paused = update(CronJob).values(is_active=False, next_due_at=None)
        await town.run(lambda session: session.execute(paused))
        return await launch(*arguments)

    monkeypatch.setattr(firings, "launch_within", paused_meanwhile)
    await town.pass_by()
    assert (await town.history(job), await town.count(ResultRow)) == ([], 0)


async def test_a_time_that_was_fired_before_is_passed_over(town: Town) -> None:
    job = await town.add()
    await town.pass_by()
    back = update(CronJob).values(next_due_at=NOON + MINUTE)
    await town.run(lambda session: session.execute(back))
    await town.schedules.look()
    assert await town.states(job) == ["running"]


async def test_what_is_remembered_of_a_schedule_is_bounded(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firings, "KEPT", 3)
    job = await town.add(scenario_ids=[99])
    for _ in range(6):
        await town.pass_by()
    assert [firing.due_at for firing in await town.history(job)] == [NOON + MINUTE * n for n in (4, 5, 6)]


@on_sqlite
async def test_one_that_goes_wrong_keeps_no_other_from_firing(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [await town.add() for _ in range(3)]
    launch_of = firings.launch_of

    async def failing(session: Any, vault: Any, job: CronJob, **more: Any) -> Any:
        if job.id == jobs[1]:
            raise OSError
        return await launch_of(session, vault, job, **more)

    monkeypatch.setattr(firings, "launch_of", failing)
    with pytest.raises(OSError):
        await town.pass_by()
    assert [len(await town.history(job)) for job in jobs] == [1, 0, 1]
    monkeypatch.undo()
    await town.schedules.look()
    assert [len(await town.history(job)) for job in jobs] == [1, 1, 1]


@pytest.mark.parametrize("failing", ["launch_of", "launch_within"])
async def test_what_the_server_fails_at_is_tried_once_and_said(
    town: Town, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    job = await town.add("*/10 * * * *")

    async def fails(*given: Any, **more: Any) -> Any:
        raise KeyError("what nobody thought of")

    monkeypatch.setattr(firings, failing, fails)
    await town.pass_by(timedelta(minutes=10))
    await town.pass_by()
    (firing,) = await town.history(job)
    assert (firing.state, firing.result_id) == ("failed", None)
    assert firing.reason == "nothing was launched: the server failed, and its log says how (KeyError)"
    monkeypatch.undo()
    await town.pass_by(timedelta(minutes=9))
    assert await town.states(job) == ["failed", "running"]


@pytest.mark.both_databases
async def test_two_processes_fire_each_time_once(town: Town) -> None:
    jobs, minutes = 4, 3
    ids = [await town.add(data={"overlap": "both"}) for _ in range(jobs)]
    other = Database(town.record.database.url)
    second = town.another_process(other)
    for _ in range(minutes):
        town.now += MINUTE
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(town.schedules.look)
            tasks.start_soon(second.look)
    await other.close()
    for job in ids:
        due = [firing.due_at for firing in await town.history(job)]
        assert due == [NOON + MINUTE * minute for minute in range(1, minutes + 1)]
        assert await town.states(job) == ["running"] * minutes
    assert await town.count(ResultRow) == await town.count(RunRow) == jobs * minutes


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_a_process_killed_while_it_fires_loses_nothing(town: Town) -> None:
    due = datetime.now(UTC).replace(second=0, microsecond=0)
    ids = [await town.add("0 0 1 1 *", next_due_at=due) for _ in range(60)]
    for fired in (5, 20, 40):
        command = [sys.executable, "-m", "tests.records.firing_process", town.revealed_settings]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: ASYNC220 - it is read at once
            assert process.stdout is not None and process.stdout.readline()
            with anyio.fail_after(120):
                while await town.count(Firing) < fired:
                    await anyio.sleep(0.005)
            process.kill()
    assert await town.count(Firing) < len(ids)
    town.now = datetime.now(UTC)
    await town.schedules.look()
    for job in ids:
        (firing,) = await town.history(job)
        assert firing.state == "running" and firing.result_id is not None
    assert await town.count(ResultRow) == await town.count(RunRow) == await town.count(Firing) == len(ids)
