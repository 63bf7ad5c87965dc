"""How a run goes from launched to ended, whatever is reported in which order."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, update

from bots.timeline import EndedReason
from runner.calls.run_file import Run, RunReport
from runner.protocol.messages import Job, Problem, RunNow
from runner.records.artefacts import MAX_ARTEFACTS, Upload, add_artefact, expect_artefact
from runner.records.database import Database
from runner.records.endings import read_outcome, storable
from runner.records.runs import (
    MAX_LOST,
    end_run,
    is_of,
    progress,
    refresh_result,
    release,
    request_cancel,
    state_of,
)
from runner.records.secrets import Vault
from runner.records.statuses import FINAL_RESULT, FINAL_RUN, ResultStatus, RunStatus, result_status
from runner.records.tables import Project, ResultRow, RunRow, utc_now
from tests.examples import examples
from tests.records.giving import give, take
from tests.records.outcomes import SCRIPT, agent_failed, cancelled, no_call, outcome, reported, undecided

pytestmark = pytest.mark.anyio

_RANK = {RunStatus.PENDING: 0, RunStatus.RUNNING: 1, RunStatus.EVALUATING: 2}


def may_move(before: RunStatus, after: RunStatus) -> bool:
    """Return whether a run may go from one status to another: forward, from a final one nowhere, or back."""
    if before in FINAL_RUN or before is after:
        return False
    return after in FINAL_RUN or after is RunStatus.PENDING or _RANK[after] > _RANK[before]


VAULT = Vault(b"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
REFUSED = Problem(cause="room", reason="token-refused", detail="the room refused the token")


async def launched(database: Database, count: int = 1, run_type: str = "pipecat") -> list[int]:
    """Launch runs and return their ids."""
    async with database.session() as session:
        if await session.get(Project, 1) is None:
            session.add(Project(id=1, name="default"))
            await session.flush()
        result = ResultRow(project_id=1, run_type=run_type, run_settings={})
        session.add(result)
        await session.flush()
        row = {
            "result_id": result.id,
            "project_id": 1,
            "scenario_name": "s",
            "snapshot": {"script": SCRIPT.model_dump(mode="json"), "notes": ["n"]},
            "room_url": "http://localhost:7860/api/offer",
            "room_token": VAULT.seal('{"token": "t"}'),
            "session_data": {"a": 1},
        }
        for _ in range(count):
            await session.execute(insert(RunRow).values(**row))
        return list(await session.scalars(select(RunRow.id).where(RunRow.result_id == result.id)))


async def row(database: Database, run_id: int) -> RunRow:
    async with database.reading() as session:
        return await session.get_one(RunRow, run_id)


async def status_of_result(database: Database, run_id: int) -> str:
    async with database.reading() as session:
        run = await session.get_one(RunRow, run_id)
        return (await session.get_one(ResultRow, run.result_id)).status


async def do(database: Database, move: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    return await database.run(lambda session: move(session, *arguments, **more))


async def accepts(database: Database, run_id: int, attempt: int, report: RunReport | Problem) -> bool:
    """Report what a run came to; return whether the record holds it."""
    return (await database.run(lambda session: end_run(session, run_id, attempt, report))).accepted


async def tell(
    database: Database,
    run_id: int,
    attempt: int,
    status: RunStatus,
    joined_at: datetime | None = None,
    said_at: datetime | None = None,
) -> bool:
    """Tell how far a run has come; return whether that counts."""
    told = RunNow(
        run_id=run_id,
        attempt=attempt,
        joined=joined_at is not None,
        said=said_at is not None,
        is_evaluating=status is RunStatus.EVALUATING,
    )
    return run_id in await database.run(lambda session: progress(session, [told]))


async def keeps(database: Database, run_id: int, attempt: int, executor: str, name: str, size: int) -> bool:
    """Bring an artefact; return whether it was wanted."""
    wanted = await do(database, expect_artefact, run_id, attempt, executor, name) is Upload.WANTED
    assert await do(database, add_artefact, run_id, attempt, executor, name, size) == wanted
    return wanted


async def begun(database: Database, run_id: int, attempt: int = 1, executor: str = "a") -> Job:
    """Give a run to a worker, and let it begin."""
    await give(database, run_id, executor=executor)
    job = await do(database, take, VAULT, run_id, attempt, executor)
    assert job is not None
    return job


async def test_a_claimed_run_is_running_and_its_job_is_complete(database: Database) -> None:
    (run_id,) = await launched(database)
    job = await begun(database, run_id, executor="worker-1")
    assert job.attempt == 1 and job.notes == ("n",) and job.session is None
    assert job.token is not None and job.token.get_secret_value() == "t"
    assert job.session_data == {"a": 1, "cekura_run_id": run_id}
    run = await row(database, run_id)
    assert (run.status, run.executor, run.attempt) == ("running", "worker-1", 1)
    assert await status_of_result(database, run_id) == "running"


async def test_a_repeated_claim_gets_the_same_job(database: Database) -> None:
    (run_id,) = await launched(database)
    job = await begun(database, run_id)
    before = await row(database, run_id)
    assert await do(database, take, VAULT, run_id, 1, "a") == job
    await tell(database, run_id, 1, RunStatus.EVALUATING, NOW)
    assert await do(database, take, VAULT, run_id, 1, "a") == job
    after = await row(database, run_id)
    assert (after.started_at, after.attempt, after.status) == (before.started_at, 1, "evaluating")


async def test_only_the_worker_of_a_run_claims_it_in_its_attempt(database: Database) -> None:
    (run_id,) = await launched(database)
    assert await do(database, take, VAULT, run_id, 1, "a") is None
    await give(database, run_id, executor="a")
    assert await do(database, take, VAULT, run_id, 1, "b") is None
    assert await do(database, take, VAULT, run_id, 2, "a") is None
    assert await do(database, take, VAULT, 999, 1, "a") is None
    assert (await row(database, run_id)).status == "pending"
    assert await status_of_result(database, run_id) == "pending"


async def test_after_a_release_only_reports_of_the_new_attempt_count(
    database: Database,
) -> None:
    (run_id,) = await launched(database)
    await begun(database, run_id)
    assert await tell(database, run_id, 1, RunStatus.EVALUATING, NOW)
    assert await keeps(database, run_id, 1, "a", "run.json", 5)
    assert await do(database, release, run_id, 1, detail="it stops", safe_to_retry=True)
    waits = await row(database, run_id)
    assert (waits.status, waits.executor, waits.attempt, waits.lost) == ("pending", None, 2, 0)
    assert (waits.started_at, waits.joined_at, waits.said_at) == (None, None, None)
    assert waits.kept == {} and waits.artefacts == {"1/run.json": 5}
    assert await status_of_result(database, run_id) == "running"
    for is_taken in (False, True):
        for attempt in (1, 3) if is_taken else (1, 2, 3):
            assert await do(database, take, VAULT, run_id, attempt, "a") is None
            assert not await tell(database, run_id, attempt, RunStatus.EVALUATING, NOW, NOW)
            assert not await accepts(database, run_id, attempt, outcome())
            assert not await accepts(database, run_id, attempt, REFUSED)
            assert not await keeps(database, run_id, attempt, "a", "run.json", 5)
            assert await do(database, release, run_id, attempt, detail="x", safe_to_retry=True) is None
        if not is_taken:
            await begun(database, run_id, 2, "b")
    assert await keeps(database, run_id, 2, "b", "run.json", 6)
    assert await accepts(database, run_id, 2, agent_failed())
    ended = await row(database, run_id)
    assert ended.success is False
    assert ended.kept == {"run.json": 6} and ended.artefacts == {"1/run.json": 5, "run.json": 6}


@dataclass(frozen=True)
class GivenBack:
    """A run that a worker gives back, or that is taken from it."""

    run_type: str = "pipecat"
    status: str = "running"
    said: bool = False
    safe_to_retry: bool = True
    was_lost: bool = False
    lost: int = 0
    cancelled: bool = False
    room_url: str | None = None
    """Where not the usual one, an offer's."""


