"""What the firings of schedules come to, once their results have ended: by their runs, and against a baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import anyio.to_thread
from loguru import logger
from sqlalchemy import exists, func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from runner.comparison.changes import Change, Comparison
from runner.comparison.facts import RunFacts, headline_of, latencies_by_turn
from runner.comparison.levels import MIN_SESSIONS
from runner.comparison.wording import suite_lines
from runner.errors import UsageError
from runner.evaluation.failure import Failure
from runner.evaluation.turns import TurnMeasures
from runner.evaluation.verdicts import Cause
from runner.records.firings import together
from runner.records.record import Record
from runner.records.results import played_digest
from runner.records.schedules import PREVIOUS, baseline_results
from runner.records.statuses import FiringState
from runner.records.tables import CronJob, Firing, RunRow, utc_now
from runner.records.webhooks import result_completed

_CAUSES = frozenset(Cause)
_NAMED = 3
"""How many scenarios that got worse, or were edited, are named in a firing's reason."""


@dataclass(frozen=True)
class Outcome:
    """What a firing came to, why, and how its result compares with the baseline, if there is one."""

    state: FiringState
    reason: str
    comparison: dict[str, Any] | None = None


async def conclude(record: Record, firing_id: int) -> None:
    """Write down what a firing came to whose result has ended. If that is done already, nothing happens."""
    async with record.database.reading() as session:
        firing = await session.get(Firing, firing_id)
        if firing is None or firing.ended_at is not None:
            return
        outcome = await _by_runs(session, firing.result_id)
        baseline, problem = await _baseline(session, firing)
    if problem is not None:
        outcome = replace(outcome, reason=together(outcome.reason, problem))
    if baseline and firing.result_id is not None:
        outcome = await _against_baseline(record, outcome, firing.result_id, baseline)
    ended = (
        update(Firing)
        .where(Firing.id == firing_id, Firing.ended_at.is_(None))
        .returning(Firing.id)
        .values(
            state=outcome.state,
            reason=together(firing.reason, outcome.reason),
            comparison=outcome.comparison,
            ended_at=utc_now(),
        )
    )
    tells_of = "success" if outcome.state is FiringState.PASSED else "failure"
    async with record.database.session() as session:
        if (await session.execute(ended)).first() is None:
            return
        job = await session.get(CronJob, firing.job_id)
        if job is not None and firing.result_id is not None and job.data.get("notify_on") in ("both", tells_of):
            await session.run_sync(result_completed, firing.result_id, firing=outcome.state)


async def _by_runs(session: AsyncSession, result_id: int | None) -> Outcome:
    """Return what the runs of a result come to together."""
    if result_id is None:
        return Outcome(FiringState.INCONCLUSIVE, "its result was deleted")
    counted = select(RunRow.success, func.count()).where(RunRow.result_id == result_id).group_by(RunRow.success)
    counts = {success: count for success, count in await session.execute(counted)}
    passed, failed, undecided = (counts.get(success, 0) for success in (True, False, None))
    words = f"{passed} of {passed + failed + undecided} runs passed"
    words += f", {failed} failed" if failed else ""
    words += f", {undecided} inconclusive" if undecided else ""
    if failed:
        return Outcome(FiringState.FAILED, words)
    return Outcome(FiringState.INCONCLUSIVE if undecided or not passed else FiringState.PASSED, words)


async def _baseline(session: AsyncSession, firing: Firing) -> tuple[list[int], str | None]:
    """Return the results that a firing is compared with; and why there are none, if there should be some."""
    job = await session.get_one(CronJob, firing.job_id)
    baseline = job.data.get("baseline")
    if baseline != PREVIOUS:
        return [one for one in baseline_results(baseline) if one != firing.result_id], None
    ended = (
        select(Firing.result_id, Firing.comparison["change"].as_string())
        .where(
            Firing.job_id == job.id,
            Firing.id < firing.id,
            Firing.result_id.is_not(None),
            Firing.state.in_([FiringState.PASSED, FiringState.FAILED]),
            # Failed nights count, or the measure would be those that had luck; an agent that was away is none.
            exists().where(RunRow.result_id == Firing.result_id, RunRow.success.is_(True)),
        )
        .order_by(Firing.id.desc())
        .limit(20 * MIN_SESSIONS)
    )
    # One that got worse is no measure for those after it: they would be found unchanged.
    good = [
        result_id
        for result_id, change in await session.execute(ended)
        if result_id is not None and change != Change.REGRESSED
    ]
    if len(good) < MIN_SESSIONS:
        return [], f"not compared yet: {len(good)} of {MIN_SESSIONS} sessions to compare with"
    return sorted(good[:MIN_SESSIONS]), None


