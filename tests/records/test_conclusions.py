"""What firings come to: by their runs, and against a baseline."""

import threading
from typing import Any

import anyio
import pytest
from sqlalchemy import select, update

from runner.comparison import compare
from runner.dispatch import schedules
from runner.errors import UsageError
from runner.records.runs import refresh_result
from runner.records.tables import CronJob, Firing, Project, RunRow, WebhookDelivery
from tests.records.town import MINUTE, Town, on_sqlite, town

__all__ = ["town"]

pytestmark = pytest.mark.anyio

RUNS = 6


async def night(town: Town, job: int, *, passed: int = RUNS, latency_ms: float = 800) -> Firing:
    """Let a schedule fire, and its runs end: so many of them passed, with latencies around that one."""
    await town.pass_by()
    firing = (await town.history(job))[-1]
    ids = await town.run_ids(firing.result_id)
    for place, run_id in enumerate(ids):
        turn = {"turn": 0, "started_s": 1.0, "response_latency_ms": latency_ms + 10 * (place % 3)}
        success = place < passed
        ended = update(RunRow).where(RunRow.id == run_id)
        values: dict[str, Any] = {
            "status": "completed",
            "success": success,
            "cause": None if success else "agent",
            "outcome": {"turns": [turn], "failure": None},
            "ended_at": town.now,
        }
        await town.run(lambda session, ended=ended, values=values: session.execute(ended.values(**values)))
    if firing.result_id is not None:
        result_id = firing.result_id
        await town.run(lambda session: refresh_result(session, result_id))
    await town.schedules.look()
    return (await town.history(job))[-1]


async def test_a_firing_is_compared_with_the_result_that_is_named(town: Town) -> None:
    first = await night(town, await town.add(data={"frequency": RUNS}))
    compared = await town.add(data={"frequency": RUNS, "baseline": first.result_id})
    same = await night(town, compared)
    assert same.state == "passed" and same.comparison is not None
    assert same.reason.startswith(
        f"6 of 6 runs passed; compared with result {first.result_id}: suite UNCHANGED 6/6→6/6"
    )
    assert (same.comparison["change"], same.comparison["baseline"]) == ("unchanged", [first.result_id])
    slower = await night(town, compared, latency_ms=1400)
    assert slower.comparison is not None and slower.comparison["change"] == "regressed"
    assert slower.state == "failed" and "suite REGRESSED" in slower.reason
    assert "(worse: Book a table)" in slower.reason


@on_sqlite
async def test_nothing_in_common_leaves_nothing_to_be_said(town: Town) -> None:
    first = await night(town, await town.add(data={"frequency": RUNS}))
    await town.run(lambda session: session.execute(update(RunRow).values(scenario_name="another")))
    compared = await night(town, await town.add(data={"frequency": RUNS, "baseline": [first.result_id]}))
    assert compared.state == "inconclusive" and compared.comparison is None
    assert compared.reason.endswith("have no scenario in common")


@on_sqlite
async def test_an_error_of_our_own_leaves_no_firing_open(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await night(town, await town.add(data={"frequency": RUNS}))

    def fail(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(compare, "compare", fail)
    compared = await night(town, await town.add(data={"frequency": RUNS, "baseline": first.result_id}))
    assert (compared.state, compared.comparison) == ("inconclusive", None)
    assert compared.reason.endswith("our own error: ZeroDivisionError")


@on_sqlite
async def test_previous_sessions_are_the_last_five_good_ones(town: Town) -> None:
    job = await town.add(data={"frequency": RUNS, "baseline": "previous"})
    away = await night(town, job, passed=0)
    assert away.reason == "0 of 6 runs passed, 6 failed; not compared yet: 0 of 5 sessions to compare with"
    # One with a failure counts: without it the measure would be the nights that had luck.
    nights = [await night(town, job, passed=RUNS - (n == 0), latency_ms=800 + 7 * n) for n in range(5)]
    assert nights[4].reason == "6 of 6 runs passed; not compared yet: 4 of 5 sessions to compare with"
    worse = await night(town, job, passed=1)
    assert worse.comparison is not None
    assert (worse.comparison["change"], worse.comparison["baseline"]) == (
        "regressed",
        [night.result_id for night in nights],
    )
    # It does not become what others are measured by.
    again = await night(town, job, passed=1)
    assert again.comparison is not None and again.comparison["change"] == "regressed"
    better = await night(town, job, latency_ms=803)
    assert better.comparison is not None
    assert (better.state, better.comparison["change"]) == ("passed", "unchanged")
    last = await night(town, job)
    assert last.comparison is not None
    assert last.comparison["baseline"] == [*(night.result_id for night in nights[1:]), better.result_id]


@on_sqlite
@pytest.mark.parametrize(
    ("notify_on", "told"), [("never", []), ("success", [1]), ("failure", [2, 3]), ("both", [1, 2, 3])]
)
async def test_webhooks_are_told_once_a_firing_has_come_to_something(
    town: Town, notify_on: str, told: list[int]
) -> None:
    hooks = {"webhook_url": "https://example.com/hook"}
    await town.run(lambda session: session.execute(update(Project).values(webhooks=hooks)))
    compared = {"frequency": RUNS, "notify_on": notify_on, "baseline": 1}
    job = await town.add(data={"frequency": RUNS, "notify_on": notify_on})
    await night(town, job)
    await night(town, job, passed=2)
    await town.run(lambda session: session.execute(update(CronJob).values(next_due_at=None)))
    worse = await night(town, await town.add(data=compared), latency_ms=2000)
    assert (worse.result_id, worse.state) == (3, "failed")
    async with town.record.database.reading() as session:
        assert list(await session.scalars(select(WebhookDelivery.result_id).order_by(WebhookDelivery.id))) == told


@on_sqlite
async def test_what_is_due_does_not_wait_for_a_comparison(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await night(town, await town.add(data={"frequency": RUNS}))
    compared, prompt = (
        await town.add(data={"frequency": RUNS, "baseline": first.result_id}),
        await town.add("0 * * * *"),
    )
    begun, may_end = threading.Event(), threading.Event()

    def slow(*_: Any) -> Any:
        begun.set()
        may_end.wait(30)
        raise UsageError("it took too long")

    monkeypatch.setattr(compare, "compare", slow)
    monkeypatch.setattr(schedules, "LOOK_INTERVAL_S", 0.01)
    await town.pass_by()
    await town.end()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(town.schedules.run)
            while not begun.is_set():
                await anyio.sleep(0.01)
            town.now += 60 * MINUTE
            with anyio.fail_after(10):
                while not await town.history(prompt):
                    await anyio.sleep(0.01)
            assert (await town.history(compared))[0].ended_at is None
            may_end.set()
            tasks.cancel_scope.cancel()
    finally:
        may_end.set()