RUNNER = "http://localhost:7860/"
SESSION = "http://localhost:7860/sessions/ab-12/api/offer"
WAITS_AGAIN = [
    GivenBack(),
    GivenBack(status="evaluating"),
    GivenBack(status="pending"),
    GivenBack(status="pending", safe_to_retry=False, was_lost=True, lost=9),
    GivenBack(was_lost=True, lost=MAX_LOST - 1),
    GivenBack(lost=MAX_LOST),
    GivenBack("pipecat_v2", said=True, safe_to_retry=False),
    GivenBack("pipecat_v2", said=True, safe_to_retry=False, was_lost=True, lost=MAX_LOST - 1),
    GivenBack(room_url=RUNNER, said=True, safe_to_retry=False, was_lost=True),
    GivenBack(room_url=RUNNER, status="evaluating", said=True, safe_to_retry=False, was_lost=True, lost=MAX_LOST - 1),
]
FAILS = [
    GivenBack(said=True),
    GivenBack(safe_to_retry=False),
    GivenBack(said=True, safe_to_retry=False, was_lost=True),
    GivenBack(was_lost=True, lost=MAX_LOST),
    GivenBack("pipecat_v2", was_lost=True, lost=MAX_LOST),
    GivenBack(room_url=RUNNER, said=True, was_lost=True, lost=MAX_LOST),
    GivenBack(room_url=SESSION, said=True, was_lost=True),
    GivenBack(room_url="https://calls.acme.com/r1", said=True, was_lost=True),
]
IS_CANCELLED = [GivenBack(cancelled=True), GivenBack("pipecat_v2", said=True, cancelled=True, was_lost=True)]