async def _against_baseline(record: Record, outcome: Outcome, result_id: int, baseline: Sequence[int]) -> Outcome:
    """Return an outcome with what the comparison of its result says; if there can be none, why."""
    named = f"compared with {'result' if len(baseline) == 1 else 'results'} {', '.join(map(str, baseline))}"
    try:
        base, current = await record.database.browse(
            lambda session: (run_facts(session, baseline), run_facts(session, [result_id])), refuses=False
        )
        comparison = await anyio.to_thread.run_sync(_compare, base, current)
    except SQLAlchemyError:
        # The database may be away: then it is tried again.
        raise
    except Exception as error:
        why = str(error)
        if not isinstance(error, UsageError):
            logger.opt(exception=True).error("result {}: could not be compared", result_id)
            why = f"our own error: {type(error).__name__}"
        state = FiringState.FAILED if outcome.state is FiringState.FAILED else FiringState.INCONCLUSIVE
        return Outcome(state, together(outcome.reason, f"{named}: {why}"))
    is_worse = comparison.change is Change.REGRESSED
    return Outcome(
        FiringState.FAILED if is_worse else outcome.state,
        together(outcome.reason, f"{named}: {_in_words(comparison)}"),
        {**comparison.model_dump(mode="json"), "baseline": list(baseline)},
    )


def run_facts(session: Session, result_ids: Sequence[int]) -> list[RunFacts]:
    """Return what a comparison knows of the runs of results. Each result is a session."""
    runs = session.execute(
        select(
            *(RunRow.id, RunRow.result_id, RunRow.scenario_name, RunRow.success, RunRow.cause),
            func.coalesce(RunRow.started_at, RunRow.created_at).label("began_at"),
            RunRow.snapshot["script"].label("script"),
            RunRow.snapshot["expected_outcome_prompt"].label("prompt"),
            RunRow.outcome["turns"].label("turns"),
            RunRow.outcome["failure"].label("failure"),
        )
        .where(RunRow.result_id.in_(result_ids), RunRow.ended_at.is_not(None))
        .order_by(RunRow.id)
    )
    return [
        RunFacts(
            id=str(run.id),
            scenario=run.scenario_name,
            scenario_hash=played_digest(run.script, run.prompt),
            session=f"result {run.result_id}",
            started_at=run.began_at.isoformat(),
            success=run.success,
            cause=Cause(run.cause) if run.cause in _CAUSES else None,
            headline=None if run.failure is None else headline_of(Failure.model_validate(run.failure)),
            latencies_ms=latencies_by_turn([TurnMeasures.model_validate(turn) for turn in run.turns or ()]),
        )
        for run in runs
    ]


def _compare(base: Sequence[RunFacts], current: Sequence[RunFacts]) -> Comparison:
    """Compare. Blocks: statistics are loaded, which takes a second or two."""
    from runner.comparison.compare import compare

    return compare(base, current)


def _in_words(comparison: Comparison) -> str:
    worse = [one.scenario for one in comparison.scenarios if one.change is Change.REGRESSED]
    edited = [one.scenario for one in comparison.scenarios if one.was_edited]
    return next(iter(suite_lines(comparison))) + _named("worse", worse) + _named("edited since", edited)


def _named(what: str, scenarios: Sequence[str]) -> str:
    """Return a few scenarios of which something is so, in brackets; nothing where there are none."""
    more = f" and {len(scenarios) - _NAMED} more" if len(scenarios) > _NAMED else ""
    return f" ({what}: {', '.join(scenarios[:_NAMED])}{more})" if scenarios else ""
