"""A run that was reported and waits for the judge: no worker has it any more, and it ends once."""

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from runner.calls.run_file import Run
from runner.evaluation.asked import NO_JUDGE_ASKED, Asked
from runner.evaluation.failure import Failure, FailureKind
from runner.protocol.messages import RunNow
from runner.records.artefacts import Upload, expect_artefact
from runner.records.assignments import assign
from runner.records.database import Database
from runner.records.leases import orphans, runs_of
from runner.records.runs import (
    awaiting_judge,
    end_judged,
    end_run,
    progress,
    release,
    request_cancel,
)
from runner.records.tables import Project, ResultRow, RunRow, utc_now
from runner.settings import ServerSettings
from tests.records.giving import WORKER, able_worker, worker
from tests.records.outcomes import agent_failed, cancelled, no_call, outcome
from tests.records.test_runs import do, row

pytestmark = pytest.mark.anyio

PROMPT = Asked(expected_outcome="it sings")
WHY = f"expected_outcome_prompt was not judged: {NO_JUDGE_ASKED}"
REPORTED = outcome(
    success=None,
    detail=WHY,
    failure=Failure(kind=FailureKind.NOT_JUDGED, cause=None, headline=WHY),
    asked=PROMPT,
    not_honoured=[f"conditions[1].condition takes a judge: {NO_JUDGE_ASKED}"],
)
JUDGED = outcome(asked=PROMPT)


class Handed:
    """Remembers what is handed on."""

    def __init__(self) -> None:
        self.runs: list[tuple[int, int]] = []

    def __call__(self, session: Session, run_id: int, attempt: int) -> None:
        self.runs.append((run_id, attempt))


@pytest.fixture
async def run_id(database: Database) -> int:
    """A run that a worker has, in a room and of a launch that take one at a time; another waits for both."""
    values: dict[str, Any] = {
        "result_id": 1,
        "project_id": 1,
        "scenario_name": "s",
        "snapshot": {"script": {}},
        "room_key": "r",
        "room_token": b"sealed",
    }
    async with database.session() as session:
        session.add(Project(id=1, name="p"))
        await session.flush()
        session.add(ResultRow(id=1, project_id=1, run_type="pipecat", status="running", concurrency_limit=1))
        await session.flush()
        session.add_all(
            [
                worker(),
                RunRow(id=1, status="running", executor=WORKER, started_at=utc_now(), **values),
                RunRow(id=2, **values),
            ]
        )
    return 1


async def result_status(database: Database) -> str | None:
    async with database.reading() as session:
        return await session.scalar(select(ResultRow.status))


async def test_a_run_to_be_judged_is_handed_on_once_and_stays_open(database: Database, run_id: int) -> None:
    hand_on = Handed()
    for is_new in (True, False):
        receipt = await do(database, end_run, run_id, 1, REPORTED, executor=WORKER, judge_later=hand_on)
        assert (receipt.accepted, receipt.is_new, receipt.has_ended) == (True, is_new, False)
    assert hand_on.runs == [(run_id, 1)]
    run = await row(database, run_id)
    assert (run.status, run.success, run.ended_at, run.room_token) == ("evaluating", None, None, None)
    assert run.joined_at == run.started_at and run.duration_s == REPORTED.duration_s
    other = await do(database, end_run, run_id, 1, agent_failed(), executor=WORKER, judge_later=hand_on)
    assert not other.accepted and not other.has_ended


@pytest.mark.parametrize("run", [no_call(), cancelled(), outcome(), agent_failed()])
async def test_what_took_no_place_or_asks_nothing_more_ends_at_once(
    database: Database, run_id: int, run: Run
) -> None:
    asked = run.model_copy(update={"asked": PROMPT}) if run.status != "completed" else run
    hand_on = Handed()
    receipt = await do(database, end_run, run_id, 1, asked, executor=WORKER, judge_later=hand_on)
    assert receipt.has_ended and hand_on.runs == []


async def test_without_a_judge_it_ends_at_once(database: Database, run_id: int) -> None:
    assert (await do(database, end_run, run_id, 1, REPORTED, executor=WORKER)).has_ended
    assert (await row(database, run_id)).error_message == f"inconclusive: {WHY}"


async def test_its_worker_has_it_no_more_and_its_place_is_free(database: Database, run_id: int) -> None:
    await do(database, end_run, run_id, 1, REPORTED, executor=WORKER, judge_later=Handed())
    assert await do(database, runs_of, [WORKER]) == {}
    assert await do(database, orphans, unknown_too=True) == []
    assert await do(database, release, run_id, 1, detail="lost", safe_to_retry=True, was_lost=True) is None
    assert await do(database, progress, [RunNow(run_id=run_id, attempt=1, said=True)]) == set()
    [given] = await do(database, assign, [able_worker(WORKER, 1)], ServerSettings(max_calls=1, max_calls_per_agent=1))
    assert given.id == 2
    assert (await row(database, run_id)).said_at is None


async def test_what_its_worker_owes_may_still_come(database: Database, run_id: int) -> None:
    await do(database, end_run, run_id, 1, REPORTED, executor=WORKER, owed=["timeline.jsonl"], judge_later=Handed())
    assert await do(database, awaiting_judge, run_id, 1) == {"timeline.jsonl": None}
    assert await do(database, expect_artefact, run_id, 1, WORKER, "timeline.jsonl") is Upload.WANTED


async def test_it_ends_once_by_what_the_judge_says(database: Database, run_id: int) -> None:
    assert not await do(database, end_judged, run_id, 1, JUDGED)
    await do(database, end_run, run_id, 1, REPORTED, executor=WORKER, judge_later=Handed())
    assert not await do(database, end_judged, run_id, 2, JUDGED)
    assert await do(database, end_judged, run_id, 1, JUDGED, run_file_bytes=7)
    assert not await do(database, end_judged, run_id, 1, agent_failed())
    run = await row(database, run_id)
    assert (run.status, run.success, run.artefacts) == ("completed", True, {"run.json": 7})
    assert await do(database, awaiting_judge, run_id, 1) is None
    # The same report again is the one that the record holds, and no other.
    again = await do(database, end_run, run_id, 1, REPORTED, executor=WORKER, judge_later=Handed())
    assert (again.accepted, again.is_new, again.has_ended) == (True, False, True)
    assert not (await do(database, end_run, run_id, 1, JUDGED, executor=WORKER)).accepted
    await do(database, request_cancel, [2])
    assert await result_status(database) == "completed"


async def test_a_judge_that_fails_costs_nobody_the_call(database: Database, run_id: int) -> None:
    await do(database, end_run, run_id, 1, REPORTED, executor=WORKER, judge_later=Handed())
    assert await do(database, end_judged, run_id, 1, "it was away")
    run = await row(database, run_id)
    assert (run.status, run.success, run.duration_s) == ("completed", None, REPORTED.duration_s)
    assert run.outcome is not None
    told = [run.outcome["detail"], run.outcome["failure"]["headline"], *run.outcome["not_honoured"]]
    assert all(text.endswith(": it was away") for text in told)


async def test_cancelling_it_waits_for_nobody(database: Database, run_id: int) -> None:
    await do(database, end_run, run_id, 1, REPORTED, executor=WORKER, judge_later=Handed())
    assert sorted(await do(database, request_cancel, [1, 2])) == [1, 2]
    run = await row(database, run_id)
    assert (run.status, run.success, run.cancel_requested) == ("completed", None, False)
    assert run.error_message.endswith("the run was cancelled before the judge had answered")
    assert not await do(database, end_judged, run_id, 1, JUDGED)
    assert await result_status(database) == "completed"