async def test_whether_a_run_that_is_given_back_waits_again_or_ends(database: Database) -> None:
    cases = [
        *((case, "pending") for case in WAITS_AGAIN),
        *((case, "failed") for case in FAILS),
        *((case, "cancelled") for case in IS_CANCELLED),
    ]
    for case, status in cases:
        (run_id,) = await launched(database, run_type=case.run_type)
        await give(database, run_id, executor="a")
        async with database.session() as session:
            run = await session.get_one(RunRow, run_id)
            run.status, run.lost, run.cancel_requested = case.status, case.lost, case.cancelled
            run.said_at = NOW if case.said else None
            run.room_url = case.room_url or run.room_url
        again = await do(
            database,
            release,
            run_id,
            1,
            detail="worker lost",
            safe_to_retry=case.safe_to_retry,
            was_lost=case.was_lost,
        )
        run = await row(database, run_id)
        assert (run.status, again) == (status, status == "pending"), case
        if again:
            begun = case.status != "pending"
            assert (run.attempt, run.executor, run.lost) == (2, None, case.lost + (case.was_lost and begun)), case
            assert run.room_token is not None
        else:
            assert (run.attempt, run.executor, run.room_token) == (1, "a", None), case
            assert await do(database, release, run_id, 1, detail="x", safe_to_retry=True) is None
        if status == "failed":
            assert (run.cause, run.ended_reason) == ("harness", "runner-error")
            assert run.error_message == "worker lost"


async def test_news_during_a_release_are_not_overlooked(database: Database) -> None:
    """Whichever comes first: a run in which something was said, by the record's own answer, never waits again."""
    for _ in range(5):
        (run_id,) = await launched(database)
        await begun(database, run_id)
        told, again = await asyncio.gather(
            tell(database, run_id, 1, RunStatus.RUNNING, NOW, NOW),
            do(database, release, run_id, 1, detail="worker lost", safe_to_retry=True, was_lost=True),
        )
        assert told is not again, (told, again)


