"""What the firings of schedules come to, once their results have ended."""

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from runner.records.firings import FiringState
from runner.records.record import Record
from runner.records.tables import Firing, RunRow, utc_now


async def conclude(record: Record, firing_id: int) -> None:
    """Write down what a firing came to whose result has ended. If that is done already, nothing happens."""
    async with record.database.reading() as session:
        firing = await session.get(Firing, firing_id)
        if firing is None or firing.ended_at is not None:
            return
        state, reason = await _verdict(session, firing.result_id)
    ended = (
        update(Firing)
        .where(Firing.id == firing_id, Firing.ended_at.is_(None))
        .values(state=state.value, reason=reason, ended_at=utc_now())
    )
    async with record.database.session() as session:
        await session.execute(ended)


async def _verdict(session: AsyncSession, result_id: int | None) -> tuple[FiringState, str]:
    """Return what the runs of a result come to together, and that in words."""
    if result_id is None:
        return FiringState.INCONCLUSIVE, "its result was deleted"
    counted = select(RunRow.success, func.count()).where(RunRow.result_id == result_id).group_by(RunRow.success)
    counts = {success: count for success, count in await session.execute(counted)}
    passed, failed, undecided = (counts.get(success, 0) for success in (True, False, None))
    words = f"{passed} of {passed + failed + undecided} runs passed"
    if failed:
        words += f", {failed} failed"
    if undecided:
        words += f", {undecided} inconclusive"
    if failed:
        return FiringState.FAILED, words
    return (FiringState.INCONCLUSIVE if undecided or not passed else FiringState.PASSED), words
