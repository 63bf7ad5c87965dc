"""Every change of a run is one line in the log, and a report that comes again is none."""

from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from loguru import logger

from runner.protocol.messages import Problem
from runner.records.database import Database
from runner.records.runs import release, request_cancel
from runner.records.statuses import RunStatus
from tests.records.giving import give, take
from tests.records.outcomes import agent_failed, outcome
from tests.records.test_runs import NOW, VAULT, accepts, do, launched, tell

pytestmark = pytest.mark.anyio

Line = tuple[int, int, str]


@pytest.fixture
def log() -> Iterator[list[Line]]:
    """What was logged of runs: id, attempt, message."""
    lines: list[Line] = []

    def keep(message: Any) -> None:
        record = message.record
        if "attempt" in record["extra"]:
            assert record["level"].name == "INFO"
            lines.append((record["extra"]["run_id"], record["extra"]["attempt"], record["message"]))

    sink = logger.add(keep, level="DEBUG")
    yield lines
    logger.remove(sink)


async def test_a_run_is_followed_from_its_claim_to_its_end(database: Database, log: list[Line]) -> None:
    (run_id,) = await launched(database)
    await give(database, run_id, executor="w-1")
    for _ in range(2):
        await do(database, take, VAULT, run_id, 1, "w-1")
        await tell(database, run_id, 1, RunStatus.RUNNING, None)
    for _ in range(2):
        await tell(database, run_id, 1, RunStatus.RUNNING, NOW)
    await tell(database, run_id, 1, RunStatus.RUNNING, NOW, NOW)
    for _ in range(2):
        await tell(database, run_id, 1, RunStatus.EVALUATING, NOW, NOW)
    await tell(database, run_id, 1, RunStatus.RUNNING, NOW, NOW)
    for run in (agent_failed(), agent_failed(), outcome()):
        await accepts(database, run_id, 1, run)
    of_run = f"run {run_id}: "
    assert log == [
        (run_id, 1, of_run + "claimed: by w-1"),
        (run_id, 1, of_run + "joined"),
        (run_id, 1, of_run + "said"),
        (run_id, 1, of_run + "evaluating"),
        (run_id, 1, of_run + "ended: completed, success false, cause agent"),
    ]


async def test_every_end_is_told_and_so_is_giving_back(database: Database, log: list[Line]) -> None:
    ids = await launched(database, 6)
    back, lost, problem, failed, cancelled, passed = ids
    await give(database, *ids, executor="w")
    for run_id in (lost, passed):
        await do(database, take, VAULT, run_id, 1, "w")
    log.clear()
    for _ in range(2):
        await do(database, release, back, 1, detail="secret", safe_to_retry=True)
        await do(database, release, lost, 1, detail="secret", safe_to_retry=False)
        await accepts(database, problem, 1, Problem(cause="secret", reason="token-refused", detail="secret"))
        await accepts(database, failed, 1, Problem(cause="harness", reason="runner-error", detail="secret"))
        await do(database, request_cancel, [cancelled])
        await accepts(database, passed, 1, outcome())
    assert log == [
        (back, 1, f"run {back}: released: it waits again"),
        (lost, 1, f"run {lost}: ended: failed, success null, cause harness"),
        (problem, 1, f"run {problem}: ended: failed, success null"),
        (failed, 1, f"run {failed}: ended: failed, success null, cause harness"),
        (cancelled, 1, f"run {cancelled}: ended: cancelled"),
        (passed, 1, f"run {passed}: ended: completed, success true"),
    ]


async def test_what_is_not_committed_is_not_told(database: Database, log: list[Line]) -> None:
    (run_id,) = await launched(database)
    with pytest.raises(RuntimeError):
        async with database.session() as session:
            await session.run_sync(request_cancel, [run_id])
            raise RuntimeError("broken off")
    assert log == []
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(do, database, request_cancel, [run_id])
    assert len(log) == 1