async def test_a_finished_run_keeps_its_outcome_and_loses_its_token(database: Database) -> None:
    (run_id,) = await launched(database)
    await begun(database, run_id)
    assert await accepts(database, run_id, 1, outcome())
    run = await row(database, run_id)
    assert run.room_token is None
    assert (run.status, run.success, run.error_message, run.duration_s) == ("completed", True, "", 41.0)
    assert run.call_ended_reason == "Testing agent-ended-call"
    assert run.joined_at is not None and run.ended_at is not None
    assert "script" not in (run.outcome or {})
    assert await status_of_result(database, run_id) == "completed"
    assert await do(database, take, VAULT, run_id, 1, "a") is None


async def test_the_same_outcome_again_is_accepted_and_another_is_not(database: Database) -> None:
    (run_id,) = await launched(database)
    await begun(database, run_id)
    assert await accepts(database, run_id, 1, outcome())
    before = await row(database, run_id)
    assert await accepts(database, run_id, 1, outcome())
    assert not await accepts(database, run_id, 1, agent_failed())
    assert not await accepts(database, run_id, 1, REFUSED)
    assert await do(database, release, run_id, 1, detail="gone", safe_to_retry=False, was_lost=True) is None
    after = await row(database, run_id)
    assert (after.status, after.outcome, after.ended_at) == (before.status, before.outcome, before.ended_at)


@pytest.mark.parametrize(
    ("run", "status", "message"),
    [
        (undecided(), "completed", "inconclusive: turn 1"),
        (no_call(), "failed", "nothing answers"),
        (cancelled(), "cancelled", "cancelled"),
        (agent_failed(), "completed", ""),
    ],
)
async def test_whatever_is_no_verdict_says_why(database: Database, run: Run, status: str, message: str) -> None:
    (run_id,) = await launched(database)
    await begun(database, run_id)
    await accepts(database, run_id, 1, run)
    ended = await row(database, run_id)
    assert ended.status == status and ended.success is not True
    assert message in ended.error_message and bool(message) == bool(ended.error_message)


async def test_a_run_without_a_call_fails_with_cekuras_words_too(database: Database) -> None:
    one, two, three = await launched(database, 3)
    for run_id in (one, two, three):
        await begun(database, run_id)
    assert await accepts(database, one, 1, REFUSED)
    assert await accepts(database, one, 1, REFUSED)
    await accepts(database, two, 1, Problem(cause="harness", reason="lost-in-space"))
    await accepts(database, three, 1, Problem(cause="harness", reason=EndedReason.CANCELLED.value))
    run = await row(database, one)
    assert (run.status, run.cause, run.ended_reason) == ("failed", "room", "token-refused")
    assert run.call_ended_reason == "Testing agent-did-not-connect" and run.joined_at is None
    assert (await row(database, two)).call_ended_reason == "call-failed-unknown-error"
    assert (await row(database, three)).status == "cancelled"
    assert await status_of_result(database, one) == "failed"


async def test_cancelling_ends_waiting_runs_and_asks_active_ones(database: Database) -> None:
    waiting, handed_over, on, over = await launched(database, 4)
    await begun(database, on)
    await begun(database, over)
    await give(database, handed_over, executor="a")
    await accepts(database, over, 1, outcome())
    assert await do(database, request_cancel, [waiting, handed_over, on, over, 999]) == [waiting, handed_over]
    assert await do(database, request_cancel, [waiting, handed_over, on, over]) == []
    assert await do(database, take, VAULT, handed_over, 1, "a") is None
    run = await row(database, waiting)
    assert (run.status, run.room_token, run.call_ended_reason) == ("cancelled", None, "run-cancelled-by-user")
    assert (await row(database, on)).cancel_requested and (await row(database, on)).status == "running"
    assert not (await row(database, over)).cancel_requested
    assert await accepts(database, on, 1, cancelled())
    assert (await row(database, on)).status == "cancelled"
    assert await status_of_result(database, on) == "completed"


async def test_cancelling_waits_for_progress_that_is_being_written(database: Database) -> None:
    ids = await launched(database, 2)
    for run_id in reversed(ids):
        # On PostgreSQL the first lies behind the second from now on.
        await begun(database, run_id)

    async def tell() -> None:
        async with database.session() as session:
            assert await session.run_sync(progress, [RunNow(run_id=ids[0], attempt=1, joined=True)])
            begun_telling.set()
            await asyncio.sleep(0.2)
            assert await session.run_sync(progress, [RunNow(run_id=ids[1], attempt=1, joined=True)])

    begun_telling = asyncio.Event()
    telling = asyncio.create_task(tell())
    await begun_telling.wait()
    await do(database, request_cancel, ids)
    await telling
    assert [(await row(database, run_id)).cancel_requested for run_id in ids] == [True, True]


async def test_many_runs_are_cancelled_in_few_statements(database: Database) -> None:
    ids = await launched(database, 3)
    assert await do(database, request_cancel, [*ids, *range(10_000, 12_000)]) == ids
    assert await status_of_result(database, ids[0]) == "cancelled"


async def test_what_no_database_takes_is_replaced_in_a_report(database: Database) -> None:
    (run_id,) = await launched(database)
    await begun(database, run_id)
    bad = agent_failed("it said \x00 and \ud800").model_copy(
        update={"warnings": ["\x00"], "versions": {"\x00": "\udfff"}}
    )
    assert await accepts(database, run_id, 1, bad)
    assert await accepts(database, run_id, 1, bad)
    assert (await row(database, run_id)).outcome is not None
    assert storable({"a": [float("nan"), float("inf"), 1.5, "x\x00"]}) == {"a": [None, None, 1.5, "x\ufffd"]}


async def test_a_report_is_checked_and_nothing_of_it_quoted() -> None:
    good = reported(outcome())
    assert read_outcome(good).model_dump() == outcome().model_dump(exclude={"script"})
    for wrong in ({}, {**good, "status": "s3cret"}, {**good, "turns": "s3cret"}):
        with pytest.raises(ValueError) as caught:
            read_outcome(wrong)
        assert "s3cret" not in str(caught.value)


async def test_artefacts_of_the_last_attempt_are_kept_side_by_side(database: Database) -> None:
    (run_id,) = await launched(database)
    await begun(database, run_id)
    assert await keeps(database, run_id, 1, "a", "run.json", 5)
    assert await keeps(database, run_id, 1, "a", "recording.wav", 7)
    assert (await row(database, run_id)).artefacts == {"run.json": 5, "recording.wav": 7}
    # Each name once.
    assert await do(database, expect_artefact, run_id, 1, "a", "run.json") is Upload.THERE
    assert not await do(database, add_artefact, run_id, 1, "a", "run.json", 9)
    assert (await row(database, run_id)).artefacts == {"run.json": 5, "recording.wav": 7}


async def test_an_artefact_belongs_to_the_run_only_once_complete(database: Database) -> None:
    (run_id,) = await launched(database)
    await begun(database, run_id)
    for _ in range(2):
        assert await do(database, expect_artefact, run_id, 1, "a", "run.json") is Upload.WANTED
    assert not await do(database, add_artefact, run_id, 1, "a", "recording.wav", 7)
    run = await row(database, run_id)
    assert run.artefacts == {"run.json": None} and run.kept == {}


async def test_only_a_runs_worker_brings_artefacts_and_only_so_many(database: Database) -> None:
    (run_id,) = await launched(database)
    expect = expect_artefact
    assert await do(database, expect, run_id, 1, "a", "run.json") is Upload.VOID
    await begun(database, run_id)
    for attempt, executor in ((1, "b"), (2, "a"), (0, "a")):
        assert await do(database, expect, run_id, attempt, executor, "run.json") is Upload.VOID
    for number in range(MAX_ARTEFACTS):
        assert await keeps(database, run_id, 1, "a", f"n{number}", 1)
    assert await do(database, expect, run_id, 1, "a", "another") is Upload.TOO_MANY
    assert await do(database, expect, run_id, 1, "a", "n0") is Upload.THERE
    # What an attempt before brought does not count.
    assert await do(database, release, run_id, 1, detail="it stops", safe_to_retry=True)
    await begun(database, run_id, 2)
    assert await keeps(database, run_id, 2, "a", "another", 1)


async def test_an_ended_run_takes_the_artefacts_owed_and_no_others(database: Database) -> None:
    (run_id,) = await launched(database)
    await begun(database, run_id)
    assert await keeps(database, run_id, 1, "a", "run.json", 5)
    owed = ["recording.wav", "run.json"]
    for _ in range(2):
        receipt = await do(database, end_run, run_id, 1, outcome(), executor="a", owed=owed)
        assert receipt.accepted
    run = await row(database, run_id)
    assert run.artefacts == {"run.json": 5, "recording.wav": None} and run.kept == {"run.json": 5}
    assert await do(database, expect_artefact, run_id, 1, "b", "recording.wav") is Upload.VOID
    assert not await do(database, add_artefact, run_id, 1, "b", "recording.wav", 7)
    assert not await keeps(database, run_id, 1, "a", "timeline.jsonl", 7)
    assert await keeps(database, run_id, 1, "a", "recording.wav", 7)
    assert (await row(database, run_id)).kept == {"run.json": 5, "recording.wav": 7}


async def test_a_report_of_another_worker_does_not_count(database: Database) -> None:
    (run_id,) = await launched(database)
    await begun(database, run_id)
    assert not (await do(database, end_run, run_id, 1, outcome(), executor="b")).accepted
    assert (await row(database, run_id)).status == "running"
    assert (await do(database, end_run, run_id, 1, outcome(), executor="a")).is_new


async def test_a_run_begun_meanwhile_is_not_taken_back(
    database: Database,
) -> None:
    given, on = await launched(database, 2)
    await give(database, given, executor="a")
    await begun(database, on)
    how = {"detail": "it stops", "safe_to_retry": True, "only_unbegun": True}
    assert await do(database, release, on, 1, **how) is None
    assert await do(database, release, given, 1, **how) is True
    assert [run.status for run in [await row(database, given), await row(database, on)]] == ["pending", "running"]


@pytest.mark.both_databases
async def test_the_results_of_runs_that_end_at_the_same_moment_end_too(database: Database) -> None:
    ids = await launched(database, 8)
    for run_id in ids:
        await begun(database, run_id)
    moves = [accepts(database, run_id, 1, outcome()) for run_id in ids]
    await asyncio.gather(*moves, do(database, request_cancel, ids), do(database, request_cancel, ids[::-1]))
    assert await status_of_result(database, ids[0]) == "completed"


Move = tuple[str, int, int]
KINDS = (
    "give",
    "claim",
    "running",
    "evaluating",
    "passed",
    "agent failed",
    "undecided",
    "no call",
    "cancelled",
    "give up",
    "give back",
    "lost",
    "cancel",
)
OUTCOMES = {
    "passed": outcome(),
    "agent failed": agent_failed(),
    "undecided": undecided(),
    "no call": no_call(),
    "cancelled": cancelled(),
}


REPORTS = {*OUTCOMES, "claim", "running", "evaluating", "give up", "give back", "lost"}
"""Moves that are of an attempt, and count for that one alone."""


class Model:
    """Applies moves to runs, and holds after each that nothing went back."""

    def __init__(self, database: Database, ids: list[int]):
        self._database = database
        self._ids = ids
        self._before = {run_id: (RunStatus.PENDING, None, None, None) for run_id in ids}
        self._has_begun = False

    async def apply(self, move: Move) -> None:
        kind, which, late = move
        run_id = self._ids[which]
        state = await do(self._database, state_of, run_id)
        # Where there was none so long before, one that is still to come: it counts as little.
        attempt = state.attempt - late if state.attempt > late else state.attempt + late
        match kind:
            case "give":
                await give(self._database, run_id, executor="w")
            case "claim":
                await do(self._database, take, VAULT, run_id, attempt, "w")
            case "give back":
                await do(self._database, release, run_id, attempt, detail="it stops", safe_to_retry=True)
            case "lost":
                await do(
                    self._database, release, run_id, attempt, detail="worker lost", safe_to_retry=False, was_lost=True
                )
            case "running" | "evaluating":
                await tell(self._database, run_id, attempt, RunStatus(kind), NOW)
            case "give up":
                await accepts(self._database, run_id, attempt, REFUSED)
            case "cancel":
                await do(self._database, request_cancel, [run_id])
            case _:
                await accepts(self._database, run_id, attempt, OUTCOMES[kind])
        await self._check(run_id, is_stale=kind in REPORTS and not is_of(state, attempt))

    async def _check(self, moved: int, *, is_stale: bool) -> None:
        statuses: list[RunStatus] = []
        for run_id in self._ids:
            run = await row(self._database, run_id)
            now = (RunStatus(run.status), run.success, run.outcome, run.ended_at)
            before = self._before[run_id]
            if before[0] in FINAL_RUN or run_id != moved or is_stale:
                assert now == before
            assert now[0] is before[0] or may_move(before[0], now[0])
            assert (run.ended_at is not None) == (now[0] in FINAL_RUN) == (run.room_token is None)
            self._before[run_id] = now
            statuses.append(now[0])
        async with self._database.reading() as session:
            result = (await session.scalars(select(ResultRow).order_by(ResultRow.id.desc()).limit(1))).one()
        follows = result_status(statuses)
        # A result that is under way does not wait again because its runs do.
        self._has_begun = self._has_begun or follows is not ResultStatus.PENDING
        if self._has_begun and follows is ResultStatus.PENDING:
            follows = ResultStatus.RUNNING
        assert result.status == follows.value

    async def end(self) -> None:
        for run_id in self._ids:
            await do(self._database, request_cancel, [run_id])
            state = await do(self._database, state_of, run_id)
            await do(self._database, release, run_id, state.attempt, detail="gone", safe_to_retry=False)
        assert await status_of_result(self._database, self._ids[0]) in {status.value for status in FINAL_RESULT}


@settings(
    max_examples=examples(20),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    moves=st.lists(
        st.tuples(st.sampled_from(KINDS), st.integers(0, 1), st.sampled_from([0, 0, 0, 1, 2])), max_size=10
    ),
    begun=st.booleans(),
    twice=st.booleans(),
)
def test_in_any_order_of_reports_a_run_ends_once_with_its_result(
    record: tuple[asyncio.Runner, Database], moves: list[Move], begun: bool, twice: bool
) -> None:
    loop, database = record

    async def play() -> None:
        model = Model(database, await launched(database, 2))
        started: list[Move] = [(kind, which, 0) for which in (0, 1) for kind in ("give", "claim")] if begun else []
        for move in [*started, *moves]:
            await model.apply(move)
            if twice:
                await model.apply(move)
        await model.end()

    loop.run(play())


async def test_an_ended_result_stays_and_an_active_one_never_waits(database: Database) -> None:
    first, second = await launched(database, 2)
    await begun(database, first)
    async with database.session() as session:
        run = await session.get_one(RunRow, first)
        await session.execute(update(RunRow).where(RunRow.id == first).values(status="pending", updated_at=utc_now()))
        await session.run_sync(refresh_result, run.result_id)
    assert await status_of_result(database, first) == ResultStatus.RUNNING.value
    await begun(database, second)
    for run_id in (first, second):
        assert await accepts(database, run_id, 1, REFUSED)
    async with database.session() as session:
        await session.execute(update(RunRow).where(RunRow.id == first).values(status="running"))
        await session.run_sync(refresh_result, run.result_id)
    assert await status_of_result(database, first) == ResultStatus.FAILED.value
